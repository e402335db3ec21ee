/** Reading of CRIU's image files. They may come from anybody: every length is checked. */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path/posix";
import { PagemapEntry, PagemapHead } from "../../gen/criu/images.ts";
import { RuntimeError } from "../../lib/errors.ts";

const magics = 8;
const largestBytes = 256 << 20;
const pageBytes = 4096n;
const present = 4;

/** The messages of an image, still encoded. @throws RuntimeError data_loss when it is not whole. */
export function readImage(path: string): readonly Buffer[] {
  const size = statSync(path, { throwIfNoEntry: false })?.size;
  if (size === undefined) throw damagedImage(path, "it is missing");
  if (size > largestBytes) throw damagedImage(path, "it is too large");
  const bytes = readFileSync(path);
  if (bytes.length < magics) throw damagedImage(path, "it is too short");
  const messages: Buffer[] = [];
  for (let at = magics; at < bytes.length; ) {
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
