import { RuntimeError } from "../lib/errors.ts";

/** Collects a body; throws data_loss once it is larger than allowed. */
export async function readBounded(body: AsyncIterable<Uint8Array>, maxBytes: number, what: string): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of body) {
    size += chunk.length;
    if (size > maxBytes) throw new RuntimeError("data_loss", `${what} is larger than ${maxBytes} bytes`, { maxBytes });
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, size);
}

/** The first bytes of a body whose content is only for people; the rest is not read. */
export async function readSome(body: AsyncIterable<Uint8Array>, maxBytes: number): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const chunk of body) {
      chunks.push(chunk);
      size += chunk.length;
      if (size >= maxBytes) break;
    }
  } catch {
    // what came so far must do
  }
  return Buffer.concat(chunks, size).subarray(0, maxBytes);
}
