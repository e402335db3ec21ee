/** A node in memory: daemons come and go on it (`open`, `crash`), what lies below them stays. */
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Cri, createCri } from "../../../../src/cri/app.ts";
import type { Context, CriApp, CriConfig } from "../../../../src/cri/app-types.ts";
import { createContainer } from "../../../../src/cri/container-create.ts";
import { startContainer } from "../../../../src/cri/container-start.ts";
import { recover } from "../../../../src/cri/recover.ts";
import { runPodSandbox } from "../../../../src/cri/sandbox-run.ts";
import type { NodeFacts } from "../../../../src/cri/translate-node.ts";
import { realHost } from "../../../../src/cri/translate-node.ts";
import { resolveResources } from "../../../../src/cri/translate-resources.ts";
import { translateSandbox } from "../../../../src/cri/translate-sandbox.ts";
import type { TranslateContainer, TranslationOptions } from "../../../../src/cri/translation.ts";
import {
  ContainerConfig,
  CreateContainerRequest,
  NamespaceMode,
  PodSandboxConfig,
  RunPodSandboxRequest,
} from "../../../../src/gen/cri/v1/api.ts";
import { codeOf, messageOf } from "../../../../src/lib/errors.ts";
import { fakeNode } from "../translate-fixture.ts";
import { FakeRuntime } from "./fake-runtime.ts";
import { FakeImages, FakeNetwork, FakeStreaming } from "./fake-services.ts";
import { FakeStore } from "./fake-store.ts";

export const quiet = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

/** Enough of a translation for the verbs; the real one has its own tests. */
export const translateForTest: TranslateContainer = async (input) => ({
  oci: {
    ociVersion: "1.3.0",
    process: { user: { uid: 0, gid: 0 }, args: [...input.config.command], env: [], cwd: "/" },
    root: { path: "/" },
    mounts: [],
    linux: { cgroupsPath: `${input.pod.cgroupParent}/${input.id}` },
  },
  pidNamespace:
    input.config.linux?.securityContext?.namespaceOptions?.pid === NamespaceMode.TARGET
      ? { kind: "target", containerId: input.config.linux.securityContext.namespaceOptions.targetId }
      : { kind: "private" },
  cgroupNamespace: "private",
  relabels: [],
  volumes: [],
  images: [],
  user: { uid: 7, gid: 8, supplementalGroups: [8] },
  stopSignal: 15,
  mounts: input.config.mounts,
  notes: [],
});

export const defaultOptions: TranslationOptions = {
  cgroupDriver: "cgroupfs",
  absentMountSources: "create",
  defaultCapabilities: [],
  defaultSysctls: { "net.ipv4.ip_unprivileged_port_start": "0" },
  shmBytes: 65536,
  privilegedHostDevices: true,
  cdiAnnotations: false,
};

export class FakeNode {
  readonly dir = mkdtempSync(join(tmpdir(), "caisson-cri-"));
  readonly runtime = new FakeRuntime();
  readonly images = new FakeImages();
  readonly network = new FakeNetwork();
  readonly store = new FakeStore();
  readonly streaming = new FakeStreaming();
  readonly logged: string[] = [];
  nowNs = 1_000n;
  killPatienceMs = 30_000;
  cri: Cri | undefined;
  translateContainer: TranslateContainer = translateForTest;
  handlers = new Map(["", "caisson"].map((name) => [name, defaultOptions]));
  /** What differs from a node that can do everything. */
  facts: Partial<NodeFacts> = {};

  get config(): CriConfig {
    return {
      runtimeVersion: "0.1.0",
      rootDir: join(this.dir, "root"),
      stateDir: join(this.dir, "state"),
      netnsDir: join(this.dir, "netns"),
      cgroupDriver: "cgroupfs",
      handlers: this.handlers,
      restoreFromArchives: false,
      execOutputBytes: 15 << 20,
      killPatienceMs: this.killPatienceMs,
      execDrainMs: 100,
      features: { recursiveReadOnlyMounts: true, userNamespaces: this.facts.userNamespaces ?? true },
      shown: {},
    };
  }

  get app(): CriApp {
    if (this.cri === undefined) throw new Error("no daemon runs");
    return this.cri.app;
  }

  /** Starts a daemon and lets it recover. */
  async open(): Promise<CriApp> {
    this.cri = createCri({
      runtime: this.runtime,
      images: this.images,
      network: this.network,
      store: this.store,
      streaming: this.streaming,
      config: this.config,
      log: { ...quiet, warn: (_, text) => this.logged.push(text), error: (_, text) => this.logged.push(text) },
      clock: { nowNs: () => ++this.nowNs },
      translateSandbox,
      translateContainer: (input) => this.translateContainer(input),
      rootLabel: () => "",
      logHost: realHost,
      resolveResources: (asked) => resolveResources(asked, fakeNode(this.facts).facts),
    });
    await recover(this.cri.app);
    return this.cri.app;
  }

