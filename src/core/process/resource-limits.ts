/** Rlimit names and what becomes of limits that this machine cannot give. */
import { RuntimeError } from "../../lib/errors.ts";
import type { OciRlimit } from "../oci.ts";

/** RLIMIT_* numbers of x86-64 and arm64 (asm-generic/resource.h). */
const resourceNumbers: ReadonlyMap<string, number> = new Map([
  ["RLIMIT_CPU", 0],
  ["RLIMIT_FSIZE", 1],
  ["RLIMIT_DATA", 2],
  ["RLIMIT_STACK", 3],
  ["RLIMIT_CORE", 4],
  ["RLIMIT_RSS", 5],
  ["RLIMIT_NPROC", 6],
  ["RLIMIT_NOFILE", 7],
  ["RLIMIT_MEMLOCK", 8],
  ["RLIMIT_AS", 9],
  ["RLIMIT_LOCKS", 10],
  ["RLIMIT_SIGPENDING", 11],
  ["RLIMIT_MSGQUEUE", 12],
  ["RLIMIT_NICE", 13],
  ["RLIMIT_RTPRIO", 14],
  ["RLIMIT_RTTIME", 15],
]);
const openFiles = 7;
/** Soft limit that programs written for select(2) need, as init systems give it. */
const defaultOpenFiles = 1024n;
export const unlimited = 0xffff_ffff_ffff_ffffn;

export interface ResourceLimit {
  readonly resource: number;
  readonly soft: bigint;
  readonly hard: bigint;
}

/** What limits a child of ours can have: hard limits by number, and whether they may be raised. */
export interface LimitCeiling {
  readonly hard: ReadonlyMap<number, bigint>;
  readonly mayRaise: boolean;
}

/**
 * The limits to set. Node raises its own soft number of open files, and children inherit that: it is always set. A hard limit above
 * the machine's is lowered to it where it may not be raised.
 */
export function resourceLimits(asked: readonly OciRlimit[], ceiling: LimitCeiling): readonly ResourceLimit[] {
  const limits = new Map<number, ResourceLimit>();
  const hardOf = (resource: number) => ceiling.hard.get(resource) ?? unlimited;
  const files = hardOf(openFiles);
  limits.set(openFiles, { resource: openFiles, soft: least(defaultOpenFiles, files), hard: files });
  const seen = new Set<number>();
  for (const { type, soft, hard } of asked) {
    const resource = resourceNumbers.get(type);
    if (resource === undefined) throw new RuntimeError("invalid_argument", `rlimit ${JSON.stringify(type)} is not known`);
    if (seen.has(resource)) throw new RuntimeError("invalid_argument", `rlimit ${type} is given twice`);
    seen.add(resource);
    const wanted = { soft: toLimit(soft, type), hard: toLimit(hard, type) };
    if (wanted.soft > wanted.hard) {
      throw new RuntimeError("invalid_argument", `rlimit ${type}: soft limit ${soft} is above hard limit ${hard}`);
    }
    const most = ceiling.mayRaise ? unlimited : hardOf(resource);
    limits.set(resource, { resource, soft: least(wanted.soft, most), hard: least(wanted.hard, most) });
  }
  return [...limits.values()];
}

/** JSON numbers hold no 64-bit "infinity": -1 and everything from 2^63 on mean it. */
function toLimit(value: number, type: string): bigint {
  if (value === -1 || value >= 2 ** 63) return unlimited;
  if (!Number.isInteger(value) || value < 0)
    throw new RuntimeError("invalid_argument", `rlimit ${type}: ${value} is not a limit`);
  return BigInt(value);
}

function least(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

const limitNames: readonly (readonly [prefix: string, resource: number])[] = [
  ["Max cpu time", 0],
  ["Max file size", 1],
  ["Max data size", 2],
  ["Max stack size", 3],
  ["Max core file size", 4],
  ["Max resident set", 5],
  ["Max processes", 6],
  ["Max open files", 7],
  ["Max locked memory", 8],
  ["Max address space", 9],
  ["Max file locks", 10],
  ["Max pending signals", 11],
  ["Max msgqueue size", 12],
  ["Max nice priority", 13],
  ["Max realtime priority", 14],
  ["Max realtime timeout", 15],
];

/** Hard limits in the text of /proc/PID/limits. */
export function parseHardLimits(text: string): ReadonlyMap<number, bigint> {
  const hard = new Map<number, bigint>();
  for (const line of text.split("\n")) {
    const known = limitNames.find(([prefix]) => line.startsWith(prefix));
    if (known === undefined) continue;
    const [, value] = line.slice(known[0].length).trim().split(/\s+/);
    if (value !== undefined) hard.set(known[1], value === "unlimited" ? unlimited : BigInt(value));
  }
  return hard;
}
