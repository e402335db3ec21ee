/** What a checkpoint holds, from CRIU's own images and statistics. It may come from anybody: nothing of it is carried out. */
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path/posix";
import { Core, FileEntry, FileType, MountEntry, PstreeEntry, Stats } from "../../gen/criu/images.ts";
import { RuntimeError } from "../../lib/errors.ts";
import { decodeImage } from "./criu-images.ts";

export interface CheckpointFacts {
  readonly bytes: number;
  /** Of the processes' memory. */
  readonly memoryBytes: number;
  readonly processes: readonly {
    readonly pid: number;
    readonly parent: number;
    readonly threads: number;
    readonly name: string;
  }[];
  readonly files: readonly { readonly path: string; readonly bytes: bigint | undefined }[];
  readonly sockets: readonly string[];
  /** Those from outside are not in the images: whoever restores gives them. */
  readonly mounts: readonly { readonly path: string; readonly source: string; readonly outside: boolean }[];
  /** How many of each other kind: pipes, terminals, ... */
  readonly others: Readonly<Record<string, number>>;
  /** Microseconds, of which freezingUs went by until everything stood still; undefined without CRIU's statistics. */
  readonly frozenUs: number | undefined;
  readonly freezingUs: number | undefined;
  readonly pagesWritten: bigint | undefined;
}

const inet6 = 10;
const udp = 17;
const stateNames: Readonly<Record<number, string>> = { 1: "established", 7: "closed", 10: "listening" };
const kindNames = Object.fromEntries(Object.entries(FileType).map(([name, number]) => [number, name.toLowerCase()]));

/** workDirectory: where CRIU's statistics lie, if not with the images. @throws RuntimeError not_found, data_loss */
export function inspectCheckpoint(directory: string, workDirectory = directory): CheckpointFacts {
  if (!existsSync(join(directory, "inventory.img")))
    throw new RuntimeError("not_found", `${directory} holds no checkpoint: it has no inventory.img`);
  const sizes = readdirSync(directory).map((name) => ({ name, bytes: statSync(join(directory, name)).size }));
  const sum = (list: typeof sizes) => list.reduce((total, { bytes }) => total + bytes, 0);
  const stats = [workDirectory, directory].map((place) => join(place, "stats-dump")).find((path) => existsSync(path));
  const dump = stats === undefined ? undefined : decodeImage(stats, Stats)[0]?.dump;
  const files = optional(join(directory, "files.img"), FileEntry);
  return {
    bytes: sum(sizes),
    memoryBytes: sum(sizes.filter(({ name }) => name.startsWith("pages-"))),
    processes: optional(join(directory, "pstree.img"), PstreeEntry).map(({ pid = 0, ppid = 0, threads }) => ({
      pid,
      parent: ppid,
      threads: threads.length,
      name: optional(join(directory, `core-${pid}.img`), Core)[0]?.tc?.comm ?? "",
    })),
    files: files.flatMap(({ reg }) => (reg === undefined ? [] : [{ path: reg.name ?? "", bytes: reg.size }])),
    sockets: files.flatMap(({ isk, usk }) => [
      ...(isk === undefined ? [] : [socketText(isk)]),
      ...(usk === undefined ? [] : [unixText(usk)]),
    ]),
    mounts: readdirSync(directory)
      .filter((name) => /^mountpoints-\d+\.img$/.test(name))
      .flatMap((name) => decodeImage(join(directory, name), MountEntry))
      .map(({ mountpoint = "", source = "", fsname, extMount, extKey }) => ({
        path: mountpoint.replace(/^\.?\/?/, "/"),
        source: fsname ?? source,
        outside: extMount === true || extKey !== undefined,
      })),
    others: countKinds(files.filter(({ reg, isk, usk }) => reg === undefined && isk === undefined && usk === undefined)),
    frozenUs: dump?.frozenTime,
    freezingUs: dump?.freezingTime,
    pagesWritten: dump?.pagesWritten,
  };
}

function optional<T>(path: string, type: { readonly decode: (bytes: Uint8Array) => T }): readonly T[] {
  return existsSync(path) ? decodeImage(path, type) : [];
}

function countKinds(files: readonly FileEntry[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { type } of files) {
    const kind = kindNames[type ?? 0] ?? "unknown";
    counts[kind] = (counts[kind] ?? 0) + 1;
  }
  return counts;
}

function socketText(socket: NonNullable<FileEntry["isk"]>): string {
  const { family, proto, state = 0, srcAddr, srcPort = 0, dstAddr, dstPort = 0 } = socket;
  const protocol = `${proto === udp ? "udp" : "tcp"}${family === inet6 ? "6" : ""}`;
  const peer = dstPort === 0 ? "" : ` to ${addressText(dstAddr)}:${dstPort}`;
  return `${protocol} ${addressText(srcAddr)}:${srcPort}${peer} ${stateNames[state] ?? `state ${state}`}`;
}

const unixTypes: Readonly<Record<number, string>> = { 1: "stream", 2: "dgram", 5: "seqpacket" };

function unixText({ type = 0, state = 0, name }: NonNullable<FileEntry["usk"]>): string {
  const path = Buffer.from(name ?? [])
    .toString("utf8")
    .replace(/^\0/, "@")
    .replace(/\0+$/, "");
  return ["unix", unixTypes[type] ?? `type ${type}`, ...(path === "" ? [] : [path]), stateNames[state] ?? `state ${state}`].join(
    " ",
  );
}

/** Words as they lay in memory. */
function addressText(words: readonly number[]): string {
  const bytes = Buffer.alloc(words.length * 4);
  words.forEach((word, index) => void bytes.writeUInt32LE(word >>> 0, index * 4));
  if (words.length === 1) return bytes.join(".");
  return `[${(bytes.toString("hex").match(/.{4}/g) ?? []).join(":")}]`;
}
