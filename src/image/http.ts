/** One HTTP exchange with a registry: redirects, time-outs, TLS. No retries and no authentication here. */
import { setTimeout as sleep } from "node:timers/promises";
import { Agent, type Dispatcher, EnvHttpProxyAgent, request } from "undici";
import { errnoName, messageOf, RuntimeError } from "../lib/errors.ts";
import { isLoopback, type TlsOptions } from "./hosts.ts";

export interface HttpOptions {
  /** A transfer that gets no byte for so long has failed; 0: never. */
  readonly progressTimeoutMs: number;
}

export interface HttpRequest {
  readonly method: "GET" | "HEAD" | "POST";
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  /** Value for the first host only. */
  readonly authorization: string | undefined;
  readonly body?: string;
  readonly tls: TlsOptions;
  readonly dialTimeoutMs?: number | undefined;
  readonly signal: AbortSignal;
}

export interface HttpResponse {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Dispatcher.ResponseData["body"];
  /** Where the answer came from after redirects. */
  readonly url: URL;
}

const maxRedirects = 10;
const dialTimeoutMs = 15_000;
const redirects = new Set([301, 302, 303, 307, 308]);
const noTls: TlsOptions = { ca: [], clients: [], skipVerify: false };

export class Http {
  readonly #options: HttpOptions;
  readonly #agents = new Map<string, Dispatcher>();

  constructor(options: HttpOptions) {
    this.#options = options;
  }

  /** Follows redirects. The caller reads or dumps the body. */
  async send(wanted: HttpRequest): Promise<HttpResponse> {
    let { url, headers, authorization, tls } = wanted;
    for (let hop = 0; ; hop++) {
      const response = await request(url, {
        dispatcher: this.#agent(url, tls, wanted.dialTimeoutMs ?? dialTimeoutMs),
        method: wanted.method,
        // Ranges count encoded bytes, and digests are over them: nothing may be encoded on the way.
        headers: { "user-agent": "caisson", "accept-encoding": "identity", ...headers, ...(authorization && { authorization }) },
        body: wanted.body ?? null,
        signal: wanted.signal,
      });
      const location = response.headers.location;
      if (!redirects.has(response.statusCode) || typeof location !== "string") {
        return { status: response.statusCode, headers: response.headers, body: response.body, url };
      }
      await response.body.dump();
      const next = redirectTarget(url, location);
      if (hop === maxRedirects) throw new RuntimeError("unknown", `${url.host} redirects more than ${maxRedirects} times`);
      if (wanted.method === "POST") throw new RuntimeError("unknown", `${url.host} redirects a request that carries credentials`);
      if (next.host !== url.host || next.protocol !== url.protocol) {
        // Credentials, certificates and configured headers are for the host that they were given for (CVE-2020-15157).
        authorization = undefined;
        tls = noTls;
        const { accept, range } = headers;
        headers = { ...(accept && { accept }), ...(range && { range }) };
      }
      url = next;
    }
  }

  /** Connections are kept per host, and apart where certificates differ. */
  #agent(url: URL, tls: TlsOptions, connectTimeoutMs: number): Dispatcher {
    const proxied = !isLoopback(url.host);
    const key = JSON.stringify([proxied, url.protocol === "https:" ? tls : noTls, connectTimeoutMs]);
    const known = this.#agents.get(key);
    if (known !== undefined) return known;
    const certificates = tls.clients.map(({ cert }) => cert);
    const keys = tls.clients.map(({ cert, key: own }) => own ?? cert);
    const connect = {
      timeout: connectTimeoutMs,
      rejectUnauthorized: !tls.skipVerify,
      ...(tls.ca.length > 0 && { ca: [...tls.ca] }),
      ...(certificates.length > 0 && { cert: certificates, key: keys }),
    };
    const timeouts = { headersTimeout: this.#options.progressTimeoutMs, bodyTimeout: this.#options.progressTimeoutMs };
    const agent = proxied
      ? new EnvHttpProxyAgent({ connect, requestTls: connect, ...timeouts })
      : new Agent({ connect, ...timeouts });
    this.#agents.set(key, agent);
    return agent;
  }
}

function redirectTarget(from: URL, location: string): URL {
  if (!URL.canParse(location, from.href))
    throw new RuntimeError("unknown", `${from.host} redirects to something that is not a URL`);
  const next = new URL(location, from);
  if (next.protocol !== "https:" && !(next.protocol === "http:" && from.protocol === "http:")) {
    throw new RuntimeError("unknown", `${from.host} redirects to ${next.protocol}//, which is not https`);
  }
  return next;
}

const transient = new Set([
  "ECONNRESET",
  "EPIPE",
  "ETIMEDOUT",
  "EAI_AGAIN",
  "UND_ERR_SOCKET",
  "UND_ERR_RES_CONTENT_LENGTH_MISMATCH",
]);
const stalled = new Set(["UND_ERR_BODY_TIMEOUT", "UND_ERR_HEADERS_TIMEOUT"]);

/** The registry let the time for progress pass: that was the wait, there is no second one. */
export function isStalled(error: unknown): boolean {
  return stalled.has(errnoName(error) ?? "");
}

/** A broken connection that another attempt may not meet. */
export function isTransient(error: unknown): boolean {
  return transient.has(errnoName(error) ?? "");
}

/**
 * Words a failed exchange. The kubelet takes the prefix for the reason of the waiting pod. Text of the exchange, which could hold
 * credentials, is not repeated.
 */
export function unreachable(host: string, error: unknown): RuntimeError {
  if (error instanceof RuntimeError) return error;
  const why = isStalled(error) ? "it stopped sending" : reasonOf(error);
  return new RuntimeError("unknown", `RegistryUnavailable: ${host}: ${why}`, { host }, error);
}

function reasonOf(error: unknown): string {
  // Node tries all addresses of a name and reports them together.
  const inner = error instanceof AggregateError ? error.errors.map(messageOf).join("; ") : messageOf(error);
  return inner === "" ? (errnoName(error) ?? "no connection") : inner;
}

export function isRetryable(status: number): boolean {
  return status === 408 || status === 429 || status >= 500;
}

const firstPauseMs = 200;
const longestPauseMs = 60_000;

/** Waits before attempt `attempt` (1 is the second), longer each time, or as long as the registry asks. */
export async function backOff(attempt: number, retryAfter: unknown, signal: AbortSignal): Promise<void> {
  const own = firstPauseMs * 2 ** (attempt - 1) * (0.75 + Math.random() / 2);
  await sleep(Math.min(Math.max(own, retryAfterMs(retryAfter)), longestPauseMs), undefined, { signal });
}

function retryAfterMs(value: unknown): number {
  if (typeof value !== "string") return 0;
  const ms = /^\d+$/.test(value.trim()) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : 0;
}
