/**
 * TCP connections in images. One goes on only if both of its ends are restored into the same network; nobody knows the others under
 * their new address. Images are copied as they are but for these fields, whatever else is in them.
 */
import { isIPv4 } from "node:net";
import { join } from "node:path/posix";
import { WireType } from "@bufbuild/protobuf/wire";
import { FileEntry, FileType, type InetSocket } from "../../gen/criu/images.ts";
import { damagedImage, decodeImage, encodeImage, readImage, rewriteMessage } from "./criu-images.ts";
import { portPairs } from "./live-connections.ts";

/** Where the sockets of a checkpoint go. */
export interface SocketPlace {
  /** Images of everything that is restored into the network. */
  readonly directories: readonly string[];
  /** The pod's addresses when it was saved, and which of the new pod stands for each. */
  readonly addresses: ReadonlyMap<string, string>;
}

export const socketFile = "files.img";
const tcp = 6;
/** Of the kernel's states. */
const closed = 7;
const field = { isk: 4, state: 6, srcPort: 7, dstPort: 8, srcAddr: 11, dstAddr: 12 } as const;
const rewritten: ReadonlySet<number> = new Set([field.state, field.srcPort, field.dstPort, field.srcAddr, field.dstAddr]);
/** In memory order: ::ffff:0:0/96. */
const mappedPrefix = [0, 0, 0xffff_0000];

/** `files.img` of this directory as it has to be for that place; undefined: as it is. @throws RuntimeError data_loss. */
export function fittedSockets(directory: string, place: SocketPlace): Buffer | undefined {
  const ends = new Set(
    place.directories.flatMap((one) =>
      inetSockets(one)
        .filter(isConnection)
        .map(({ isk }) => endKey(isk)),
    ),
  );
  const addresses = new Map([...place.addresses].map(([old, next]) => [wordsOf(old).join(), wordsOf(next)]));
  const path = join(directory, socketFile);
  let changed = false;
  const messages = readImage(path).map((message) => {
    const { type, isk } = decodeEntry(path, message);
    if (type !== FileType.INETSK || isk === undefined) return message;
    const next = fitted(isk, ends, addresses);
    if (next === isk) return message;
    changed = true;
    return withSocket(message, next);
  });
  return changed ? encodeImage(path, messages) : undefined;
}

/** Of the connections that go on, for `hold-network`. */
export function savedPorts(directories: readonly string[]): Buffer {
  const found = directories.flatMap((one) => inetSockets(one).filter(isConnection));
  const ends = new Set(found.map(({ isk }) => endKey(isk)));
  return portPairs(found.filter(({ isk }) => ends.has(peerKey(isk))).map(({ isk }) => [isk.srcPort ?? 0, isk.dstPort ?? 0]));
}

function fitted(isk: InetSocket, ends: ReadonlySet<string>, addresses: ReadonlyMap<string, readonly number[]>): InetSocket {
  if (isConnection({ isk }) && !ends.has(peerKey(isk)))
    // As one that was made and is not connected: whoever reads or writes is told so.
    return { ...isk, state: closed, srcPort: 0, dstPort: 0 };
  const srcAddr = moved(isk.srcAddr, addresses);
  const dstAddr = moved(isk.dstAddr, addresses);
  return srcAddr === isk.srcAddr && dstAddr === isk.dstAddr ? isk : { ...isk, srcAddr, dstAddr };
}

function moved(words: readonly number[], addresses: ReadonlyMap<string, readonly number[]>): number[] {
  const next = addresses.get(plain(words).join());
  if (next === undefined) return words as number[];
  return isMapped(words) ? [...mappedPrefix, ...next] : [...next];
}

type Entry = { readonly isk: InetSocket };

function inetSockets(directory: string): readonly Entry[] {
  const entries = decodeImage(join(directory, socketFile), FileEntry);
  return entries.flatMap(({ type, isk }) => (type === FileType.INETSK && isk !== undefined ? [{ isk }] : []));
}

function isConnection({ isk }: Entry): boolean {
  return isk.proto === tcp && (isk.dstPort ?? 0) !== 0;
}

function endKey({ srcAddr, srcPort, dstAddr, dstPort }: InetSocket): string {
  return [...plain(srcAddr), srcPort, "to", ...plain(dstAddr), dstPort].join();
}

function peerKey({ srcAddr, srcPort, dstAddr, dstPort }: InetSocket): string {
  return [...plain(dstAddr), dstPort, "to", ...plain(srcAddr), srcPort].join();
}

/** An IPv4 address is one, also where a socket of IPv6 has it. */
function plain(words: readonly number[]): readonly number[] {
  return isMapped(words) ? words.slice(mappedPrefix.length) : words;
}

function isMapped(words: readonly number[]): boolean {
  return words.length === mappedPrefix.length + 1 && mappedPrefix.every((word, index) => words[index] === word);
}

/** As the kernel keeps it: network byte order, in words of the machine (both architectures are little-endian). */
export function wordsOf(address: string): readonly number[] {
  const bytes = Buffer.from(
    isIPv4(address) ? address.split(".").map(Number) : groupsOf(address).flatMap((n) => [n >> 8, n & 255]),
  );
  return Array.from({ length: bytes.length / 4 }, (_, index) => bytes.readUInt32LE(index * 4));
}

function groupsOf(address: string): readonly number[] {
  const parse = (text: string) => (text === "" ? [] : text.split(":").map((group) => Number.parseInt(group, 16)));
  const [head = "", tail] = address.split("::");
  const [first, last] = [parse(head), parse(tail ?? "")];
  return [...first, ...Array.from({ length: 8 - first.length - last.length }, () => 0), ...last];
}

function decodeEntry(path: string, message: Uint8Array): FileEntry {
  try {
    return FileEntry.decode(message);
  } catch (error) {
    throw damagedImage(path, "it holds something else than it should", error);
  }
}

function withSocket(message: Uint8Array, socket: InetSocket): Buffer {
  return rewriteMessage(message, new Set([field.isk]), (entry, old) => {
    const next = rewriteMessage(old, rewritten, (writer) => {
      const put = (number: number, value: number) => writer.tag(number, WireType.Varint).uint32(value);
      put(field.state, socket.state ?? 0);
      put(field.srcPort, socket.srcPort ?? 0);
      put(field.dstPort, socket.dstPort ?? 0);
      // One by one, as proto2 has them.
      for (const word of socket.srcAddr) put(field.srcAddr, word);
      for (const word of socket.dstAddr) put(field.dstAddr, word);
    });
    entry.tag(field.isk, WireType.LengthDelimited).bytes(next);
  });
}
