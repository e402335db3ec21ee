/**
 * The one table of plan operations. TypeScript's `Op` union and encoder are derived from it, and scripts/generate writes
 * native/common/gen/plan_ops.h from it, so that both sides always agree. Codes are never reused or renumbered; a new
 * operation gets the next free code; the order of an operation's fields is its order on the wire.
 *
 * Descriptors are named by **slot**. Slots 0 to 63 belong to the child that runs the plan: the descriptors that came with the
 * request fill them from 0 on, operations with an `out` field fill further ones. Slots from 64 on are the pod's pins
 * (PodPin): descriptors that the shim keeps for the pod's life. `noSlot` means none.
 *
 * Paths: "host path" is resolved in the child's current mount namespace, symlinks followed. "Path in the root" is resolved with
 * openat2(RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS) below the root that `attach-root` or `use-root` set
 * (reference: security.md section 2.1), never by string.
 */
import type { Fields } from "../lib/wire.ts";

export const noSlot = 0xffff_ffff;

/** Slots of what the shim keeps for the pod. */
export const podPin = { net: 64, ipc: 65, uts: 66, pid: 67, user: 68, cgroup: 69, time: 70 } as const;

/** CLONE_NEW* flags: the kinds of namespaces. */
export const nsKind = {
  time: 0x0000_0080,
  mnt: 0x0002_0000,
  cgroup: 0x0200_0000,
  uts: 0x0400_0000,
  ipc: 0x0800_0000,
  user: 0x1000_0000,
  pid: 0x2000_0000,
  net: 0x4000_0000,
} as const;

/** `flags` of open-tree. */
export const openTreeFlag = { clone: 1, recursive: 2, noFollow: 4, inRoot: 8 } as const;
/**
 * `flags` of attach. create: make a missing target (directory 0755 for directories, empty file otherwise). fresh: target must be
 * absent or an ordinary directory reached without symlinks (proc, sysfs: CVE-2019-19921, CVE-2023-27561). procRule: apply the
 * procfs overmount rule of security.md section 1.1 to the resolved target. replaceFile: nothing yet.
 */
export const attachFlag = { create: 1, fresh: 2, procRule: 4 } as const;

interface OpSchema {
  readonly code: number;
  readonly fields: Fields;
}
const op = <const F extends Fields>(code: number, fields: F) => ({ code, fields }) satisfies OpSchema;

