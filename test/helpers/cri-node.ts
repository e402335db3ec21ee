/** A daemon with an image in place, and short forms of what a kubelet does with it. */
import { execFileSync } from "node:child_process";
import { randomBytes, randomUUID } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { CriClient, Message } from "./cri-client.ts";
import { Daemon, type DaemonOptions } from "./daemon.ts";
import { buildBusyboxImage, type ImageOptions } from "./oci-image.ts";
import { pushImage, type Registry, startRegistry } from "./registry.ts";

export const network = {
  pod: { network: "POD", pid: "CONTAINER", ipc: "POD" },
  host: { network: "NODE", pid: "CONTAINER", ipc: "POD" },
};

export const maskedPaths = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"];
export const readonlyPaths = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/** A bridge with host-local addresses, as CNI's own plugins make it; names are short and ours. */
export function bridgeConflist(name: string, subnet: string): string {
  return JSON.stringify({
    cniVersion: "1.0.0",
    name,
    plugins: [
      {
        type: "bridge",
        bridge: name,
        isGateway: true,
        ipMasq: true,
        ipam: { type: "host-local", ranges: [[{ subnet }]], routes: [{ dst: "0.0.0.0/0" }], dataDir: `/tmp/${name}-ipam` },
      },
      { type: "portmap", capabilities: { portMappings: true } },
    ],
  });
}

export class CriNode implements AsyncDisposable {
  readonly daemon: Daemon;
  readonly registry: Registry;
  /** Reference of the busybox image, pulled. */
  readonly image: string;
  readonly imageId: string;
  readonly logs: string;
  readonly cgroupParent = `/caisson-test-${randomBytes(4).toString("hex")}`;
  readonly #scratch: string;
  readonly #bridges: string[] = [];

  private constructor(daemon: Daemon, registry: Registry, image: string, imageId: string, scratch: string) {
    this.daemon = daemon;
    this.registry = registry;
    this.image = image;
    this.imageId = imageId;
    this.#scratch = scratch;
    this.logs = join(scratch, "logs");
    mkdirSync(this.logs);
    // As the kubelet does: the parent of the pods' cgroups is there before them and stays.
    for (const hierarchy of hierarchies) mkdirSync(join(hierarchy, this.cgroupParent), { recursive: true });
  }

  static async start(options: DaemonOptions = {}): Promise<CriNode> {
    const scratch = mkdtempSync(join(tmpdir(), "caisson-node-"));
    const registry = await startRegistry();
    const reference = await pushImage(registry, "test/busybox", "1", buildBusyboxImage(join(scratch, "image")));
    const daemon = await Daemon.start(options);
    const { image_ref } = await daemon.client.image("PullImage", { image: { image: reference } });
    const node = new CriNode(daemon, registry, reference, image_ref, scratch);
    // What the first pod of a daemon makes once and for all (its helpers' cgroup) is there before any test takes stock.
    await node.removePod(await node.runPod(node.podConfig("first")));
    return node;
  }

  get client(): CriClient {
    return this.daemon.client;
  }

