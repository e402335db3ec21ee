/**
 * Readiness for the caller's service manager (sd_notify(3)). The container has a socket of its own, as the host's is none of its business;
 * what it says there of being ready goes on with the pid that the manager is to watch. Nothing else does.
 */
import { closeSync, existsSync, mkdirSync, openSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Container, Mount } from "../../core/library/public.ts";
import { messageOf } from "../../lib/errors.ts";
import { addon } from "../../native/addon.ts";
import { openFlag } from "../../native/constants.ts";

const inside = "/run/notify";
const name = "notify.sock";
/** How long the manager may take to have read everything, as systemd's own sd_notify_barrier(3) callers have it. */
const barrierMs = 30_000;

/** The manager's socket; undefined: nobody waits for readiness. */
export function hostNotifySocket(environment: NodeJS.ProcessEnv = process.env): string | undefined {
  return environment.NOTIFY_SOCKET || undefined;
}

/** What a container gets whose readiness somebody waits for. */
export function notifyParts(stateDirectory: string): { readonly mount: Mount; readonly env: string } {
  const source = directoryIn(stateDirectory);
  const flags = ["bind", "nosuid", "noexec", "nodev", "ro"];
  return { mount: { source, destination: inside, device: "bind", flags }, env: `NOTIFY_SOCKET=${inside}/${name}` };
}

export function makeNotifyDirectory(stateDirectory: string): void {
  mkdirSync(directoryIn(stateDirectory), { mode: 0o755 });
}

function directoryIn(stateDirectory: string): string {
  return join(stateDirectory, "notify");
}

export class NotifySocket implements Disposable {
  readonly #host: string;
  readonly #warn: (text: string) => void;
  readonly #ready = Promise.withResolvers<string>();
  readonly #socket: number;
  #reader: { close(): void } | undefined;

  private constructor(host: string, directory: string, warn: (text: string) => void) {
    this.#host = host;
    this.#warn = warn;
    rmSync(join(directory, name), { force: true });
    const at = openSync(directory, openFlag.path | openFlag.directory);
    // Whoever the container's processes are: the socket can be reached by them alone. Not by chmod, which would follow what they put there.
    const umask = process.umask(0);
    try {
      this.#socket = addon.bindDatagram(at, name);
    } finally {
      process.umask(umask);
      closeSync(at);
    }
    this.#read();
  }

  /** Before the container runs. undefined: nobody waits for its readiness, or it was created for nobody who does. */
  static open(stateDirectory: string, warn: (text: string) => void): NotifySocket | undefined {
    const host = hostNotifySocket();
    const directory = directoryIn(stateDirectory);
    return host === undefined || !existsSync(directory) ? undefined : new NotifySocket(host, directory, warn);
  }

  /** Passes readiness on and resolves; or the container has ended without. `pid`: what the manager is to watch from then on. */
  async forward(container: Container, pid: number | undefined): Promise<void> {
    const given = new AbortController();
    const ended = container.wait(given.signal).then(
      () => undefined,
      () => undefined,
    );
    const line = await Promise.race([this.#ready.promise, ended]);
    given.abort();
    if (line === undefined) return;
    try {
      addon.sendDatagram(this.#host, Buffer.from(pid === undefined ? line : `MAINPID=${pid}\n${line}`));
      await this.#taken();
    } catch (error) {
      this.#warn(`the service manager was not told that container ${container.id} is ready: ${messageOf(error)}`);
    }
  }

  [Symbol.dispose](): void {
    this.#reader?.close();
    closeSync(this.#socket);
  }

  #read(): void {
    const heard = (datagram: Buffer): void => {
      const line = datagram
        .toString("utf8")
        .split("\n")
        .find((each) => each.startsWith("READY="));
      if (line !== undefined) this.#ready.resolve(line);
    };
    // An empty datagram looks like an end.
    this.#reader = addon.readPipe(
      addon.duplicate(this.#socket),
      heard,
      (errno) => (errno === 0 ? this.#read() : undefined),
      true,
    );
  }

  /** Until the manager has read what was sent before: it may ask who we are, and then we have to be there still. */
  async #taken(): Promise<void> {
    const [read, write] = addon.pipe(0);
    const ended = Promise.withResolvers<boolean>();
    const reader = addon.readPipe(
      read,
      () => {},
      () => ended.resolve(true),
    );
    const timer = setTimeout(() => ended.resolve(false), barrierMs);
    try {
      addon.sendDatagram(this.#host, Buffer.from("BARRIER=1"), write);
    } finally {
      addon.close(write);
      if (!(await ended.promise)) this.#warn(`the service manager did not read the readiness within ${barrierMs} ms`);
      clearTimeout(timer);
      reader.close();
    }
  }
}
