import type { FsUsage, Image, ImageService, PullAuth } from "../../../../src/image/image-service.ts";
import { RuntimeError } from "../../../../src/lib/errors.ts";
import type { NetworkStatus, PodNetwork, PodNetworkRequest, PodNetworkResult } from "../../../../src/network/pod-network.ts";
import type { PortForward } from "../../../../src/streaming/port-forward.ts";
import type { RemoteCommand } from "../../../../src/streaming/remote-command.ts";
import type { StreamingUrls } from "../../../../src/streaming/streaming-server.ts";

export const busybox: Image = {
  id: `sha256:${"b".repeat(64)}`,
  repoTags: ["docker.io/library/busybox:latest"],
  repoDigests: [`docker.io/library/busybox@sha256:${"d".repeat(64)}`],
  sizeBytes: 1234n,
  config: {
    architecture: "amd64",
    os: "linux",
    user: "",
    env: [],
    entrypoint: [],
    cmd: ["sh"],
    workingDir: "",
    stopSignal: "",
    volumes: [],
    labels: {},
  },
  configJson: '{"config":{"Cmd":["sh"]}}',
  chainId: `sha256:${"c".repeat(64)}`,
  pinned: false,
  layerDirs: ["/layers/1"],
};

export class FakeImages implements ImageService {
  readonly images = new Map<string, Image>([["busybox", busybox]]);
  readonly holds = new Map<string, readonly string[]>();
  readonly pulls: { reference: string; auth: PullAuth | undefined }[] = [];
  releaseError: unknown;

  async pull(reference: string, auth: PullAuth | undefined, signal: AbortSignal): Promise<string> {
    this.pulls.push({ reference, auth });
    if (reference === "stalled") {
      await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true }));
    }
    if (reference === "missing") throw new RuntimeError("not_found", "manifest of missing is unknown to its registry");
    return busybox.id;
  }
  async unpackChanges(): Promise<void> {}
  find(reference: string): Image | undefined {
    return this.images.get(reference) ?? [...this.images.values()].find((image) => image.id === reference);
  }
  list(): readonly Image[] {
    return [...this.images.values()];
  }
  async remove(reference: string): Promise<void> {
    this.images.delete(reference);
  }
  hold(imageId: string, holder: string): void {
    this.holds.set(holder, [...new Set([...(this.holds.get(holder) ?? []), imageId])]);
  }
  async release(holder: string): Promise<void> {
    if (this.releaseError !== undefined) throw this.releaseError;
    this.holds.delete(holder);
  }
  async recovered(): Promise<void> {}
  async fsUsage(): Promise<FsUsage> {
    return { mountpoint: "/images", usedBytes: 10n, inodesUsed: 2n, timestampNs: 3n };
  }
}

export class FakeNetwork implements PodNetwork {
  readonly attached = new Set<string>();
  readonly attaches: PodNetworkRequest[] = [];
  readonly detaches: PodNetworkRequest[] = [];
  attachError: unknown;
  detachError: unknown;
  gate: Promise<void> | undefined;
  detachGate: Promise<void> | undefined;
  detachSignal: AbortSignal | undefined;
  state: NetworkStatus = { ready: true, reason: "", message: "", networkName: "test" };

  status(): NetworkStatus {
    return this.state;
  }
  async attach(request: PodNetworkRequest): Promise<PodNetworkResult> {
    await this.gate;
    if (this.attachError !== undefined) throw this.attachError;
    this.attached.add(request.podId);
    this.attaches.push(request);
    const interfaces = [{ name: "eth0", mac: "02:00:00:00:00:01", sandbox: request.netnsPath }];
    const ips = [
      { address: "10.1.0.2/24", interface: 0, gateway: "10.1.0.1" },
      { address: "fd00::2/64", interface: 0 },
    ];
    return { ips: ["10.1.0.2", "fd00::2"], cniResult: { cniVersion: "1.0.0", interfaces, ips } };
  }
  async unowned(): Promise<readonly []> {
    return [];
  }
  async collect(isKnown: (podId: string) => boolean): Promise<void> {
    for (const podId of this.attached) if (!isKnown(podId)) this.attached.delete(podId);
  }
  async detach(request: PodNetworkRequest, signal: AbortSignal): Promise<void> {
    this.detaches.push(request);
    this.detachSignal = signal;
    await this.detachGate;
    if (this.detachError !== undefined) throw this.detachError;
    this.attached.delete(request.podId);
  }
  async check(): Promise<void> {}
  close(): void {}
}

/** Keeps what URLs were given out for; a test plays the client. */
export class FakeStreaming implements StreamingUrls {
  readonly commands: RemoteCommand[] = [];
  readonly forwards: PortForward[] = [];

  exec(command: RemoteCommand): string {
    return `http://127.0.0.1:1/exec/${this.commands.push(command)}`;
  }
  attach(command: RemoteCommand): string {
    return `http://127.0.0.1:1/attach/${this.commands.push(command)}`;
  }
  portForward(target: PortForward): string {
    return `http://127.0.0.1:1/portforward/${this.forwards.push(target)}`;
  }
}
