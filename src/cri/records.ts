/** What the store and each pod's run directory keep of pods and containers, and how it is written down. */
import type { PidNamespace, ProcessIdentity } from "../core/runtime.ts";
import { ContainerConfig, type Mount, PodSandboxConfig } from "../gen/cri/v1/api.ts";
import type { ContainerPhase } from "./container-state.ts";
import type { NetworkPhase, SandboxPhase } from "./sandbox-state.ts";
import type { PodTranslation } from "./translation.ts";

interface RecordBase {
  /** 64 lower-case hex characters. */
  readonly id: string;
  /** Counts the changes: of two copies the higher one is newer. */
  readonly revision: number;
  readonly instanceId: string;
  /** The boot in which its processes and namespaces were made. */
  readonly bootId: string;
  /** The identity that no second object may have: unambiguous, see names.ts. */
  readonly name: string;
  /** Of the request that made it, to tell a retry from a conflict. */
  readonly digest: string;
  readonly createdAtNs: bigint;
}

export interface SandboxRecord extends RecordBase {
  readonly config: PodSandboxConfig;
  readonly handler: string;
  readonly phase: SandboxPhase;
  readonly network: NetworkPhase;
  /** Why it is not ready, in a CamelCase word and a sentence; empty while it is. */
  readonly reason: string;
  readonly message: string;
  readonly translation: PodTranslation;
  readonly shim: ProcessIdentity | null;
  /** The pod's cgroup was not there and is made by us for it: it goes with the pod. A kubelet makes its own. */
  readonly madeCgroupParent: boolean;
  readonly ips: readonly string[];
  readonly cniResult: unknown;
}

/** How a container ended, as ContainerStatus shows it. */
export interface ExitFacts {
  readonly exitCode: number;
  readonly reason: "Completed" | "Error" | "OOMKilled" | "StartError" | "Unknown";
  readonly message: string;
  readonly finishedAtNs: bigint;
}

export interface ContainerRecord extends RecordBase {
  readonly podId: string;
  readonly config: ContainerConfig;
  readonly phase: ContainerPhase;
  /** "sha256:<hex>" */
  readonly imageId: string;
  /** First repo digest of the image when it was used, else its id. */
  readonly imageRef: string;
  /** Images that are mounted in it, by id. */
  readonly mountedImages: readonly string[];
  /** First repo tag, else what was requested. */
  readonly imageName: string;
  readonly cgroupsPath: string;
  /** Absolute, or null: output is discarded. */
  readonly logPath: string | null;
  readonly pidNamespace: PidNamespace;
  readonly user: { readonly uid: number; readonly gid: number; readonly supplementalGroups: readonly number[] };
  readonly stopSignal: number;
  readonly mounts: readonly Mount[];
  readonly process: ProcessIdentity | null;
  /** 0n: never started. */
  readonly startedAtNs: bigint;
  /** Set by the first StopContainer; later ones only bring the moment of SIGKILL forward. */
  readonly stop: { readonly killAtNs: bigint } | null;
  readonly exit: ExitFacts | null;
}

/** How one kind of record becomes a document of the store and comes back. */
export interface RecordCodec<T> {
  encode(record: T): unknown;
  decode(document: unknown): T;
}

interface Stored {
  readonly config: string;
}

/** The config travels as protobuf: its bytes fields, 64-bit numbers and fields of newer clients survive. */
export const sandboxCodec: RecordCodec<SandboxRecord> = {
  encode: (record) => ({ ...record, config: toBase64(PodSandboxConfig.encode(record.config).finish()) }),
  decode: (document) => {
    const stored = document as SandboxRecord & Stored;
    return { ...stored, config: PodSandboxConfig.decode(Buffer.from(stored.config, "base64")) };
  },
};

export const containerCodec: RecordCodec<ContainerRecord> = {
  encode: (record) => ({ ...record, config: toBase64(ContainerConfig.encode(record.config).finish()) }),
  decode: (document) => {
    const stored = document as ContainerRecord & Stored;
    return {
      ...stored,
      mountedImages: stored.mountedImages ?? [],
      config: ContainerConfig.decode(Buffer.from(stored.config, "base64")),
    };
  },
};

function toBase64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");
}

/** Freezes a record in depth, so that a snapshot handed to a reader cannot change. Buffers cannot be frozen and are left. */
export function deepFreeze<T>(value: T): T {
  if (typeof value !== "object" || value === null || ArrayBuffer.isView(value) || Object.isFrozen(value)) return value;
  Object.freeze(value);
  for (const inner of Object.values(value)) deepFreeze(inner);
  return value;
}
