/** Checkpoint of one container: CRIU's dump, run inside those of its namespaces that are not its own alone. */

import { once } from "node:events";
import { closeSync, constants, mkdirSync, openSync, readlinkSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { connect } from "node:net";
import { join, resolve } from "node:path/posix";
import { CgroupMode, NetworkLock, type Options, RequestType } from "../../gen/criu/rpc.ts";
import { RuntimeError } from "../../lib/errors.ts";
import { openProcess } from "../open-process.ts";
import type { Op } from "../plan.ts";
import type { ProcessIdentity } from "../runtime.ts";
import type { Shim } from "../shim/shim.ts";
import { type CgroupsMode, type CheckpointOptions, checkCheckpointOptions, timeoutOf } from "./checkpoint-options.ts";
import { callCriu, firstInherited } from "./criu-child.ts";
import { criuFailure } from "./criu-log.ts";
import { type CriuProgram, needFeature } from "./criu-program.ts";
import { externalMounts, parseMountTable } from "./external-mounts.ts";
import { whileFrozen } from "./hold.ts";
import { ImageDirectory, stdioNames } from "./image-directory.ts";

export interface DumpInput {
  /** Names the container, for messages. */
  readonly what: string;
  readonly shim: Shim;
  readonly program: CriuProgram;
  readonly init: ProcessIdentity;
  readonly terminal: boolean;
  readonly maskedPaths: readonly string[];
  /** CLONE_NEW*: namespaces that are left out of the images, because whoever restores gives others. */
  readonly outside: number;
  /** The PID namespace is the pod's or another container's: whoever restores gives one. */
  readonly sharedPid?: boolean;
  /** Directory of the container's freezer: of v1, or its cgroup of v2. */
  readonly freezer: string;
  /** Frozen already, by whoever checkpoints several containers at once, until this dump and the others are through. */
  readonly held?: boolean;
  /** Its network is held still as well, by the same. */
  readonly networkHeld?: boolean;
  readonly options: CheckpointOptions;
  readonly signal: AbortSignal;
}

const initSlot = 0;
const inheritSlot = 1;
export const dumpLog = "dump.log";
const logLevel = 4;

export const cgroupModes: Readonly<Record<CgroupsMode, CgroupMode>> = {
  ignore: CgroupMode.IGNORE,
  soft: CgroupMode.SOFT,
  full: CgroupMode.FULL,
  strict: CgroupMode.STRICT,
};

/** When it fails the container goes on as before; what lies in the images' directory then is of no use. */
export async function dump(input: DumpInput): Promise<void> {
  const { program, options, what } = input;
  checkCheckpointOptions(options);
  const deadlineMs = timeoutOf(options);
  if (options.preDump === true) await needFeature(program, "memTrack");
  using images = ImageDirectory.make(options.imagesDirectory);
  using work = openWork(options.workDirectory);
  using init = openProcess(input.init);
  const mountTable = await readFile(`/proc/${input.init.pid}/mountinfo`, "utf8");
  const hostTable = await readFile("/proc/self/mountinfo", "utf8");
  const mounts = externalMounts(parseMountTable(mountTable), parseMountTable(hostTable), input.maskedPaths);
  const stdio = stdioNames(input.init.pid, mountTable);
  await using server = await PageServerLink.connect(options.pageServer);
  const run = async (): Promise<void> => {
    const response = await callCriu(
      {
        ...input,
        plan: [
          { op: "parent-death-signal", signal: 9 },
          { op: "clean-start" },
          ...(input.outside === 0 ? [] : [{ op: "join-process", slot: initSlot, kinds: input.outside } satisfies Op]),
        ],
        cloneKinds: 0,
        fds: [init.fd, ...server.fds],
        inherit: server.fds.map((_, index) => inheritSlot + index),
        deadlineMs,
      },
      {
        request: {
          type: options.preDump === true ? RequestType.PRE_DUMP : RequestType.DUMP,
          opts: {
            ...translateOptions(options),
            imagesDirFd: images.fd,
            workDirFd: work.fd ?? images.fd,
            pid: input.init.pid,
            freezeCgroup: input.freezer,
            orphanPtsMaster: true,
            extMnt: mounts.map((mountPoint) => ({ key: mountPoint, val: mountPoint })),
            external: [...stdio.externalFiles, ...(input.sharedPid === true ? [externalPid(input.init.pid)] : [])],
            inheritFd: [],
            ...(input.networkHeld === true ? { networkLock: NetworkLock.SKIP } : {}),
            timeout: Math.ceil(deadlineMs / 1000),
            ...(server.fds.length === 0 ? {} : { ps: { fd: firstInherited } }),
          },
        },
        onNotify: async (script, pid) => await options.onStep?.(script, pid),
      },
    );
    if (!response.success)
      throw await criuFailure(
        `${what} could not be checkpointed`,
        { path: join(work.path ?? images.path, dumpLog) },
        response.crErrno,
        response.crErrmsg,
      );
  };
  if (input.held === true || options.preDump === true) await run();
  else await whileFrozen(input.shim, [input.freezer], deadlineMs, run);
  images.writeNotes({ version: 1, architecture: process.arch, externalMounts: mounts, terminal: input.terminal }, stdio.names);
}

/** By which name CRIU asks for the PID namespace again. */
export const pidNamespaceKey = "caissonPid";

function externalPid(pid: number): string {
  return `${readlinkSync(`/proc/${pid}/ns/pid`).replace(":[", "[")}:${pidNamespaceKey}`;
}

function translateOptions(options: CheckpointOptions): Partial<Options> {
  return {
    leaveRunning: options.leaveRunning === true || options.preDump === true,
    tcpEstablished: options.tcpEstablished === true,
    tcpSkipInFlight: options.tcpSkipInFlight === true,
    extUnixSk: options.externalUnixSockets === true,
    fileLocks: options.fileLocks === true,
    shellJob: options.shellJob === true,
    linkRemap: options.linkRemap === true,
    autoDedup: options.autoDedup === true,
    trackMem: options.preDump === true,
    ...(options.parentPath === undefined ? {} : { parentImg: options.parentPath, trackMem: true }),
    ...(options.ghostLimitBytes === undefined ? {} : { ghostLimit: options.ghostLimitBytes }),
    ...(options.configFile === undefined ? {} : { configFile: options.configFile }),
    manageCgroups: true,
    manageCgroupsMode: cgroupModes[options.manageCgroupsMode ?? "ignore"],
    notifyScripts: true,
    extMasters: true,
    extSharing: true,
    logLevel,
    logFile: dumpLog,
  };
}

/** undefined path: the images' own directory. */
export function openWork(
  directory: string | undefined,
): Disposable & { readonly path: string | undefined; readonly fd: number | undefined } {
  if (directory === undefined) return { path: undefined, fd: undefined, [Symbol.dispose]: () => {} };
  const path = resolve(directory);
  mkdirSync(path, { recursive: true, mode: 0o700 });
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  return { path, fd, [Symbol.dispose]: () => closeSync(fd) };
}

/** Connected here, in the host's network: CRIU itself is in the container's. */
class PageServerLink implements AsyncDisposable {
  readonly fds: readonly number[];
  readonly #close: () => void;

  private constructor(fds: readonly number[], close: () => void) {
    this.fds = fds;
    this.#close = close;
  }

  static async connect(server: CheckpointOptions["pageServer"]): Promise<PageServerLink> {
    if (server === undefined) return new PageServerLink([], () => {});
    const { address, port } = server;
    const socket = connect({ host: address, port });
    try {
      await once(socket, "connect");
    } catch (error) {
      throw new RuntimeError("unavailable", `the page server ${address}:${port} cannot be reached`, {}, error);
    }
    socket.pause();
    const { fd } = (socket as unknown as { readonly _handle: { readonly fd: number } })._handle;
    return new PageServerLink([fd], () => socket.destroy());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#close();
  }
}
