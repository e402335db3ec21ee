/** Packets of the shim's protocol: header, payload and descriptors (messages.ts says how they look). */
import { closeSync, fstatSync, readSync } from "node:fs";
import { RuntimeError } from "../../lib/errors.ts";
import { type RecordOf, WireReader, WireWriter } from "../../lib/wire.ts";
import { addon } from "../../native/addon.ts";
import { inlineLimit, messageSchemas } from "./messages.ts";

type Schemas = typeof messageSchemas;
export type MessageName = keyof Schemas;
export type RecordOfMessage<N extends MessageName> = RecordOf<Schemas[N]["fields"]>;

/** One message as it came, with its descriptors, which belong to whoever holds it. */
export type Message = {
  [N in MessageName]: { readonly name: N; readonly id: number; readonly record: RecordOfMessage<N>; readonly fds: number[] };
}[MessageName];

/** A message of a newer shim: its type is not in our table. */
export interface UnknownMessage {
  readonly name: undefined;
  readonly type: number;
  readonly id: number;
  readonly fds: number[];
}

export interface Packet {
  readonly bytes: Buffer;
  readonly fds: readonly number[];
  /** A descriptor of `fds` that was made for this packet and is closed once it has been sent. */
  readonly memfd: number | undefined;
}

export const headerBytes = 12;
const payloadInMemfd = 1;
/** More than any plan: what a broken shim could make us allocate. */
const maxPayloadBytes = 8 << 20;

const nameOfType = new Map<number, MessageName>(
  (Object.keys(messageSchemas) as MessageName[]).map((name) => [messageSchemas[name].type, name]),
);

/** The names of these message types, for comparison with what a shim says that it knows. */
export function typeOfMessage(name: MessageName): number {
  return messageSchemas[name].type;
}

export function encodeMessage<N extends MessageName>(
  name: N,
  id: number,
  record: RecordOfMessage<N>,
  fds: readonly number[] = [],
): Packet {
  const out = new WireWriter();
  out.u16(messageSchemas[name].type);
  const flagsAt = out.length;
  out.u16(0);
  out.u32(id);
  const lengthAt = out.length;
  out.u32(0);
  out.fields(messageSchemas[name].fields, record as never);
  out.patchU32(lengthAt, out.length - headerBytes);
  const bytes = out.finish();
  if (bytes.length - headerBytes <= inlineLimit) return { bytes, fds, memfd: undefined };

  const memfd = addon.sealedMemfd(`caisson-${name}`, bytes.subarray(headerBytes), false);
  const header = Buffer.from(bytes.subarray(0, headerBytes));
  header.writeUInt16LE(payloadInMemfd, flagsAt);
  return { bytes: header, fds: [memfd, ...fds], memfd };
}

/** Reads one packet. When it throws, the descriptors still belong to the caller. */
export function decodeMessage(bytes: Buffer, fds: number[]): Message | UnknownMessage {
  if (bytes.length < headerBytes) throw new RuntimeError("internal", `a packet of ${bytes.length} bytes has no whole header`);
  const type = bytes.readUInt16LE(0);
  const flags = bytes.readUInt16LE(2);
  const id = bytes.readUInt32LE(4);
  const length = bytes.readUInt32LE(8);
  if ((flags & ~payloadInMemfd) !== 0) throw new RuntimeError("internal", `a packet has the unknown flags ${flags}`);
  const inMemfd = (flags & payloadInMemfd) !== 0;
  const inline = bytes.subarray(headerBytes);
  if (inline.length !== (inMemfd ? 0 : length)) {
    throw new RuntimeError("internal", `a packet announces ${length} bytes and carries ${inline.length}`);
  }
  const payload = inMemfd ? takeMemfd(fds, length) : inline;
  const name = nameOfType.get(type);
  if (name === undefined) return { name, type, id, fds };
  const reader = new WireReader(payload);
  const record = reader.fields(messageSchemas[name].fields);
  reader.end();
  return { name, id, record, fds } as Message;
}

function takeMemfd(fds: number[], length: number): Buffer {
  const memfd = fds[0];
  if (memfd === undefined) throw new RuntimeError("internal", "a packet lacks the descriptor of its payload");
  if (length > maxPayloadBytes || fstatSync(memfd).size !== length) {
    throw new RuntimeError("internal", `a payload of ${length} bytes does not match its descriptor`);
  }
  const payload = Buffer.allocUnsafe(length);
  for (let at = 0; at < length; ) {
    const got = readSync(memfd, payload, at, length - at, at);
    if (got === 0) throw new RuntimeError("internal", "a payload ends early");
    at += got;
  }
  fds.shift();
  closeSync(memfd);
  return payload;
}
