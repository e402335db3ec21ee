/** Limits from flags. */
import type { Resources } from "../../core/library/public.ts";
import { CommandError } from "../command-error.ts";
import type { Flags } from "../flags.ts";

const units: Readonly<Record<string, number>> = { "": 1, b: 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

/** "64m" is 64 MiB; -1 is no limit. @throws CommandError */
export function parseSize(text: string): number {
  const [, digits, unit = ""] = /^(-?\d+(?:\.\d+)?)([bkmgt]?)(?:i?b)?$/i.exec(text.trim()) ?? [];
  const bytes = Number(digits) * (units[unit.toLowerCase()] ?? Number.NaN);
  if (Number.isFinite(bytes) && (bytes >= 0 || bytes === -1)) return Math.floor(bytes);
  throw new CommandError(`${JSON.stringify(text)} is no size: write 64m or 1g`);
}

type Section = Readonly<Record<string, number | string>>;

export function flagResources(flags: Flags): Resources {
  const size = (name: string) => {
    const text = flags.one(name);
    return text === undefined ? undefined : parseSize(text);
  };
  const number = (name: string) => flags.integer(name);
  const section = (values: Readonly<Record<string, number | string | undefined>>): Section | undefined => {
    const given = Object.entries(values).flatMap(([key, value]) => (value === undefined ? [] : [[key, value] as const]));
    return given.length === 0 ? undefined : Object.fromEntries(given);
  };
  const sections = {
    memory: section({ limit: size("memory"), reservation: size("memory-reservation"), swap: size("memory-swap") }),
    cpu: section({
      shares: number("cpu-shares") ?? number("cpu-share"),
      quota: number("cpu-quota"),
      period: number("cpu-period"),
      burst: number("cpu-burst"),
      idle: number("cpu-idle"),
      realtimePeriod: number("cpu-rt-period"),
      realtimeRuntime: number("cpu-rt-runtime"),
      cpus: flags.one("cpuset-cpus"),
      mems: flags.one("cpuset-mems"),
    }),
    pids: section({ limit: number("pids-limit") }),
    blockIO: section({ weight: number("blkio-weight") }),
  };
  return Object.fromEntries(Object.entries(sections).filter(([, value]) => value !== undefined)) as Resources;
}
