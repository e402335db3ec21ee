/** A made-up node and requests for the tests of the translation. */
import type { OciSeccomp } from "../../../src/core/oci.ts";
import { capabilityNames } from "../../../src/core/process/capabilities.ts";
import type { Rootfs } from "../../../src/core/runtime.ts";
import { translateContainer } from "../../../src/cri/translate-container.ts";
import type { HostNode, NodeFacts, TranslationNode } from "../../../src/cri/translate-node.ts";
import { translateSandbox } from "../../../src/cri/translate-sandbox.ts";
import type { ContainerInput, ContainerTranslation, PodTranslation, TranslationOptions } from "../../../src/cri/translation.ts";
import { ContainerConfig, PodSandboxConfig } from "../../../src/gen/cri/v1/api.ts";
import type { Image, ImageConfig } from "../../../src/image/image-service.ts";

type PartialOf<T extends { fromPartial: (object: never) => unknown }> = Parameters<T["fromPartial"]>[0];
export type PodPartial = PartialOf<typeof PodSandboxConfig>;
export type ContainerPartial = PartialOf<typeof ContainerConfig>;

export const podId = "a".repeat(64);
export const containerId = "c".repeat(64);
export const runDir = `/run/caisson/pods/${podId}`;

export const options: TranslationOptions = {
  cgroupDriver: "cgroupfs",
  absentMountSources: "create",
  defaultCapabilities: ["CHOWN", "NET_RAW", "SETUID"],
  defaultSysctls: { "net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647" },
  shmBytes: 64 << 20,
  privilegedHostDevices: true,
  cdiAnnotations: false,
};

export function podConfig(more: PodPartial = {}): PodSandboxConfig {
  return PodSandboxConfig.fromPartial({
    metadata: { name: "web", namespace: "shop", uid: "uid-1", attempt: 2 },
    hostname: "web-host",
    logDirectory: "/var/log/pods/shop_web_uid-1",
    linux: { cgroupParent: "/kubepods/poduid-1" },
    ...more,
  });
}

export function sandbox(more: PodPartial = {}, withOptions: TranslationOptions = options): PodTranslation {
  return translateSandbox({
    id: podId,
    config: podConfig(more),
    runDir,
    nodeHostname: "node-7",
    netnsPath: `/run/netns/caisson-${podId}`,
    options: withOptions,
  });
}

/** A pod whose security context is `more`. */
export function securedPod(more: NonNullable<NonNullable<PodPartial["linux"]>["securityContext"]>): PodPartial {
  return { linux: { cgroupParent: "/kubepods/poduid-1", securityContext: more } };
}

export const userNamespace = {
  usernsOptions: {
    mode: 0 as const,
    uids: [{ containerId: 0, hostId: 100_000, length: 65_536 }],
    gids: [{ containerId: 0, hostId: 200_000, length: 65_536 }],
  },
};

export interface FakeHost {
  /** Existing paths; symlinks by their target. */
  readonly paths: Map<string, HostNode | { readonly link: string }>;
  readonly files: Map<string, string>;
  readonly made: string[];
  mountinfo: string;
}

export const directory: HostNode = { kind: "directory", major: 0, minor: 0, mode: 0o755, uid: 0, gid: 0 };
export const character = (major: number, minor: number, mode = 0o660, gid = 6): HostNode => ({
  kind: "character",
  major,
  minor,
  mode,
  uid: 0,
  gid,
});

export interface FakeNode extends TranslationNode {
  readonly fake: FakeHost;
}

