import { RuntimeError } from "../lib/errors.ts";
import { type Digest, isDigest } from "./digest.ts";

/** A normalised image reference. */
export interface Reference {
  /** Host with port, "docker.io" for the hub. */
  readonly domain: string;
  /** Repository below the domain: "library/busybox". */
  readonly path: string;
  /** domain/path */
  readonly name: string;
  /** "latest" when neither tag nor digest was given; undefined with a digest alone. */
  readonly tag: string | undefined;
  /** Decides when given; a tag beside it is for people. */
  readonly digest: Digest | undefined;
}

const hub = "docker.io";
const hubAliases = new Set(["docker.io", "index.docker.io"]);
const maxNameLength = 255;
const component = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/;
const tagForm = /^\w[\w.-]{0,127}$/;
const hostLabel = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
const domainForm = new RegExp(`^(?:${hostLabel}(?:\\.${hostLabel})*|\\[[a-fA-F0-9:]+\\])(?::[0-9]{1,5})?$`);

function bad(text: string, why: string): RuntimeError {
  const shown = text.length > 300 ? `${text.slice(0, 300)}...` : text;
  return new RuntimeError("invalid_argument", `invalid image reference ${JSON.stringify(shown)}: ${why}`);
}

function splitDomain(name: string): [domain: string, path: string] {
  const slash = name.indexOf("/");
  const first = name.slice(0, Math.max(slash, 0));
  // Without dot, port or upper case it is a first path component, as "library" is.
  const isDomain = slash > 0 && (/[.:]/.test(first) || first === "localhost" || first !== first.toLowerCase());
  return isDomain ? [first, name.slice(slash + 1)] : [hub, name];
}

/** Parses `[domain[:port]/]path[:tag][@digest]`; throws invalid_argument. */
export function parseReference(text: string): Reference {
  if (text === "") throw bad(text, "it is empty");
  const at = text.indexOf("@");
  const digest = at < 0 ? undefined : text.slice(at + 1);
  if (digest !== undefined && !isDigest(digest))
    throw bad(text, "the digest must be sha256: and 64, or sha512: and 128, lower-case hex digits");
  const named = at < 0 ? text : text.slice(0, at);
  const colon = named.lastIndexOf(":");
  const hasTag = colon > named.lastIndexOf("/");
  const tag = hasTag ? named.slice(colon + 1) : undefined;
  if (tag !== undefined && !tagForm.test(tag)) throw bad(text, "the tag must be 1 to 128 of letters, digits, _ . -");
  const [givenDomain, givenPath] = splitDomain(hasTag ? named.slice(0, colon) : named);
  const domain = hubAliases.has(givenDomain) ? hub : givenDomain;
  if (!domainForm.test(domain)) throw bad(text, `${JSON.stringify(domain)} is not a host name`);
  if (!givenPath.split("/").every((part) => component.test(part))) {
    throw bad(text, "the repository must be lower-case letters and digits, joined by . _ - and /");
  }
  const path = domain === hub && !givenPath.includes("/") ? `library/${givenPath}` : givenPath;
  const name = `${domain}/${path}`;
  if (name.length > maxNameLength) throw bad(text, `the name is longer than ${maxNameLength} characters`);
  if (/^[0-9a-f]{64}$/.test(text)) throw bad(text, "it is an image id, not a name that can be pulled");
  return { domain, path, name, tag: tag ?? (digest === undefined ? "latest" : undefined), digest };
}

/** "name:tag", for references that have a tag. */
export function tagged(reference: Reference): string {
  return `${reference.name}:${reference.tag}`;
}

/** As it is shown and logged. */
export function formatReference(reference: Reference): string {
  const tag = reference.tag === undefined ? "" : `:${reference.tag}`;
  return `${reference.name}${tag}${reference.digest === undefined ? "" : `@${reference.digest}`}`;
}
