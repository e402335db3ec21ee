import type { Readable, Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";

/**
 * Copies until the source ends, waiting for the sink; what a sink that has gone would get is dropped, so that the source comes to its
 * end. `dropPauseMs` is waited after each such chunk: a source that never stops must not keep the loop busy for nobody. The sink is
 * left open. Rejects when the source is destroyed before its end.
 */
export async function pump(source: Readable, sink: Writable | undefined, dropPauseMs = 0): Promise<void> {
  for await (const chunk of source) {
    if (sink === undefined || sink.destroyed || sink.writableEnded) {
      if (dropPauseMs > 0) await sleep(dropPauseMs, undefined, { ref: false });
    } else if (!sink.write(chunk)) await roomIn(sink);
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