  /** Builds on busybox, pushes, pulls; returns the image's id. */
  async addImage(name: string, options: ImageOptions): Promise<string> {
    const reference = await pushImage(
      this.registry,
      name,
      "1",
      buildBusyboxImage(join(this.#scratch, name.replaceAll("/", "_")), options),
    );
    return (await this.client.image("PullImage", { image: { image: reference } })).image_ref;
  }

  /** Turns on the pod network: a bridge of its own. */
  enableNetwork(name: string, subnet: string): void {
    this.#bridges.push(name);
    writeFileSync(join(this.daemon.cniConf, "10-test.conflist.new"), bridgeConflist(name, subnet));
    rmSync(join(this.daemon.cniConf, "10-test.conflist"), { force: true });
    writeFileSync(join(this.daemon.cniConf, "10-test.conflist"), bridgeConflist(name, subnet));
    rmSync(join(this.daemon.cniConf, "10-test.conflist.new"));
  }

  /** Waits until the daemon has seen the network that was turned on. */
  async networkReady(patienceMs = 20_000): Promise<void> {
    for (const until = Date.now() + patienceMs; ; await new Promise((resolve) => setTimeout(resolve, 20))) {
      const { status } = await this.client.runtime("Status", {});
      if (status.conditions.find(({ type }: Message) => type === "NetworkReady").status) return;
      if (Date.now() > until) throw new Error("the network never became ready");
    }
  }

  podConfig(name: string, more: Message = {}): Message {
    const { linux = {}, ...rest } = more;
    const { security_context = {}, ...linuxRest } = linux;
    return {
      metadata: { name, uid: randomUUID(), namespace: "default", attempt: 0 },
      hostname: name,
      log_directory: join(this.logs, name),
      labels: { "io.kubernetes.pod.name": name },
      annotations: { "example.test/kept": "as it is" },
      linux: {
        cgroup_parent: `${this.cgroupParent}/pod-${name}`,
        security_context: { namespace_options: network.host, ...security_context },
        ...linuxRest,
      },
      ...rest,
    };
  }

  containerConfig(name: string, command: readonly string[], more: Message = {}): Message {
    const { linux = {}, ...rest } = more;
    const { security_context = {}, ...linuxRest } = linux;
    return {
      metadata: { name, attempt: 0 },
      image: { image: this.imageId, user_specified_image: this.image },
      command,
      log_path: `${name}/0.log`,
      labels: { "io.kubernetes.container.name": name },
      annotations: { "io.kubernetes.container.hash": "abc123" },
      linux: {
        security_context: {
          namespace_options: { pid: "CONTAINER" },
          masked_paths: maskedPaths,
          readonly_paths: readonlyPaths,
          seccomp: { profile_type: "RuntimeDefault" },
          ...security_context,
        },
        ...linuxRest,
      },
      ...rest,
    };
  }

  async runPod(config: Message): Promise<string> {
    return (await this.client.runtime("RunPodSandbox", { config })).pod_sandbox_id;
  }

  async create(podId: string, podConfig: Message, config: Message): Promise<string> {
    return (await this.client.runtime("CreateContainer", { pod_sandbox_id: podId, config, sandbox_config: podConfig }))
      .container_id;
  }

  async start(containerId: string): Promise<void> {
    await this.client.runtime("StartContainer", { container_id: containerId });
  }

  /** Create and start; returns the container's id. */
  async run(podId: string, podConfig: Message, config: Message): Promise<string> {
    const id = await this.create(podId, podConfig, config);
    await this.start(id);
    return id;
  }

  async exec(
    containerId: string,
    cmd: readonly string[],
    timeout = 10,
  ): Promise<{ stdout: string; stderr: string; exitCode: number }> {
    const reply = await this.client.runtime("ExecSync", { container_id: containerId, cmd, timeout });
    return { stdout: reply.stdout.toString(), stderr: reply.stderr.toString(), exitCode: reply.exit_code };
  }

  async status(containerId: string): Promise<Message> {
    return (await this.client.runtime("ContainerStatus", { container_id: containerId })).status;
  }

  /** The verbose info of a container, parsed. */
  async info(containerId: string): Promise<Message> {
    const { info } = await this.client.runtime("ContainerStatus", { container_id: containerId, verbose: true });
    return JSON.parse(info.info);
  }

  /** Waits until the container is EXITED and returns its status. */
  async exited(containerId: string, patienceMs = 20_000): Promise<Message> {
    const until = Date.now() + patienceMs;
    for (;;) {
      const status = await this.status(containerId);
      if (status.state === "CONTAINER_EXITED") return status;
      if (Date.now() > until) throw new Error(`container is still ${status.state}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  /** The content of a container's log without time stamps: "stdout F text" lines. */
  log(podName: string, containerName: string): string {
    const text = readFileSync(join(this.logs, podName, containerName, "0.log"), "utf8");
    return text.replaceAll(/^\S+ /gm, "");
  }

  async removePod(podId: string): Promise<void> {
    await this.client.runtime("StopPodSandbox", { pod_sandbox_id: podId });
    await this.client.runtime("RemovePodSandbox", { pod_sandbox_id: podId });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.daemon[Symbol.asyncDispose]();
    await this.stopRegistry();
    // The plugin leaves its bridge, as it does on every node.
    for (const bridge of this.#bridges) {
      execFileSync("ip", ["link", "delete", bridge], { stdio: "ignore" });
      rmSync(`/tmp/${bridge}-ipam`, { recursive: true, force: true });
    }
    this.removeCgroups();
  }

  /** The registry, and the node's own files: images and logs. */
  async stopRegistry(): Promise<void> {
    await this.registry.stop();
    rmSync(this.#scratch, { recursive: true, force: true });
  }

  /** Pod-level cgroups are the kubelet's to remove; here the test is the kubelet. */
  removeCgroups(): void {
    removeCgroups(this.cgroupParent);
  }
}

const hierarchies = ["", "unified", "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"]
  .map((name) => join("/sys/fs/cgroup", name))
  .filter((path) => existsSync(join(path, "cgroup.procs")));

function removeCgroups(parent: string): void {
  for (const hierarchy of hierarchies) rmdirTree(join(hierarchy, parent));
}

function rmdirTree(directory: string): void {
  try {
    for (const entry of subdirectories(directory)) rmdirTree(join(directory, entry));
    rmdirSync(directory);
  } catch {
    // Missing in this hierarchy, or still busy: the leak check says so.
  }
}

function subdirectories(directory: string): string[] {
  return readdirSync(directory, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name);
}
