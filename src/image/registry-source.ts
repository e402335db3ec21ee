/** The distribution protocol: mirrors in order, then the registry itself. */
import { RuntimeError } from "../lib/errors.ts";
import { anonymous, basicHeader, type Challenge, type Credentials, credentialsKey, parseChallenges, sameServer } from "./auth.ts";
import { readBounded, readSome } from "./bounded.ts";
import { checkDigest, digestOf, isDigest } from "./digest.ts";
import type { Descriptor } from "./documents.ts";
import type { Endpoint } from "./hosts.ts";
import { backOff, type Http, type HttpResponse, isRetryable, isTransient, unreachable } from "./http.ts";
import { acceptedTypes } from "./media-types.ts";
import type { Reference } from "./reference.ts";
import { maxManifestBytes, type RawDocument, type Source } from "./source.ts";
import type { Tokens } from "./tokens.ts";

export interface RegistrySourceOptions {
  readonly http: Http;
  readonly tokens: Tokens;
  readonly endpoints: readonly Endpoint[];
  readonly reference: Reference;
  readonly credentials: Credentials;
  /** Of the credentials; "" for the reference's own registry. */
  readonly serverAddress: string;
  readonly log: SourceLog;
}

/** What sources say beyond their answers. */
export type SourceLog = Readonly<Record<"debug" | "warn", (fields: Record<string, unknown>, text: string) => void>>;

interface Ask {
  readonly method: "GET" | "HEAD";
  /** Below the repository: "manifests/latest". */
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  /** Statuses that are an answer; every other one is a failure. */
  readonly accept: readonly number[];
  readonly needsResolve: boolean;
  readonly signal: AbortSignal;
}

interface Reply extends HttpResponse {
  readonly host: string;
}

const maxAttempts = 5;
const maxBodyAttempts = 3;
const maxErrorBytes = 1 << 20;
const maxShownBytes = 1000;
const maxWarningBytes = 4096;
const manifestAccept = acceptedTypes.join(", ");

export class RegistrySource implements Source {
  readonly name: string;
  readonly credentialsKey: string;
  readonly #options: RegistrySourceOptions;
  readonly #scope: string;
  /** The last challenge of each endpoint, so that only its first request is refused. */
  readonly #challenges = new Map<string, Challenge>();
  readonly #warned = new Set<string>();

  constructor(options: RegistrySourceOptions) {
    this.#options = options;
    this.name = options.reference.name;
    this.#scope = `repository:${options.reference.path}:pull`;
    this.credentialsKey = credentialsKey(options.credentials);
  }

  async hint(tagOrDigest: string, signal: AbortSignal): Promise<string | undefined> {
    const path = `manifests/${tagOrDigest}`;
    const headers = { accept: manifestAccept };
    // Some registries do not know HEAD, or answer it as if there were nothing.
    const accept = [200, 400, 404, 405];
    const reply = await this.#ask({ method: "HEAD", path, headers, accept, needsResolve: !isDigest(tagOrDigest), signal });
    await reply.body.dump();
    const digest = reply.headers["docker-content-digest"];
    return reply.status === 200 && typeof digest === "string" && isDigest(digest) ? digest : undefined;
  }

  async manifest(tagOrDigest: string, signal: AbortSignal): Promise<RawDocument> {
    const what = `manifest ${tagOrDigest} of ${this.name}`;
    const path = `manifests/${tagOrDigest}`;
    const headers = { accept: manifestAccept };
    const needsResolve = !isDigest(tagOrDigest);
    const ask: Ask = { method: "GET", path, headers, accept: [200], needsResolve, signal };
    const reply = await this.#read(ask, maxManifestBytes, what);
    const { data } = reply;
    if (isDigest(tagOrDigest)) checkDigest(data, tagOrDigest, what);
    const claimed = reply.headers["docker-content-digest"];
    if (typeof claimed === "string" && isDigest(claimed)) checkDigest(data, claimed, what);
    return {
      data,
      digest: isDigest(tagOrDigest) ? tagOrDigest : digestOf(data),
      contentType: String(reply.headers["content-type"] ?? ""),
    };
  }

  async document(descriptor: Descriptor, maxBytes: number, what: string, signal: AbortSignal): Promise<Buffer> {
    if (descriptor.sizeBytes > maxBytes) throw new RuntimeError("data_loss", `${what} is larger than ${maxBytes} bytes`);
    const path = `blobs/${descriptor.digest}`;
    const ask: Ask = { method: "GET", path, headers: {}, accept: [200], needsResolve: false, signal };
    const { data } = await this.#read(ask, descriptor.sizeBytes, what);
    checkDigest(data, descriptor.digest, what);
    return data;
  }

