import type { ContainerUpdate } from "../gen/nri/v1alpha1/api.ts";
import { mergeResources } from "./merge-resources.ts";
import type { Owners } from "./owners.ts";

/** Limits that plugins want for containers that are there: one update for each. */
export class Updates {
  readonly #owners: Owners;
  readonly #updates = new Map<string, ContainerUpdate>();

  constructor(owners: Owners) {
    this.#owners = owners;
  }

  get all(): readonly ContainerUpdate[] {
    return [...this.#updates.values()];
  }

  /** @throws RuntimeError failed_precondition that names both plugins when two want the same limit of a container. */
  add(plugin: string, updates: readonly ContainerUpdate[]): void {
    for (const { containerId, linux, ignoreFailure } of updates) {
      if (linux?.resources === undefined) continue;
      const before = this.#updates.get(containerId);
      const resources = mergeResources(before?.linux?.resources, linux.resources, this.#owners, containerId, plugin);
      // It matters when it matters to one of them.
      this.#updates.set(containerId, {
        containerId,
        linux: { resources },
        ignoreFailure: ignoreFailure && (before?.ignoreFailure ?? true),
      });
    }
  }
}