/** `facts` change what the node can do. */
export function fakeNode(facts: Partial<NodeFacts> = {}): FakeNode {
  const fake: FakeHost = {
    paths: new Map<string, HostNode | { link: string }>([["/data", directory]]),
    files: new Map(),
    made: [],
    mountinfo: "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n",
  };
  const follow = (path: string): string | undefined => {
    const entry = fake.paths.get(path);
    if (entry === undefined) return undefined;
    return "link" in entry ? follow(entry.link) : path;
  };
  return {
    fake,
    // What it was asked for can be read in the environment.
    cdi: {
      inject: async (oci, names) =>
        names.length === 0 ? oci : { ...oci, process: { ...oci.process, env: [...oci.process.env, `CDI=${names}`] } },
    },
    facts: {
      cgroupVersion: "v2",
      architecture: "x64",
      capabilities: new Set(capabilityNames),
      swapLimit: true,
      hugePageSizes: new Set(["2MB", "1GB"]),
      recursiveReadOnly: true,
      userNamespaces: true,
      seccomp: true,
      apparmorProfiles: undefined,
      selinux: undefined,
      ...facts,
    },
    host: {
      realpath: async (path) => follow(path),
      lstat: async (path) => {
        const entry = fake.paths.get(path);
        if (entry === undefined) return undefined;
        return "link" in entry ? { kind: "symlink", major: 0, minor: 0, mode: 0o777, uid: 0, gid: 0 } : entry;
      },
      list: async (path) =>
        [...fake.paths.keys()]
          .filter((entry) => entry.startsWith(`${path}/`) && !entry.slice(path.length + 1).includes("/"))
          .map((entry) => entry.slice(path.length + 1))
          .sort(),
      makeDirectory: async (path) => {
        fake.made.push(path);
        fake.paths.set(path, directory);
      },
      readFile: async (path) => {
        const text = fake.files.get(path);
        return text === undefined ? undefined : Buffer.from(text);
      },
      mountinfo: async () => fake.mountinfo,
    },
    defaultSeccomp: (capabilities): OciSeccomp => ({
      defaultAction: "SCMP_ACT_ERRNO",
      syscalls: [{ names: ["default-profile", ...capabilities], action: "SCMP_ACT_ALLOW" }],
    }),
  };
}

export function rootfsOf(files: Readonly<Record<string, string>>): Rootfs {
  return {
    fd: -1,
    readFile: async (path) => {
      const text = files[path];
      return text === undefined ? undefined : Buffer.from(text);
    },
    kindOf: (path) => (files[path] === undefined ? undefined : "file"),
    [Symbol.asyncDispose]: async () => {},
  };
}

const imageConfig: ImageConfig = {
  architecture: "amd64",
  os: "linux",
  user: "",
  env: ["PATH=/bin"],
  entrypoint: ["/entry"],
  cmd: ["run"],
  workingDir: "",
  stopSignal: "",
  volumes: [],
  labels: {},
};

export interface ContainerCase {
  readonly config?: ContainerPartial;
  readonly pod?: PodPartial;
  readonly image?: Partial<ImageConfig>;
  readonly files?: Readonly<Record<string, string>>;
  /** Layers of the images that mounts may name. */
  readonly images?: Readonly<Record<string, readonly string[]>>;
  readonly node?: TranslationNode;
  readonly options?: Partial<TranslationOptions>;
}

export function containerInput(of: ContainerCase = {}): ContainerInput {
  const config = ContainerConfig.fromPartial({
    metadata: { name: "app", attempt: 1 },
    image: { image: "sha256:abc", userSpecifiedImage: "shop/app:1" },
    logPath: "app/1.log",
    ...of.config,
  });
  const image: Image = {
    id: "sha256:abc",
    repoTags: [],
    repoDigests: [],
    sizeBytes: 1n,
    config: { ...imageConfig, ...of.image },
    configJson: "{}",
    chainId: "sha256:def",
    pinned: false,
    layerDirs: ["/layers/1"],
  };
  const withOptions = { ...options, ...of.options };
  return {
    id: containerId,
    config,
    podConfig: podConfig(of.pod),
    pod: sandbox(of.pod, withOptions),
    image,
    mountedImages: new Map(
      Object.entries(of.images ?? {}).map(([name, layerDirs]) => [name, { ...image, id: `id of ${name}`, layerDirs }]),
    ),
    rootfs: rootfsOf(of.files ?? {}),
    cgroupVersion: of.node?.facts.cgroupVersion ?? "v2",
    volumesDir: `/var/lib/caisson/containers/${containerId}/volumes`,
    options: withOptions,
  };
}

export async function translate(of: ContainerCase = {}): Promise<ContainerTranslation> {
  return await translateContainer(containerInput(of), of.node ?? fakeNode());
}

/** A container whose security context is `context`. */
export function secured(context: NonNullable<NonNullable<ContainerPartial["linux"]>["securityContext"]>): ContainerPartial {
  return { linux: { securityContext: context } };
}
