/** Checkpoint of one container: CRIU's dump, run inside those of its namespaces that are not its own alone. */

import {
  closeSync,
  constants,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path/posix";
import { CgroupMode, NetworkLock, type Options, RequestType } from "../../gen/criu/rpc.ts";
import { RuntimeError } from "../../lib/errors.ts";
import { openProcess } from "../open-process.ts";
import type { Op } from "../plan.ts";
import { nsKind } from "../plan-schema.ts";
import { capabilityBits } from "../process/capabilities.ts";
import type { ProcessIdentity } from "../runtime.ts";
import type { Shim } from "../shim/shim.ts";
import { type CgroupsMode, type CheckpointOptions, checkCheckpointOptions, timeoutOf } from "./checkpoint-options.ts";
import { callCriu, firstInherited } from "./criu-child.ts";
import { criuFailure } from "./criu-log.ts";
import { type CriuProgram, needFeature } from "./criu-program.ts";
import { externalMounts, parseMountTable } from "./external-mounts.ts";
import { whileFrozen } from "./hold.ts";
import { ImageDirectory, netNamespaceKey, pidNamespaceKey, stdioNames } from "./image-directory.ts";
import { PageServerLink } from "./page-server.ts";
import { SeizedFreezer } from "./seized-freezer.ts";

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
/** Behind CRIU's socket. */
const pagesSlot = 2;
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
  const lazy = options.lazyPages === true;
  // CRIU serves lazy pages itself: in the host's network, where they are fetched.
  const outside = lazy ? input.outside & ~nsKind.net : input.outside;
  if (options.preDump === true) await needFeature(program, "memTrack");
  if (lazy) {
    await needFeature(program, "lazyPages");
    checkPipeSize();
  }
  using images = ImageDirectory.make(options.imagesDirectory);
  checkParent(images.path, options.parentPath);
  using work = openWork(options.workDirectory);
  using init = openProcess(input.init);
  const mountTable = await readFile(`/proc/${input.init.pid}/mountinfo`, "utf8");
  const hostTable = await readFile("/proc/self/mountinfo", "utf8");
  const mounts = externalMounts(parseMountTable(mountTable), parseMountTable(hostTable), input.maskedPaths);
  const stdio = stdioNames(input.init.pid, mountTable);
  using pages = lazy || options.pageServer === undefined ? undefined : await PageServerLink.toServer(options.pageServer);
  using config = lazy ? lazyConfig(options) : undefined;
  // Before CRIU is called: who restores with lazy pages begins while this goes on.
  images.writeNotes(
    {
      version: 1,
      architecture: process.arch,
      externalMounts: mounts,
      terminal: input.terminal,
      ...(lazy ? { externalNetwork: true } : {}),
    },
    stdio.names,
  );
  const ours = SeizedFreezer.needed(input.freezer, input.outside, program);
  const frozen = options.preDump === true ? undefined : ours;
  const run = async (): Promise<void> => {
    const response = await callCriu(
      {
        ...input,
        plan: [
          { op: "parent-death-signal", signal: 9 },
          { op: "clean-start" },
          ...(pages === undefined ? [] : [{ op: "connect-unix", out: pagesSlot, path: pages.path } satisfies Op]),
          ...(outside === 0 ? [] : [{ op: "join-process", slot: initSlot, kinds: outside } satisfies Op]),
        ],
        cloneKinds: 0,
        fds: [init.fd],
        inherit: pages === undefined ? [] : [pagesSlot],
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
            ...(ours === undefined ? { freezeCgroup: input.freezer } : {}),
            orphanPtsMaster: true,
            extMnt: mounts.map((mountPoint) => ({ key: mountPoint, val: mountPoint })),
            external: [
              ...stdio.externalFiles,
              ...(input.sharedPid === true ? [externalNamespace(input.init.pid, "pid", pidNamespaceKey)] : []),
              ...(lazy ? [externalNamespace(input.init.pid, "net", netNamespaceKey)] : []),
            ],
            inheritFd: [],
            ...(input.networkHeld === true ? { networkLock: NetworkLock.SKIP } : {}),
            cgRoot: [],
            timeout: Math.ceil(deadlineMs / 1000),
            ...(pages === undefined ? {} : { ps: { fd: firstInherited } }),
            ...(lazy ? { ps: { port: options.pageServer?.port } } : {}),
            // The whole namespace would be locked, and its copy has no such rules.
            ...(lazy && options.tcpEstablished !== true ? { networkLock: NetworkLock.SKIP } : {}),
            ...(config === undefined ? {} : { configFile: config.path }),
          },
        },
        onNotify: async (script, pid) => {
          if (script === "status-ready" && options.statusFd !== undefined) writeSync(options.statusFd, Buffer.of(0));
          frozen?.step(script);
          await options.onStep?.(script, pid);
        },
      },
    ).finally(() => frozen?.set(true));
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
}

function checkParent(images: string, parent: string | undefined): void {
  if (parent === undefined) return;
  const path = resolve(images, parent);
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory() !== true)
    throw new RuntimeError("invalid_argument", `parentPath: ${path} is no directory`, { path });
}

function externalNamespace(pid: number, type: "pid" | "net", key: string): string {
  return `${readlinkSync(`/proc/${pid}/ns/${type}`).replace(":[", "[")}:${key}`;
}

/** CRIU's page server sends what lies behind the first page of a pipe only if it may make the pipe this large. */
function checkPipeSize(): void {
  const needed = 4 << 20;
  const capabilities = BigInt(`0x${/^CapEff:\s*(\w+)/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? "0"}`);
  if ((capabilities & capabilityBits(["CAP_SYS_RESOURCE"])) !== 0n) return;
  const most = Number(readFileSync("/proc/sys/fs/pipe-max-size", "utf8"));
  if (most >= needed) return;
  throw new RuntimeError(
    "failed_precondition",
    `lazy pages need CAP_SYS_RESOURCE, or sysctl fs.pipe-max-size of ${needed} at least: it is ${most}`,
  );
}

/** CRIU takes the address of its lazy page server from nowhere else, and would listen on all. */
function lazyConfig({ pageServer, configFile }: CheckpointOptions): Disposable & { readonly path: string } {
  const directory = mkdtempSync(join(tmpdir(), "caisson-criu-"));
  const path = join(directory, "criu.conf");
  const before = configFile === undefined ? "" : readFileSync(configFile, "utf8");
  writeFileSync(path, `${before}\naddress ${pageServer?.address ?? ""}\n`);
  return { path, [Symbol.dispose]: () => rmSync(directory, { recursive: true, force: true }) };
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
    lazyPages: options.lazyPages === true,
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
