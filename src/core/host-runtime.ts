/** The Runtime on this machine. */
import { access, mkdir, stat, statfs } from "node:fs/promises";
import { release } from "node:os";
import { dirname, join } from "node:path/posix";
import { setTimeout as sleep } from "node:timers/promises";
import { makeStateDirectory } from "../lib/state-files.ts";
import { Undo } from "../lib/undo.ts";
import { addon } from "../native/addon.ts";
import { Cgroups } from "./cgroup/cgroups.ts";
import { cgroupLimitations } from "./cgroup/limitations.ts";
import { Systemd } from "./cgroup/systemd.ts";
import { SystemdCgroups } from "./cgroup/systemd-cgroups.ts";
import { containerIdAt } from "./cgroup/systemd-names.ts";
import { removeAttachPoint } from "./container-create.ts";
import { deviceLinks } from "./device/default-devices.ts";
import { deviceNumbers } from "./device/host-node.ts";
import { readExitRecord } from "./exit-record.ts";
import { describeProcesses, untilAllEnded } from "./holders.ts";
import { mountNamespaceLimitations } from "./mount-namespace.ts";
import { toHostId } from "./namespace/id-map.ts";
import { planPodNamespaces, planShm, type RunStep } from "./namespace/pod-namespaces.ts";
import type { OciResources } from "./oci.ts";
import { HostPod } from "./pod.ts";
import { removePodRemains, shmPathOf } from "./pod-remains.ts";
import type { CoreLog, PodTools } from "./pod-tools.ts";
import { loadDefaultProfile } from "./process/apparmor-default.ts";
import { readOwnLimits } from "./process/own-limits.ts";
import { SeccompCompiler } from "./process/seccomp.ts";
import { sweepResctrl } from "./resctrl.ts";
import type {
  CgroupMetrics,
  CgroupStats,
  ContainerExit,
  DiskFacts,
  Holder,
  Leftover,
  Pod,
  PodSpec,
  ProcessIdentity,
  ResourceChange,
  Runtime,
} from "./runtime.ts";
import { connectShim } from "./shim/connect.ts";
import { ProcessHandle } from "./shim/process-handle.ts";
import { loadShimImage, type ShimImage, startShim } from "./shim/start.ts";
import { readShimIdentity } from "./shim-identity.ts";
import { type Connect, type LinkOptions, ShimLink, type StartShim, untilEnded } from "./shim-link.ts";

export interface HostRuntimeOptions {
  /** STATE, such as /run/caisson. */
  readonly stateDir: string;
  /** The helper's binary. */
  readonly shimPath: string;
  /** This installation's id: names its own cgroup. */
  readonly instance: string;
  readonly log: CoreLog;
  /** Who makes containers' cgroups. */
  readonly cgroupDriver?: "cgroupfs" | "systemd";
  /** Longest content of a log record, bytes. */
  readonly logLineBytes?: number;
  /** Environment of the shims. */
  readonly shimEnv?: readonly string[];
  /** Absent: looked up in PATH, when it is needed. */
  readonly criuPath?: string | undefined;
  /** Where shims complain, or null. */
  readonly shimStderrFd?: number | null;
}

/** Looks at the machine once. `failed_precondition` when it cannot run containers at all. */
export async function createHostRuntime(options: HostRuntimeOptions): Promise<HostRuntime> {
  const [cgroups, own, image, hasKcore] = await Promise.all([
    findCgroups(options.cgroupDriver ?? "cgroupfs"),
    readOwnLimits(),
    loadShimImage(options.shimPath),
    access("/proc/kcore").then(
      () => true,
      () => false,
    ),
  ]);
  await mkdir(join(options.stateDir, "containers"), { recursive: true, mode: 0o711 });
  const core = { path: "/dev/core", target: "/proc/kcore" };
  const tools: PodTools = {
    cgroups,
    seccomp: new SeccompCompiler(addon),
    own,
    stateDir: options.stateDir,
    procTakesPidns: kernelAtLeast(release(), 6, 17),
    links: hasKcore ? [...deviceLinks, core] : deviceLinks,
    logLineBytes: options.logLineBytes ?? 0,
    criuPath: options.criuPath,
    log: options.log,
  };
  const limitations = [
    ...own.sentences,
    ...mountNamespaceLimitations(),
    ...(await cgroupLimitations(cgroups.hierarchies)),
    ...(await cgroups.limitations()),
    ...(await loadDefaultProfile()),
  ];
  return new HostRuntime(options, tools, image, limitations);
}

async function findCgroups(driver: "cgroupfs" | "systemd"): Promise<Cgroups> {
  const cgroups = await Cgroups.find();
  return driver === "systemd" ? new SystemdCgroups(cgroups.hierarchies, new Systemd()) : cgroups;
}

