/** What `import ... from "caisson"` gives: containers without Kubernetes, in libcontainer's verbs. Nothing else of the core is public. */

export type { Code } from "../../lib/errors.ts";
// biome-ignore lint/performance/noBarrelFile: the package's one face
export { RuntimeError } from "../../lib/errors.ts";
export type { CgroupsMode, CheckpointOptions, CommonOptions, RestoreOptions } from "../criu/checkpoint-options.ts";
export type { OciCapabilities, OciIdMapping, OciRlimit, OciSeccomp } from "../oci.ts";
export type { AttachedStreams, AttachRequest, CgroupMetrics, InterfaceCounters } from "../runtime.ts";
export type { BlkioDetail, BlkioValue } from "./blkio-detail.ts";
export type { CgroupDetail } from "./cgroup-detail.ts";
export type {
  CgroupConfig,
  Config,
  Device,
  Mount,
  Namespace,
  NamespaceType,
  Resources,
  RootOverlay,
  TimeOffset,
} from "./config.ts";
export { allowedDevices } from "./config.ts";
export type { Console } from "./console.ts";
export type { ExecOptions, OomEvent } from "./container.ts";
export { Container } from "./container.ts";
export type { Status } from "./container-state.ts";
export type { ContainerStats } from "./container-stats.ts";
export type { PressureLevel } from "./memory-pressure.ts";
export { mergeResources } from "./merge-resources.ts";
export type { OciConfig } from "./oci-config.ts";
export { fromOciSpec, processFromOci } from "./oci-config.ts";
export type { OciState } from "./oci-state.ts";
export type { ProcessExit } from "./process.ts";
export { Process } from "./process.ts";
export type { Attachable, ConsoleSize, Input, Output, ProcessSpec, User } from "./process-spec.ts";
export type { SavedState } from "./saved-state.ts";
