/** A conformance case is a sentence of the specification and a body that shows it true. */
import { inject, it } from "vitest";
import { type Ability, abilities, type Endpoint } from "./endpoint.ts";

export interface Conditions {
  /** First CRI release that has the fields or RPCs that the sentence is about; 1.22 unless told. */
  readonly since?: `1.${number}`;
  readonly needs?: Ability;
  /** The case runs images that only the suite's own registry has. */
  readonly madeImages?: true;
  /** A promise of ours beyond the specification: not asked of others. */
  readonly ours?: true;
}

export function clause(sentence: string, body: () => Promise<void>): void;
export function clause(sentence: string, conditions: Conditions, body: () => Promise<void>): void;
export function clause(sentence: string, second: Conditions | (() => Promise<void>), third?: () => Promise<void>): void {
  const conditions = typeof second === "function" ? {} : second;
  const body = typeof second === "function" ? second : third;
  it(sentence, async (context) => {
    const endpoint = inject("endpoint");
    const reason = whyNotApplicable(conditions, endpoint);
    if (reason !== undefined) {
      if (endpoint.own) throw new Error(`every clause applies to our own daemon, but ${reason}`);
      context.skip(reason);
    }
    await body?.();
  });
}

function whyNotApplicable(conditions: Conditions, endpoint: Endpoint): string | undefined {
  const { since = "1.22", needs, madeImages, ours } = conditions;
  if (Number(since.slice(2)) > endpoint.release) return `it is of CRI ${since}; the endpoint speaks 1.${endpoint.release}`;
  if (needs !== undefined && !endpoint.abilities.includes(needs)) {
    return `the endpoint does not announce ${needs} (${abilities[needs]})`;
  }
  if (madeImages && endpoint.registry === null) return "the endpoint cannot pull from the suite's registry";
  if (ours && !endpoint.own) return "it is a promise of ours beyond the specification";
  return undefined;
}
