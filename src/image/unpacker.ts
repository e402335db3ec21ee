/** Runs caisson-unpack: compressed bytes in, a verdict out. What is allowed is decided here and by the callers. */
import { constants, type FileHandle, open } from "node:fs/promises";
import { RuntimeError } from "../lib/errors.ts";
import type { Addon } from "../native/types.ts";

/** What unpacking needs of the addon. */
export type SpawnFunctions = Pick<Addon, "spawn" | "waitChild" | "pidfdSignal" | "pipe" | "close" | "readPipe">;

export interface LayerLimits {
  /** Of the decompressed layer. */
  readonly maxLayerBytes: number;
  readonly maxLayerEntries: number;
  /** Decompressed to compressed, looked at beyond 1 GiB. */
  readonly maxRatio: number;
}

export interface Unpacked {
  /** Hex digests of what was read and of what it decompressed to. */
  readonly blobHex: string;
  readonly blobBytes: number;
  readonly tarHex: string;
  readonly inodes: number;
  readonly diskBytes: number;
  readonly strippedXattrs: number;
  /** Things that need the layers below: settle has to run. */
  readonly pending: number;
}

export interface Settled {
  readonly inodes: number;
  readonly diskBytes: number;
}

/** Writes the input into a pipe, which stays the caller's, and returns at its end or when nobody reads any more. */
export type Feed = (fd: number) => Promise<void>;

interface Run {
  readonly args: readonly string[];
  /** Descriptors from 2 on: 0 and 1 are `input` and the result. */
  readonly fds: readonly (number | null)[];
  readonly input: Feed | number | null;
  readonly what: string;
  readonly signal: AbortSignal;
}

const sigkill = 9;
const maxResultBytes = 64 * 1024;
/** Lets the helper work while Node is busy with something else. */
const pipeBytes = 1 << 20;

export class Unpacker {
  readonly #native: SpawnFunctions;
  readonly #path: string;
  readonly #limits: LayerLimits;

  constructor(native: SpawnFunctions, path: string, limits: LayerLimits) {
    this.#native = native;
    this.#path = path;
    this.#limits = limits;
  }

