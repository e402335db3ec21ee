/** Bearer tokens: fetched from the service that the registry's challenge names, kept until shortly before they end. */
import { RuntimeError } from "../lib/errors.ts";
import { basicHeader, type Challenge, type Credentials, credentialsKey } from "./auth.ts";
import { readBounded } from "./bounded.ts";
import type { TlsOptions } from "./hosts.ts";
import { isLoopback } from "./hosts.ts";
import { type Http, type HttpResponse, unreachable } from "./http.ts";
import { parseJson, stringAt } from "./json.ts";

interface Token {
  readonly value: string;
  readonly endsAtMs: number;
}

const defaultLifeS = 60;
const renewBeforeMs = 10_000;
const maxTokenBytes = 1 << 20;
const clientId = "caisson";

export class Tokens {
  readonly #http: Http;
  readonly #kept = new Map<string, Token>();

  constructor(http: Http) {
    this.#http = http;
  }

  /** A value for Authorization. `fresh`: the kept token was refused. */
  async header(
    challenge: Challenge,
    registry: URL,
    scope: string,
    credentials: Credentials,
    tls: TlsOptions,
    fresh: boolean,
    signal: AbortSignal,
  ): Promise<string> {
    if (credentials.kind === "bearer") return `Bearer ${credentials.token}`;
    const realm = realmOf(challenge, registry);
    const service = challenge.parameters.get("service") ?? "";
    const wanted = challenge.parameters.get("scope") ?? scope;
    const key = JSON.stringify([realm.href, service, wanted, credentialsKey(credentials)]);
    const now = Date.now();
    const kept = fresh ? undefined : this.#kept.get(key);
    if (kept !== undefined && kept.endsAtMs > now) return `Bearer ${kept.value}`;
    for (const [old, token] of this.#kept) if (token.endsAtMs <= now) this.#kept.delete(old);
    // A token service on another host does not get the registry's client certificates.
    const token = await this.#fetch(
      realm,
      service,
      wanted,
      credentials,
      realm.host === registry.host ? tls : { ca: tls.ca, clients: [], skipVerify: false },
      signal,
    );
    this.#kept.set(key, token);
    return `Bearer ${token.value}`;
  }

  async #fetch(
    realm: URL,
    service: string,
    scope: string,
    credentials: Credentials,
    tls: TlsOptions,
    signal: AbortSignal,
  ): Promise<Token> {
    try {
      if (credentials.kind === "identity") return await this.#post(realm, service, scope, credentials, tls, signal);
      const url = new URL(realm);
      if (service !== "") url.searchParams.set("service", service);
      for (const one of scope.split(" ").filter((text) => text !== "")) url.searchParams.append("scope", one);
      const authorization = credentials.kind === "password" ? basicHeader(credentials.username, credentials.password) : undefined;
      const response = await this.#http.send({ method: "GET", url, headers: {}, authorization, tls, signal });
      // Some services speak OAuth2 only.
      const noGet = response.status === 404 || response.status === 405;
      if (!noGet || credentials.kind !== "password") return await readToken(response, realm);
      await response.body.dump();
      return await this.#post(realm, service, scope, credentials, tls, signal);
    } catch (error) {
      signal.throwIfAborted();
      throw unreachable(realm.host, error);
    }
  }

  async #post(
    realm: URL,
    service: string,
    scope: string,
    credentials: Credentials,
    tls: TlsOptions,
    signal: AbortSignal,
  ): Promise<Token> {
    const grant: Record<string, string> =
      credentials.kind === "identity"
        ? { grant_type: "refresh_token", refresh_token: credentials.token }
        : credentials.kind === "password"
          ? { grant_type: "password", username: credentials.username, password: credentials.password }
          : {};
    const form = new URLSearchParams({ ...grant, service, scope, client_id: clientId });
    const headers = { "content-type": "application/x-www-form-urlencoded" };
    const response = await this.#http.send({
      method: "POST",
      url: realm,
      headers,
      authorization: undefined,
      body: form.toString(),
      tls,
      signal,
    });
    return await readToken(response, realm);
  }
}

function realmOf(challenge: Challenge, registry: URL): URL {
  const text = challenge.parameters.get("realm") ?? "";
  if (!URL.canParse(text)) throw new RuntimeError("unknown", `${registry.host} names no usable token service`);
  const realm = new URL(text);
  // Credentials go there: in the clear only where the registry itself is spoken to in the clear, or on this machine.
  const plainAllowed = registry.protocol === "http:" || isLoopback(realm.host);
  if (realm.protocol !== "https:" && !(realm.protocol === "http:" && plainAllowed)) {
    throw new RuntimeError("unknown", `${registry.host} names a token service without https`);
  }
  return realm;
}

async function readToken(response: HttpResponse, realm: URL): Promise<Token> {
  if (response.status === 401 || response.status === 403) {
    await response.body.dump();
    throw new RuntimeError(
      response.status === 401 ? "unauthenticated" : "permission_denied",
      `${realm.host} refuses a token: wrong or missing credentials`,
    );
  }
  if (response.status !== 200) {
    await response.body.dump();
    throw new RuntimeError("unknown", `RegistryUnavailable: ${realm.host}: the token service answers ${response.status}`);
  }
  const what = `the token of ${realm.host}`;
  const document = parseJson(await readBounded(response.body, maxTokenBytes, what), what);
  const value = stringAt(document, "token", what) || stringAt(document, "access_token", what);
  if (value === "" || /[\r\n]/.test(value)) throw new RuntimeError("unknown", `${realm.host} sent no token`);
  const life = document.expires_in;
  const lifeS = typeof life === "number" && life > 0 ? life : defaultLifeS;
  return { value, endsAtMs: Date.now() + lifeS * 1000 - Math.min(renewBeforeMs, lifeS * 500) };
}
