/** The node as translation sees it: what it can do, and its filesystem. The only file of the translation that touches the machine. */
import { constants, type Stats } from "node:fs";
import { lstat, mkdir, open, readdir, readFile, realpath } from "node:fs/promises";
import { arch } from "node:os";
import { hugePageSizes } from "../core/cgroup/hugepages.ts";
import type { CdiDevices } from "../core/device/cdi.ts";
import { deviceNumbers } from "../core/device/host-node.ts";
import type { OciSeccomp } from "../core/oci.ts";
import { loadedApparmorProfiles } from "../core/process/apparmor-default.ts";
import { capabilitiesOf } from "../core/process/capabilities.ts";
import { readOwnLimits } from "../core/process/own-limits.ts";
import { defaultSeccompProfile } from "../core/process/seccomp-default.ts";
import { findSecurityModules } from "../core/process/security-modules.ts";
import { findSelinuxPolicy, type SelinuxPolicy } from "../core/process/selinux-policy.ts";
import { errnoName, RuntimeError } from "../lib/errors.ts";
import { guardedHost, HostPaths, logPaths } from "./host-paths.ts";

/** What the node can do; read once at start. */
export interface NodeFacts {
  readonly cgroupVersion: "v1" | "v2" | "hybrid";
  /** As Node names it: x64, arm64. */
  readonly architecture: string;
  /** Capabilities that the daemon may hand out, its own bounding and permitted ones: "CAP_CHOWN". */
  readonly capabilities: ReadonlySet<string>;
  /** Whether memory and swap can be limited together. */
  readonly swapLimit: boolean;
  /** As the CRI writes them: 2MB, 1GB. */
  readonly hugePageSizes: ReadonlySet<string>;
  /** mount_setattr with AT_RECURSIVE. */
  readonly recursiveReadOnly: boolean;
  /** Pods with a user namespace: an overlay takes id-mapped layers since 5.19. */
  readonly userNamespaces: boolean;
  readonly seccomp: boolean;
  /** Names of the loaded profiles, which change at any time; undefined: AppArmor is off. */
  readonly apparmorProfiles: (() => ReadonlySet<string>) | undefined;
  /** undefined: SELinux is off. */
  readonly selinux: SelinuxPolicy | undefined;
}

export interface HostNode {
  readonly kind: "file" | "directory" | "character" | "block" | "symlink" | "other";
  readonly major: number;
  readonly minor: number;
  /** Permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

export interface Host {
  /** With every symlink resolved; undefined when it does not exist. */
  realpath(path: string): Promise<string | undefined>;
  lstat(path: string): Promise<HostNode | undefined>;
  /** Names in a directory, sorted; none when it is missing. */
  list(path: string): Promise<readonly string[]>;
  /** mkdir -p, 0755. */
  makeDirectory(path: string): Promise<void>;
  /** A regular file of at most that size, undefined when it is missing. */
  readFile(path: string, maxBytes: number): Promise<Buffer | undefined>;
  /** The daemon's /proc/self/mountinfo. */
  mountinfo(): Promise<string>;
}

export interface TranslationNode {
  readonly facts: NodeFacts;
  readonly host: Host;
  /** The built-in profile for a process with these capabilities. */
  readonly defaultSeccomp: (capabilities: readonly string[]) => OciSeccomp;
  readonly cdi: Pick<CdiDevices, "inject">;
}

async function orUndefined<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    const name = errnoName(error);
    if (name === "ENOENT" || name === "ENOTDIR") return undefined;
    throw error;
  }
}

function kindOf(stats: Stats): HostNode["kind"] {
  if (stats.isFile()) return "file";
  if (stats.isDirectory()) return "directory";
  if (stats.isCharacterDevice()) return "character";
  if (stats.isBlockDevice()) return "block";
  return stats.isSymbolicLink() ? "symlink" : "other";
}

async function readBounded(path: string, maxBytes: number): Promise<Buffer | undefined> {
  // Without O_NONBLOCK a FIFO would hang the open.
  const file = await orUndefined(open(path, constants.O_RDONLY | constants.O_NONBLOCK));
  if (file === undefined) return undefined;
  try {
    const stats = await file.stat();
    if (!stats.isFile()) throw new RuntimeError("invalid_argument", `${path} is not a regular file`);
    if (stats.size > maxBytes) throw new RuntimeError("invalid_argument", `${path} is larger than ${maxBytes} bytes`);
    const buffer = Buffer.alloc(Number(stats.size));
    const { bytesRead } = await file.read(buffer, 0, buffer.length, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

export const realHost: Host = {
  realpath: (path) => orUndefined(realpath(path)),
  lstat: async (path) => {
    const stats = await orUndefined(lstat(path));
    if (stats === undefined) return undefined;
    return {
      kind: kindOf(stats),
      ...deviceNumbers(stats.rdev),
      mode: stats.mode & 0o7777,
      uid: stats.uid,
      gid: stats.gid,
    };
  },
  list: async (path) => ((await orUndefined(readdir(path))) ?? []).sort(),
  makeDirectory: async (path) => {
    await mkdir(path, { recursive: true, mode: 0o755 });
  },
  readFile: readBounded,
  mountinfo: () => readFile("/proc/self/mountinfo", "utf8"),
};

async function textOf(path: string): Promise<string> {
  return (await orUndefined(readFile(path, "utf8"))) ?? "";
}

async function canLimitSwap(cgroupVersion: NodeFacts["cgroupVersion"]): Promise<boolean> {
  const swaps = await textOf("/proc/swaps");
  if (swaps === "") return false;
  if (cgroupVersion === "v2") return true;
  return (await orUndefined(lstat("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"))) !== undefined;
}

function kernelAtLeast(release: string, major: number, minor: number): boolean {
  const [has = 0, hasMinor = 0] = release.split(/[.-]/).map(Number);
  return has > major || (has === major && hasMinor >= minor);
}

/** Reads what this machine can do. */
export async function readNodeFacts(cgroupVersion: NodeFacts["cgroupVersion"]): Promise<NodeFacts> {
  const modules = findSecurityModules();
  const release = (await textOf("/proc/sys/kernel/osrelease")).trim();
  return {
    cgroupVersion,
    architecture: arch(),
    capabilities: new Set(capabilitiesOf((await readOwnLimits()).capabilities)),
    swapLimit: await canLimitSwap(cgroupVersion),
    hugePageSizes: new Set(await hugePageSizes()),
    recursiveReadOnly: kernelAtLeast(release, 5, 12),
    userNamespaces: kernelAtLeast(release, 5, 19),
    seccomp: (await textOf("/proc/sys/kernel/seccomp/actions_avail")) !== "",
    apparmorProfiles: modules.apparmor ? loadedApparmorProfiles : undefined,
    selinux: findSelinuxPolicy(),
  };
}

/** The node's files where logs lie, looked at with care; what volumes keep waiting does not hold them up. */
export function logHost(): Host {
  return guardedHost(realHost, logPaths());
}

/** The translation's view of this machine. */
export async function readTranslationNode(
  cgroupVersion: NodeFacts["cgroupVersion"],
  cdi: TranslationNode["cdi"],
): Promise<TranslationNode> {
  return {
    cdi,
    facts: await readNodeFacts(cgroupVersion),
    host: guardedHost(realHost, new HostPaths()),
    defaultSeccomp: (capabilities) => defaultSeccompProfile(capabilities, arch()),
  };
}
