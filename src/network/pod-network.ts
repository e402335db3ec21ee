/** The face of network/: what cri/ builds on. */

import type { UnownedObject } from "./unowned.ts";

export interface PortMapping {
  readonly protocol: "tcp" | "udp" | "sctp";
  readonly containerPort: number;
  readonly hostPort: number;
  readonly hostIp: string;
}

export interface PodNetworkRequest {
  readonly podId: string;
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  /** Empty when the namespace is already gone (DEL after a reboot). */
  readonly netnsPath: string;
  readonly cgroupParent: string;
  readonly portMappings: readonly PortMapping[];
  readonly dns: {
    readonly servers: readonly string[];
    readonly searches: readonly string[];
    readonly options: readonly string[];
  } | null;
  readonly annotations: Readonly<Record<string, string>>;
  /** Ranges that the cluster has given to this node, one for each address family; absent or empty: none. */
  readonly podCidrs?: readonly string[];
}

export interface PodNetworkResult {
  /** Addresses of eth0 without prefix length, first is the primary. */
  readonly ips: readonly string[];
  /** The last plugin's result as it came, for verbose info. */
  readonly cniResult: unknown;
}

export interface NetworkStatus {
  readonly ready: boolean;
  /** CamelCase, empty when ready. */
  readonly reason: string;
  readonly message: string;
  /** Name of the loaded network list, empty when none. */
  readonly networkName: string;
}

export interface PodNetwork {
  status(): NetworkStatus;
  /** ADD through the whole list; on failure DEL has been run before the error is thrown. At least one IP on eth0, else an error. */
  attach(request: PodNetworkRequest, signal: AbortSignal): Promise<PodNetworkResult>;
  /** DEL in reverse order with the cached configuration and result. Idempotent; never attached is success. */
  detach(request: PodNetworkRequest, signal: AbortSignal): Promise<void>;
  /** CHECK through the whole list where the network supports it; throws what the first plugin finds wrong. */
  check(request: PodNetworkRequest, signal: AbortSignal): Promise<void>;
  /**
   * Detaches pods that nobody knows any more, and lets the plugins of a 1.1 network free what belongs to no attachment. Waits for a
   * moment without ADD and DEL for the latter.
   */
  collect(isKnown: (podId: string) => boolean, signal: AbortSignal): Promise<void>;
  /** What is kept for pods that are not known. */
  unowned(isKnown: (podId: string) => boolean): Promise<readonly UnownedObject[]>;
  close(): void;
}
