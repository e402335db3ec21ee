import { readFile } from "node:fs/promises";
import type { OciSpec } from "../core/oci.ts";
import { RuntimeError } from "../lib/errors.ts";
import type { CriConfig } from "./app-types.ts";
import { bundleConfigPath } from "./paths.ts";
import type { ContainerRecord } from "./records.ts";

/** OCI specs of containers: in memory once used, on disk in the bundle for as long as the pod has not been stopped. */
export class SpecCache {
  readonly #config: CriConfig;
  readonly #specs = new Map<string, OciSpec>();

  constructor(config: CriConfig) {
    this.#config = config;
  }

  set(id: string, spec: OciSpec): void {
    this.#specs.set(id, spec);
  }

  /** Undefined when the bundle is gone. */
  async read(record: Pick<ContainerRecord, "id" | "podId">): Promise<OciSpec | undefined> {
    const known = this.#specs.get(record.id);
    if (known !== undefined) return known;
    try {
      const spec = JSON.parse(await readFile(bundleConfigPath(this.#config, record.podId, record.id), "utf8")) as OciSpec;
      this.#specs.set(record.id, spec);
      return spec;
    } catch {
      return undefined;
    }
  }

  /** For what cannot go on without it. */
  async need(record: ContainerRecord): Promise<OciSpec> {
    const spec = await this.read(record);
    if (spec !== undefined) return spec;
    throw new RuntimeError("internal", `the bundle of container ${record.id} is gone; stop and remove the container`);
  }

  forget(id: string): void {
    this.#specs.delete(id);
  }
}
