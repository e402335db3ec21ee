/** TCP connections of which both ends lie in one network namespace, as the kernel lists them. */
import { readFileSync } from "node:fs";

const mapped = /^0{16}FFFF0{4}/;
/** TIME_WAIT, CLOSE, LISTEN and such have no socket of a process, or no other end. */
const connected = new Set(["01", "04", "05", "08", "09", "0B"]);

/** For `hold-network`, of the namespace in which that process is. */
export function livePorts(pid: number): Buffer {
  return portsOf(readFileSync(`/proc/${pid}/net/tcp`, "utf8"), readIfThere(`/proc/${pid}/net/tcp6`));
}

/** Of the texts of /proc/net/tcp and tcp6. */
export function portsOf(...tables: readonly string[]): Buffer {
  const ends = tables.flatMap((table) => table.split("\n").slice(1).flatMap(endsOf));
  const there = new Set(ends.map(({ local, remote }) => `${local} ${remote}`));
  return portPairs(
    ends.filter(({ local, remote }) => there.has(`${remote} ${local}`)).map((end) => [portOf(end.local), portOf(end.remote)]),
  );
}

export function portPairs(pairs: readonly (readonly [number, number])[]): Buffer {
  const unique = new Set(pairs.map(([from, to]) => from * 65_536 + to));
  const bytes = Buffer.alloc(unique.size * 4);
  for (const [index, pair] of [...unique].entries()) bytes.writeUInt32BE(pair, index * 4);
  return bytes;
}

function endsOf(line: string): readonly { readonly local: string; readonly remote: string }[] {
  const [, local = "", remote = "", state = ""] = line.trim().split(/\s+/);
  return connected.has(state) ? [{ local: local.replace(mapped, ""), remote: remote.replace(mapped, "") }] : [];
}

function portOf(address: string): number {
  return Number.parseInt(address.split(":")[1] ?? "", 16);
}

/** A kernel without IPv6 has none. */
function readIfThere(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
