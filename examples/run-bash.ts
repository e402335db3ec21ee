/**
 * Runs /bin/bash as user daemon in a container of its own, with this program's stdio, and ends as it ends:
 *
 *     node examples/run-bash.ts [BASH-ARGUMENT...]
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { allowedDevices, type Config, Container, Process } from "caisson";
import { makeRootfs } from "./make-rootfs.ts";

const place = mkdtempSync(join(tmpdir(), "caisson-example-"));
const rootfs = join(place, "rootfs");
makeRootfs(rootfs, ["/bin/bash", "/bin/cat", "/bin/ls", "/usr/bin/id"]);

const hardened = ["noexec", "nosuid", "nodev"];
const capabilities = ["CAP_KILL", "CAP_AUDIT_WRITE"];

const config: Config = {
  rootfs,
  capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
  namespaces: [
    { type: "mnt" },
    { type: "uts" },
    { type: "ipc" },
    { type: "pid" },
    { type: "user" },
    { type: "net" },
    { type: "cgroup" },
  ],
  cgroups: { name: "test-container", parent: "system", resources: { devices: allowedDevices } },
  maskPaths: ["/proc/kcore", "/sys/firmware"],
  readonlyPaths: ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"],
  devices: allowedDevices,
  hostname: "testing",
  mounts: [
    { source: "proc", destination: "/proc", device: "proc", flags: hardened },
    { source: "tmpfs", destination: "/dev", device: "tmpfs", flags: ["nosuid", "strictatime"], data: "mode=755" },
    {
      source: "devpts",
      destination: "/dev/pts",
      device: "devpts",
      flags: ["nosuid", "noexec"],
      data: "newinstance,ptmxmode=0666,mode=0620,gid=5",
    },
    { source: "shm", destination: "/dev/shm", device: "tmpfs", flags: hardened, data: "mode=1777,size=65536k" },
    { source: "mqueue", destination: "/dev/mqueue", device: "mqueue", flags: hardened },
    { source: "sysfs", destination: "/sys", device: "sysfs", flags: [...hardened, "ro"] },
  ],
  uidMappings: [{ containerID: 0, hostID: 1000, size: 65_536 }],
  gidMappings: [{ containerID: 0, hostID: 1000, size: 65_536 }],
  networks: [{ type: "loopback" }],
  rlimits: [{ type: "RLIMIT_NOFILE", hard: 1025, soft: 1025 }],
};

const container = await Container.create(join(place, "state"), "container-id", config);
try {
  const bash = new Process({
    args: ["/bin/bash", ...process.argv.slice(2)],
    env: ["PATH=/bin:/usr/bin", "TERM=xterm"],
    user: "daemon",
    stdin: 0,
    stdout: 1,
    stderr: 2,
  });
  await container.run(bash);
  process.exitCode = (await bash.wait()).exitCode;
} finally {
  await container.destroy();
  rmSync(place, { recursive: true, force: true });
}