/** Whether a kernel release such as "6.18.44-fc" is at least that version. */
export function kernelAtLeast(text: string, major: number, minor: number): boolean {
  const [has = 0, hasMinor = 0] = text.split(/[.-]/).map(Number);
  return has > major || (has === major && hasMinor >= minor);
}

interface ShimCgroup {
  readonly directory: string | null;
  readonly taskFiles: readonly string[];
}

export class HostRuntime implements Runtime {
  readonly cgroupVersion: Runtime["cgroupVersion"];
  readonly limitations: readonly string[];
  readonly #options: HostRuntimeOptions;
  readonly #tools: PodTools;
  readonly #image: ShimImage;
  readonly #shimsPath: string;
  #shimCgroup: Promise<ShimCgroup> | undefined;

  constructor(options: HostRuntimeOptions, tools: PodTools, image: ShimImage, limitations: readonly string[]) {
    this.cgroupVersion = tools.cgroups.hierarchies.version;
    this.limitations = limitations;
    this.#options = options;
    this.#tools = tools;
    this.#image = image;
    this.#shimsPath = `/caisson-${options.instance}/shims`;
  }

  async startPod(spec: PodSpec, signal: AbortSignal): Promise<Pod> {
    await using undo = new Undo(({ failed, error }) => {
      this.#tools.log.warn({ err: error, pod: spec.id }, `a pod that could not be started leaves its ${failed}`);
    });
    undo.push("directory and mounts", () => removePodRemains(spec));
    makeStateDirectory(spec.runDir, 0o700);
    if (spec.netnsPath !== null) makeStateDirectory(dirname(spec.netnsPath), 0o755);
    const pod = await this.#startShim(spec, signal);
    undo.push("shim", (undoSignal) => pod.destroy(undoSignal));
    for (const step of this.#setUpSteps(spec)) await pod.run(step, "namespaces", signal);
    if (spec.pid === "pod") await pod.startReaper(signal);
    undo.commit();
    return pod;
  }

  async reconnectPod(spec: PodSpec, signal: AbortSignal): Promise<Pod | undefined> {
    const identity = await readShimIdentity(spec.runDir);
    const process = identity === undefined ? undefined : ProcessHandle.find(identity);
    if (process === undefined) return undefined;
    try {
      const link = await ShimLink.connect(process, this.#linkOptions(spec, process.identity), signal);
      return new HostPod(spec, this.#tools, link);
    } catch (error) {
      process[Symbol.dispose]();
      if (await hasEnded(process)) return undefined;
      throw error;
    }
  }

  async killRemains(cgroupsPaths: readonly string[], signal: AbortSignal): Promise<void> {
    await Promise.all(cgroupsPaths.map((path) => this.#tools.cgroups.kill(path, signal)));
  }

  async removeCgroup(cgroupsPath: string, signal: AbortSignal): Promise<void> {
    await this.#tools.cgroups.remove(cgroupsPath, signal);
  }

  cgroupExists(cgroupsPath: string): boolean {
    return this.#tools.cgroups.exists(cgroupsPath);
  }

  async cgroupsIn(cgroupsPath: string): Promise<readonly string[]> {
    return await this.#tools.cgroups.namesIn(cgroupsPath);
  }

  async removeEmptyCgroup(cgroupsPath: string): Promise<void> {
    await this.#tools.cgroups.removeIfEmpty(cgroupsPath);
  }

  async destroyRemains(spec: PodSpec, cgroupsPaths: readonly string[], signal: AbortSignal): Promise<readonly Leftover[]> {
    const identity = await readShimIdentity(spec.runDir);
    using process = identity === undefined ? undefined : ProcessHandle.find(identity);
    if (process !== undefined) {
      process.kill(killSignal);
      await untilEnded(process, signal);
    }
    await Promise.all(cgroupsPaths.map((path) => this.#tools.cgroups.clear(path, signal)));
    for (const path of cgroupsPaths) sweepResctrl(containerIdAt(path));
    await Promise.all(cgroupsPaths.map((path) => removeAttachPoint(this.#options.stateDir, containerIdAt(path))));
    return await removePodRemains(spec);
  }

  async holdersIn(cgroupsPath: string): Promise<readonly Holder[]> {
    return await describeProcesses(await this.#tools.cgroups.processes(cgroupsPath));
  }

  async untilAllEnded(processes: readonly ProcessIdentity[]): Promise<void> {
    await untilAllEnded(processes);
  }

  async exitRecordOf(spec: PodSpec, containerId: string): Promise<ContainerExit | undefined> {
    return await readExitRecord(spec.runDir, containerId);
  }

  async stats(cgroupsPath: string): Promise<CgroupStats | undefined> {
    return await this.#tools.cgroups.stats(cgroupsPath, nowNs);
  }

  async metrics(cgroupsPath: string): Promise<CgroupMetrics | undefined> {
    return await this.#tools.cgroups.metrics(cgroupsPath, nowNs);
  }

  isOpaqueDirectory(path: string): boolean {
    return addon.extendedAttribute(path, "trusted.overlay.opaque") === "y";
  }

  async diskOf(path: string): Promise<DiskFacts> {
    const [{ dev }, disk] = await Promise.all([stat(path, { bigint: true }), statfs(path, { bigint: true })]);
    const { major, minor } = deviceNumbers(Number(dev));
    const device = await this.#tools.cgroups.deviceNames.of(major, minor);
    return { device, bytes: disk.blocks * disk.bsize, inodes: disk.files, inodesFree: disk.ffree };
  }

  async updateResources(cgroupsPath: string, resources: OciResources): Promise<ResourceChange> {
    return await this.#tools.cgroups.change(cgroupsPath, resources);
  }

  /** Lets go of everything; pods go on. Caisson's own cgroup goes too when no shim lives in it. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#image[Symbol.dispose]();
    const { cgroups } = this.#tools;
    for (const path of [this.#shimsPath, dirname(this.#shimsPath)]) await cgroups.removeIfEmpty(path);
    cgroups[Symbol.dispose]();
  }

  async #startShim(spec: PodSpec, signal: AbortSignal): Promise<HostPod> {
    const { shimStderrFd = null, shimEnv = [] } = this.#options;
    const fixed = { podId: spec.id, runDir: spec.runDir, image: this.#image, softNofile: null, signal };
    const start: StartShim = async (listeners) =>
      await startShim({
        ...fixed,
        cgroup: await this.#cgroupOfShims(),
        stderrFd: shimStderrFd,
        env: shimEnv,
        listeners,
      });
    const again: StartShim = (listeners) =>
      start(listeners).catch((error: unknown) => {
        if (this.#tools.cgroups.isWhole(this.#shimsPath)) throw error;
        // systemd clears v1 hierarchies of cgroups that are empty and not its own, when it feels like it.
        this.#shimCgroup = undefined;
        return start(listeners);
      });
    return new HostPod(spec, this.#tools, await ShimLink.start(again, this.#linkOptions(spec, null)));
  }

  /** Later connections outlive the request that made the first one: each brings a signal of its own, or none. */
  #linkOptions(spec: PodSpec, expected: ProcessIdentity | null): LinkOptions {
    const { id: podId, runDir } = spec;
    const connect: Connect = (listeners, signal) => connectShim({ podId, runDir, expected, listeners, signal });
    return { podId, connect, log: this.#tools.log };
  }

  #setUpSteps(spec: PodSpec): readonly RunStep[] {
    const [first, ...rest] = planPodNamespaces(spec);
    if (first === undefined || spec.ipc === "host") return first === undefined ? [] : [first, ...rest];
    const hostPath = shmPathOf(spec.runDir);
    makeStateDirectory(hostPath, 0o755);
    const owner = {
      uid: spec.user === null ? 0 : toHostId(0, spec.user.uid),
      gid: spec.user === null ? 0 : toHostId(0, spec.user.gid),
    };
    const shm = planShm({ hostPath, bytes: spec.shmBytes, ...owner });
    // One child for both: the mount comes first, while the child still has the host's powers.
    return [{ cloneKinds: first.cloneKinds, plan: [...shm.plan, ...first.plan] }, ...rest];
  }

  /** Caisson's own cgroup, outside every pod and outside the daemon's. Made once; without controllers' limits. */
  #cgroupOfShims(): Promise<ShimCgroup> {
    const path = this.#shimsPath;
    this.#shimCgroup ??= this.#tools.cgroups.make(path, {}).then(() => {
      const { into, taskFiles } = this.#tools.cgroups.use(path);
      return { directory: into === "" ? null : into, taskFiles };
    });
    const made = this.#shimCgroup;
    // A failure is not kept: the next pod tries again.
    made.catch(() => {
      this.#shimCgroup = undefined;
    });
    return made;
  }
}

const killSignal = 9;

function nowNs(): bigint {
  return BigInt(Date.now()) * 1_000_000n;
}

/** A helper that is just dying refuses connections a moment before its end can be seen. */
async function hasEnded(process: ProcessHandle): Promise<boolean> {
  return await Promise.race([process.ended.then(() => true), sleep(100, false, { ref: false })]);
}
