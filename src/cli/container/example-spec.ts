/** A config.json to begin with: a shell with few powers, in namespaces of its own. */

const capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
const hardened = ["nosuid", "noexec", "nodev"];

const maskedPaths = [
  "/proc/acpi",
  "/proc/asound",
  "/proc/interrupts",
  "/proc/kcore",
  "/proc/keys",
  "/proc/latency_stats",
  "/proc/timer_list",
  "/proc/timer_stats",
  "/proc/sched_debug",
  "/proc/scsi",
  "/sys/firmware",
  "/sys/devices/virtual/powercap",
];
const readonlyPaths = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/** `rootless`: the ids of a caller who has no others to give. */
export function exampleSpec(cgroups: "v1" | "v2" | "hybrid", rootless?: { readonly uid: number; readonly gid: number }): object {
  const cgroupNamespace = cgroups === "v2" ? ["cgroup"] : [];
  const namespaces = ["pid", ...(rootless === undefined ? ["network"] : []), "ipc", "uts", "mount", ...cgroupNamespace];
  const map = (hostID: number) => [{ containerID: 0, hostID, size: 1 }];
  return {
    ociVersion: "1.3.0",
    process: {
      terminal: true,
      user: { uid: 0, gid: 0 },
      args: ["sh"],
      env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
      cwd: "/",
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
      rlimits: [{ type: "RLIMIT_NOFILE", hard: 1024, soft: 1024 }],
      noNewPrivileges: true,
    },
    root: { path: "rootfs", readonly: true },
    hostname: "caisson",
    mounts: mounts(rootless !== undefined),
    linux: {
      ...(rootless === undefined ? {} : { uidMappings: map(rootless.uid), gidMappings: map(rootless.gid) }),
      ...(rootless === undefined ? { resources: { devices: [{ allow: false, access: "rwm" }] } } : {}),
      namespaces: [...namespaces, ...(rootless === undefined ? [] : ["user"])].map((type) => ({ type })),
      maskedPaths,
      readonlyPaths,
    },
  };
}

function mounts(rootless: boolean): readonly object[] {
  return [
    { destination: "/proc", type: "proc", source: "proc" },
    { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "strictatime", "mode=755", "size=65536k"] },
    {
      destination: "/dev/pts",
      type: "devpts",
      source: "devpts",
      options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", ...(rootless ? [] : ["gid=5"])],
    },
    { destination: "/dev/shm", type: "tmpfs", source: "shm", options: [...hardened, "mode=1777", "size=65536k"] },
    { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: hardened },
    rootless
      ? { destination: "/sys", type: "none", source: "/sys", options: ["rbind", "nosuid", "noexec", "nodev", "ro"] }
      : { destination: "/sys", type: "sysfs", source: "sysfs", options: [...hardened, "ro"] },
    { destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: [...hardened, "relatime", "ro"] },
  ];
}
