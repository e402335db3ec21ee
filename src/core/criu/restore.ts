/**
 * Restore of one container: CRIU runs as a child of the shim, in a mount namespace of its own where the container's root and everything
 * from outside lie ready, inside those namespaces and cgroups that the container is to have. What it makes is its sibling, so the
 * shim's child like any init, and is frozen before it runs: whoever asked looks at it first.
 */
import { readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path/posix";
import { NetworkLock, type Options, RequestType } from "../../gen/criu/rpc.ts";
import { RuntimeError } from "../../lib/errors.ts";
import { addon } from "../../native/addon.ts";
import type { Plan } from "../plan.ts";
import { nsKind } from "../plan-schema.ts";
import type { Shim } from "../shim/shim.ts";
import { type RestoreOptions, timeoutOf } from "./checkpoint-options.ts";
import { callCriu, firstInherited } from "./criu-child.ts";
import { checkPages } from "./criu-images.ts";
import { criuFailure } from "./criu-log.ts";
import { type CriuProgram, needFeature } from "./criu-program.ts";
import { cgroupModes, openWork } from "./dump.ts";
import type { MountEntry } from "./external-mounts.ts";
import type { ImageDirectory, RestoreNotes } from "./image-directory.ts";
import { treeBarrier } from "./restore-tree.ts";
import { checkMounts, treeOf } from "./restored-check.ts";

export const restoreLog = "restore.log";
const logLevel = 4;
/** One of those that stand for stdio in a start. */
const unusedSlot = 0;

export interface RestoreInput {
  readonly what: string;
  readonly shim: Shim;
  readonly program: CriuProgram;
  readonly images: ImageDirectory;
  readonly notes: RestoreNotes;
  /** Ends with the root at rootPath and the mounts from outside exposed in externalsPath, see restore-tree.ts. */
  readonly plan: Plan;
  readonly cloneKinds: number;
  readonly fds: readonly number[];
  readonly rootPath: string;
  readonly externalsPath: string;
  /** Slots of what becomes descriptors 0, 1 and 2. */
  readonly stdio: readonly [number, number, number] | undefined;
  /** Slot of the PID namespace, where that is not the container's own. */
  readonly pidNamespace?: number | undefined;
  /** At barriers of `plan`. */
  readonly onBarrier?: (number: number, pid: number) => Promise<void>;
  /** The container has CAP_SYS_ADMIN: it may have mounts of its own. */
  readonly mayMount: boolean;
  readonly freezer: string;
  /** The container's own cgroup, as CRIU sees it: "/" in a cgroup namespace that begins there. */
  readonly cgroupRoot: string;
  /** The shim's own cgroup, as `freezer` is the container's: CRIU goes there before the container is frozen. */
  readonly shimFreezer: string;
  /** The pod's network is held still until its other containers are back. */
  readonly networkHeld?: boolean;
  readonly options: RestoreOptions;
  readonly signal: AbortSignal;
}

export interface Restored {
  readonly pid: number;
  /** Master of its terminal: the caller's. */
  readonly consoleFd: number | undefined;
}

/** When it fails, what CRIU has made is gone or lies in the container's cgroup, which the caller kills. The result is frozen. */
export async function restore(input: RestoreInput): Promise<Restored> {
  const { options, what, images } = input;
  checkPages(images.path);
  if (options.lazyPages === true) await needFeature(input.program, "lazyPages");
  const managed = options.manageCgroupsMode !== undefined && options.manageCgroupsMode !== "ignore";
  // Then CRIU mounts hierarchies where it works, which has to lie in its own mount namespace: a path, not a descriptor of ours.
  using work = openWork(managed ? undefined : options.workDirectory);
  const directories: Partial<Options> = managed
    ? { imagesDirFd: -1, imagesDir: images.path }
    : { imagesDirFd: images.fd, workDirFd: work.fd ?? images.fd };
  let criuPid = 0;
  let notified = 0;
  let consoleFd: number | undefined;
  const inherited = [
    ...inheritedStdio(input),
    ...(input.notes.networkKey === undefined ? [] : [{ key: input.notes.networkKey, slot: unusedSlot }]),
    ...inheritedPid(input),
  ];
  let namespaces: NamespaceLinks | undefined;
  let tree: readonly MountEntry[] = [];
  try {
    const response = await callCriu(
      {
        ...input,
        plan: [...input.plan, { op: "open-own-ns", out: unusedSlot, kind: nsKind.net }],
        inherit: inherited.map(({ slot }) => slot),
        deadlineMs: timeoutOf(options),
        onBarrier: async (number, pid) => {
          if (number === treeBarrier) tree = treeOf(pid, input.rootPath);
          else await input.onBarrier?.(number, pid);
        },
        onPid: (pid) => {
          criuPid = pid;
          namespaces = namespaceLinks(pid);
        },
      },
      {
        request: {
          type: RequestType.RESTORE,
          opts: {
            ...translateOptions(options),
            ...(input.networkHeld === true ? { networkLock: NetworkLock.SKIP } : {}),
            ...directories,
            root: input.rootPath,
            extMnt: input.notes.externals.map(({ key }, index) => ({
              key,
              val: join(input.externalsPath, String(index)),
            })),
            external: [],
            cgRoot: managed ? [{ path: input.cgroupRoot }] : [],
            inheritFd: inherited.map(({ key }, index) => ({ key, fd: firstInherited + index })),
          },
        },
        onNotify: async (step, pid, fds) => {
          if (step === "orphan-pts-master") consoleFd ??= fds[0];
          for (const fd of fds) if (fd !== consoleFd) addon.close(fd);
          if (step === "post-restore") notified = pid;
          // From here on CRIU only lets go of what it holds: it must not be frozen with it.
          if (step === "pre-resume") freeze(input, criuPid);
          await options.onStep?.(step, pid);
        },
      },
    );
    if (!response.success)
      throw await criuFailure(
        `${what} could not be restored`,
        { path: join(work.path ?? images.path, restoreLog) },
        response.crErrno,
        response.crErrmsg,
      );
    const pid = response.restore?.pid ?? 0;
    if (pid === 0 || pid !== notified)
      throw new RuntimeError("internal", `${what}: CRIU restored process ${pid}, but had spoken of ${notified}`);
    checkNamespaces(what, pid, namespaces);
    checkMounts(what, pid, tree, input.mayMount);
    return { pid, consoleFd };
  } catch (error) {
    if (consoleFd !== undefined) addon.close(consoleFd);
    throw error;
  }
}

function freeze({ freezer, shimFreezer }: RestoreInput, criuPid: number): void {
  writeFileSync(join(shimFreezer, "cgroup.procs"), String(criuPid));
  try {
    writeFileSync(join(freezer, "freezer.state"), "FROZEN", { flag: "r+" });
  } catch {
    writeFileSync(join(freezer, "cgroup.freeze"), "1", { flag: "r+" });
  }
}

/** What was a path in the container is opened there again. */
function inheritedStdio({ images, stdio }: RestoreInput): readonly { readonly key: string; readonly slot: number }[] {
  if (stdio === undefined) return [];
  const named = images.readStdio().map((key, fd) => ({ key, slot: stdio[fd] ?? stdio[0] }));
  const outside = named.filter(({ key }) => key !== "" && !key.startsWith("/"));
  return outside.filter(({ key }, index) => outside.findIndex((other) => other.key === key) === index);
}

function inheritedPid({ what, notes, pidNamespace }: RestoreInput): readonly { readonly key: string; readonly slot: number }[] {
  if (pidNamespace === undefined) return [];
  if (notes.pidKey !== undefined) return [{ key: notes.pidKey, slot: pidNamespace }];
  throw new RuntimeError(
    "failed_precondition",
    `${what}: the checkpoint is of a container with a PID namespace of its own, and this one shall be in its pod's`,
  );
}

/** Those that a restored process shares with CRIU, whatever the images say. */
const shared = ["net", "cgroup", "user"] as const;
type NamespaceLinks = Readonly<Record<(typeof shared)[number], string>>;

function namespaceLinks(pid: number): NamespaceLinks {
  const link = (type: string) => readlinkSync(`/proc/${pid}/ns/${type}`);
  return { net: link("net"), cgroup: link("cgroup"), user: link("user") };
}

function checkNamespaces(what: string, pid: number, expected: NamespaceLinks | undefined): void {
  const found = namespaceLinks(pid);
  const other = shared.find((type) => found[type] !== expected?.[type]);
  if (other !== undefined)
    throw new RuntimeError("data_loss", `${what}: the checkpoint brings a ${other} namespace of its own, which it may not`);
}

function translateOptions(options: RestoreOptions): Partial<Options> {
  return {
    tcpEstablished: options.tcpEstablished === true,
    tcpClose: options.tcpClose === true,
    extUnixSk: options.externalUnixSockets === true,
    fileLocks: options.fileLocks === true,
    shellJob: options.shellJob === true,
    autoDedup: options.autoDedup === true,
    lazyPages: options.lazyPages === true,
    ...(options.configFile === undefined ? {} : { configFile: options.configFile }),
    ...(options.lsmProfile === undefined ? {} : { lsmProfile: options.lsmProfile }),
    ...(options.lsmMountContext === undefined ? {} : { lsmMountContext: options.lsmMountContext }),
    manageCgroups: true,
    manageCgroupsMode: cgroupModes[options.manageCgroupsMode ?? "ignore"],
    notifyScripts: true,
    rstSibling: true,
    evasiveDevices: true,
    orphanPtsMaster: true,
    extMasters: true,
    extSharing: true,
    logLevel,
    logFile: restoreLog,
  };
}
