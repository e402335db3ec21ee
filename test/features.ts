/**
 * What a runtime of libcontainer's kind can do, row by row, and which attacks it has to stand. docs/features.md is this list with the tests
 * that show each row: `scripts/features` finds them by their tags (test/README.md).
 */

export const columns = ["v1", "v2", "rootless"] as const;
export type Column = (typeof columns)[number];

export interface Feature {
  /** The tag, without its #. */
  readonly tag: string;
  readonly what: string;
  /** Why a column, or the whole row, is not there: a kernel's limit, or something that Caisson does not do. */
  readonly no?: Partial<Record<Column | "all", string>>;
}
export interface Section {
  readonly title: string;
  readonly features: readonly Feature[];
}

const noCgroupEvents = "needs a cgroup of its own, which an ordinary user has only by delegation";

export const sections: readonly Section[] = [
  {
    title: "Containers and their life",
    features: [
      { tag: "create-load", what: "Create in a state directory, load, rules for ids, libcontainer's errors" },
      { tag: "states", what: "States and their transitions, asked of the system each time" },
      { tag: "state-json", what: "`state.json`: a container outlives its maker, another process leads it" },
      { tag: "two-callers", what: "Two processes that control one container at the same time" },
      { tag: "start-run", what: "Start, release (`exec` fifo's part) and run" },
      { tag: "exec", what: "Further processes in all namespaces, of their own user and directory" },
      { tag: "wait", what: "Exit codes and signals, from any process, at any time" },
      { tag: "signal", what: "Signals to the first and to further processes" },
      { tag: "kill-all", what: "SIGKILL to everybody where no PID namespace does it" },
      { tag: "processes", what: "List of processes" },
      { tag: "set", what: "Change of limits, all or none" },
      { tag: "pause", what: "Pause and resume" },
      { tag: "destroy", what: "Destroy, by force too, and nothing is left" },
      { tag: "oom-events", what: "Events of OOM kills", no: { rootless: noCgroupEvents } },
      {
        tag: "pressure-events",
        what: "Events of memory pressure",
        no: { v2: "memory.pressure_level is a file of v1; v2 has PSI", rootless: noCgroupEvents },
      },
      {
        tag: "checkpoint",
        what: "Checkpoint and restore",
        no: { rootless: "CRIU needs privileges that no user namespace gives" },
      },
      { tag: "service", what: "The same verbs as gRPC `caisson.v1.ContainerService`", no: { rootless: "the daemon is root's" } },
      { tag: "command", what: "The same verbs as a command line" },
      { tag: "plan", what: "Plans in print, before or after the fact" },
      { tag: "features", what: "The OCI features structure" },
    ],
  },
  {
    title: "Processes",
    features: [
      { tag: "stdio", what: "Stdio by descriptors or streams" },
      { tag: "console", what: "Terminals with resize" },
      { tag: "console-socket", what: "A terminal handed to a console socket" },
      { tag: "pidfd-socket", what: "A pidfd handed to a socket" },
      { tag: "preserve-fds", what: "Preserved descriptors, LISTEN_FDS" },
      { tag: "notify-socket", what: "NOTIFY_SOCKET forwarded to the service manager" },
      { tag: "environment", what: "Environment, PATH look-up, HOME out of the container's passwd" },
      { tag: "user", what: "User, group, additional groups by number or name" },
      { tag: "capabilities", what: "Bounding, effective, permitted, inheritable capabilities" },
      { tag: "ambient", what: "Ambient capabilities" },
      { tag: "no-new-privileges", what: "no_new_privs" },
      { tag: "seccomp-actions", what: "Seccomp: every action, default errno" },
      { tag: "seccomp-arguments", what: "Seccomp: conditions on arguments, every operator" },
      { tag: "seccomp-architectures", what: "Seccomp: several architectures, flags, ENOSYS for what is newer than the filter" },
      { tag: "seccomp-notify", what: "Seccomp: notifications to a listener" },
      { tag: "rlimits", what: "Resource limits" },
      { tag: "oom-score", what: "oom_score_adj" },
      { tag: "scheduler", what: "Scheduling policy, nice value, deadline" },
      { tag: "io-priority", what: "I/O priority" },
      { tag: "affinity", what: "CPU affinity of further processes" },
      { tag: "personality", what: "Personality" },
      { tag: "memory-policy", what: "NUMA memory policy" },
      { tag: "keyring", what: "Session keyring of its own" },
      { tag: "umask", what: "umask" },
      { tag: "apparmor", what: "AppArmor profiles" },
      { tag: "selinux", what: "SELinux labels of processes and mounts" },
      { tag: "clean-start", what: "Nothing of the runtime is inherited: signals, descriptors, affinity, scheduling" },
      { tag: "sealed-binary", what: "The runtime's binary cannot be reached through /proc/PID/exe" },
    ],
  },
  {
    title: "Namespaces",
    features: [
      { tag: "ns-new", what: "New user, mount, PID, network, IPC, UTS, cgroup and time namespaces" },
      { tag: "ns-join", what: "Joined by path, of any kind" },
      { tag: "ns-join-of", what: "Joined of another container, or of a process by its pid" },
      { tag: "ns-host", what: "The caller's own, where none is asked for" },
      { tag: "id-mappings", what: "User namespaces with any mapping" },
      { tag: "nested-user-namespace", what: "User namespaces inside user namespaces" },
      { tag: "newuidmap", what: "Mappings of a user's subordinate ids by newuidmap and newgidmap" },
      { tag: "time-offsets", what: "Offsets of the clocks of a time namespace" },
      { tag: "hostname", what: "Host and domain name" },
      { tag: "loopback", what: "Loopback interface brought up" },
      {
        tag: "net-devices",
        what: "Network devices moved in and renamed",
        no: { rootless: "devices of the host belong to its root" },
      },
      { tag: "sysctl", what: "Sysctls of the container's own namespaces; those of the host refused" },
    ],
  },
  {
    title: "Root file system",
    features: [
      { tag: "pivot-root", what: "pivot_root; nothing of the host in sight" },
      { tag: "no-pivot", what: "Without pivot_root: MS_MOVE" },
      { tag: "read-only-root", what: "Read-only root" },
      { tag: "root-propagation", what: "Propagation of the root: private, slave, shared, unbindable" },
      { tag: "bind", what: "Bind mounts of files and directories, recursive too" },
      { tag: "propagation", what: "Propagation of mounts, both ways" },
      { tag: "mount-options", what: "Mount flags (nosuid, nodev, noexec, ro, ...) and options of the file system" },
      { tag: "recursive-attributes", what: "Recursive attributes (rro, ...)" },
      { tag: "idmap", what: "Id-mapped mounts" },
      { tag: "tmpfs", what: "tmpfs" },
      { tag: "tmpcopyup", what: "tmpfs that begins with a copy of what it covers" },
      { tag: "overlay", what: "Overlay of several layers" },
      { tag: "cgroup-mount", what: "A cgroup mount that shows the container's own part" },
      { tag: "mqueue", what: "mqueue, devpts (newinstance), shm, sysfs" },
      { tag: "symlinked-targets", what: "Symlinks in mount targets, resolved inside the root" },
      { tag: "masked-paths", what: "Masked files and directories" },
      { tag: "read-only-paths", what: "Read-only paths" },
      { tag: "proc-rule", what: "What may be mounted over /proc, and what not" },
      { tag: "lxcfs", what: "lxcfs over /proc/cpuinfo, meminfo, stat, uptime, loadavg, swaps, diskstats" },
    ],
  },
  {
    title: "Devices",
    features: [
      { tag: "default-devices", what: "Default nodes and links of /dev" },
      { tag: "devices", what: "Further nodes with mode and owner" },
      { tag: "bound-devices", what: "The host's nodes bound in user namespaces" },
      { tag: "device-rules", what: "Rules, wildcards too, that hold: allowed ones open, others do not" },
      { tag: "device-rules-update", what: "Rules changed in place, without a window" },
      { tag: "cdi", what: "Container Device Interface", no: { rootless: "it is CRI's, and the daemon is root's" } },
    ],
  },
  {
    title: "Cgroups and resources",
    features: [
      { tag: "cgroupfs", what: "cgroupfs driver; absolute, relative and default paths" },
      {
        tag: "systemd",
        what: "systemd driver: transient scopes and slices",
        no: { rootless: "only the system's instance of systemd is asked" },
      },
      { tag: "cgroup-refusals", what: "Cgroups that are in use or frozen are refused" },
      { tag: "sub-cgroup", what: "Further processes in a cgroup below the container's" },
      { tag: "delegation", what: "Cgroups of the container's own, inside it" },
      { tag: "cgroup-removal", what: "Removal that retries, inner cgroups included" },
      { tag: "memory", what: "memory: limit, swap, reservation" },
      { tag: "memory-check", what: "memory: checkBeforeUpdate" },
      { tag: "swappiness", what: "memory: swappiness, disableOOMKiller", no: { v2: "files of v1 only; refused by name" } },
      { tag: "cpu", what: "cpu: shares, quota, period" },
      { tag: "cpu-burst", what: "cpu: burst, idle" },
      { tag: "cpu-realtime", what: "cpu: real-time share", no: { v2: "cpu.rt_runtime_us is a file of v1; refused by name" } },
      { tag: "cpuset", what: "cpuset: processors and memory nodes" },
      { tag: "pids", what: "pids" },
      { tag: "io-weight", what: "blkio/io: weights" },
      { tag: "io-throttle", what: "blkio/io: throttles of devices" },
      { tag: "hugetlb", what: "hugetlb: limits" },
      { tag: "rdma", what: "rdma: limits" },
      { tag: "network-class", what: "net_cls and net_prio", no: { v2: "v2 has no such controllers; refused by name" } },
      { tag: "unified", what: "unified: any file of v2", no: { v1: "refused by name, as the specification wants it" } },
      { tag: "intel-rdt", what: "Intel RDT (resctrl)" },
    ],
  },
  {
    title: "Statistics",
    features: [
      { tag: "stats-cpu", what: "cpu: total, user, kernel, throttling" },
      { tag: "stats-memory", what: "memory: usage, limit, peak, swap, memory.stat" },
      { tag: "stats-pids", what: "pids" },
      { tag: "stats-io", what: "blkio/io" },
      { tag: "stats-hugetlb", what: "hugetlb" },
      { tag: "stats-rdma", what: "rdma" },
      { tag: "stats-pressure", what: "Pressure (PSI)" },
      { tag: "stats-network", what: "Counters of each network interface" },
      { tag: "stats-oom", what: "OOM kills" },
    ],
  },
  {
    title: "Hooks and configuration",
    features: [
      { tag: "hooks", what: "Hooks at all six points, state on stdin, environment of their own" },
      { tag: "hook-failures", what: "Failing and overdue hooks" },
      { tag: "oci-config", what: "config.json of runtime-spec 1.3: each field honoured, or refused by name" },
      { tag: "rootless", what: "A caller that is not root" },
    ],
  },
];

/** Attacks by CVE or by class, as reference tables of escapes list them: each is carried out by a test whose name has the id. */
export const attacks: readonly { readonly id: string; readonly what: string }[] = [];
