/** Which plugins must have a say before a pod may run. */
import type { PodSandbox } from "../gen/nri/v1alpha1/api.ts";
import { RuntimeError } from "../lib/errors.ts";
import { isNamed, type PluginName } from "./plugin-name.ts";

/** As containerd's validator reads it. */
const requiredAnnotation = "required-plugins.noderesource.dev";

export interface Requirement {
  /** Names with or without index, for every pod. */
  readonly required: readonly string[];
  /** An annotation by which a pod does without; empty: none can. */
  readonly tolerateAnnotation: string;
}

export const asksForPlugins = (annotations: Readonly<Record<string, string>>): boolean =>
  Object.keys(annotations).some((key) => key.startsWith(requiredAnnotation));

/** The most specific one: of the container, of the pod, of both. */
function annotationOf(pod: PodSandbox, key: string, container: string | undefined): string | undefined {
  const keys = [...(container === undefined ? [] : [`${key}/container.${container}`]), `${key}/pod`, key];
  return keys.map((name) => pod.annotations[name]).find((value) => value !== undefined);
}

/** A YAML list of plain or quoted names: `[a, b]`, or a line `- a` for each. */
export function parseNames(text: string): readonly string[] {
  const flow = /^\s*\[([^[\]]*)\]\s*$/.exec(text)?.[1];
  const items =
    flow === undefined
      ? text.split("\n").flatMap((line) => (line.trim() === "" ? [] : [/^\s*-\s+(.*)$/.exec(line)?.[1] ?? "?"]))
      : flow.trim() === ""
        ? []
        : flow.split(",");
  return items.map((item) => {
    const name = /^\s*(?:"([^"]*)"|'([^']*)'|([^"'\s]+))\s*$/
      .exec(item)
      ?.slice(1)
      .find((part) => part !== undefined);
    if (name !== undefined && /^[A-Za-z0-9_.+-]+$/.test(name)) return name;
    throw new RuntimeError(
      "invalid_argument",
      `annotation ${requiredAnnotation} is not a list of plugin names: ${JSON.stringify(text)}`,
    );
  });
}

/** Names of plugins without which this pod, or this container of it, must not run. @throws RuntimeError invalid_argument. */
export function requiredFor(
  { required, tolerateAnnotation }: Requirement,
  pod: PodSandbox,
  container: string | undefined,
): readonly string[] {
  const tolerates = tolerateAnnotation === "" ? undefined : annotationOf(pod, tolerateAnnotation, container);
  if (["1", "t", "T", "true", "True", "TRUE"].includes(tolerates ?? "")) return [];
  const asked = annotationOf(pod, requiredAnnotation, container);
  return asked === undefined ? required : [...required, ...parseNames(asked)];
}

/** @throws RuntimeError unavailable that names those that are missing. */
export function checkPresent(required: readonly string[], present: readonly PluginName[], what: string): void {
  const missing = required.filter((wanted) => !present.some((name) => isNamed(name, wanted)));
  if (missing.length === 0) return;
  const [which, verb] = missing.length === 1 ? ["plugin", "is"] : ["plugins", "are"];
  throw new RuntimeError(
    "unavailable",
    `required NRI ${which} ${missing.join(", ")} ${verb} not connected: ${what} is refused until then`,
  );
}
