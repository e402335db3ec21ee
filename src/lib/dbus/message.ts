/** D-Bus messages: header and body (D-Bus specification, "Message Format"). */
import { DbusReader, malformed } from "./reader.ts";
import { type DbusValue, parseSingle, type Variant } from "./signature.ts";
import { DbusWriter } from "./writer.ts";

export const messageType = { call: 1, reply: 2, error: 3, signal: 4 } as const;

/** Of the fields that a message does not have, strings are empty and the reply serial is 0. */
export interface DbusMessage {
  readonly type: number;
  readonly serial: number;
  readonly path: string;
  readonly interface: string;
  readonly member: string;
  readonly errorName: string;
  readonly replySerial: number;
  readonly destination: string;
  readonly sender: string;
  readonly signature: string;
  readonly body: readonly DbusValue[];
}

/** Code and type of each header field, in the order in which they are written. */
const headerFields = [
  ["path", 1, "o"],
  ["interface", 2, "s"],
  ["member", 3, "s"],
  ["errorName", 4, "s"],
  ["replySerial", 5, "u"],
  ["destination", 6, "s"],
  ["sender", 7, "s"],
  ["signature", 8, "g"],
] as const;

const fixedSize = 16;
/** Far more than anything that is asked for; the specification allows 128 MiB. */
const longestMessage = 8 << 20;
const fieldsType = parseSingle("a(yv)");

export function encodeDbusMessage(message: DbusMessage): Buffer {
  const body = new DbusWriter();
  body.values(message.signature, message.body);
  const bytes = body.finish();
  const writer = new DbusWriter();
  const fields = headerFields.flatMap(([name, code, signature]) => {
    const value = message[name];
    return value === "" || value === 0 ? [] : [[code, { signature, value }]];
  });
  writer.values("yyyyuua(yv)", ["l".charCodeAt(0), message.type, 0, 1, bytes.length, message.serial, fields]);
  writer.align(8);
  return Buffer.concat([writer.finish(), bytes]);
}

/** Size of the message that begins here; undefined: too few bytes to tell. */
export function dbusMessageSize(bytes: Buffer): number | undefined {
  if (bytes.length < fixedSize) return undefined;
  const little = isLittle(bytes);
  const read = (at: number) => (little ? bytes.readUInt32LE(at) : bytes.readUInt32BE(at));
  const header = fixedSize + read(12);
  const size = header + (-header & 7) + read(4);
  if (size > longestMessage) throw malformed(`${size} bytes are more than anybody would send`);
  return size;
}

/** `bytes` is one whole message. */
export function decodeDbusMessage(bytes: Buffer): DbusMessage {
  const little = isLittle(bytes);
  const reader = new DbusReader(bytes, little);
  const [, type, , version] = "yyyy".split("").map((code) => reader.value(parseSingle(code)) as number);
  const bodySize = reader.value({ code: "u" }) as number;
  const serial = reader.value({ code: "u" }) as number;
  if (version !== 1) throw malformed(`protocol version ${version}`);
  if (serial === 0) throw malformed("no serial");
  const found = readFields(reader.value(fieldsType) as readonly [number, Variant][]);
  reader.align(8);
  if (reader.offset + bodySize !== bytes.length) throw malformed("its parts are not as long as it says");
  const signature = found.signature ?? "";
  const body = new DbusReader(bytes.subarray(reader.offset), little).values(signature);
  return { ...nothing, ...found, type: type ?? 0, serial, body };
}

type Found = { -readonly [N in (typeof headerFields)[number][0]]?: DbusMessage[N] };

/** Fields that are not known are skipped, as the specification wants. */
function readFields(fields: readonly (readonly [number, Variant])[]): Found {
  const found: Record<string, DbusValue> = {};
  for (const [code, { signature, value }] of fields) {
    const known = headerFields.find((field) => field[1] === code);
    if (known === undefined) continue;
    if (known[2] !== signature) throw malformed(`header field ${known[0]} has the type ${signature}`);
    found[known[0]] = value;
  }
  return found as Found;
}

const nothing = {
  path: "",
  interface: "",
  member: "",
  errorName: "",
  replySerial: 0,
  destination: "",
  sender: "",
  signature: "",
};

function isLittle(bytes: Buffer): boolean {
  const order = bytes[0];
  if (order !== 0x6c && order !== 0x42) throw malformed("no byte order");
  return order === 0x6c;
}
