/** The sources inside the thread that reads: made from their specifications, asked, and told to stop. */
import { constants, openSync } from "node:fs";
import { Socket } from "node:net";
import { errnoName } from "../lib/errors.ts";
import { blobBytes } from "./blob-stream.ts";
import type { Descriptor } from "./documents.ts";
import { Http } from "./http.ts";
import { LayoutSource } from "./layout-source.ts";
import { RegistrySource, type SourceLog } from "./registry-source.ts";
import type { Source } from "./source.ts";
import { type FromThread, type LogLevel, type Question, type SourceSpec, type ToThread, toPlain } from "./source-messages.ts";
import { Tokens } from "./tokens.ts";

/** Those least recently asked are forgotten: they only know which challenge their registry poses. */
const maxSources = 64;

export class SourceHost {
  readonly #http: Http;
  readonly #tokens: Tokens;
  readonly #log: SourceLog;
  readonly #send: (message: FromThread) => void;
  readonly #sources = new Map<number, Source>();
  readonly #running = new Map<number, AbortController>();

  constructor(progressTimeoutMs: number, send: (message: FromThread) => void) {
    this.#http = new Http({ progressTimeoutMs });
    this.#tokens = new Tokens(this.#http);
    this.#log = logTo(send);
    this.#send = send;
  }

  take(message: ToThread): void {
    const { call } = message;
    if (message.kind === "abort") {
      this.#running.get(call)?.abort();
      return;
    }
    const stop = new AbortController();
    this.#running.set(call, stop);
    this.#answer(message.source, message.question, stop.signal)
      .then(
        (value) => this.#send({ kind: "answer", call, value }),
        (error: unknown) => this.#send({ kind: "failure", call, error: toPlain(error) }),
      )
      .finally(() => this.#running.delete(call));
  }

  async #answer(spec: SourceSpec, question: Question, signal: AbortSignal): Promise<unknown> {
    const source = this.#source(spec);
    switch (question.method) {
      case "hint":
        return await source.hint(question.tagOrDigest, signal);
      case "manifest":
        return await source.manifest(question.tagOrDigest, signal);
      case "document":
        return await source.document(question.descriptor, question.maxBytes, question.what, signal);
      case "feed":
        return await feed(source, question.descriptor, question.fd, signal);
    }
  }

  #source(spec: SourceSpec): Source {
    const source = this.#sources.get(spec.id) ?? this.#make(spec);
    this.#sources.delete(spec.id);
    this.#sources.set(spec.id, source);
    const [oldest] = this.#sources.keys();
    if (this.#sources.size > maxSources && oldest !== undefined) this.#sources.delete(oldest);
    return source;
  }

  #make(spec: SourceSpec): Source {
    if (spec.kind === "layout") return new LayoutSource(spec.name, spec.dir);
    return new RegistrySource({ ...spec.options, http: this.#http, tokens: this.#tokens, log: this.#log });
  }
}

/** Writes a blob at the reader's pace. A reader that is gone is no failure: the helper ended first, and its verdict says why. */
async function feed(source: Source, blob: Descriptor, fd: number, signal: AbortSignal): Promise<void> {
  const own = openAgain(fd);
  if (own === undefined) return;
  // libuv polls the pipe; a file stream would block threads of the pool for as long as the helper is busy.
  const pipe = new Socket({ fd: own, readable: false, writable: true });
  const closed = new Promise<void>((resolve) => pipe.once("close", () => resolve()));
  pipe.on("error", () => pipe.destroy());
  signal.addEventListener("abort", () => pipe.destroy(), { once: true });
  try {
    for await (const chunk of blobBytes(source, blob, signal)) {
      if (pipe.destroyed) break;
      if (!pipe.write(chunk)) await Promise.race([new Promise((resolve) => pipe.once("drain", resolve)), closed]);
    }
    signal.throwIfAborted();
    pipe.end();
  } catch (error) {
    pipe.destroy();
    throw error;
  } finally {
    await closed;
  }
}

/** An open file of its own: the descriptor is another thread's. Undefined when nobody reads the pipe. */
function openAgain(fd: number): number | undefined {
  try {
    // Without O_NONBLOCK this would wait for a reader.
    return openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_NONBLOCK);
  } catch (error) {
    if (errnoName(error) === "ENXIO") return undefined;
    throw error;
  }
}

function logTo(send: (message: FromThread) => void): SourceLog {
  const write =
    (level: LogLevel) =>
    ({ err, ...fields }: Record<string, unknown>, text: string): void =>
      send({ kind: "log", level, fields, error: err === undefined ? undefined : toPlain(err), text });
  return { debug: write("debug"), warn: write("warn") };
}
