import { closeSync, openSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { RuntimeError, wrapError } from "../../lib/errors.ts";
import { addon } from "../../native/addon.ts";
import { openFlag } from "../../native/constants.ts";
import { canceled } from "./client.ts";
import { connectShim } from "./connect.ts";
import type { ShimListeners } from "./events.ts";
import { ProcessHandle } from "./process-handle.ts";
import type { Shim } from "./shim.ts";

/** The binary in memory, where no container can write to it: made once, executed for every pod. */
export interface ShimImage extends Disposable {
  readonly fd: number;
}

export async function loadShimImage(path: string): Promise<ShimImage> {
  const content = await readFile(path).catch((error: unknown) => {
    throw wrapError(`the helper ${path} cannot be read (run scripts/build)`, error);
  });
  const fd = addon.sealedMemfd("caisson-shim", content, true);
  return { fd, [Symbol.dispose]: () => addon.close(fd) };
}

export interface StartOptions {
  readonly podId: string;
  readonly runDir: string;
  readonly image: ShimImage;
  /** Caisson's own cgroup: the v2 directory or null, and the v1 `tasks` files. */
  readonly cgroup: { readonly directory: string | null; readonly taskFiles: readonly string[] };
  /** Soft RLIMIT_NOFILE of the shim, which its children inherit unless their plans say otherwise; null: 1024. */
  readonly softNofile: number | null;
  /** Where the shim's complaints go, or null. */
  readonly stderrFd: number | null;
  readonly env: readonly string[];
  readonly listeners: ShimListeners;
  /** As in ConnectOptions. */
  readonly background?: boolean;
  readonly signal?: AbortSignal | undefined;
}

export interface StartedShim {
  readonly shim: Shim;
  /** A child of ours: reaped when it ends. */
  readonly process: ProcessHandle;
}

const readyMs = 10_000;
const killSignal = 9;
const ready = "R";
const mostReadyBytes = 4096;

/** Starts the shim of a pod and connects to it. When it fails, no process is left. */
export async function startShim(options: StartOptions): Promise<StartedShim> {
  const { podId, runDir, listeners, signal } = options;
  if (signal?.aborted === true) throw canceled(`shim of pod ${podId}`, signal.reason);
  const [readFd, process] = spawnShim(options);
  try {
    await awaitReady(readFd, options);
    const { background = false } = options;
    const shim = await connectShim({ podId, runDir, expected: process.identity, listeners, background, signal });
    return { shim, process };
  } catch (error) {
    process.kill(killSignal);
    await process.waitEnded();
    process[Symbol.dispose]();
    throw error;
  }
}

/** Descriptors as the shim expects them: 3 is the pod's directory, 4 says that it is ready. */
function spawnShim(options: StartOptions): [readFd: number, process: ProcessHandle] {
  const opened: number[] = [];
  const directory = (path: string): number => {
    const fd = openSync(path, openFlag.readOnly | openFlag.directory);
    opened.push(fd);
    return fd;
  };
  let readFd = -1;
  try {
    const podDir = directory(options.runDir);
    const cgroupFd = options.cgroup.directory === null ? null : directory(options.cgroup.directory);
    const [read, write] = addon.pipe(0);
    readFd = read;
    opened.push(write);
    const { pid, pidfd } = addon.spawn({
      path: "caisson-shim",
      imageFd: options.image.fd,
      argv: ["caisson-shim", "--pod", options.podId],
      env: options.env,
      cwd: "/",
      fds: [null, null, options.stderrFd, podDir, write],
      parentDeathSignal: 0,
      newSession: true,
      softNofile: options.softNofile,
      cgroupFd,
      taskFiles: options.cgroup.taskFiles,
    });
    return [readFd, ProcessHandle.ofChild(pid, pidfd)];
  } catch (error) {
    if (readFd >= 0) closeSync(readFd);
    throw wrapError(`the shim of pod ${options.podId} cannot be started`, error);
  } finally {
    for (const fd of opened) closeSync(fd);
  }
}

/** Resolves at the shim's "R"; anything else is its reason, and the end of the pipe its death. */
async function awaitReady(readFd: number, options: StartOptions): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const what = `shim of pod ${options.podId}`;
  let said = "";
  const onData = (chunk: Buffer): void => {
    if (said.length < mostReadyBytes) said += chunk.toString("utf8");
    if (said === ready) resolve();
  };
  const onEnd = (): void => {
    reject(
      new RuntimeError("internal", `${what} did not start: ${said.trim() || "it ended without a word"}`, { pod: options.podId }),
    );
  };
  const reader = addon.readPipe(readFd, onData, onEnd);
  const timer = setTimeout(
    () => reject(new RuntimeError("deadline_exceeded", `${what} was not ready after ${readyMs} ms`)),
    readyMs,
  );
  const onAbort = (): void => reject(canceled(what, options.signal?.reason));
  options.signal?.addEventListener("abort", onAbort, { once: true });
  try {
    await promise;
  } finally {
    clearTimeout(timer);
    options.signal?.removeEventListener("abort", onAbort);
    reader.close();
  }
}
