import { RuntimeError } from "../lib/errors.ts";

/** Slots that a child has for itself (plan-schema.ts). */
export const childSlots = 64;

/** Hands out the slots of one plan. Those that come with the request are taken first, by `received`. */
export class PlanSlots {
  #next: number;

  constructor(received: number) {
    this.#next = received;
  }

  get free(): number {
    return childSlots - this.#next;
  }

  take(): number {
    if (this.free <= 0) {
      throw new RuntimeError(
        "invalid_argument",
        `the container has too many mounts and devices that must be opened ahead: at most ${childSlots} descriptors are possible`,
      );
    }
    return this.#next++;
  }
}
