/** Numbers out of the kernel's small text files. */
import type { DeviceIo, Pressure, PressureLine } from "../runtime.ts";

/** A whole file that is one number; "max" is none. */
export function numberOf(text: string | undefined): bigint | undefined {
  return text !== undefined && /^[0-9]+$/.test(text) ? BigInt(text) : undefined;
}

/** The number of one line "key number". */
export function fieldOf(text: string | undefined, key: string): bigint | undefined {
  if (text === undefined) return undefined;
  const first = text.startsWith(`${key} `);
  const newline = first ? -1 : text.indexOf(`\n${key} `);
  if (!first && newline < 0) return undefined;
  const from = newline + 1 + key.length + 1;
  const end = text.indexOf("\n", from);
  return numberOf(text.slice(from, end < 0 ? undefined : end));
}

const nsPerUs = 1000n;

/** Lines "some avg10=0.00 avg60=0.00 avg300=0.00 total=0", total in microseconds. Before Linux 5.13 the CPU has no "full". */
export function pressureOf(text: string | undefined): Pressure | undefined {
  const some = pressureLine(text, "some");
  return some === undefined ? undefined : { some, full: pressureLine(text, "full") };
}

function pressureLine(text: string | undefined, kind: "some" | "full"): PressureLine | undefined {
  const line = text?.split("\n").find((candidate) => candidate.startsWith(`${kind} `));
  const [, avg10, avg60, avg300, total] =
    /avg10=([0-9.]+) avg60=([0-9.]+) avg300=([0-9.]+) total=([0-9]+)/.exec(line ?? "") ?? [];
  if (total === undefined) return undefined;
  return { avg10: Number(avg10), avg60: Number(avg60), avg300: Number(avg300), totalNs: BigInt(total) * nsPerUs };
}

const noIo = { readBytes: 0n, writeBytes: 0n, reads: 0n, writes: 0n };

/** What the kernel tells of one device; the name comes later. */
export type DeviceNumbers = Omit<DeviceIo, "device">;

/** io.stat: "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0". */
export function devicesOf(text: string | undefined): readonly DeviceNumbers[] {
  return (text ?? "").split("\n").flatMap((line) => {
    const [, major, minor, rest = ""] = /^([0-9]+):([0-9]+) (.*)$/.exec(line) ?? [];
    if (major === undefined) return [];
    const values = new Map(rest.split(" ").map((pair) => pair.split("=") as [string, string]));
    const value = (name: string): bigint => numberOf(values.get(name)) ?? 0n;
    return {
      major: Number(major),
      minor: Number(minor),
      readBytes: value("rbytes"),
      writeBytes: value("wbytes"),
      reads: value("rios"),
      writes: value("wios"),
    };
  });
}

/** blkio.throttle.io_service_bytes and io_serviced of v1: "8:0 Read 4096". */
export function devicesOfV1(bytes: string | undefined, operations: string | undefined): readonly DeviceNumbers[] {
  const devices = new Map<string, { -readonly [K in keyof DeviceNumbers]: DeviceNumbers[K] }>();
  const take = (text: string | undefined, read: "readBytes" | "reads", write: "writeBytes" | "writes"): void => {
    for (const [, major, minor, kind, value = "0"] of (text ?? "").matchAll(/^([0-9]+):([0-9]+) (Read|Write) ([0-9]+)$/gm)) {
      const key = `${major}:${minor}`;
      const device = devices.get(key) ?? { major: Number(major), minor: Number(minor), ...noIo };
      devices.set(key, device);
      device[kind === "Read" ? read : write] = BigInt(value);
    }
  };
  take(bytes, "readBytes", "writeBytes");
  take(operations, "reads", "writes");
  return [...devices.values()];
}
