import type { Readable, Writable } from "node:stream";

/**
 * Copies until the source ends, waiting for the sink; what a sink that has gone would get is dropped, so that the source comes to its
 * end. The sink is left open. Rejects when the source is destroyed before its end.
 */
export async function pump(source: Readable, sink: Writable | undefined): Promise<void> {
  for await (const chunk of source) {
    if (sink === undefined || sink.destroyed || sink.writableEnded) continue;
    if (!sink.write(chunk)) await roomIn(sink);
  }
}

async function roomIn(sink: Writable): Promise<void> {
  await new Promise<void>((resolve) => {
    const done = (): void => {
      sink.off("drain", done);
      sink.off("close", done);
      resolve();
    };
    sink.on("drain", done);
    sink.on("close", done);
    if (sink.destroyed) done();
  });
}
