/** Who we are to a registry: credentials of the CRI, challenges, bearer tokens. */
import { createHash } from "node:crypto";
import { RuntimeError } from "../lib/errors.ts";
import type { PullAuth } from "./image-service.ts";

/** What a pull may present. Exactly one kind. */
export type Credentials =
  | { readonly kind: "anonymous" }
  | { readonly kind: "password"; readonly username: string; readonly password: string }
  /** An OAuth2 refresh token. */
  | { readonly kind: "identity"; readonly token: string }
  /** A bearer token that is sent as it is. */
  | { readonly kind: "bearer"; readonly token: string };

export const anonymous: Credentials = { kind: "anonymous" };

const hubNames = new Set(["docker.io", "index.docker.io", "registry-1.docker.io"]);

/** Whether credentials that name `serverAddress` are meant for a host; aliases of the hub are one. */
export function sameServer(serverAddress: string, host: string): boolean {
  const text = serverAddress.includes("://") ? serverAddress : `https://${serverAddress}`;
  if (!URL.canParse(text)) return false;
  const named = authority(new URL(text));
  const wanted = authority(new URL(`https://${host}`));
  return named === wanted || (hubNames.has(named) && hubNames.has(wanted));
}

const authority = (url: URL): string => url.host.replace(/:(?:443|80)$/, "");

/** Precedence as other runtimes have it: user and password, identity token, `auth`, registry token. */
export function credentialsOf(auth: PullAuth | undefined): Credentials {
  if (auth === undefined) return anonymous;
  if (auth.username !== "") return passwordOrToken(auth.username, auth.password);
  if (auth.identityToken !== "") return { kind: "identity", token: auth.identityToken };
  if (auth.auth !== "") {
    const decoded = Buffer.from(auth.auth, "base64").toString("utf8").replace(/\0+$/, "");
    const colon = decoded.indexOf(":");
    if (colon < 0) throw new RuntimeError("invalid_argument", "the auth field of the credentials is not base64 of user:password");
    return passwordOrToken(decoded.slice(0, colon), decoded.slice(colon + 1));
  }
  if (auth.registryToken !== "") return { kind: "bearer", token: auth.registryToken };
  return anonymous;
}

/** docker's configuration marks an identity token by this user name. */
function passwordOrToken(username: string, password: string): Credentials {
  return username === "<token>" ? { kind: "identity", token: password } : { kind: "password", username, password };
}

/** Tells equal credentials from others without keeping them readable. */
export function credentialsKey(credentials: Credentials): string {
  return createHash("sha256").update(JSON.stringify(credentials)).digest("hex");
}

export function basicHeader(username: string, password: string): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`;
}

export interface Challenge {
  /** Lower case. */
  readonly scheme: string;
  readonly parameters: ReadonlyMap<string, string>;
}

const tokenForm = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";

/** Parses WWW-Authenticate, several challenges in one header or in several. Stops at what it cannot read. */
export function parseChallenges(header: string | readonly string[] | undefined): readonly Challenge[] {
  return [header ?? []].flat().flatMap(parseOne);
}

function parseOne(text: string): Challenge[] {
  const found: { scheme: string; parameters: Map<string, string> }[] = [];
  const parameter = new RegExp(`\\s*,?\\s*(${tokenForm})\\s*=\\s*(?:"((?:[^"\\\\]|\\\\.)*)"|(${tokenForm}|[^\\s,"]+))`, "y");
  const scheme = new RegExp(`\\s*,?\\s*(${tokenForm})(?=\\s|,|$)(?!\\s*=)`, "y");
  for (let at = 0; at < text.length; ) {
    parameter.lastIndex = scheme.lastIndex = at;
    const current = found.at(-1);
    const pair = current === undefined ? null : parameter.exec(text);
    if (pair !== null) {
      current?.parameters.set((pair[1] ?? "").toLowerCase(), pair[2]?.replaceAll(/\\(.)/g, "$1") ?? pair[3] ?? "");
      at = parameter.lastIndex;
      continue;
    }
    const begun = scheme.exec(text);
    if (begun === null) break;
    found.push({ scheme: (begun[1] ?? "").toLowerCase(), parameters: new Map() });
    at = scheme.lastIndex;
  }
  return found;
}
