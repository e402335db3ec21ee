/**
 * Reads from registries and layouts in a thread of its own. A layer's bytes are hundreds of thousands of buffers: on the JS thread their
 * collection and the registry's protocol would hold up every other call. The thread starts at the first question and ends when
 * there has been none for a while, with its connections, tokens and memory.
 */
import { getCompileCacheDir } from "node:module";
import { dirname, extname } from "node:path";
import { Worker } from "node:worker_threads";
import { RuntimeError } from "../lib/errors.ts";
import type { Log } from "../lib/log.ts";
import type { Descriptor } from "./documents.ts";
import type { PullSource, RawDocument } from "./source.ts";
import { type FromThread, fromPlain, type Question, type SourceSpec, type ThreadData, type ToThread } from "./source-messages.ts";

export interface SourceThreadOptions {
  /** A transfer that gets no byte for so long has failed; 0: never. */
  readonly progressTimeoutMs: number;
  readonly log: Log;
}

type Pending = PromiseWithResolvers<unknown>;

const idleMs = 30_000;

export class SourceThread {
  readonly #options: SourceThreadOptions;
  readonly #calls = new Map<number, Pending>();
  #worker: Worker | undefined;
  #lastCall = 0;
  #idle: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: SourceThreadOptions) {
    this.#options = options;
  }

  /**
   * Fails with the signal's reason once the thread has let go of what the question was about, or with what the source threw.
   */
  async ask(source: SourceSpec, question: Question, signal: AbortSignal): Promise<unknown> {
    if (this.#closed) throw new RuntimeError("unavailable", "the daemon is stopping");
    signal.throwIfAborted();
    clearTimeout(this.#idle);
    this.#worker ??= this.#start();
    const worker = this.#worker;
    const call = ++this.#lastCall;
    const pending = Promise.withResolvers<unknown>();
    const abort = (): void => worker.postMessage({ kind: "abort", call } satisfies ToThread);
    this.#calls.set(call, pending);
    worker.ref();
    signal.addEventListener("abort", abort, { once: true });
    try {
      worker.postMessage({ kind: "ask", call, source, question } satisfies ToThread);
      return await pending.promise;
    } catch (error) {
      signal.throwIfAborted();
      throw error;
    } finally {
      signal.removeEventListener("abort", abort);
      this.#calls.delete(call);
      if (this.#calls.size === 0) this.#rest();
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#idle);
    await this.#fail(this.#worker, new RuntimeError("unavailable", "the daemon is stopping"));
  }

  #rest(): void {
    this.#worker?.unref();
    this.#idle = setTimeout(() => this.#fail(this.#worker, undefined), idleMs).unref();
  }

  #start(): Worker {
    const file = new URL(`./source-worker${extname(import.meta.filename)}`, import.meta.url);
    const cache = getCompileCacheDir();
    const workerData: ThreadData = {
      progressTimeoutMs: this.#options.progressTimeoutMs,
      // Node appends a directory for its own version to what it is given.
      compileCache: cache === undefined ? undefined : dirname(cache),
    };
    const worker = new Worker(file, {
      workerData,
      name: "image-source",
      // What the host opens by number a socket closes, which Node does not see: it would close the number again when the thread ends.
      trackUnmanagedFds: false,
      // The bytes lie outside the heap: more room would only let more of them wait for a collection.
      resourceLimits: { maxYoungGenerationSizeMb: 4 },
    });
    worker.on("message", (message: FromThread) => this.#take(message));
    worker.on("error", (error) =>
      this.#fail(worker, new RuntimeError("internal", "the thread that reads images failed", {}, error)),
    );
    worker.on("exit", () => this.#fail(worker, new RuntimeError("internal", "the thread that reads images has ended")));
    return worker;
  }

  #take(message: FromThread): void {
    switch (message.kind) {
      case "answer":
        this.#calls.get(message.call)?.resolve(message.value);
        break;
      case "failure":
        this.#calls.get(message.call)?.reject(fromPlain(message.error));
        break;
      case "log": {
        const err = message.error === undefined ? {} : { err: fromPlain(message.error) };
        this.#options.log[message.level]({ ...message.fields, ...err }, message.text);
      }
    }
  }

  /** Does without this thread from now on; what waits for it fails. */
  async #fail(worker: Worker | undefined, error: RuntimeError | undefined): Promise<void> {
    if (worker === undefined || this.#worker !== worker) return;
    this.#worker = undefined;
    const calls = [...this.#calls.values()];
    // Descriptors of calls under way belong to their callers: they may only go once nobody can open them here any more.
    await worker.terminate();
    for (const call of calls) call.reject(error);
  }
}

/** A source that lives in the thread. */
export class RemoteSource implements PullSource {
  readonly name: string;
  readonly credentialsKey: string;
  readonly #thread: SourceThread;
  readonly #spec: SourceSpec;

  constructor(thread: SourceThread, spec: SourceSpec, name: string, credentialsKey: string) {
    this.#thread = thread;
    this.#spec = spec;
    this.name = name;
    this.credentialsKey = credentialsKey;
  }

  async hint(tagOrDigest: string, signal: AbortSignal): Promise<string | undefined> {
    return (await this.#thread.ask(this.#spec, { method: "hint", tagOrDigest }, signal)) as string | undefined;
  }

  async manifest(tagOrDigest: string, signal: AbortSignal): Promise<RawDocument> {
    const raw = (await this.#thread.ask(this.#spec, { method: "manifest", tagOrDigest }, signal)) as RawDocument;
    return { ...raw, data: asBuffer(raw.data) };
  }

  async document(descriptor: Descriptor, maxBytes: number, what: string, signal: AbortSignal): Promise<Buffer> {
    return asBuffer(
      (await this.#thread.ask(this.#spec, { method: "document", descriptor, maxBytes, what }, signal)) as Uint8Array,
    );
  }

  async feed(descriptor: Descriptor, fd: number, signal: AbortSignal): Promise<void> {
    await this.#thread.ask(this.#spec, { method: "feed", descriptor, fd }, signal);
  }
}

/** A cloned Buffer is a plain Uint8Array. */
function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
