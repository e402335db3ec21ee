/**
 * What the verbs ask of the translation and what it answers: `translateSandbox` in translate-sandbox.ts turns a PodSandboxConfig into
 * what the core, the network and the pod's files need; `translateContainer` in translate-container.ts turns a ContainerConfig into an
 * OCI spec. Neither changes anything on the machine, except that a missing mount source directory is made. Both throw RuntimeError
 * with the gRPC code that the caller shall see.
 */
import type { OciResources, OciSpec } from "../core/oci.ts";
import type { OtherNamespaces } from "../core/other-namespaces.ts";
import type { PidNamespace, PodSpec, Relabel, Rootfs } from "../core/runtime.ts";
import type { ContainerConfig, LinuxContainerResources, Mount, PodSandboxConfig } from "../gen/cri/v1/api.ts";
import type { ContainerAdjustment } from "../gen/nri/v1alpha1/api.ts";
import type { Image } from "../image/image-service.ts";
import type { PodNetworkRequest } from "../network/pod-network.ts";

/** The administrator's part of the configuration that the translation reads: [runtime], with what [runtimes.HANDLER] says instead. */
export interface TranslationOptions {
  /** Who makes cgroups: decides what a pod's parent may be. */
  readonly cgroupDriver: "cgroupfs" | "systemd";
  /** A missing mount source is made as a directory (0755), or refused. */
  readonly absentMountSources: "create" | "refuse";
  /** What a container has that asks for nothing; names without CAP_. */
  readonly defaultCapabilities: readonly string[];
  /** Set in every pod with a network of its own, unless the pod says otherwise. */
  readonly defaultSysctls: Readonly<Record<string, string>>;
  /** Size of a pod's /dev/shm. */
  readonly shmBytes: number;
  /** Whether a privileged container gets every device of the node, or only those that it asks for. */
  readonly privilegedHostDevices: boolean;
  /** Whether a container's cdi.k8s.io annotations count, beside the kubelet's own field. */
  readonly cdiAnnotations: boolean;
}

export interface SandboxInput {
  /** 64 lower-case hex characters. */
  readonly id: string;
  readonly config: PodSandboxConfig;
  /** The pod's directory below the state directory: STATE/pods/ID. */
  readonly runDir: string;
  /** The node's own name, for host-network pods that name no other. */
  readonly nodeHostname: string;
  /** Where a new network namespace is pinned. */
  readonly netnsPath: string;
  readonly options: TranslationOptions;
}

/** Contents of the files that the pod's containers see. */
export interface PodFiles {
  readonly hostname: string;
  /** null: a copy of the node's /etc/hosts. */
  readonly hosts: string | null;
  /** null: a copy of the node's /etc/resolv.conf (no dns_config was given). */
  readonly resolvConf: string | null;
}

export interface PodTranslation {
  readonly spec: PodSpec;
  /** null with the node's network. `netnsPath` is that of `spec`. */
  readonly network: PodNetworkRequest | null;
  /** Checked against the allow-list of names and values; runtime defaults included. Set after CNI ADD. */
  readonly sysctls: Readonly<Record<string, string>>;
  /** Cgroup path below the hierarchy's root: the kubelet's, unchanged, or one of ours when it gave none. */
  readonly cgroupParent: string;
  /** Whether the parent is ours to remove with the pod. */
  readonly ownsCgroupParent: boolean;
  readonly files: PodFiles;
  readonly privileged: boolean;
}

export interface ContainerInput {
  /** 64 lower-case hex characters. */
  readonly id: string;
  readonly config: ContainerConfig;
  /** The sandbox's own configuration, as RunPodSandbox got it. */
  readonly podConfig: PodSandboxConfig;
  readonly pod: PodTranslation;
  readonly image: Image;
  /** Images of this node that the config's mounts name, by the name that they use. */
  readonly mountedImages: ReadonlyMap<string, Image>;
  /** The container's root, for passwd, group and the working directory. */
  readonly rootfs: Rootfs;
  readonly cgroupVersion: "v1" | "v2" | "hybrid";
  /** ROOT/containers/ID/volumes: image-declared volumes get a directory each below it, named by the translation. */
  readonly volumesDir: string;
  readonly options: TranslationOptions;
}

/** The mount at `destination` shows this part of an image; with an empty path all of it. */
export interface ImageMount {
  readonly destination: string;
  readonly layerDirs: readonly string[];
  readonly path: string;
}

export interface ContainerTranslation {
  readonly oci: OciSpec;
  readonly pidNamespace: PidNamespace;
  readonly cgroupNamespace: "private" | "host";
  /** What NRI plugins want it to have instead of the pod's. */
  readonly namespaces?: OtherNamespaces;
  /** Where NRI plugins want its cgroup. Absent: below the pod's. */
  readonly cgroupsPath?: string;
  /** Image-declared volumes; the verb makes each `hostPath`, the core fills it. */
  readonly volumes: readonly { readonly path: string; readonly hostPath: string }[];
  /** Images among the mounts of `oci`, each opened by the verb. */
  readonly images: readonly ImageMount[];
  /** Volumes that get the container's SELinux label. */
  readonly relabels: readonly Relabel[];
  /** Of the first process; the primary group is part of the list, as other runtimes report it. */
  readonly user: { readonly uid: number; readonly gid: number; readonly supplementalGroups: readonly number[] };
  /** Number of the effective stop signal on this machine. */
  readonly stopSignal: number;
  /** As ContainerStatus shows them. */
  readonly mounts: readonly Mount[];
  /** Set in the pod's namespaces before the container is made, for NRI plugins: paths below /proc/sys. Absent: none. */
  readonly sysctls?: Readonly<Record<string, string>>;
  /** Sentences about what was asked and could not be given in full, logged by the verb. */
  readonly notes: readonly string[];
}

export type TranslateSandbox = (input: SandboxInput) => PodTranslation;
export type RootLabel = (
  input: Pick<ContainerInput, "config" | "podConfig"> & { readonly pod: Pick<PodTranslation, "spec"> },
) => string;
export type TranslateContainer = (input: ContainerInput) => Promise<ContainerTranslation>;

/** The translation with what NRI plugins want. Throws as the translation does. */
export type AdjustContainer = (
  input: ContainerInput,
  translation: ContainerTranslation,
  wanted: ContainerAdjustment,
) => Promise<ContainerTranslation>;

export interface ResolvedResources {
  readonly resources: Omit<OciResources, "devices">;
  readonly oomScoreAdj: number;
  readonly notes: readonly string[];
}

/** Limits alone, for a container that is there. */
export type ResolveResources = (asked: LinuxContainerResources) => ResolvedResources;
