/** Reading of CRIU's image files. They may come from anybody: every length is checked. */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path/posix";
import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { PagemapEntry, PagemapHead } from "../../gen/criu/images.ts";
import { RuntimeError } from "../../lib/errors.ts";

const magics = 8;
/** Has no number that says of which kind it is. */
const inventory = "inventory.img";
const largestBytes = 256 << 20;
const pageBytes = 4096n;
const present = 4;

/** The messages of an image, still encoded. @throws RuntimeError data_loss when it is not whole. */
export function readImage(path: string): readonly Buffer[] {
  const size = statSync(path, { throwIfNoEntry: false })?.size;
  if (size === undefined) throw damagedImage(path, "it is missing");
  if (size > largestBytes) throw damagedImage(path, "it is too large");
  const bytes = readFileSync(path);
  const start = basename(path) === inventory ? magics / 2 : magics;
  if (bytes.length < start) throw damagedImage(path, "it is too short");
  const messages: Buffer[] = [];
  for (let at = start; at < bytes.length; ) {
    if (bytes.length - at < 4) throw damagedImage(path, "it ends in a length");
    const length = bytes.readUInt32LE(at);
    at += 4;
    if (length > bytes.length - at) throw damagedImage(path, "it ends in a message");
    messages.push(bytes.subarray(at, at + length));
    at += length;
  }
  return messages;
}

/** An image of the kind of the one at `path`, with these messages. */
export function encodeImage(path: string, messages: readonly Uint8Array[]): Buffer {
  const parts = messages.flatMap((message) => {
    const length = Buffer.alloc(4);
    length.writeUInt32LE(message.length);
    return [length, message];
  });
  return Buffer.concat([readFileSync(path).subarray(0, magics), ...parts]);
}

/** All messages as this type. @throws RuntimeError data_loss. */
export function decodeImage<T>(path: string, type: { readonly decode: (bytes: Uint8Array) => T }): readonly T[] {
  return readImage(path).map((message) => {
    try {
      return type.decode(message);
    } catch (error) {
      throw damagedImage(path, "it holds something else than it should", error);
    }
  });
}

/**
 * CRIU 4.2 reads for ever, and fills the disk with its log, where pages are missing.
 * @throws RuntimeError data_loss when a file of pages is shorter than what refers to it.
 */
export function checkPages(directory: string): void {
  const wanted = new Map<number, bigint>();
  for (const name of readdirSync(directory)) {
    if (!/^pagemap-.*\.img$/.test(name)) continue;
    const path = join(directory, name);
    const [head, ...entries] = readImage(path);
    if (head === undefined) throw damagedImage(path, "it has no beginning");
    const id = PagemapHead.decode(head).pagesId ?? 0;
    const bytes = entries.map((entry) => bytesOf(PagemapEntry.decode(entry))).reduce((sum, size) => sum + size, 0n);
    wanted.set(id, (wanted.get(id) ?? 0n) + bytes);
  }
  for (const [id, bytes] of wanted) {
    const path = join(directory, `pages-${id}.img`);
    const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
    if (BigInt(size) < bytes) throw damagedImage(path, `it has ${size} bytes and should have ${bytes}`);
  }
}

function bytesOf({ nrPages, compatNrPages, inParent, flags }: PagemapEntry): bigint {
  const here = flags === undefined ? inParent !== true : (flags & present) !== 0;
  return here ? (nrPages ?? BigInt(compatNrPages ?? 0)) * pageBytes : 0n;
}

/** @returns RuntimeError data_loss. */
export function damagedImage(path: string, why: string, cause?: unknown): RuntimeError {
  return new RuntimeError("data_loss", `the checkpoint cannot be used: ${path} is damaged: ${why}`, { path }, cause);
}

/** A message without some of its fields, and with others behind it; `old` is the last of those left out, where that is a message. */
export function rewriteMessage(
  message: Uint8Array,
  without: ReadonlySet<number>,
  add: (writer: BinaryWriter, old: Uint8Array) => void,
): Buffer {
  const reader = new BinaryReader(message);
  const writer = new BinaryWriter();
  let old: Uint8Array = Buffer.alloc(0);
  while (reader.pos < reader.len) {
    const start = reader.pos;
    const [number, type] = reader.tag();
    const value = reader.skip(type, number);
    if (!without.has(number)) writer.raw(message.subarray(start, reader.pos));
    else if (type === WireType.LengthDelimited) old = new BinaryReader(value).bytes();
  }
  add(writer, old);
  return Buffer.from(writer.finish());
}
