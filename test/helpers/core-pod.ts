/** A runtime, pods and containers straight through the core, with a root made of busybox. Everything lies in a temporary directory. */
import { randomBytes } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createHostRuntime, type HostRuntime } from "../../src/core/host-runtime.ts";
import type { OciLinux, OciMount, OciProcess, OciSpec } from "../../src/core/oci.ts";
import type { ContainerExit, ContainerSpec, ExecResult, Pod, PodSpec, ProcessIdentity } from "../../src/core/runtime.ts";

const applets =
  "sh echo id ls cat sleep true false ip mount umount mkdir stat ps hostname env kill touch chmod dd head tail grep tty stty test mknod rm ln readlink seq wc";
const stepMs = 30_000;

export interface Made {
  readonly id: string;
  readonly oci: OciSpec;
  readonly process: ProcessIdentity;
  readonly cgroupsPath: string;
  readonly logPath: string;
}

export type PodChanges = Partial<Pick<PodSpec, "network" | "ipc" | "uts" | "pid" | "user" | "shmBytes">>;

export interface ContainerChanges {
  readonly process?: Partial<OciProcess>;
  readonly mounts?: readonly OciMount[];
  readonly linux?: Partial<OciLinux>;
  readonly readonlyRoot?: boolean;
  readonly spec?: Partial<Pick<ContainerSpec, "pidNamespace" | "stdin" | "stdinOnce" | "volumes" | "trees">>;
}

export class CoreNode implements AsyncDisposable {
  readonly root: string;
  readonly layer: string;
  readonly runtime: HostRuntime;
  readonly warnings: string[] = [];
  readonly instance: string;
  readonly #pods: { spec: PodSpec; pod: Pod | undefined }[] = [];

  private constructor(root: string, instance: string, runtime: HostRuntime, warnings: string[]) {
    this.root = root;
    this.layer = join(root, "layer");
    this.instance = instance;
    this.runtime = runtime;
    this.warnings = warnings;
    makeLayer(this.layer);
  }

  static async start(shimEnv: readonly string[] = []): Promise<CoreNode> {
    const root = mkdtempSync(join(tmpdir(), "caisson-core-"));
    const warnings: string[] = [];
    const instance = `coretest${randomBytes(4).toString("hex")}`;
    const runtime = await createHostRuntime({
      stateDir: join(root, "state"),
      shimPath: join(import.meta.dirname, "../../build/native/caisson-shim"),
      instance,
      shimEnv,
      shimStderrFd: 2,
      log: { debug: () => {}, info: () => {}, warn: (_, message) => warnings.push(message) },
    });
    return new CoreNode(root, instance, runtime, warnings);
  }

  podSpec(changes: PodChanges = {}): PodSpec {
    const id = newId();
    const network = changes.network ?? "new";
    return {
      id,
      hostname: "core-pod",
      ipc: "new",
      uts: network,
      pid: "none",
      user: null,
      runDir: join(this.root, "state/pods", id),
      shmBytes: 16 << 20,
      ...changes,
      network,
      netnsPath: network === "new" ? `/run/netns/caisson-${id}` : null,
    };
  }

  async pod(changes: PodChanges = {}): Promise<{ readonly pod: Pod; readonly spec: PodSpec }> {
    const spec = this.podSpec(changes);
    const entry: (typeof this.pods)[number] = { spec, pod: undefined };
    this.#pods.push(entry);
    entry.pod = await this.runtime.startPod(spec, deadline());
    return { pod: entry.pod, spec };
  }

  get pods(): readonly { spec: PodSpec; pod: Pod | undefined }[] {
    return this.#pods;
  }

  /** A parked container. */
  async create(pod: Pod, spec: PodSpec, changes: ContainerChanges = {}): Promise<Made> {
    const id = newId();
    const cgroupsPath = `/caisson-${this.instance}/pods/${id}`;
    const logPath = join(this.root, `${id}.log`);
    const dir = join(this.root, "containers", id);
    mkdirSync(dir, { recursive: true });
    const layers = { lowers: [this.layer], upper: join(dir, "upper"), work: join(dir, "work") };
    await using rootfs = await pod.openRootfs(layers, deadline());
    const container: ContainerSpec = {
      id,
      oci: ociSpec(spec, cgroupsPath, changes),
      rootfs: layers,
      pidNamespace: { kind: spec.pid === "pod" ? "pod" : "private" },
      cgroupNamespace: this.runtime.cgroupVersion === "v2" ? "private" : "host",
      logPath,
      stdin: false,
      stdinOnce: false,
      volumes: [],
      ...changes.spec,
    };
    const created = await pod.create(container, rootfs, deadline());
    return { id, ...created, cgroupsPath, logPath };
  }

  async run(pod: Pod, spec: PodSpec, changes: ContainerChanges = {}): Promise<Made> {
    const made = await this.create(pod, spec, changes);
    await pod.start(made.id, deadline());
    return made;
  }

  /** Runs a script to its end; what it wrote, and how it ended. */
  async output(
    pod: Pod,
    spec: PodSpec,
    script: string,
    changes: ContainerChanges = {},
  ): Promise<{ log: string; exit: ContainerExit }> {
    const exits = collectExits(pod);
    const made = await this.run(pod, spec, { ...changes, process: { args: ["sh", "-c", script], ...changes.process } });
    const exit = await exits(made.id);
    return { log: logText(made.logPath), exit };
  }

