import { randomBytes } from "node:crypto";
import { RuntimeError } from "../lib/errors.ts";

/** Possession of a token is all that a client has to show. */
const tokenBytes = 24;

export interface TokenLimits {
  readonly ttlMs: number;
  readonly mostPending: number;
}

interface Pending<T> {
  readonly value: T;
  readonly expiresAt: number;
}

/** Tokens that each stand for something once, for a short time. */
export class Tokens<T> {
  /** Oldest first. */
  readonly #pending = new Map<string, Pending<T>>();
  readonly #limits: TokenLimits;
  readonly #nowMs: () => number;

  constructor(limits: TokenLimits, nowMs: () => number = () => performance.now()) {
    this.#limits = limits;
    this.#nowMs = nowMs;
  }

  /** @throws RuntimeError resource_exhausted when too many wait for their clients. */
  issue(value: T): string {
    this.#dropExpired();
    const { mostPending, ttlMs } = this.#limits;
    if (this.#pending.size >= mostPending) {
      throw new RuntimeError("resource_exhausted", `${mostPending} streaming requests wait for their clients; try again later`);
    }
    const token = randomBytes(tokenBytes).toString("base64url");
    this.#pending.set(token, { value, expiresAt: this.#nowMs() + ttlMs });
    return token;
  }

  /** What the token stands for; undefined when it is unknown, used or too old. It is used by this. */
  redeem(token: string): T | undefined {
    const found = this.#pending.get(token);
    this.#pending.delete(token);
    return found === undefined || found.expiresAt <= this.#nowMs() ? undefined : found.value;
  }

  #dropExpired(): void {
    const now = this.#nowMs();
    for (const [token, { expiresAt }] of this.#pending) {
      if (expiresAt > now) return;
      this.#pending.delete(token);
    }
  }
}