  async blob(descriptor: Descriptor, offset: number, signal: AbortSignal): Promise<AsyncIterable<Uint8Array>> {
    const headers: Record<string, string> = offset === 0 ? {} : { range: `bytes=${offset}-` };
    const path = `blobs/${descriptor.digest}`;
    const reply = await this.#ask({ method: "GET", path, headers, accept: [200, 206], needsResolve: false, signal });
    const length = Number(reply.headers["content-length"] ?? Number.NaN);
    if (reply.status === 200 && Number.isFinite(length) && length !== descriptor.sizeBytes) {
      reply.body.destroy();
      throw new RuntimeError(
        "data_loss",
        `blob ${descriptor.digest} has ${length} bytes at ${reply.host}, expected ${descriptor.sizeBytes}`,
      );
    }
    if (reply.status === 200) return offset === 0 ? reply.body : skipped(reply.body, offset);
    const start = Number(/^bytes (\d+)-/.exec(String(reply.headers["content-range"] ?? ""))?.[1] ?? Number.NaN);
    if (start === offset) return reply.body;
    reply.body.destroy();
    throw new RuntimeError("data_loss", `${reply.host} sent another range of blob ${descriptor.digest} than it was asked for`);
  }

  /** A whole body; asked for again when its connection breaks. */
  async #read(ask: Ask, maxBytes: number, what: string): Promise<{ readonly data: Buffer; readonly headers: Reply["headers"] }> {
    for (let attempt = 1; ; attempt++) {
      const reply = await this.#ask(ask);
      try {
        return { data: await readBounded(reply.body, maxBytes, what), headers: reply.headers };
      } catch (error) {
        ask.signal.throwIfAborted();
        if (attempt === maxBodyAttempts || !isTransient(error)) throw unreachable(reply.host, error);
        await backOff(attempt, undefined, ask.signal);
      }
    }
  }

  /** Asks one endpoint after another; only the last one is asked again when it fails for a moment. */
  async #ask(ask: Ask): Promise<Reply> {
    const endpoints = this.#options.endpoints.filter((e) => (ask.needsResolve ? e.canResolve : e.canPull));
    let failure: unknown = new RuntimeError("failed_precondition", `no host is configured that may serve ${this.name}`);
    for (const [index, endpoint] of endpoints.entries()) {
      const attempts = index === endpoints.length - 1 ? maxAttempts : 1;
      try {
        return await this.#askEndpoint(endpoint, ask, attempts);
      } catch (error) {
        ask.signal.throwIfAborted();
        if (index < endpoints.length - 1)
          this.#options.log.debug({ err: error, host: endpoint.url }, "mirror failed, trying the next host");
        failure = error;
      }
    }
    throw failure;
  }

  async #askEndpoint(endpoint: Endpoint, ask: Ask, attempts: number): Promise<Reply> {
    const host = new URL(endpoint.url).host;
    for (let attempt = 1; ; attempt++) {
      let response: HttpResponse;
      try {
        response = await this.#exchange(endpoint, ask);
      } catch (error) {
        ask.signal.throwIfAborted();
        if (attempt === attempts || !isTransient(error)) throw unreachable(host, error);
        await backOff(attempt, undefined, ask.signal);
        continue;
      }
      this.#warn(host, response.headers.warning);
      if (ask.accept.includes(response.status)) return { ...response, host };
      if (attempt === attempts || !isRetryable(response.status)) throw await this.#refusal(host, ask, response);
      await response.body.dump();
      await backOff(attempt, response.headers["retry-after"], ask.signal);
    }
  }

  /** One request, and another with what its challenge asks for; a token that is no longer good is replaced once. */
  async #exchange(endpoint: Endpoint, ask: Ask): Promise<HttpResponse> {
    const url = new URL(`${endpoint.url}/${this.#options.reference.path}/${ask.path}`);
    const { domain } = this.#options.reference;
    // Mirrors serve several registries and are told which one is meant.
    if (!endpoint.own) url.searchParams.set("ns", domain);
    const send = async (authorization: string | undefined): Promise<HttpResponse> =>
      await this.#options.http.send({
        method: ask.method,
        url,
        headers: { ...endpoint.headers, ...ask.headers },
        authorization: authorization ?? endpoint.headers.authorization,
        tls: endpoint.tls,
        dialTimeoutMs: endpoint.dialTimeoutMs,
        signal: ask.signal,
      });
    const known = this.#challenges.get(endpoint.url);
    let response = await send(known === undefined ? undefined : await this.#authorization(endpoint, known, false, ask.signal));
    // Twice: the first 401 teaches the challenge; the second one may come from a kept token that has ended.
    for (let round = 0; round < 2 && response.status === 401 && response.url.host === url.host; round++) {
      const challenge = usable(parseChallenges(response.headers["www-authenticate"]));
      const authorization =
        challenge && (await this.#authorization(endpoint, challenge, round > 0 || known !== undefined, ask.signal));
      if (challenge === undefined || authorization === undefined) break;
      if (round > 0 && challenge.scheme === "basic") break;
      await response.body.dump();
      this.#challenges.set(endpoint.url, challenge);
      response = await send(authorization);
    }
    return response;
  }

  /** Credentials belong to the registry that the reference names, or to the host that they name themselves. */
  #credentialsFor(endpoint: Endpoint): Credentials {
    const { serverAddress, credentials, reference } = this.#options;
    if (serverAddress === "") return endpoint.own ? credentials : anonymous;
    if (sameServer(serverAddress, new URL(endpoint.url).host)) return credentials;
    return endpoint.own && sameServer(serverAddress, reference.domain) ? credentials : anonymous;
  }

  async #authorization(
    endpoint: Endpoint,
    challenge: Challenge,
    fresh: boolean,
    signal: AbortSignal,
  ): Promise<string | undefined> {
    const credentials = this.#credentialsFor(endpoint);
    if (challenge.scheme === "basic") {
      if (credentials.kind === "bearer") return `Bearer ${credentials.token}`;
      return credentials.kind === "password" ? basicHeader(credentials.username, credentials.password) : undefined;
    }
    return await this.#options.tokens.header(
      challenge,
      new URL(endpoint.url),
      this.#scope,
      credentials,
      endpoint.tls,
      fresh,
      signal,
    );
  }

  async #refusal(host: string, ask: Ask, response: HttpResponse): Promise<RuntimeError> {
    const body = await readSome(response.body, maxErrorBytes);
    const said = errorText(body);
    const what = `${this.name}: ${host} answers ${response.status} for ${ask.path}${said}`;
    const fields = { host, status: response.status };
    switch (response.status) {
      case 401:
        return new RuntimeError("unauthenticated", `pull access denied, wrong or missing credentials: ${what}`, fields);
      case 403:
        return new RuntimeError("permission_denied", `pull access denied: ${what}`, fields);
      case 404:
        return new RuntimeError("not_found", `not found: ${what}`, fields);
      default:
        if (isRetryable(response.status)) return new RuntimeError("unknown", `RegistryUnavailable: ${what}`, fields);
        return new RuntimeError("unknown", `registry error: ${what}`, fields);
    }
  }

  /** What the registry's operator wants its users to know. */
  #warn(host: string, header: string | string[] | undefined): void {
    for (const value of [header ?? []].flat()) {
      const text = /^299 \S+ "((?:[^"\\]|\\.)*)"/.exec(value)?.[1];
      if (text === undefined || value.length > maxWarningBytes || this.#warned.has(text)) continue;
      this.#warned.add(text);
      this.#options.log.warn({ host, image: this.name, warning: text }, "the registry warns");
    }
  }
}

/** Bearer before Basic: it narrows what is handed over. */
function usable(challenges: readonly Challenge[]): Challenge | undefined {
  return challenges.find((c) => c.scheme === "bearer") ?? challenges.find((c) => c.scheme === "basic");
}

/** ": CODE: message" of the specification's error body, printable and short; "" without one. */
function errorText(body: Buffer): string {
  try {
    const { errors } = JSON.parse(body.toString("utf8")) as { errors?: { code?: unknown; message?: unknown }[] };
    const text = (errors ?? []).map((e) => `${String(e.code)}: ${String(e.message)}`).join("; ");
    return text === "" ? "" : ` (${text.replaceAll(/[^\x20-\x7e]/g, "?").slice(0, maxShownBytes)})`;
  } catch {
    return "";
  }
}

/** For servers that ignore Range and begin again. */
async function* skipped(body: AsyncIterable<Uint8Array>, offset: number): AsyncGenerator<Uint8Array> {
  let left = offset;
  for await (const chunk of body) {
    if (left < chunk.length) yield left === 0 ? chunk : chunk.subarray(left);
    left = Math.max(0, left - chunk.length);
  }
}
