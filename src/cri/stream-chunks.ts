/** Replies that come in pieces: the Stream* calls, for lists that would not fit into one message. */

/** Resolves when the stream takes the next message, rejects with the reason of `cut` (default: the caller's leaving). */
export type Send<Message> = (message: Message, cut?: AbortSignal) => Promise<void>;

/** A client that sets no limit of its own refuses messages above 4 MiB. */
const chunkBytes = 1 << 20;
const chunkItems = 1000;
const bytesPerField = 12;

/** Every item once, in messages of at least one item; nothing at all for an empty list. */
export async function sendChunks<Item, Message>(
  items: Iterable<Item>,
  send: Send<Message>,
  wrap: (chunk: Item[]) => Message,
): Promise<void> {
  let chunk: Item[] = [];
  let bytes = 0;
  for (const item of items) {
    const size = roughBytes(item);
    if (chunk.length > 0 && (bytes + size > chunkBytes || chunk.length === chunkItems)) {
      await send(wrap(chunk));
      chunk = [];
      bytes = 0;
    }
    chunk.push(item);
    bytes += size;
  }
  if (chunk.length > 0) await send(wrap(chunk));
}

/** Not less than a message takes on the wire, without encoding it twice. */
export function roughBytes(value: unknown): number {
  if (value === undefined || value === null) return 0;
  if (typeof value === "string") return bytesPerField + Buffer.byteLength(value);
  if (typeof value !== "object") return bytesPerField;
  if (ArrayBuffer.isView(value)) return bytesPerField + value.byteLength;
  let bytes = bytesPerField;
  if (Array.isArray(value)) for (const item of value) bytes += roughBytes(item);
  else for (const key in value) bytes += key.length + roughBytes(value[key as keyof typeof value]);
  return bytes;
}
