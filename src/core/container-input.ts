import { Writable } from "node:stream";
import type { DescriptorWritable } from "../native/descriptor-streams.ts";

/**
 * The stdin of a container as the clients of attach share it: the shim takes one source, which stays open from the first client to
 * the container's end. With `once` it ends for good when the first client's input ends.
 */
export class ContainerInput implements Disposable {
  readonly #sink: DescriptorWritable;
  readonly #once: boolean;

  constructor(sink: DescriptorWritable, once: boolean) {
    this.#sink = sink;
    this.#once = once;
    // A client's writes fail of their own; an end that nobody waits for is no fault of the daemon.
    sink.on("error", () => {});
  }

  /** One client's side; its end, or its being destroyed, leaves the others alone unless `once`. */
  client(): Writable {
    const sink = this.#sink;
    const end = (): void => {
      if (this.#once && !sink.writableEnded) sink.end();
    };
    return new Writable({
      write: (chunk: Buffer, _encoding, done) => {
        if (sink.writableEnded || sink.destroyed) done();
        else sink.write(chunk, done);
      },
      final: (done) => {
        end();
        done();
      },
      destroy: (error, done) => {
        end();
        done(error);
      },
    });
  }

  [Symbol.dispose](): void {
    this.#sink.destroy();
  }
}
