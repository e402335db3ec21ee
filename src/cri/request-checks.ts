/** Checks of requests that need nothing but the request, before anything is recorded. */
import type { ContainerConfig, ContainerMetadata, ImageSpec, PodSandboxConfig, PodSandboxMetadata } from "../gen/cri/v1/api.ts";
import { RuntimeError } from "../lib/errors.ts";
import type { CriConfig } from "./app-types.ts";
import { hasControlCharacter, invalid, quoted } from "./translate-check.ts";
import type { TranslationOptions } from "./translation.ts";

export function checkedHandler({ handlers }: Pick<CriConfig, "handlers">, handler: string): string {
  if (handlers.has(handler)) return handler;
  const known = [...handlers.keys()].filter((name) => name !== "").join(", ");
  throw invalid(`runtime handler ${quoted(handler)} is not known; this node has ${known} ([runtimes] in its configuration)`);
}

/** What the handler of a pod that is there gives: the administrator may have taken it away since. */
export function handlerOptions({ handlers }: Pick<CriConfig, "handlers">, handler: string): TranslationOptions {
  const options = handlers.get(handler);
  if (options !== undefined) return options;
  const sentence = `runtime handler ${quoted(handler)} of the pod is no longer configured; bring [runtimes.${handler}] back or make the pod anew`;
  throw new RuntimeError("failed_precondition", sentence);
}

export function checkedSandboxConfig(config: PodSandboxConfig | undefined): PodSandboxConfig {
  if (config === undefined) throw new RuntimeError("invalid_argument", "the request has no sandbox config");
  return config;
}

/** Longest name, namespace or uid: the most that Kubernetes allows for any of them. */
const longestName = 253;

/** Names become parts of paths and of joined names (CVE-2025-0750): no slash, no dot names, no control characters. */
function checkName(what: string, name: string): void {
  if (name === "") throw invalid(`${what} is missing`);
  if (Buffer.byteLength(name) > longestName) throw invalid(`${what} ${quoted(name)} is longer than ${longestName} bytes`);
  if (name.includes("/") || name === "." || name === ".." || hasControlCharacter(name)) {
    throw invalid(`${what} ${quoted(name)} must not be a path or contain control characters`);
  }
}

export function checkedSandboxMetadata(config: PodSandboxConfig | undefined): PodSandboxMetadata {
  const metadata = config?.metadata;
  if (metadata === undefined) throw invalid("the sandbox config has no metadata");
  checkName("sandbox metadata.name", metadata.name);
  checkName("sandbox metadata.namespace", metadata.namespace);
  checkName("sandbox metadata.uid", metadata.uid);
  return metadata;
}

export function checkedContainerMetadata(config: ContainerConfig): ContainerMetadata {
  const metadata = config.metadata;
  if (metadata === undefined) throw invalid("the container config has no metadata");
  checkName("container metadata.name", metadata.name);
  return metadata;
}

export function checkedContainerConfig(config: ContainerConfig | undefined): ContainerConfig {
  if (config === undefined) throw new RuntimeError("invalid_argument", "the request has no container config");
  if ((config.image?.image ?? "") === "") {
    throw new RuntimeError("invalid_argument", "the container config names no image");
  }
  return config;
}

/** Seconds of a request as milliseconds; the longest timer is about 24 days, more counts as that. */
export function timeoutMs(what: string, seconds: bigint): number {
  if (seconds < 0n) throw new RuntimeError("invalid_argument", `${what} ${seconds} is negative`);
  const longestSeconds = 2_000_000n;
  return Number(seconds > longestSeconds ? longestSeconds : seconds) * 1000;
}

/** The image reference of a request about an image. */
export function checkedImage(image: ImageSpec | undefined): string {
  const reference = image?.image ?? "";
  if (reference === "") throw invalid("the request names no image");
  return reference;
}
