/** Where a registry's content comes from: hosts.toml in a directory per registry, in containerd's layout. */
import { readdir, readFile } from "node:fs/promises";
import { isIP } from "node:net";
import { isAbsolute, join } from "node:path";
import { parse } from "smol-toml";
import { errnoName, messageOf, RuntimeError } from "../lib/errors.ts";
import { isObject, type JsonObject } from "./json.ts";

export interface TlsOptions {
  readonly ca: readonly string[];
  readonly clients: readonly { readonly cert: string; readonly key: string | undefined }[];
  readonly skipVerify: boolean;
}

/** One place to ask. */
export interface Endpoint {
  /** Root of the API with its "/v2" (or what override_path says), without a slash at the end. */
  readonly url: string;
  /** May turn tags into digests; a mirror that may not be trusted for that only serves digests. */
  readonly canResolve: boolean;
  readonly canPull: boolean;
  /** The registry itself, to which the caller's credentials belong; false: a mirror. */
  readonly own: boolean;
  readonly tls: TlsOptions;
  readonly headers: Readonly<Record<string, string>>;
  readonly dialTimeoutMs: number | undefined;
}

const noTls: TlsOptions = { ca: [], clients: [], skipVerify: false };
const hubHost = "registry-1.docker.io";

/** Host of a domain or URL authority, without port and brackets. */
function hostname(domain: string): string {
  return domain.replace(/:\d+$/, "").replace(/^\[|\]$/g, "");
}

/** localhost, 127.0.0.0/8 and ::1: the only hosts that may be spoken to in plain http without being configured. */
export function isLoopback(domain: string): boolean {
  const host = hostname(domain);
  if (host === "localhost" || host.endsWith(".localhost")) return true;
  return isIP(host) === 4 ? host.startsWith("127.") : host === "::1";
}

/** Endpoints for a domain when nothing is configured: loopback is tried with https first only on port 443. */
export function defaultEndpoint(domain: string): Endpoint {
  const host = domain === "docker.io" ? hubHost : domain;
  const scheme = isLoopback(host) && !host.endsWith(":443") ? "http" : "https";
  return {
    url: `${scheme}://${host}/v2`,
    canResolve: true,
    canPull: true,
    own: true,
    tls: noTls,
    headers: {},
    dialTimeoutMs: undefined,
  };
}

/** Names that a registry's directory may have, the first that exists counts. */
function directoryNames(domain: string): string[] {
  const port = /:(\d+)$/.exec(domain)?.[1];
  const host = hostname(domain);
  const withPort = port === undefined ? [] : [`${host}_${port}_`, `${host}:${port}`];
  return [domain, ...withPort, host, "_default"].filter((name, index, all) => all.indexOf(name) === index);
}

/** Reads the directory anew each time: changes count from the next pull on. */
export async function loadEndpoints(hostsDir: string, domain: string): Promise<readonly Endpoint[]> {
  for (const name of directoryNames(domain)) {
    const dir = join(hostsDir, name);
    const text = await readIfThere(join(dir, "hosts.toml"));
    if (text !== undefined) return await parseHosts(text, dir, domain);
    const tls = await certificateFiles(dir);
    if (tls !== undefined) return [{ ...defaultEndpoint(domain), tls }];
  }
  return [defaultEndpoint(domain)];
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if (errnoName(error) === "ENOENT" || errnoName(error) === "ENOTDIR") return undefined;
    throw new RuntimeError("failed_precondition", `cannot read ${path}: ${messageOf(error)}`, {}, error);
  }
}

/** Without hosts.toml the older scheme: *.crt are authorities, *.cert with *.key are the client's. */
async function certificateFiles(dir: string): Promise<TlsOptions | undefined> {
  let names: string[];
  try {
    names = (await readdir(dir)).sort();
  } catch {
    return undefined;
  }
  const ca = await Promise.all(names.filter((n) => n.endsWith(".crt")).map((n) => readFile(join(dir, n), "utf8")));
  const certs = names.filter((n) => n.endsWith(".cert"));
  const clients = await Promise.all(certs.map((n) => clientPair(join(dir, n), join(dir, n.replace(/cert$/, "key")))));
  return ca.length + clients.length > 0 ? { ca, clients, skipVerify: false } : undefined;
}

async function clientPair(certPath: string, keyPath: string | undefined): Promise<TlsOptions["clients"][number]> {
  return { cert: await readFile(certPath, "utf8"), key: keyPath === undefined ? undefined : await readFile(keyPath, "utf8") };
}

async function parseHosts(text: string, dir: string, domain: string): Promise<readonly Endpoint[]> {
  const file = join(dir, "hosts.toml");
  const bad = (why: string): RuntimeError => new RuntimeError("failed_precondition", `${file}: ${why}`);
  let document: JsonObject;
  try {
    document = parse(text) as JsonObject;
  } catch (error) {
    throw bad(messageOf(error).split("\n")[0] ?? "not TOML");
  }
  const hosts = document.host ?? {};
  if (!isObject(hosts)) throw bad("host is not a table");
  const mirrors: Endpoint[] = [];
  for (const [url, settings] of Object.entries(hosts)) {
    if (!isObject(settings)) throw bad(`host ${JSON.stringify(url)} is not a table`);
    mirrors.push(await endpoint(url, settings, dir, domain, bad));
  }
  const server = document.server;
  if (server !== undefined && typeof server !== "string") throw bad("server is not a string");
  const fallback = server === undefined || server === "" ? defaultEndpoint(domain).url.replace(/\/v2$/, "") : server;
  const own = { ...(await endpoint(fallback, document, dir, domain, bad)), own: true };
  return [...mirrors, own];
}

