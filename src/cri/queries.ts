/** Questions to the records that several verbs ask. All answer from memory. */
import { RuntimeError } from "../lib/errors.ts";
import type { CriApp } from "./app-types.ts";
import type { ContainerRecord, SandboxRecord } from "./records.ts";

/** All containers of a pod, those under creation included. */
export function containersOf(app: CriApp, podId: string): readonly ContainerRecord[] {
  return app.containers.all().filter((record) => record.podId === podId);
}

/** What clients may see: an object under creation does not exist for them. */
export const visible = (record: { readonly phase: string }): boolean => record.phase !== "creating";

export function visibleSandbox(app: CriApp, idOrPrefix: string): SandboxRecord {
  const record = app.sandboxes.resolve(idOrPrefix);
  if (visible(record)) return record;
  throw new RuntimeError("not_found", `pod sandbox ${idOrPrefix} does not exist`, { id: idOrPrefix });
}

export function visibleContainer(app: CriApp, idOrPrefix: string): ContainerRecord {
  const record = app.containers.resolve(idOrPrefix);
  if (visible(record)) return record;
  throw new RuntimeError("not_found", `container ${idOrPrefix} does not exist`, { id: idOrPrefix });
}

/** Exact match of every pair; an empty selector selects everything. */
export function matchesLabels(labels: Readonly<Record<string, string>>, selector: Readonly<Record<string, string>>): boolean {
  return Object.entries(selector).every(([key, value]) => Object.hasOwn(labels, key) && labels[key] === value);
}

/** An id in a list filter: full id, "any" for an empty one, undefined when nothing or more than one fits. */
export function filterId(
  registry: { find(id: string): { readonly id: string } | undefined },
  idOrPrefix: string,
): string | undefined {
  if (idOrPrefix === "") return "any";
  try {
    return registry.find(idOrPrefix)?.id;
  } catch {
    return undefined;
  }
}

export function sandboxTitle(record: SandboxRecord): string {
  const { namespace = "", name = "" } = record.config.metadata ?? {};
  return `${namespace}/${name}`;
}