export const opSchemas = {
  // ---- process and namespaces
  /** Default signal dispositions, empty mask, new session, full CPU affinity, SCHED_OTHER nice 0, default timer slack, umask 022,
   *  ioprio none, every descriptor that is neither a slot nor the report made close-on-exec. */
  "clean-start": op(1, {}),
  /** setns to one namespace; `kind` is one of nsKind and is verified by the kernel. */
  "join-ns": op(2, { slot: "u32", kind: "u32" }),
  /** setns(pidfd, kinds) at once; where the kernel lacks it, one by one through /proc/PID/ns of that pidfd's process. */
  "join-process": op(3, { slot: "u32", kinds: "u32" }),
  /** unshare. Not for user namespaces. */
  "new-ns": op(4, { kinds: "u32" }),
  /** unshare(CLONE_NEWUSER); a helper in the parent namespace writes the maps ("inside outside length" lines); then ids become 0. */
  "new-userns": op(5, { uidMap: "str", gidMap: "str" }),
  /** Clones with CLONE_PARENT; the plan goes on in the new process, the old one ends. Takes effect of a joined or new pid or time namespace. */
  fork: op(6, {}),
  /** Reports (pid, number) to the shim, which tells the daemon; waits until it may go on. */
  barrier: op(7, { number: "u32" }),
  /** Writes "0" to this host path (a v1 `tasks` file), after verifying that it lies on cgroupfs. */
  "cgroup-attach": op(8, { path: "str" }),
  /** Sends the slot's descriptor back with the reply of the request, in plan order. */
  export: op(9, { slot: "u32" }),
  /** Hands the slot's descriptor to the shim, which keeps it as this pod pin (replaces). */
  pin: op(10, { slot: "u32", pin: "u32" }),
  /** Opens the child's own namespace of that kind. kind pid or time: the one for children. */
  "open-own-ns": op(11, { out: "u32", kind: "u32" }),
  /** Creates the file and bind-mounts the child's own namespace of that kind on it (host path). */
  "bind-own-ns": op(12, { kind: "u32", path: "str" }),
  /** Sends this signal to the child when its parent dies; cleared by a later value of 0. */
  "parent-death-signal": op(13, { signal: "u32" }),
  /** Becomes the pod's PID-namespace reaper: clean memory, empty root, no capabilities, no descriptors. Last operation. */
  reaper: op(14, {}),

  // ---- mounts
  "open-tree": op(20, { out: "u32", path: "str", flags: "u32" }),
  /** fsopen + fsconfig + fsmount. options: "key=value" or "key". attrs: MOUNT_ATTR_*. */
  fsmount: op(21, { out: "u32", type: "str", source: "str", options: "strs", attrs: "u32" }),
  /** A detached overlay. lowers: host paths, topmost first; upper and work empty: read-only. idmap: slot of a user namespace by which
   *  each lower is id-mapped, or noSlot. Falls back to one option string, then to mount(2), where the kernel is older. */
  overlay: op(22, { out: "u32", lowers: "strs", upper: "str", work: "str", options: "strs", attrs: "u32", idmap: "u32" }),
  /** mount_setattr on a detached or attached mount. propagation: MS_* or 0. userns: slot for MOUNT_ATTR_IDMAP or noSlot. */
  "mount-attr": op(23, { slot: "u32", set: "u32", clear: "u32", propagation: "u32", recursive: "u32", userns: "u32" }),
  /** mount(NULL, "/", NULL, flags): propagation of the whole tree, such as MS_REC|MS_SLAVE. */
  "root-propagation": op(24, { flags: "u32" }),
  /** Attaches the slot's mount at a host directory (created if missing) and makes it the root of paths in the root. */
  "attach-root": op(25, { slot: "u32", path: "str" }),
  /** Makes an open directory the root of paths in the root. */
  "use-root": op(26, { slot: "u32" }),
  /** Attaches the slot's mount at a path in the root; verified afterwards. */
  attach: op(27, { slot: "u32", path: "str", flags: "u32" }),
  /** pivot_root(".", ".") into the root, old tree detached, cwd "/". Where the kernel cannot pivot away from its first file system, or has no
   *  such call, as move-root. */
  pivot: op(28, {}),
  /** umount2 on a host path. */
  unmount: op(29, { path: "str", flags: "u32" }),
  /** mkdir -p in the root; mode and owner go to the last component, also if it exists when `force` is 1. */
  mkdir: op(30, { path: "str", mode: "u32", uid: "u32", gid: "u32", force: "u32" }),
  /** mode includes the S_IF type. Verified by descriptor after creation. */
  mknod: op(31, { path: "str", mode: "u32", major: "u32", minor: "u32", uid: "u32", gid: "u32" }),
  symlink: op(32, { target: "str", path: "str" }),
  /** File: bind of a verified null device. Directory: read-only empty tmpfs. Missing: skipped. */
  mask: op(33, { path: "str" }),
  /** Recursive self-bind made read-only. Missing: skipped. */
  readonly: op(34, { path: "str" }),
  /** Re-attributes the mount at a path in the root (not recursive), e.g. read-only root at the end. */
  "remount-attr": op(35, { path: "str", set: "u32", clear: "u32" }),
  /** Opens an existing path in the root (O_PATH). */
  "open-in-root": op(36, { out: "u32", path: "str" }),
  /** Opens a directory or device by host path, O_PATH. */
  "open-host": op(37, { out: "u32", path: "str" }),
  /** Copies the content of a directory in the root into the (empty) host directory of a slot, owners, modes and xattrs kept. Missing: skipped. */
  "copy-tree": op(38, { path: "str", into: "u32" }),
  /** Attaches the slot's mount at a host path that exists. */
  "attach-host": op(39, { slot: "u32", path: "str" }),
  /** fchown of a slot's file, ids as the child's current user namespace sees them: stdio pipes of a pod with a user namespace, whose
   *  container root must be able to reopen /dev/stdout, are given away in the outer phase. The null device is left alone. */
  "chown-slot": op(40, { slot: "u32", uid: "u32", gid: "u32" }),

  // ---- settings of namespaces and of the process
  hostname: op(50, { name: "str" }),
  domainname: op(51, { name: "str" }),
  /** key with dots or slashes as given by the kernel's path below /proc/sys, slashes only ("net/ipv4/ip_forward"). Private procfs handle. */
  sysctl: op(52, { key: "str", value: "str" }),
  "loopback-up": op(53, {}),
  /** resource: RLIMIT_* number; ~0 is infinity. */
  rlimit: op(54, { resource: "u32", soft: "u64", hard: "u64" }),
  "oom-score-adj": op(55, { value: "i64" }),
  "no-new-privs": op(56, {}),
  /** flags: SECCOMP_FILTER_FLAG_*; with NEW_LISTENER the descriptor stays open until execve, for `send-listener`. program: struct sock_filter[]. */
  seccomp: op(57, { flags: "u32", program: "bytes" }),
  /** keepcaps, setgroups, setresgid, setresuid; capabilities stay until `caps`. Also gives stdio to the user, except the null device. */
  user: op(58, { uid: "u32", gid: "u32", groups: "u32s" }),
  /** Bit sets by capability number. Bounding set dropped to `bounding` first (needs CAP_SETPCAP), then capset, then ambient. */
  "bounding-caps": op(59, { set: "u64" }),
  caps: op(60, { permitted: "u64", effective: "u64", inheritable: "u64", ambient: "u64" }),
  umask: op(61, { mask: "u32" }),
  /** chdir in the current root; created 0755 if `create` is 1; refused if getcwd says that it lies outside (CVE-2024-21626). */
  cwd: op(62, { path: "str", create: "u32" }),
  /** A fresh session keyring of this name. ENOSYS is tolerated. */
  keyring: op(63, { name: "str" }),
  /** Puts slots at descriptors 0, 1, 2; noSlot: the container's verified /dev/null. */
  stdio: op(64, { stdin: "u32", stdout: "u32", stderr: "u32" }),
  /** Opens the container's ptmx (verified devpts), binds the slave on /dev/console, makes it stdio and controlling terminal; the master
   *  goes to the shim, or with `export` 1 to the requester. */
  console: op(65, { rows: "u32", cols: "u32", bindConsole: "u32", export: "u32" }),
  /** Waits to be released, holding only stdio, release and report. */
  park: op(66, {}),
  /** Closes everything but stdio and executes. A path without "/" is looked up in PATH of `env`. HOME is taken from the container's
   *  passwd by uid when `env` has none. Last operation. */
  exec: op(67, { path: "str", args: "strs", env: "strs" }),
  /** A TCP connection to this port of the loopback device in the child's network namespace, 127.0.0.1 before [::1]. */
  connect: op(68, { out: "u32", port: "u32" }),

  // ---- attributes that outlive execve
  /** The profile of the next execve. Written through the private procfs and read back. */
  apparmor: op(70, { profile: "str" }),
  /** The label of the next execve, or with `keys` 1 that of keys made from now on. Written through the private procfs and read back. */
  selinux: op(71, { label: "str", keys: "u32" }),
  /** sched_setattr. A fork loses what has the flag "reset on fork", and is refused to SCHED_DEADLINE. */
  scheduler: op(72, {
    policy: "u32",
    flags: "u64",
    nice: "i64",
    priority: "u32",
    runtime: "u64",
    deadline: "u64",
    period: "u64",
  }),
  "io-priority": op(73, { class: "u32", priority: "u32" }),
  /** Bit N of the mask, lowest byte first, is CPU N. */
  "cpu-affinity": op(74, { mask: "bytes" }),
  personality: op(75, { domain: "u32" }),
  /** set_mempolicy. mode: MPOL_* and MPOL_F_*; bit N of `nodes` is node N. */
  "memory-policy": op(76, { mode: "u32", nodes: "bytes" }),
  /** Runs a program and waits for it: `name` and `index` are for messages, stdin is `before`, the child's pid as it sees it, `after`.
   *  Before pivot its working directory is the root. timeoutMs 0: none. */
  hook: op(77, {
    name: "str",
    index: "u32",
    path: "str",
    args: "strs",
    env: "strs",
    before: "str",
    after: "str",
    timeoutMs: "u32",
  }),
  /** A stream socket connected to this host path. */
  "connect-unix": op(78, { out: "u32", path: "str" }),
  /** Waits until that process (as the child sees it) has a seccomp notification descriptor, takes a copy and sends it with the message. */
  "send-listener": op(79, { socket: "u32", pid: "u32", message: "bytes" }),
  /** Moves a network device of the child's own namespace into that of the slot, as `inside`, with its addresses, and sets it up. The child
   *  is in that namespace afterwards. */
  "net-device": op(80, { netns: "u32", name: "str", inside: "str" }),
  /** In place of pivot: whole views of procfs and sysfs outside the root are hidden, the root is moved over "/", chroot. */
  "move-root": op(81, {}),
  /** Everything at and below a path of the host gets this SELinux label; links and what is mounted below are not followed. follow: the path
   *  itself may be a link. Filesystems without labels keep none. */
  relabel: op(82, { path: "str", follow: "u32", label: "str" }),

  // ---- ordinary users
  /** unshare(CLONE_NEWUSER), then the barrier `number`, at which the requester has newuidmap and newgidmap write the maps; ids become 0. */
  "mapped-userns": op(87, { number: "u32" }),

  // ---- checkpoint and restore
  /** Executes a program of the host, with these slots as descriptors 3, 4, 5, ... Last operation. */
  "exec-host": op(110, { path: "str", args: "strs", env: "strs", slots: "u32s" }),
  /** Freezes cgroups (directories of the v1 freezer or of v2), meets the barrier `number` and thaws when it may go on. Those that were
   *  frozen before stay so. Thawed in any case after deadlineMs, and when this process ends, by a guard of its own. */
  "hold-frozen": op(111, { paths: "strs", deadlineMs: "u32", number: "u32" }),
  /** Nothing arrives in the child's network namespace from these ports to these, until this process ends: pairs of 16 bits, big-endian. */
  "hold-network": op(92, { ports: "bytes" }),
  /** Opens the list of the System V objects (sysvipc/NAME of procfs: shm, sem, msg) of the child's IPC namespace, which it goes on listing. */
  "open-sysv-list": op(93, { out: "u32", name: "str" }),
  /** Attaches a copy of the mount at a path in the root to `name`, which is made, in a directory of the host. Missing: skipped. */
  expose: op(112, { path: "str", directory: "str", name: "str" }),
  /** Puts slots at descriptors 3, 4 and so on, which the executed process gets besides stdio. No later operation may use a slot. */
  keep: op(100, { slots: "u32s" }),
} as const satisfies Record<string, OpSchema>;
