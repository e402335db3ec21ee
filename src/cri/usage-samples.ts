interface Sample {
  readonly atNs: bigint;
  readonly usageNs: bigint;
}

/** Two readings closer than this give a rate that is mostly noise. */
const shortestWindowNs = 500_000_000n;

/** CPU rates from the readings that stats calls happen to make: nothing runs on a timer for it. */
export class UsageSamples {
  readonly #base = new Map<string, Sample>();
  readonly #rate = new Map<string, bigint>();

  /** Takes a reading; returns nano-cores since an earlier one, or undefined until there are two. */
  nanoCores(id: string, atNs: bigint, usageNs: bigint): bigint | undefined {
    const base = this.#base.get(id);
    if (base === undefined || usageNs < base.usageNs) {
      this.#base.set(id, { atNs, usageNs });
      this.#rate.delete(id);
      return undefined;
    }
    const windowNs = atNs - base.atNs;
    if (windowNs < shortestWindowNs) return this.#rate.get(id);
    const rate = ((usageNs - base.usageNs) * 1_000_000_000n) / windowNs;
    this.#base.set(id, { atNs, usageNs });
    this.#rate.set(id, rate);
    return rate;
  }

  forget(id: string): void {
    this.#base.delete(id);
    this.#rate.delete(id);
  }
}