  /** Everything that carries our names. */
  leftovers(): string[] {
    const mounts = readFileSync("/proc/self/mountinfo", "utf8").split("\n");
    const found = mounts.filter((line) => line.includes(this.root) || this.#pods.some(({ spec }) => line.includes(spec.id)));
    for (const { spec } of this.#pods) {
      if (spec.netnsPath !== null && existsSync(spec.netnsPath)) found.push(spec.netnsPath);
      if (existsSync(spec.runDir)) found.push(spec.runDir);
    }
    for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
      // Orphans of a killed shim wait for process 1 to reap them, which takes its time on some machines.
      if (/\) Z /.test(readOr(`/proc/${pid}/stat`))) continue;
      const command = readOr(`/proc/${pid}/cmdline`);
      if (this.#pods.some(({ spec }) => command.includes(spec.id))) found.push(`process ${pid} ${command}`);
      if (readOr(`/proc/${pid}/cgroup`).includes(`/caisson-${this.instance}/`)) found.push(`process ${pid} in our cgroup`);
    }
    const containers = join(this.root, "state/containers");
    for (const name of existsSync(containers) ? readdirSync(containers) : []) found.push(join(containers, name));
    return found;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { spec, pod } of this.#pods) {
      if (existsSync(spec.runDir)) await (pod?.destroy(deadline()) ?? this.runtime.destroyRemains(spec, [], deadline()));
    }
    await this.runtime.killRemains([`/caisson-${this.instance}`], deadline());
    await this.runtime.removeCgroup(`/caisson-${this.instance}`, deadline());
    await this.runtime[Symbol.asyncDispose]();
    rmSync(this.root, { recursive: true, force: true });
  }
}

export function newId(): string {
  return randomBytes(32).toString("hex");
}

export function deadline(): AbortSignal {
  return AbortSignal.timeout(stepMs);
}

export async function exec(pod: Pod, made: Made, ...args: string[]): Promise<ExecResult & { readonly out: string }> {
  const result = await pod.execSync(
    made.id,
    made.oci,
    { args, timeoutMs: 10_000, maxOutputBytes: 1 << 20, drainMs: 500 },
    deadline(),
  );
  return { ...result, out: result.stdout.toString() };
}

/** Waits for exits by id, acknowledging each. Replaces the pod's listener. */
export function collectExits(pod: Pod): (id: string) => Promise<ContainerExit> {
  const seen = new Map<string, PromiseWithResolvers<ContainerExit>>();
  const slot = (id: string) => {
    const found = seen.get(id) ?? Promise.withResolvers<ContainerExit>();
    seen.set(id, found);
    return found;
  };
  pod.onExit((exit) => {
    slot(exit.containerId).resolve(exit);
    pod.acknowledgeExit(exit.containerId).catch(() => {});
  });
  return (id) => {
    const timer = Promise.withResolvers<never>();
    const handle = setTimeout(() => timer.reject(new Error(`container ${id} has not ended`)), stepMs);
    return Promise.race([slot(id).promise, timer.promise]).finally(() => clearTimeout(handle));
  };
}

/** A CRI log without its prefixes. */
export function logText(path: string): string {
  return readFileSync(path, "utf8")
    .split("\n")
    .map((line) => line.replace(/^\S+ (stdout|stderr) [FP] /, ""))
    .join("\n");
}

function readOr(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

function makeLayer(layer: string): void {
  for (const directory of ["bin", "etc", "root", "tmp", "data", "home/user"])
    mkdirSync(join(layer, directory), { recursive: true });
  copyFileSync("/bin/busybox", join(layer, "bin/busybox"));
  chmodSync(join(layer, "bin/busybox"), 0o755);
  for (const name of applets.split(" ")) symlinkSync("busybox", join(layer, "bin", name));
  writeFileSync(join(layer, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n");
  writeFileSync(join(layer, "data/from-image"), "content\n");
  chmodSync(join(layer, "data/from-image"), 0o640);
}

const defaultCapabilities = [
  "CHOWN",
  "DAC_OVERRIDE",
  "FOWNER",
  "FSETID",
  "KILL",
  "MKNOD",
  "NET_RAW",
  "SETGID",
  "SETUID",
  "SYS_CHROOT",
].map((name) => `CAP_${name}`);

function ociSpec(pod: PodSpec, cgroupsPath: string, changes: ContainerChanges): OciSpec {
  return {
    ociVersion: "1.3.0",
    root: { path: "rootfs", readonly: changes.readonlyRoot === true },
    process: {
      user: { uid: 0, gid: 0 },
      args: ["sleep", "1000"],
      env: ["PATH=/bin"],
      cwd: "/",
      capabilities: { bounding: defaultCapabilities, permitted: defaultCapabilities, effective: defaultCapabilities },
      ...changes.process,
    },
    mounts: [
      { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
      { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "strictatime", "mode=755", "size=65536k"] },
      {
        destination: "/dev/pts",
        type: "devpts",
        source: "devpts",
        options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
      },
      { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: ["nosuid", "noexec", "nodev"] },
      ...(pod.ipc === "new"
        ? [{ destination: "/dev/shm", type: "bind", source: join(pod.runDir, "shm"), options: ["rbind", "rprivate", "rw"] }]
        : []),
      { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
      {
        destination: "/sys/fs/cgroup",
        type: "cgroup",
        source: "cgroup",
        options: ["nosuid", "noexec", "nodev", "relatime", "ro"],
      },
      ...(changes.mounts ?? []),
    ],
    linux: {
      cgroupsPath,
      resources: { devices: [{ allow: false, access: "rwm" }] },
      maskedPaths: ["/proc/kcore", "/proc/acpi", "/proc/keys", "/sys/firmware"],
      readonlyPaths: ["/proc/sys", "/proc/bus"],
      ...changes.linux,
    },
  };
}
