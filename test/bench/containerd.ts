/** Debian's containerd as a rival: own directories, own socket, the OCI runtime of choice, images from a registry on loopback. */
import { spawn } from "node:child_process";
import { closeSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CriClient } from "../helpers/cri-client.ts";

export interface Rival extends AsyncDisposable {
  readonly client: CriClient;
  /** unix:///path of its socket. */
  readonly address: string;
  /** Directory of CNI configuration files. */
  readonly cniConf: string;
  /** Every process that the rival keeps for its pods besides their containers: shims and pause processes. */
  podProcesses(): number[];
}

const configuration = (base: string, binary: string, pauseImage: string): string => `version = 2
root = "${base}/root"
state = "${base}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "${base}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "${base}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "${pauseImage}"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "${base}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "rival"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.rival]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.rival.options]
BinaryName = "${binary}"
`;

/** Debian's crun refuses hybrid hierarchies, so this containerd sees none: a mount namespace of its own without the v2 leg. */
const withoutUnified = [
  "--mount",
  "--propagation",
  "slave",
  "/bin/sh",
  "-c",
  '! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified; exec "$0" "$@"',
];

export interface RivalOptions {
  /** Leave it in the machine's mount namespace, for cases about mounts; crun does not run there on a hybrid hierarchy. */
  readonly hostMounts?: boolean;
}

export async function startContainerd(binary: string, pauseImage: string, options: RivalOptions = {}): Promise<Rival> {
  const base = mkdtempSync(join(tmpdir(), "caisson-rival-"));
  mkdirSync(join(base, "cni"));
  const config = join(base, "config.toml");
  writeFileSync(config, configuration(base, binary, pauseImage));
  const log = openSync(join(base, "log"), "a");
  const command = ["containerd", "--config", config];
  const [program = "", ...args] = options.hostMounts ? command : ["unshare", ...withoutUnified, ...command];
  const child = spawn(program, args, { stdio: ["ignore", log, log] });
  closeSync(log);
  const address = `unix://${base}/containerd.sock`;
  const client = new CriClient(address);
  for (let tries = 0; ; tries++) {
    try {
      await client.runtime("Status", {}, 1000);
      break;
    } catch (error) {
      if (tries > 200 || child.exitCode !== null) {
        throw new Error(`containerd did not start: ${error}\n${readFileSync(join(base, "log"), "utf8").slice(-3000)}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
  return {
    client,
    address,
    cniConf: join(base, "cni"),
    podProcesses: () => processesOf((cmdline) => cmdline.includes("containerd-shim") || cmdline.startsWith("/pause")),
    [Symbol.asyncDispose]: async () => {
      const { items } = await client.runtime("ListPodSandbox", {});
      for (const { id } of items) {
        await client.runtime("StopPodSandbox", { pod_sandbox_id: id });
        await client.runtime("RemovePodSandbox", { pod_sandbox_id: id });
      }
      client.close();
      child.kill("SIGTERM");
      await new Promise((resolve) => child.once("exit", resolve));
      rmSync(base, { recursive: true, force: true });
    },
  };
}

export function processesOf(wanted: (cmdline: string) => boolean): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => pid > 0)
    .filter((pid) => {
      try {
        return wanted(readFileSync(`/proc/${pid}/cmdline`, "utf8"));
      } catch {
        return false;
      }
    });
}

/** Proportional set size of a process in KiB. */
export function pssKiB(pid: number): number {
  try {
    return Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))?.[1] ?? 0);
  } catch {
    return 0;
  }
}
