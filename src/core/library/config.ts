/** What a container is, in libcontainer's terms. Everything but the root is optional: what is not given is shared with the caller. */
import type {
  OciCapabilities,
  OciCpuAffinity,
  OciHooks,
  OciIdMapping,
  OciIntelRdt,
  OciIoPriority,
  OciMemoryPolicy,
  OciNetDevices,
  OciPersonality,
  OciResources,
  OciRlimit,
  OciScheduler,
  OciSeccomp,
} from "../oci.ts";

export type NamespaceType = "user" | "ipc" | "uts" | "net" | "pid" | "mnt" | "cgroup" | "time";

export interface Namespace {
  readonly type: NamespaceType;
  /** A namespace file to join; without it, `pid` and `container` a new one is made. */
  readonly path?: string;
  /** Joins that process's; create() turns it into `path` and `process`. */
  readonly pid?: number;
  /** Joins that of the first process of a container in the same state directory; create() turns it into `path` and `process`. */
  readonly container?: string;
  /** Whose namespace `path` is: when another process has its pid by then, the start fails. */
  readonly process?: { readonly pid: number; readonly startTicks: number };
}

export interface Mount {
  readonly source?: string;
  /** In the container. */
  readonly destination: string;
  /** Kind of file system; "bind" for binds. */
  readonly device?: string;
  /** Mount options as mount(8) writes them: "nosuid", "rbind", "rprivate", "rro", "tmpcopyup". */
  readonly flags?: readonly string[];
  /** Options of the file system: "mode=755,size=64k". */
  readonly data?: string;
  /** For a bind: ids of the source as the container sees them. */
  readonly uidMappings?: readonly OciIdMapping[];
  readonly gidMappings?: readonly OciIdMapping[];
}

/** A device node, or a rule about devices, or both: a rule alone has no path. */
export interface Device {
  readonly type: "a" | "c" | "b" | "p";
  readonly path?: string;
  /** -1 is every number, in rules only. */
  readonly major: number;
  readonly minor: number;
  /** Subset of "rwm". */
  readonly permissions?: string;
  readonly allow?: boolean;
  /** Permission bits; 0666 when absent. */
  readonly fileMode?: number;
  readonly uid?: number;
  readonly gid?: number;
}

export interface Resources extends Omit<OciResources, "devices"> {
  /** Rules, over "deny everything". */
  readonly devices?: readonly Device[];
}

/** Where the container's processes are accounted: `path`, or `name` below `parent`. */
export interface CgroupConfig {
  readonly name?: string;
  /** With `systemd` the name of a slice; "system.slice" when absent. */
  readonly parent?: string;
  /** From the hierarchy's root; relative: below the caller's own cgroup. With `systemd`: "SLICE:PREFIX:NAME", the scope PREFIX-NAME. */
  readonly path?: string;
  /** The cgroup is a transient scope that systemd is asked for, over the system's bus. */
  readonly systemd?: boolean;
  readonly resources?: Resources;
}

/** The root as an overlay with `rootfs` as its lowest layer. The layers stay what they are: changes go to `upper`. */
export interface RootOverlay {
  /** Layers above `rootfs`, the topmost first: existing directories, absolute, no symlinks. */
  readonly layers?: readonly string[];
  /** What the container changes; where it is missing it is made, with owner and mode of the topmost layer. Absent: the root is read-only. */
  readonly upper?: string;
  /** For the kernel's own use, on the file system of `upper`; goes with it. Both stay when the container is destroyed. */
  readonly work?: string;
}

export interface TimeOffset {
  readonly secs: number;
  readonly nanosecs?: number;
}

export interface Config {
  /** Existing directory, absolute, no symlink. */
  readonly rootfs: string;
  readonly overlay?: RootOverlay;
  /**
   * Files of the root belong to the container as ids 0 and up, whatever its user namespace maps them to: the host's root owns what the
   * container's root sees as its own. Of an overlay the layers are mapped, and what lies in `upper` belongs to mapped ids.
   */
  readonly idmapRoot?: boolean;
  readonly readonlyfs?: boolean;
  /** "slave" when absent. */
  readonly rootPropagation?: string;
  readonly mounts?: readonly Mount[];
  /** Nodes to make; entries without a path are skipped. */
  readonly devices?: readonly Device[];
  readonly maskPaths?: readonly string[];
  readonly readonlyPaths?: readonly string[];

  readonly namespaces?: readonly Namespace[];
  readonly uidMappings?: readonly OciIdMapping[];
  readonly gidMappings?: readonly OciIdMapping[];
  readonly timeOffsets?: Readonly<Partial<Record<"monotonic" | "boottime", TimeOffset>>>;
  readonly hostname?: string;
  readonly domainname?: string;
  /** Needs a network namespace. */
  readonly networks?: readonly { readonly type: "loopback" }[];
  /** Devices of the host that move into the container's network namespace. */
  readonly netDevices?: OciNetDevices;
  readonly sysctl?: Readonly<Record<string, string>>;

  readonly cgroups?: CgroupConfig;

  /** What processes get that say nothing else. */
  readonly capabilities?: OciCapabilities;
  readonly rlimits?: readonly OciRlimit[];
  readonly noNewPrivileges?: boolean;
  readonly seccomp?: OciSeccomp;
  readonly umask?: number;
  /** Absent: the caller's. */
  readonly oomScoreAdj?: number;
  /** Of AppArmor; the kernel must have it and the profile be loaded. */
  readonly apparmorProfile?: string;
  /** Of processes and their keys; needs SELinux. */
  readonly selinuxLabel?: string;
  readonly scheduler?: OciScheduler;
  readonly ioPriority?: OciIoPriority;
  /** Of further processes, before and after they enter the cgroup. */
  readonly execCpuAffinity?: OciCpuAffinity;
  readonly personality?: OciPersonality;
  readonly memoryPolicy?: OciMemoryPolicy;
  /** Cache and memory bandwidth, by resctrl. */
  readonly intelRdt?: OciIntelRdt;
  /** SELinux label of the file systems that the container mounts. */
  readonly mountLabel?: string;
  /** Move the root over "/" where it cannot be pivoted to: what was there before stays below, out of sight only. */
  readonly noPivotRoot?: boolean;
  /** Keep the caller's session keyring. */
  readonly noNewKeyring?: boolean;
  /** Programs at moments of the container's life; they get the OCI state on stdin. */
  readonly hooks?: OciHooks;
  readonly labels?: Readonly<Record<string, string>>;
}

const char = (path: string | undefined, major: number, minor: number, permissions = "rwm"): Device => ({
  type: "c",
  major,
  minor,
  permissions,
  allow: true,
  ...(path === undefined ? {} : { path }),
});

/** The devices that any container may use: nodes where they have a path, rules all of them. */
export const allowedDevices: readonly Device[] = [
  char(undefined, -1, -1, "m"),
  { ...char(undefined, -1, -1, "m"), type: "b" },
  char("/dev/null", 1, 3),
  char("/dev/random", 1, 8),
  char("/dev/full", 1, 7),
  char("/dev/tty", 5, 0),
  char("/dev/zero", 1, 5),
  char("/dev/urandom", 1, 9),
  // Pseudo-terminals and tun, without nodes of their own.
  char(undefined, 136, -1),
  char(undefined, 5, 2),
  char(undefined, 10, 200),
];
