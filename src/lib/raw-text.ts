import { isUtf8 } from "node:buffer";

/**
 * Bytes that are nearly always UTF-8 (variables, arguments) as strings that keep them: each byte that is no part of a character becomes
 * one of U+DC80 to U+DCFF, which no UTF-8 has. JSON keeps these, and the wire codec turns them back.
 */
export function textOfBytes(bytes: Buffer): string {
  if (isUtf8(bytes)) return bytes.toString();
  let text = "";
  for (let at = 0; at < bytes.length; ) {
    const byte = bytes[at] ?? 0;
    const length = byte < 0x80 ? 1 : byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
    const character = bytes.subarray(at, at + length);
    const whole = isUtf8(character);
    text += whole ? character.toString() : String.fromCharCode(escapes + byte);
    at += whole ? length : 1;
  }
  return text;
}

/** The bytes of a string, those that `textOfBytes` kept included. Other lone surrogates become U+FFFD, as everywhere. */
export function bytesOfText(text: string): Buffer {
  if (text.isWellFormed()) return Buffer.from(text);
  // With the flag u a half of a pair is no match.
  const pieces = text.split(/([\udc80-\udcff])/u);
  return Buffer.concat(pieces.map((piece, at) => (at % 2 === 0 ? Buffer.from(piece) : Buffer.of(piece.charCodeAt(0) - escapes))));
}

const escapes = 0xdc00;
