/** What the suite knows of the CRI socket under test: found out once, in setup.ts, and given to every file. */

import { join } from "node:path";
import { loadPackageDefinition, type ServiceDefinition } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

declare module "vitest" {
  export interface ProvidedContext {
    endpoint: Endpoint;
  }
}

export interface Endpoint {
  /** unix:///path */
  readonly address: string;
  /** Our own daemon, started by the suite: every clause applies to it, none may be left out. */
  readonly own: boolean;
  /** Name and version that it gives of itself. */
  readonly name: string;
  /** Minor number of the newest CRI release (1.N) whose RPCs it knows. */
  readonly release: number;
  /** Reference of a small image with a shell, pulled, and the id that PullImage gave. */
  readonly image: string;
  readonly imageId: string;
  /** host:port of the suite's registry, or null when the endpoint cannot pull from it. */
  readonly registry: string | null;
  readonly abilities: readonly Ability[];
  /** A directory whose CDI specifications it reads. */
  readonly cdi: string;
  /** A directory on the host, removed at the end. */
  readonly scratch: string;
  readonly cgroupParent: string;
}

/** What a runtime may lack without being wrong: CRI makes each optional and has a place where it is announced. */
export const abilities = {
  "pod network": "condition NetworkReady",
  "user namespaces": "runtime_handlers[].features.user_namespaces",
  "recursive read-only mounts": "runtime_handlers[].features.recursive_read_only_mounts",
  "supplemental groups policy": "features.supplemental_groups_policy",
} as const;
export type Ability = keyof typeof abilities;

/** RPCs to the first release (1.N) that has them: by these the release that an endpoint speaks is recognised. */
export const rpcSince = {
  PodSandboxStats: 23,
  CheckpointContainer: 25,
  GetContainerEvents: 25,
  ListMetricDescriptors: 26,
  RuntimeConfig: 28,
  UpdatePodSandboxResources: 33,
  StreamContainers: 36,
} as const;

const descriptor = loadPackageDefinition(loadSync(join(import.meta.dirname, "../../proto/cri/v1/api.proto"), { keepCase: true }));
type Constructor = { readonly service: ServiceDefinition };
const { RuntimeService, ImageService } = (descriptor as unknown as { runtime: { v1: Record<string, Constructor> } }).runtime.v1;

/** Every method of CRI, from the same descriptor as the client. */
export const methods = [
  ...Object.values(RuntimeService?.service ?? {}).map((method) => ({ service: "runtime" as const, method })),
  ...Object.values(ImageService?.service ?? {}).map((method) => ({ service: "image" as const, method })),
].map(({ service, method }) => ({
  service,
  path: method.path,
  name: method.path.slice(method.path.lastIndexOf("/") + 1),
  streams: method.responseStream,
}));
