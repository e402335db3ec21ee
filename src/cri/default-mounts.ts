/** What every container has mounted, unless the pod mounts something at the same place. */
import { posix } from "node:path";
import type { OciMount } from "../core/oci.ts";
import type { PodSpec } from "../core/runtime.ts";

export interface MountSituation {
  readonly privileged: boolean;
  readonly readonlyRootfs: boolean;
  /** The pod's directory: hostname, hosts, resolv.conf and shm lie in it. */
  readonly runDir: string;
  readonly network: PodSpec["network"];
  readonly ipc: PodSpec["ipc"];
  readonly user: PodSpec["user"];
}

/** Group of terminals, by custom of all distributions. */
const ttyGroup = 5;

function kernelMounts(situation: MountSituation): OciMount[] {
  const { privileged, user } = situation;
  const safe = ["nosuid", "noexec", "nodev"];
  const mode = privileged ? "rw" : "ro";
  const ttyMapped = user === null || user.gid.some((map) => map.containerID <= ttyGroup && ttyGroup < map.containerID + map.size);
  // A fresh sysfs needs a network namespace that the user namespace owns; with the node's network only the node's own can be bound.
  const sys: OciMount =
    user !== null && situation.network === "host"
      ? { destination: "/sys", type: "bind", source: "/sys", options: ["rbind", "rslave", "rro", ...safe] }
      : { destination: "/sys", type: "sysfs", source: "sysfs", options: [...safe, mode] };
  return [
    { destination: "/proc", type: "proc", source: "proc", options: safe },
    { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "strictatime", "mode=755", "size=65536k"] },
    {
      destination: "/dev/pts",
      type: "devpts",
      source: "devpts",
      options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", ...(ttyMapped ? [`gid=${ttyGroup}`] : [])],
    },
    { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: safe },
    sys,
    { destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: [...safe, "relatime", mode] },
  ];
}

/** The pod's one /dev/shm and its three files; with a read-only root the files are read-only as well. */
function podMounts({ runDir, ipc, readonlyRootfs }: MountSituation): OciMount[] {
  const file = (name: string): OciMount => ({
    destination: `/etc/${name}`,
    type: "bind",
    source: posix.join(runDir, name),
    options: ["rbind", "rprivate", readonlyRootfs ? "ro" : "rw"],
  });
  const shm: OciMount = {
    destination: "/dev/shm",
    type: "bind",
    source: ipc === "host" ? "/dev/shm" : posix.join(runDir, "shm"),
    options: ["rbind", "rprivate", "rw"],
  };
  return [shm, file("hostname"), file("hosts"), file("resolv.conf")];
}

export function defaultMounts(situation: MountSituation): OciMount[] {
  return [...kernelMounts(situation), ...podMounts(situation)];
}