type Bad = (why: string) => RuntimeError;

/** Settings of a mirror, or of the server at the top of the file. */
async function endpoint(address: string, settings: JsonObject, dir: string, domain: string, bad: Bad): Promise<Endpoint> {
  const url = baseUrl(address, settings.override_path === true, bad);
  const capabilities = settings.capabilities ?? ["pull", "resolve"];
  if (!Array.isArray(capabilities)) throw bad("capabilities is not an array");
  return {
    url: url.href.replace(/\/$/, ""),
    canResolve: capabilities.includes("resolve"),
    canPull: capabilities.includes("pull"),
    own: url.host === new URL(defaultEndpoint(domain).url).host,
    tls: {
      ca: await caOf(settings.ca, dir, bad),
      clients: await clientsOf(settings.client, dir, bad),
      skipVerify: settings.skip_verify === true,
    },
    headers: headersOf(settings.header, bad),
    dialTimeoutMs: durationMs(settings.dial_timeout, bad),
  };
}

function baseUrl(address: string, overridePath: boolean, bad: Bad): URL {
  const bare = !address.includes("://");
  const scheme = bare && isLoopback(address.split("/")[0] ?? "") ? "http" : "https";
  if (!URL.canParse(bare ? `${scheme}://${address}` : address)) throw bad(`${JSON.stringify(address)} is not a URL`);
  const url = new URL(bare ? `${scheme}://${address}` : address);
  if (url.protocol !== "https:" && url.protocol !== "http:") throw bad(`${JSON.stringify(address)} is neither http nor https`);
  if (url.username !== "" || url.password !== "") throw bad("credentials do not belong into URLs");
  const path = url.pathname.replace(/\/+$/, "");
  // containerd's rule: a path that has its own "/v2" at the front needs none.
  url.pathname = overridePath || path === "/v2" || path.startsWith("/v2/") ? path : `/v2${path}`;
  url.search = "";
  return url;
}

async function caOf(value: unknown, dir: string, bad: Bad): Promise<readonly string[]> {
  const paths = value === undefined ? [] : Array.isArray(value) ? value : [value];
  return await Promise.all(paths.map((path) => readRelative(path, "ca", dir, bad)));
}

async function readRelative(path: unknown, what: string, dir: string, bad: Bad): Promise<string> {
  if (typeof path !== "string") throw bad(`${what} is neither a path nor a list of paths`);
  const full = isAbsolute(path) ? path : join(dir, path);
  const text = await readIfThere(full);
  if (text === undefined) throw bad(`${what} ${full} does not exist`);
  return text;
}

/** "pair.pem", ["a.pem", "b.pem"] or [["cert", "key"], ...]; an empty key means that the first file holds both. */
async function clientsOf(value: unknown, dir: string, bad: Bad): Promise<TlsOptions["clients"]> {
  const items = value === undefined ? [] : Array.isArray(value) ? value : [value];
  return await Promise.all(
    items.map(async (item: unknown) => {
      const [cert, key] = Array.isArray(item) ? item : [item];
      const keyText = key === undefined || key === "" ? undefined : await readRelative(key, "client", dir, bad);
      return { cert: await readRelative(cert, "client", dir, bad), key: keyText };
    }),
  );
}

function headersOf(value: unknown, bad: Bad): Readonly<Record<string, string>> {
  if (value === undefined) return {};
  if (!isObject(value)) throw bad("header is not a table");
  const entries = Object.entries(value).map(([name, content]): [string, string] => {
    const values = Array.isArray(content) ? content : [content];
    if (!values.every((v) => typeof v === "string")) throw bad(`header ${name} is neither a string nor a list of strings`);
    return [name.toLowerCase(), values.join(", ")];
  });
  return Object.fromEntries(entries);
}

/** Go's durations ("1m30s", "500ms"); a bare number is nanoseconds there. */
function durationMs(value: unknown, bad: Bad): number | undefined {
  if (value === undefined) return undefined;
  if (typeof value === "number" || typeof value === "bigint") return Number(value) / 1e6;
  const unitMs: Readonly<Record<string, number>> = { h: 3_600_000, m: 60_000, s: 1000, ms: 1 };
  const parts = typeof value === "string" ? [...value.matchAll(/(\d+(?:\.\d+)?)(ms|h|m|s)/gy)] : [];
  if (parts.length === 0 || parts.map((p) => p[0]).join("") !== value) throw bad(`${String(value)} is not a duration like 5s`);
  return parts.reduce((total, [, count, unit]) => total + Number(count) * (unitMs[unit ?? ""] ?? 0), 0);
}
