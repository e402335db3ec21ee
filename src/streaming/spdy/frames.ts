/**
 * Frames of SPDY/3.1. Integers are big endian. A control frame is u16 0x8003, u16 type, u8 flags, u24 length, payload; a data frame u32
 * stream id (top bit 0), u8 flags, u24 length, payload. Payloads of data frames are passed on in the pieces in which they arrive.
 */
import { RuntimeError } from "../../lib/errors.ts";

export type Frame =
  | { readonly type: "syn-stream"; readonly id: number; readonly fin: boolean; readonly block: Buffer }
  | { readonly type: "syn-reply"; readonly id: number; readonly fin: boolean; readonly block: Buffer }
  | { readonly type: "headers"; readonly id: number; readonly fin: boolean; readonly block: Buffer }
  | { readonly type: "data"; readonly id: number; readonly fin: boolean; readonly payload: Buffer }
  | { readonly type: "rst-stream"; readonly id: number; readonly status: number }
  | {
      readonly type: "settings";
      readonly entries: readonly { readonly id: number; readonly flags: number; readonly value: number }[];
    }
  | { readonly type: "ping"; readonly id: number }
  | { readonly type: "goaway"; readonly lastId: number; readonly status: number }
  | { readonly type: "window-update"; readonly id: number; readonly delta: number };

export const rstStatus = {
  protocolError: 1,
  invalidStream: 2,
  refusedStream: 3,
  cancel: 5,
  internalError: 6,
  streamInUse: 8,
  streamAlreadyClosed: 9,
} as const;
export const goawayStatus = { ok: 0, protocolError: 1, internalError: 2 } as const;

const version = 3;
const headBytes = 8;
const flagFin = 0x01;
const flagUnidirectional = 0x02;
const controlBit = 0x8000_0000;
const idMask = 0x7fff_ffff;
/** Of a data frame: a longer one would not fit its 24 bits of length. */
export const mostDataBytes = (1 << 24) - 1;
/** Of a control frame: several times what clients of remote commands send. */
export const mostControlBytes = 64 << 10;

const types = {
  "syn-stream": 1,
  "syn-reply": 2,
  "rst-stream": 3,
  settings: 4,
  ping: 6,
  goaway: 7,
  headers: 8,
  "window-update": 9,
} as const;

function control(type: keyof typeof types, flags: number, words: readonly number[], block?: Buffer): Buffer {
  const length = words.length * 4 + (block?.length ?? 0);
  const frame = Buffer.alloc(headBytes + length);
  frame.writeUInt16BE(0x8000 | version, 0);
  frame.writeUInt16BE(types[type], 2);
  frame.writeUInt32BE(((flags << 24) | length) >>> 0, 4);
  for (const [i, word] of words.entries()) frame.writeUInt32BE(word, headBytes + i * 4);
  block?.copy(frame, headBytes + words.length * 4);
  return frame;
}

export const synReply = (id: number, block: Buffer): Buffer => control("syn-reply", 0, [id], block);
export const rstStream = (id: number, status: number): Buffer => control("rst-stream", 0, [id, status]);
export const ping = (id: number): Buffer => control("ping", 0, [id]);
export const goaway = (lastId: number, status: number): Buffer => control("goaway", 0, [lastId, status]);

/** The head of a data frame, whose payload follows. */
export function dataHead(id: number, lengthBytes: number, fin: boolean): Buffer {
  const head = Buffer.alloc(headBytes);
  head.writeUInt32BE(id, 0);
  head.writeUInt32BE(((fin ? flagFin << 24 : 0) | lengthBytes) >>> 0, 4);
  return head;
}

function malformed(what: string): RuntimeError {
  return new RuntimeError("invalid_argument", `malformed SPDY: ${what}`);
}

