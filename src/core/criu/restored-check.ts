/**
 * What images may not bring: more than the configuration gives. They may come from anybody, and are the process's own word on who it
 * is. Looked at while it is frozen, before it runs for the first time.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path/posix";
import { Core, SeccompEntry } from "../../gen/criu/images.ts";
import { RuntimeError } from "../../lib/errors.ts";
import { decodeImage } from "./criu-images.ts";
import { type MountEntry, parseMountTable } from "./external-mounts.ts";

export interface Privileges {
  readonly uid: number;
  /** Bit sets by number. */
  readonly bounding: bigint;
  readonly mayChangeUser: boolean;
  readonly noNewPrivileges: boolean;
  /** struct sock_filter[]; undefined: none is asked for. */
  readonly seccomp: Uint8Array | undefined;
}

const filterMode = 2;
const cgroups = new Set(["cgroup", "cgroup2"]);

/** @throws RuntimeError permission_denied naming what the process has and may not. */
export function checkPrivileges(what: string, pids: readonly number[], allowed: Privileges): void {
  for (const pid of pids) {
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    const field = (name: string) => new RegExp(`^${name}:\\s*(.*)$`, "m").exec(status)?.[1]?.trim() ?? "";
    const refuse = (has: string): never => {
      throw new RuntimeError(
        "permission_denied",
        `${what}: process ${field("Name")} of the checkpoint has ${has}, which the container may not`,
      );
    };
    for (const name of ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"]) {
      const more = BigInt(`0x${field(name) || "0"}`) & ~allowed.bounding;
      if (more !== 0n) refuse(`more capabilities (${name} ${more.toString(16)})`);
    }
    if (allowed.noNewPrivileges && field("NoNewPrivs") !== "1") refuse("no no_new_privs");
    if (allowed.seccomp !== undefined && field("Seccomp") !== String(filterMode)) refuse("no seccomp filter");
    for (const uid of field("Uid").split(/\s+/).map(Number)) {
      const gained = uid === 0 && !allowed.noNewPrivileges;
      if (uid !== allowed.uid && !allowed.mayChangeUser && !gained) refuse(`user ${uid}`);
    }
  }
}

/** Every thread's filters must hold the one that is asked for: others can only take more away. */
export function checkSeccomp(what: string, directory: string, program: Uint8Array | undefined): void {
  if (program === undefined) return;
  const filters = decodeImage(join(directory, "seccomp.img"), SeccompEntry)[0]?.filters ?? [];
  const holds = (from: number | undefined): boolean => {
    for (let at = from, left = filters.length; at !== undefined && left > 0; left--) {
      const filter = filters[at];
      if (filter === undefined) return false;
      if (Buffer.from(filter.filter ?? []).equals(program)) return true;
      at = filter.prev;
    }
    return false;
  };
  for (const name of readdirSync(directory).filter((file) => /^core-\d+\.img$/.test(file))) {
    for (const { threadCore } of decodeImage(join(directory, name), Core)) {
      if (threadCore?.seccompMode === filterMode && holds(threadCore.seccompFilter)) continue;
      throw new RuntimeError(
        "permission_denied",
        `${what}: a thread of the checkpoint (${name}) is not held by the container's seccomp profile`,
      );
    }
  }
}

/** The container's mounts as a start makes them, in CRIU's own mount namespace. */
export function treeOf(criuPid: number, rootPath: string): readonly MountEntry[] {
  return mountsOf(criuPid)
    .filter(({ mountPoint }) => mountPoint.startsWith(`${rootPath}/`))
    .map((mount) => ({ ...mount, mountPoint: mount.mountPoint.slice(rootPath.length) }));
}

/**
 * The images say where mounts go and how: all that a start makes have to be there, as read-only as they are to be, and no others unless
 * the container may mount.
 */
export function checkMounts(what: string, pid: number, tree: readonly MountEntry[], mayMount: boolean): void {
  const refuse = (does: string): never => {
    throw new RuntimeError("permission_denied", `${what}: the checkpoint ${does}, which the container may not`);
  };
  const found = mountsOf(pid);
  // The last one covers the others.
  const at = (mounts: readonly MountEntry[], path: string) => mounts.findLast(({ mountPoint }) => mountPoint === path);
  for (const { mountPoint } of tree) {
    const [wanted, has] = [at(tree, mountPoint), at(found, mountPoint)];
    // Another runtime may show fewer of the hierarchies; no mask is one.
    if (has === undefined && cgroups.has(wanted?.type ?? "")) continue;
    if (has === undefined || has.type !== wanted?.type) refuse(`lacks the mount at ${mountPoint}`);
    if (wanted?.readonly === true && has?.readonly === false) refuse(`makes ${mountPoint} writable`);
  }
  const more = found.find(
    ({ mountPoint, type }) =>
      mountPoint !== "/" && at(tree, mountPoint) === undefined && !(mountPoint === "/dev/console" && type === "devpts"),
  );
  if (more !== undefined && !mayMount) refuse(`mounts something at ${more.mountPoint}`);
}

function mountsOf(pid: number): readonly MountEntry[] {
  return parseMountTable(readFileSync(`/proc/${pid}/mountinfo`, "utf8"));
}