  /** kill -9 of the daemon: nothing of it is asked, and nothing of it hears anything any more. */
  crash(): void {
    for (const shim of this.runtime.shims.values()) shim.client = undefined;
    this.cri?.app.teardowns.close();
    this.cri?.app.stops.close();
    this.cri?.app.writableLayers.close();
    this.cri = undefined;
  }

  async restart(): Promise<CriApp> {
    this.crash();
    return await this.open();
  }

  async pod(config: Parameters<typeof podConfig>[0] = {}): Promise<string> {
    const { podSandboxId } = await runPodSandbox(this.app, ctx(), runRequest(config));
    return podSandboxId;
  }

  async container(podId: string, config: Parameters<typeof containerConfig>[0] = {}): Promise<string> {
    const { containerId } = await createContainer(this.app, ctx(), createRequest(podId, config));
    return containerId;
  }

  async running(podId: string, config: Parameters<typeof containerConfig>[0] = {}): Promise<string> {
    const id = await this.container(podId, config);
    await startContainer(this.app, ctx(), { containerId: id });
    return id;
  }

  shim(podId: string) {
    const shim = this.runtime.shims.get(podId);
    if (shim === undefined) throw new Error(`no helper for ${podId}`);
    return shim;
  }

  /** Everything that is left on the machine and in the records. */
  leftovers(): string[] {
    const list = (name: string): string[] => {
      try {
        return readdirSync(join(this.dir, name), { recursive: true }).map((entry) => join(name, String(entry)));
      } catch {
        return [];
      }
    };
    return [
      ...list("state/pods"),
      ...list("root/containers"),
      ...list("netns"),
      ...[...this.runtime.shims.keys()].map((id) => `helper ${id}`),
      ...[...this.runtime.cgroups].map((path) => `cgroup ${path}`),
      ...[...this.network.attached].map((id) => `network ${id}`),
      ...[...this.images.holds.keys()].map((id) => `hold ${id}`),
      ...[...(this.store.documents.get("pods")?.keys() ?? [])].map((id) => `pod record ${id}`),
      ...[...(this.store.documents.get("containers")?.keys() ?? [])].map((id) => `container record ${id}`),
      ...Array.from({ length: this.runtime.openRoots }, () => "open root"),
    ];
  }

  [Symbol.dispose](): void {
    this.crash();
    rmSync(this.dir, { recursive: true, force: true });
  }
}

export function ctx(signal: AbortSignal = new AbortController().signal): Context {
  return { signal, log: quiet };
}

export function podConfig(change: Parameters<typeof PodSandboxConfig.fromPartial>[0] = {}): PodSandboxConfig {
  return PodSandboxConfig.fromPartial({
    metadata: { name: "web", namespace: "default", uid: "u-1", attempt: 0 },
    hostname: "web",
    logDirectory: "",
    labels: { app: "web" },
    annotations: { note: "kept" },
    linux: { cgroupParent: "/kubepods/pod-u1", securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER } } },
    ...change,
  });
}

export function runRequest(config: Parameters<typeof podConfig>[0] = {}, runtimeHandler = ""): RunPodSandboxRequest {
  return RunPodSandboxRequest.fromPartial({ config: podConfig(config), runtimeHandler });
}

export function containerConfig(change: Parameters<typeof ContainerConfig.fromPartial>[0] = {}): ContainerConfig {
  return ContainerConfig.fromPartial({
    metadata: { name: "main", attempt: 0 },
    image: { image: "busybox" },
    command: ["sleep", "1"],
    envs: [{ key: "A", value: Buffer.from([0xff, 0x41]) }],
    labels: { part: "main" },
    annotations: { hash: "abc" },
    ...change,
  });
}

export function createRequest(podSandboxId: string, config: Parameters<typeof containerConfig>[0] = {}): CreateContainerRequest {
  return CreateContainerRequest.fromPartial({
    podSandboxId,
    config: containerConfig(config),
    sandboxConfig: podConfig(),
  });
}

/** Code and text of a call that must fail. */
export async function failure(call: Promise<unknown>): Promise<{ code: string; message: string }> {
  try {
    await call;
  } catch (error) {
    return { code: codeOf(error), message: messageOf(error) };
  }
  throw new Error("the call succeeded");
}

/** Waits for what happens in the background. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  const deadline = Date.now() + 15_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`still not: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
