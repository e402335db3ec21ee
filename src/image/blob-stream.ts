import { RuntimeError } from "../lib/errors.ts";
import type { Descriptor } from "./documents.ts";
import { backOff, isStalled, unreachable } from "./http.ts";
import type { Source } from "./source.ts";

/** Connections in a row that break without having brought a byte. */
const maxFruitless = 5;

/**
 * The bytes of a blob, exactly as many as its descriptor says. A connection that breaks is resumed where it broke; a server that
 * ends early or sends more is found out here, one that sends something else by the digest.
 */
export async function* blobBytes(source: Source, blob: Descriptor, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  let offset = 0;
  for (let fruitless = 0; offset < blob.sizeBytes; ) {
    const before = offset;
    let broken: unknown;
    // `blob` has its own retries: what it throws is final.
    const body = await source.blob(blob, offset, signal);
    try {
      for await (const chunk of body) {
        if (offset + chunk.length > blob.sizeBytes) throw tooLong(source, blob);
        offset += chunk.length;
        yield chunk;
      }
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof RuntimeError || isStalled(error)) throw unreachable(source.name, error);
      broken = error;
    }
    if (offset === blob.sizeBytes) return;
    fruitless = offset > before ? 0 : fruitless + 1;
    if (fruitless === maxFruitless) {
      if (broken !== undefined) throw unreachable(source.name, broken);
      throw new RuntimeError(
        "data_loss",
        `blob ${blob.digest} of ${source.name} ends after ${offset} of ${blob.sizeBytes} bytes`,
      );
    }
    await backOff(fruitless + 1, undefined, signal);
  }
}

function tooLong(source: Source, blob: Descriptor): RuntimeError {
  return new RuntimeError("data_loss", `blob ${blob.digest} of ${source.name} is larger than its ${blob.sizeBytes} bytes`);
}
