import { extname } from "node:path";
import { Worker } from "node:worker_threads";

/** Small, because on a full disk what is in the log must still fit into the file. */
const bytesBetween = 1 << 20;
const longestMs = 60_000;

interface Around {
  readonly before: () => void;
  readonly after: () => void;
}

/** Decides when the write-ahead log goes into the database file, and has a worker thread do it. The thread starts when first needed. */
export class Checkpointer {
  readonly #path: string;
  readonly #onProblem: (problem: string) => void;
  readonly #around: Around;
  #worker: Worker | undefined;
  #bytes = 0;
  #timer: NodeJS.Timeout | undefined;
  #busy = false;
  #closed = false;

  /** `around` runs on the JS thread, before and after each checkpoint. */
  constructor(path: string, onProblem: (problem: string) => void, around: Around) {
    this.#path = path;
    this.#onProblem = onProblem;
    this.#around = around;
  }

  /** Tells of a commit of about so many bytes. */
  wrote(bytes: number): void {
    this.#bytes += bytes + 4096;
    if (this.#bytes >= bytesBetween) this.start();
    this.#timer ??= setTimeout(() => this.start(), longestMs).unref();
  }

  start(): void {
    if (this.#busy || this.#closed) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#bytes = 0;
    this.#busy = true;
    this.#around.before();
    this.#worker ??= this.#spawn();
    this.#worker.postMessage("checkpoint");
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    const worker = this.#worker;
    this.#worker = undefined;
    if (worker === undefined) return;
    const gone = new Promise((resolve) => worker.once("exit", resolve));
    // Else the process could end, with the database open, because nothing else keeps it.
    worker.ref();
    worker.postMessage("stop");
    await gone;
  }

  #spawn(): Worker {
    const file = new URL(`./checkpoint-worker${extname(import.meta.filename)}`, import.meta.url);
    const worker = new Worker(file, { workerData: { path: this.#path }, name: "store-checkpoint" });
    worker.unref();
    worker.on("message", (problem: string | null) => {
      this.#busy = false;
      if (problem !== null) this.#onProblem(problem);
      this.#around.after();
    });
    worker.on("error", (error) => {
      this.#worker = undefined;
      this.#busy = false;
      this.#onProblem(error.message);
    });
    return worker;
  }
}
