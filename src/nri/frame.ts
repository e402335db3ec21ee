/**
 * Frames of ttrpc: data length and stream id (big-endian, 4 bytes each), type, flags, data. A stream is one call: its request by the
 * client with an odd id, then the response. Streams of data are not part of NRI and are refused.
 */
import { RuntimeError } from "../lib/errors.ts";

export const frameHeaderBytes = 10;
/** ttrpc's own limit. */
export const mostDataBytes = 4 << 20;

export const frameType = { request: 1, response: 2, data: 3 } as const;

export interface Frame {
  readonly stream: number;
  readonly type: number;
  readonly flags: number;
  readonly data: Buffer;
}

export const brokenProtocol = (what: string): RuntimeError => new RuntimeError("data_loss", `protocol error: ${what}`);

/** @throws RuntimeError resource_exhausted when the data is larger than a frame may be. */
export function encodeFrame(stream: number, type: number, data: Uint8Array): Buffer {
  if (data.length > mostDataBytes) {
    throw new RuntimeError("resource_exhausted", `a message of ${data.length} bytes is larger than ${mostDataBytes}`);
  }
  const frame = Buffer.allocUnsafe(frameHeaderBytes + data.length);
  frame.writeUInt32BE(data.length, 0);
  frame.writeUInt32BE(stream, 4);
  frame[8] = type;
  frame[9] = 0;
  frame.set(data, frameHeaderBytes);
  return frame;
}

/** Puts units with a length in their header together from chunks of any size. Holds at most one unit and one chunk. */
export class Reassembly {
  readonly #headerBytes: number;
  readonly #lengthOf: (header: Buffer) => number;
  #chunks: Buffer[] = [];
  #size = 0;

  /** `lengthOf` gives the length of what follows a header, or throws. */
  constructor(headerBytes: number, lengthOf: (header: Buffer) => number) {
    this.#headerBytes = headerBytes;
    this.#lengthOf = lengthOf;
  }

  /** Units that are whole now, header included. */
  *push(chunk: Buffer): Generator<Buffer> {
    this.#chunks.push(chunk);
    this.#size += chunk.length;
    while (this.#size >= this.#headerBytes) {
      const total = this.#headerBytes + this.#lengthOf(this.#joined(this.#headerBytes));
      if (this.#size < total) return;
      const all = this.#joined(total);
      this.#size -= total;
      this.#chunks[0] = all.subarray(total);
      if (this.#chunks[0].length === 0) this.#chunks.shift();
      yield all.subarray(0, total);
    }
  }

  /** The first chunk, made long enough to hold so many bytes. */
  #joined(bytes: number): Buffer {
    const [first = Buffer.alloc(0)] = this.#chunks;
    if (first.length >= bytes) return first;
    const all = Buffer.concat(this.#chunks);
    this.#chunks = [all];
    return all;
  }
}

/** Frames out of a stream of bytes. @throws RuntimeError data_loss on what is none. */
export class FrameReader {
  readonly #units = new Reassembly(frameHeaderBytes, (header) => {
    const length = header.readUInt32BE(0);
    if (length > mostDataBytes) throw brokenProtocol(`a frame of ${length} bytes is larger than ${mostDataBytes}`);
    return length;
  });

  *push(chunk: Buffer): Generator<Frame> {
    for (const unit of this.#units.push(chunk)) {
      yield {
        stream: unit.readUInt32BE(4),
        type: unit[8] ?? 0,
        flags: unit[9] ?? 0,
        data: unit.subarray(frameHeaderBytes),
      };
    }
  }
}
