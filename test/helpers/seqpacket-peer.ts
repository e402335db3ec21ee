/** A SEQPACKET server for tests: Node has none, so a few lines of Python listen (seqpacket-peer.py) and tell what they get. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

export interface PeerEvent {
  readonly event: "listening" | "accepted" | "packet" | "closed";
  readonly hex?: string;
  /** What the received descriptors are, as /proc/self/fd shows them. */
  readonly links?: readonly string[];
  /** Content of received regular files and memfds, as hex. */
  readonly contents?: readonly string[];
}

export const socketName = "shim.sock";

export class SeqpacketPeer implements AsyncDisposable {
  readonly directory: string;
  readonly pid: number;
  readonly #child: ChildProcess;
  readonly #events: PeerEvent[] = [];
  #wake: () => void = () => {};
  #onEvent: ((event: PeerEvent) => void) | undefined;

  private constructor(directory: string, child: ChildProcess) {
    this.directory = directory;
    this.#child = child;
    this.pid = child.pid ?? 0;
    if (child.stdout === null) throw new Error("no stdout");
    createInterface({ input: child.stdout }).on("line", (line) => {
      const event = JSON.parse(line) as PeerEvent;
      if (this.#onEvent === undefined) this.#events.push(event);
      else this.#onEvent(event);
      this.#wake();
    });
  }

  static async listen(): Promise<SeqpacketPeer> {
    const directory = mkdtempSync(join(tmpdir(), "caisson-peer-"));
    const script = join(import.meta.dirname, "seqpacket-peer.py");
    const child = spawn("python3", [script, join(directory, socketName)], { stdio: ["pipe", "pipe", "inherit"] });
    const peer = new SeqpacketPeer(directory, child);
    await peer.next("listening");
    return peer;
  }

  /** Takes events as they come, instead of `next`. */
  onEvent(listener: (event: PeerEvent) => void): void {
    this.#onEvent = listener;
    for (const event of this.#events.splice(0)) listener(event);
  }

  /** The next event, which must be of this kind. */
  async next(kind: PeerEvent["event"]): Promise<PeerEvent> {
    while (this.#events.length === 0) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const event = this.#events.shift();
    if (event?.event !== kind) throw new Error(`the peer said ${JSON.stringify(event)}, expected ${kind}`);
    return event;
  }

  send(bytes: Uint8Array, files: readonly string[] = []): void {
    this.#command({ do: "send", hex: Buffer.from(bytes).toString("hex"), files });
  }

  pause(): void {
    this.#command({ do: "pause" });
  }

  resume(): void {
    this.#command({ do: "resume" });
  }

  hangUp(): void {
    this.#command({ do: "hangup" });
  }

  #command(order: object): void {
    this.#child.stdin?.write(`${JSON.stringify(order)}\n`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null) {
      const gone = new Promise((resolve) => this.#child.once("exit", resolve));
      this.#child.stdin?.end();
      await gone;
    }
    rmSync(this.directory, { recursive: true, force: true });
  }
}