  /** Applies a compressed layer, from a feed or an open file, to the directory `dir`. `pending` receives what settle has to do. */
  async apply(
    input: Feed | number,
    dir: string,
    pending: string,
    sha512: boolean,
    bottom: boolean,
    what: string,
    signal: AbortSignal,
  ): Promise<Unpacked> {
    await using root = await openDirectory(dir);
    await using list = await open(pending, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
    const args = ["apply", ...this.#limitArgs(), ...(sha512 ? ["sha512"] : []), ...(bottom ? ["bottom"] : [])];
    return (await this.#run({ args, fds: [null, root.fd, list.fd], input, what, signal })) as Unpacked;
  }

  /** Does the pending work of `dir`; `lowers` are the directories of the layers below, topmost first. */
  async settle(dir: string, pending: string, lowers: readonly string[], what: string, signal: AbortSignal): Promise<Settled> {
    await using root = await openDirectory(dir);
    await using list = await open(pending, constants.O_RDONLY);
    const handles: FileHandle[] = [];
    try {
      for (const lower of lowers) handles.push(await openDirectory(lower));
      const args = ["settle", ...this.#limitArgs(), `lowers=${lowers.length}`];
      const fds = [null, root.fd, ...handles.map((handle) => handle.fd)];
      return (await this.#run({ args, fds, input: list.fd, what, signal })) as Settled;
    } finally {
      await Promise.all(handles.map((handle) => handle.close()));
    }
  }

  /** Removes everything inside `dir`, without a burden on this process. */
  async clear(dir: string, signal: AbortSignal): Promise<void> {
    await using root = await openDirectory(dir);
    await this.#run({ args: ["clear"], fds: [null, root.fd], input: null, what: `removal of ${dir}`, signal });
  }

  #limitArgs(): readonly string[] {
    const { maxLayerBytes, maxLayerEntries, maxRatio } = this.#limits;
    return [`bytes=${maxLayerBytes}`, `entries=${maxLayerEntries}`, `ratio=${maxRatio}`];
  }

  async #run(run: Run): Promise<unknown> {
    run.signal.throwIfAborted();
    const native = this.#native;
    const [resultRead, resultWrite] = native.pipe(0);
    const feed = typeof run.input === "function" ? native.pipe(pipeBytes) : undefined;
    const result = this.#readResult(resultRead);
    result.catch(() => undefined); // looked at below, unless something else fails first
    let child: { pidfd: number };
    try {
      child = native.spawn({
        path: this.#path,
        imageFd: null,
        argv: ["caisson-unpack", ...run.args],
        env: deniedCalls === undefined ? [] : [`CAISSON_DENY_SYSCALLS=${deniedCalls}`],
        cwd: null,
        fds: [feed?.[0] ?? (run.input as number | null), resultWrite, ...run.fds],
        // A killed daemon must not leave writers behind in directories that its successor removes.
        parentDeathSignal: sigkill,
        // A session of its own would be an autogroup of its own (sched(7)): there its low priority would count for nothing.
        newSession: false,
        // One descriptor per directory level on removal, one per layer below on settle.
        softNofile: 4096,
      });
    } catch (error) {
      if (feed !== undefined) native.close(feed[1]);
      throw error;
    } finally {
      native.close(resultWrite);
      if (feed !== undefined) native.close(feed[0]);
    }
    const exited = native.waitChild(child.pidfd);
    const kill = (): void => native.pidfdSignal(child.pidfd, sigkill);
    run.signal.addEventListener("abort", kill, { once: true });
    try {
      if (feed !== undefined) await this.#feed(feed[1], run.input as Feed, kill);
      const [text, exit] = await Promise.all([result, exited]);
      run.signal.throwIfAborted();
      return verdict(text, exit, run.what);
    } finally {
      run.signal.removeEventListener("abort", kill);
      // Not before it is gone: the caller removes the directory next.
      await exited.catch(() => undefined);
      native.close(child.pidfd);
    }
  }

  #readResult(fd: number): Promise<string> {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const chunks: Buffer[] = [];
    let size = 0;
    this.#native.readPipe(
      fd,
      (chunk) => {
        size += chunk.length;
        if (size <= maxResultBytes) chunks.push(chunk);
      },
      (errno) => (errno === 0 ? resolve(Buffer.concat(chunks).toString("utf8")) : reject(new Error(`errno ${errno}`))),
    );
    return promise;
  }

  /** If the input fails the helper is killed, and the failure is what counts. */
  async #feed(fd: number, input: Feed, kill: () => void): Promise<void> {
    try {
      await input(fd);
    } catch (error) {
      kill();
      throw error;
    } finally {
      this.#native.close(fd);
    }
  }
}

async function openDirectory(path: string): Promise<FileHandle> {
  return await open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
}

/** The switch of native/common/kernel.h: for tests. */
const deniedCalls = process.env.CAISSON_DENY_SYSCALLS;
const codeOfKind = {
  invalid: "invalid_argument",
  limit: "resource_exhausted",
  space: "resource_exhausted",
  system: "internal",
} as const;

function verdict(text: string, exit: { code: number; signal: number }, what: string): unknown {
  let result: { ok?: unknown; kind?: unknown; message?: unknown };
  try {
    result = JSON.parse(text) as typeof result;
  } catch {
    const how = exit.signal > 0 ? `signal ${exit.signal}` : `exit code ${exit.code}`;
    throw new RuntimeError("internal", `${what}: the unpacking helper ended without a result (${how})`);
  }
  if (result.ok === true && exit.code === 0) return result;
  const code = codeOfKind[result.kind as keyof typeof codeOfKind] ?? "internal";
  throw new RuntimeError(code, `${what}: ${String(result.message)}`);
}
