/** User namespaces for id-mapped mounts whose mappings are not the pod's own: each different one is made for the moment. */
import { addon } from "../native/addon.ts";
import { mapText } from "./namespace/id-map.ts";
import type { OciIdMapping, OciMount } from "./oci.ts";
import { nsKind, podPin } from "./plan-schema.ts";
import type { PodSpec } from "./runtime.ts";
import type { Shim } from "./shim/shim.ts";

const deadlineMs = 10_000;

export class IdmapNamespaces implements Disposable {
  readonly fds: number[] = [];
  readonly #slots = new Map<string, number>();
  readonly #shim: Pick<Shim, "run">;
  readonly #signal: AbortSignal;

  constructor(pod: Pick<PodSpec, "user">, shim: Pick<Shim, "run">, signal: AbortSignal) {
    this.#shim = shim;
    this.#signal = signal;
    if (pod.user !== null) this.#slots.set(keyOf(pod.user.uid, pod.user.gid), podPin.user);
  }

  /** Makes what these mounts need; the descriptors in `fds` go into slots from `firstSlot` on. */
  async prepare(mounts: readonly OciMount[], firstSlot: number): Promise<(mount: OciMount) => number | undefined> {
    for (const { uidMappings = [], gidMappings = [] } of mounts) {
      const key = keyOf(uidMappings, gidMappings);
      if (uidMappings.length === 0 || gidMappings.length === 0 || this.#slots.has(key)) continue;
      this.#slots.set(key, firstSlot + this.fds.length);
      this.fds.push(...(await this.#make(uidMappings, gidMappings)));
    }
    return this.slotFor();
  }

  slotFor(): (mount: OciMount) => number | undefined {
    return ({ uidMappings = [], gidMappings = [] }) => {
      // "idmap" without mappings means the container's own.
      if (uidMappings.length === 0 && gidMappings.length === 0) {
        return [...this.#slots.values()].includes(podPin.user) ? podPin.user : undefined;
      }
      return this.#slots.get(keyOf(uidMappings, gidMappings));
    };
  }

  [Symbol.dispose](): void {
    for (const fd of this.fds.splice(0)) addon.close(fd);
  }

  async #make(uid: readonly OciIdMapping[], gid: readonly OciIdMapping[]): Promise<readonly number[]> {
    const made = await this.#shim.run({
      cloneKinds: 0,
      plan: [
        { op: "new-userns", uidMap: mapText(uid), gidMap: mapText(gid) },
        { op: "open-own-ns", out: 0, kind: nsKind.user },
        { op: "export", slot: 0 },
      ],
      deadlineMs,
      signal: this.#signal,
      what: "user namespace for id-mapped mounts",
    });
    return made.fds;
  }
}

function keyOf(uid: readonly OciIdMapping[], gid: readonly OciIdMapping[]): string {
  return `${mapText(uid)}/${mapText(gid)}`;
}
