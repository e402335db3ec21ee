import type { OciSeccomp } from "../core/oci.ts";
import { type LinuxContainerSecurityContext, type SecurityProfile, SecurityProfile_ProfileType } from "../gen/cri/v1/api.ts";
import { messageOf } from "../lib/errors.ts";
import { parseSeccompProfile } from "./seccomp-profile.ts";
import { cleanAbsolutePath, invalid, quoted } from "./translate-check.ts";
import type { Host, TranslationNode } from "./translate-node.ts";

type ProfileChoice =
  | { readonly kind: "default" }
  | { readonly kind: "unconfined" }
  | { readonly kind: "localhost"; readonly ref: string };

const largestProfileBytes = 1024 * 1024;

/** A typed profile of the CRI; `what` names the field. */
export function chooseTyped(what: string, profile: SecurityProfile): ProfileChoice {
  const { profileType, localhostRef } = profile;
  if (profileType === SecurityProfile_ProfileType.Localhost) {
    if (localhostRef === "") throw invalid(`${what} profile of type Localhost needs a localhost_ref`);
    return { kind: "localhost", ref: localhostRef };
  }
  if (localhostRef !== "")
    throw invalid(`${what} profile has localhost_ref ${quoted(localhostRef)} but is not of type Localhost`);
  if (profileType === SecurityProfile_ProfileType.RuntimeDefault) return { kind: "default" };
  if (profileType === SecurityProfile_ProfileType.Unconfined) return { kind: "unconfined" };
  throw invalid(`unknown ${what} profile type ${String(profileType)}`);
}

/** The deprecated string form. */
function chooseDeprecated(path: string): ProfileChoice {
  if (path === "" || path === "unconfined") return { kind: "unconfined" };
  if (path === "runtime/default" || path === "docker/default") return { kind: "default" };
  if (path.startsWith("localhost/")) return { kind: "localhost", ref: path.slice("localhost/".length) };
  throw invalid(`unknown seccomp_profile_path ${quoted(path)}`);
}

type Asked = Pick<LinuxContainerSecurityContext, "seccomp" | "seccompProfilePath">;

/** The typed profile wins over the deprecated string. */
export function chooseSeccomp(asked: Asked | undefined): ProfileChoice {
  const choice =
    asked?.seccomp === undefined ? chooseDeprecated(asked?.seccompProfilePath ?? "") : chooseTyped("seccomp", asked.seccomp);
  if (choice.kind === "localhost") cleanAbsolutePath("seccomp localhost_ref", choice.ref);
  return choice;
}

async function readLocalhost(
  host: Host,
  ref: string,
  capabilities: readonly string[],
  architecture: string,
): Promise<OciSeccomp> {
  const path = cleanAbsolutePath("seccomp localhost_ref", ref);
  let content: Buffer | undefined;
  try {
    content = await host.readFile(path, largestProfileBytes);
  } catch (error) {
    throw invalid(`cannot read seccomp profile ${path}: ${messageOf(error)}`);
  }
  if (content === undefined) throw invalid(`cannot read seccomp profile ${path}: it does not exist`);
  return parseSeccompProfile(path, content.toString("utf8"), capabilities, architecture);
}

/** undefined: unconfined. No profile at all means unconfined as well, as with other runtimes; privileged containers have none. */
export async function resolveSeccomp(
  context: LinuxContainerSecurityContext | undefined,
  capabilities: readonly string[],
  node: TranslationNode,
): Promise<OciSeccomp | undefined> {
  const choice = chooseSeccomp(context);
  if (context?.privileged === true || choice.kind === "unconfined") return undefined;
  if (!node.facts.seccomp)
    throw invalid("the kernel has no seccomp: only the Unconfined seccomp profile is possible on this node");
  if (choice.kind === "default") return node.defaultSeccomp(capabilities);
  return await readLocalhost(node.host, choice.ref, capabilities, node.facts.architecture);
}
