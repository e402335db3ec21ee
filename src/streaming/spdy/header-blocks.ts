/**
 * Header blocks of SPDY/3: u32 number of pairs; for each u32 length and name, u32 length and value; several values of a name are
 * separated by NUL. All blocks of one direction are one zlib stream, flushed behind each block.
 */
import { constants, createDeflate, createInflate, type Deflate, type Inflate } from "node:zlib";
import { RuntimeError } from "../../lib/errors.ts";
import { spdyDictionary } from "./dictionary.ts";

export type Headers = ReadonlyMap<string, readonly string[]>;

const mostHeaders = 100;
/** A compressed block of the largest size could stand for a thousand times as much. */
const mostBlockBytes = 256 << 10;
/** Belong to a connection and not to a stream. */
const forbidden: ReadonlySet<string> = new Set(["connection", "host", "keep-alive", "proxy-connection", "transfer-encoding"]);

function malformed(what: string): RuntimeError {
  return new RuntimeError("invalid_argument", `malformed SPDY headers: ${what}`);
}

export function encodeHeaders(headers: Headers): Buffer {
  const parts: Buffer[] = [];
  const number = (value: number): void => {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32BE(value);
    parts.push(bytes);
  };
  const text = (value: string): void => {
    const bytes = Buffer.from(value, "latin1");
    number(bytes.length);
    parts.push(bytes);
  };
  number(headers.size);
  for (const [name, values] of headers) {
    text(name);
    text(values.join("\0"));
  }
  return Buffer.concat(parts);
}

/** @throws RuntimeError invalid_argument for anything but exactly one block. */
export function decodeHeaders(block: Buffer): Headers {
  let at = 0;
  const number = (): number => {
    if (block.length - at < 4) throw malformed("the block ends early");
    at += 4;
    return block.readUInt32BE(at - 4);
  };
  const text = (): string => {
    const length = number();
    if (length > block.length - at) throw malformed("a name or value is longer than the block");
    at += length;
    return block.toString("latin1", at - length, at);
  };
  const count = number();
  if (count > mostHeaders) throw malformed(`${count} headers`);
  const headers = new Map<string, readonly string[]>();
  for (let i = 0; i < count; i++) {
    const name = text();
    if (name === "" || name !== name.toLowerCase()) throw malformed(`the name ${JSON.stringify(name)}`);
    if (headers.has(name)) throw malformed(`${name} comes twice`);
    if (forbidden.has(name)) throw malformed(`${name} has no place in a stream`);
    headers.set(name, text().split("\0"));
  }
  if (at !== block.length) throw malformed("bytes behind the block");
  return headers;
}

/** The compressor of one direction. Blocks must be written in the order in which they are sent. */
export class HeaderCompressor implements Disposable {
  /** Our blocks are short: a window that holds the dictionary is enough, and takes a hundredth of the default's memory. */
  readonly #deflate: Deflate = quiet(createDeflate({ dictionary: spdyDictionary, windowBits: 11, memLevel: 1 }));

  async compress(headers: Headers): Promise<Buffer> {
    return await through(this.#deflate, encodeHeaders(headers), Number.MAX_SAFE_INTEGER);
  }

  [Symbol.dispose](): void {
    this.#deflate.destroy();
  }
}

export class HeaderDecompressor implements Disposable {
  readonly #inflate: Inflate = quiet(createInflate({ dictionary: spdyDictionary }));

  async decompress(block: Buffer): Promise<Headers> {
    return decodeHeaders(await through(this.#inflate, block, mostBlockBytes));
  }

  [Symbol.dispose](): void {
    this.#inflate.destroy();
  }
}

/** An error of a codec that is given up is nobody's. */
function quiet<T extends Deflate | Inflate>(codec: T): T {
  codec.on("error", () => {});
  return codec;
}

/** What comes out for these bytes, up to the flush behind them. */
async function through(codec: Deflate | Inflate, bytes: Buffer, mostBytes: number): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const parts: Buffer[] = [];
  let total = 0;
  const onData = (part: Buffer): void => {
    parts.push(part);
    total += part.length;
    if (total > mostBytes) codec.destroy(malformed(`more than ${mostBytes} bytes`));
  };
  const onError = (error: Error): void => reject(error instanceof RuntimeError ? error : malformed(error.message));
  const onClose = (): void => reject(malformed("the connection has ended"));
  codec.on("data", onData);
  codec.on("error", onError);
  codec.on("close", onClose);
  if (codec.destroyed) onClose();
  else {
    codec.write(bytes);
    // Also called when the codec is given up meanwhile; its error follows.
    codec.flush(constants.Z_SYNC_FLUSH, () => {
      if (!codec.destroyed) resolve(Buffer.concat(parts));
    });
  }
  try {
    return await promise;
  } finally {
    codec.off("data", onData);
    codec.off("error", onError);
    codec.off("close", onClose);
  }
}
