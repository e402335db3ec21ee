/** Hooks of a container: those of its CDI devices. The CRI itself has none. */
import { type HookState, hookStateOfSpec } from "../core/hooks.ts";
import type { OciHooks } from "../core/oci.ts";
import type { CriApp } from "./app-types.ts";
import { bundleDir } from "./paths.ts";
import type { ContainerRecord } from "./records.ts";

export interface ContainerHooks {
  readonly hooks: OciHooks;
  readonly state: HookState;
}

/** Undefined: it has none, or its bundle is gone. */
export async function containerHooks(app: CriApp, record: ContainerRecord): Promise<ContainerHooks | undefined> {
  const oci = await app.specs.read(record);
  if (oci?.hooks === undefined) return undefined;
  return { hooks: oci.hooks, state: hookStateOfSpec(record.id, bundleDir(app.config, record.podId, record.id), oci) };
}
