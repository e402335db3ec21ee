import { RuntimeError } from "../lib/errors.ts";
import { orAborted } from "./abort.ts";

/** What already bears a name. */
export interface Holder {
  readonly id: string;
  readonly digest: string;
  /** Why a retry cannot have it as its result ("is not ready"), or undefined when it can. */
  readonly unusable: string | undefined;
}

interface Making {
  readonly digest: string;
  readonly result: Promise<string>;
}

/**
 * Names are given out atomically. A second request for the same name joins the one under way, or gets its finished object, when the
 * two are equal; otherwise it is `already_exists`. The work itself is nobody's: a caller that goes away only stops waiting for it.
 */
export class NameReservations {
  readonly #making = new Map<string, Making>();

  /** @param what names the object for messages: `pod sandbox "web"` */
  async claim(
    request: { readonly what: string; readonly name: string; readonly digest: string },
    holder: () => Holder | undefined,
    signal: AbortSignal,
    make: () => Promise<string>,
  ): Promise<string> {
    signal.throwIfAborted();
    const making = this.#making.get(request.name);
    if (making !== undefined) {
      if (making.digest !== request.digest) {
        throw new RuntimeError(
          "already_exists",
          `${request.what} is being created by another request that differs from this one`,
        );
      }
      return await orAborted(making.result, signal);
    }
    const held = holder();
    if (held !== undefined) return reuse(request, held);
    const result = make();
    const entry = { digest: request.digest, result };
    this.#making.set(request.name, entry);
    const done = (): void => {
      this.#making.delete(request.name);
    };
    result.then(done, done);
    return await orAborted(result, signal);
  }
}

function reuse(request: { readonly what: string; readonly digest: string }, held: Holder): string {
  if (held.digest !== request.digest) {
    throw new RuntimeError("already_exists", `${request.what} exists with another configuration as ${held.id}`, { id: held.id });
  }
  if (held.unusable !== undefined) {
    throw new RuntimeError(
      "already_exists",
      `${request.what} exists as ${held.id} and ${held.unusable}; remove it or use a new attempt`,
      {
        id: held.id,
      },
    );
  }
  return held.id;
}
