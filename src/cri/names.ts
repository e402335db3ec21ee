/** Identities of pods and containers, their ids, and the digest by which a retry is told from a conflict. */
import { createHash, randomBytes } from "node:crypto";
import type { ContainerMetadata, PodSandboxMetadata } from "../gen/cri/v1/api.ts";

/** 64 lower-case hex characters: the only form that cAdvisor and many agents recognise in cgroup names. */
export function newId(): string {
  return randomBytes(32).toString("hex");
}

/** Joined by a character that request-checks.ts refuses in each part, so that two identities never give one name. */
export function sandboxName(metadata: PodSandboxMetadata): string {
  return [metadata.name, metadata.namespace, metadata.uid, String(metadata.attempt)].join("/");
}

export function containerName(podId: string, metadata: ContainerMetadata): string {
  return [podId, metadata.name, String(metadata.attempt)].join("/");
}

/** Equal for equal messages, also when a client sends the entries of a map in another order (Go does). */
export function digestOf(value: unknown): string {
  return createHash("sha256").update(canonical(value)).digest("hex");
}

function canonical(value: unknown): string {
  if (typeof value === "bigint") return `${value}n`;
  if (ArrayBuffer.isView(value)) {
    return `x${Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("hex")}`;
  }
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value).filter(([, inner]) => inner !== undefined);
    const sorted = entries.sort(([a], [b]) => (a < b ? -1 : 1));
    return `{${sorted.map(([key, inner]) => `${JSON.stringify(key)}:${canonical(inner)}`).join(",")}}`;
  }
  return JSON.stringify(value) ?? "undefined";
}