/** A control frame from its head's fields and its whole payload. */
function parseControl(type: number, flags: number, payload: Buffer): Frame {
  const fin = (flags & flagFin) !== 0;
  const exactly = (bytes: number, name: string): void => {
    if (payload.length !== bytes) throw malformed(`${name} has ${payload.length} bytes, not ${bytes}`);
  };
  const atLeast = (bytes: number, name: string): void => {
    if (payload.length < bytes) throw malformed(`${name} has ${payload.length} bytes, fewer than ${bytes}`);
  };
  const word = (at: number): number => payload.readUInt32BE(at);
  switch (type) {
    case types["syn-stream"]:
      atLeast(10, "SYN_STREAM");
      if ((flags & flagUnidirectional) !== 0) throw malformed("SYN_STREAM opens a unidirectional stream");
      return { type: "syn-stream", id: word(0) & idMask, fin, block: payload.subarray(10) };
    case types["syn-reply"]:
      atLeast(4, "SYN_REPLY");
      return { type: "syn-reply", id: word(0) & idMask, fin, block: payload.subarray(4) };
    case types.headers:
      atLeast(4, "HEADERS");
      return { type: "headers", id: word(0) & idMask, fin, block: payload.subarray(4) };
    case types["rst-stream"]:
      exactly(8, "RST_STREAM");
      return { type: "rst-stream", id: word(0) & idMask, status: word(4) };
    case types.settings: {
      atLeast(4, "SETTINGS");
      const count = word(0);
      if (count > mostControlBytes) throw malformed(`SETTINGS has ${count} entries`);
      exactly(4 + count * 8, "SETTINGS");
      const entries = Array.from({ length: count }, (_, i) => {
        const at = 4 + i * 8;
        return { flags: payload[at] ?? 0, id: word(at) & 0xff_ffff, value: word(at + 4) };
      });
      return { type: "settings", entries };
    }
    case types.ping:
      exactly(4, "PING");
      if (word(0) === 0) throw malformed("PING has the id 0");
      return { type: "ping", id: word(0) };
    case types.goaway:
      exactly(8, "GOAWAY");
      return { type: "goaway", lastId: word(0) & idMask, status: word(4) };
    case types["window-update"]:
      exactly(8, "WINDOW_UPDATE");
      return { type: "window-update", id: word(0) & idMask, delta: word(4) & idMask };
    default:
      throw malformed(`control frame of type ${type}`);
  }
}

/** Cuts a byte stream into frames. After it has thrown, nothing of the connection can be read any more. */
export class FrameReader {
  #pending: Buffer = Buffer.alloc(0);
  /** Of a data frame that is under way. */
  #data: { readonly id: number; readonly fin: boolean; left: number } | undefined;

  /** Frames that are complete with these bytes, and pieces of data frames. */
  *read(bytes: Buffer): Generator<Frame> {
    let rest = this.#pending.length === 0 ? bytes : Buffer.concat([this.#pending, bytes]);
    this.#pending = Buffer.alloc(0);
    for (;;) {
      if (this.#data !== undefined) {
        const { id, left } = this.#data;
        const payload = rest.subarray(0, left);
        rest = rest.subarray(payload.length);
        const done = payload.length === left;
        const fin = done && this.#data.fin;
        this.#data.left -= payload.length;
        if (done) this.#data = undefined;
        if (payload.length > 0 || fin) yield { type: "data", id, fin, payload };
        if (!done) return;
        continue;
      }
      const taken = rest.length < headBytes ? undefined : this.#frame(rest);
      if (taken === undefined) {
        // A copy: what is kept must not hold on to a large chunk.
        this.#pending = Buffer.from(rest);
        return;
      }
      rest = rest.subarray(taken.bytes);
      if (taken.frame !== undefined) yield taken.frame;
    }
  }

  /** The frame at the beginning, or undefined while it is not whole. */
  #frame(bytes: Buffer): { readonly bytes: number; readonly frame: Frame | undefined } | undefined {
    const first = bytes.readUInt32BE(0);
    const flags = bytes[4] ?? 0;
    const length = bytes.readUIntBE(5, 3);
    if (first < controlBit) {
      if (first === 0) throw malformed("data for stream 0");
      this.#data = { id: first, fin: (flags & flagFin) !== 0, left: length };
      return { bytes: headBytes, frame: undefined };
    }
    const spoken = (first >>> 16) & 0x7fff;
    if (spoken !== version) throw malformed(`version ${spoken} of the protocol, not ${version}`);
    if (length > mostControlBytes) throw malformed(`a control frame of ${length} bytes`);
    if (bytes.length < headBytes + length) return undefined;
    return {
      bytes: headBytes + length,
      frame: parseControl(first & 0xffff, flags, bytes.subarray(headBytes, headBytes + length)),
    };
  }
}
