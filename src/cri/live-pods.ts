import type { Pod } from "../core/runtime.ts";
import { RuntimeError } from "../lib/errors.ts";

/** Connections to the shims of the pods that live, by pod id. */
export class LivePods {
  readonly #pods = new Map<string, Pod>();

  get(podId: string): Pod | undefined {
    return this.#pods.get(podId);
  }

  /** `unavailable` when the pod's shim is gone or cannot be reached. */
  need(podId: string): Pod {
    const pod = this.#pods.get(podId);
    if (pod !== undefined) return pod;
    throw new RuntimeError("unavailable", `pod sandbox ${podId} has no running helper; it is about to be reported as not ready`);
  }

  add(pod: Pod): void {
    this.#pods.set(pod.id, pod);
  }

  remove(podId: string): void {
    this.#pods.delete(podId);
  }

  all(): readonly Pod[] {
    return [...this.#pods.values()];
  }
}
