/** AppArmor and SELinux fields (cri-semantics 5.6). */

import { defaultApparmorProfile } from "../core/process/apparmor-default.ts";
import type { LinuxContainerSecurityContext, SELinuxOption } from "../gen/cri/v1/api.ts";
import { invalid, quoted } from "./translate-check.ts";
import type { NodeFacts } from "./translate-node.ts";
import { chooseTyped } from "./translate-seccomp.ts";

type ApparmorChoice = ReturnType<typeof chooseTyped>;

function chooseApparmor(context: LinuxContainerSecurityContext): ApparmorChoice | undefined {
  if (context.apparmor !== undefined) return chooseTyped("apparmor", context.apparmor);
  const name = context.apparmorProfile;
  if (name === "") return undefined;
  if (name === "unconfined") return { kind: "unconfined" };
  if (name === "runtime/default") return { kind: "default" };
  if (name.startsWith("localhost/")) return { kind: "localhost", ref: name.slice("localhost/".length) };
  throw invalid(`unknown apparmor_profile ${quoted(name)}`);
}

/**
 * Name of the profile to apply; undefined: none. Less than what was asked for is never given in silence; who asks for nothing gets the
 * default one where it is loaded (the log and Status say when it is not).
 */
export function resolveApparmor(context: LinuxContainerSecurityContext | undefined, facts: NodeFacts): string | undefined {
  const choice = context === undefined ? undefined : chooseApparmor(context);
  const privileged = context?.privileged === true;
  if (choice === undefined) {
    const loaded = !privileged && facts.apparmorProfiles?.().has(defaultApparmorProfile) === true;
    return loaded ? defaultApparmorProfile : undefined;
  }
  if (choice.kind === "unconfined") return undefined;
  if (choice.kind === "default" && privileged) return undefined;
  const name = choice.kind === "localhost" ? choice.ref : defaultApparmorProfile;
  if (facts.apparmorProfiles === undefined) {
    throw invalid(`AppArmor profile ${quoted(name)} cannot be applied: AppArmor is not enabled on this node`);
  }
  if (!facts.apparmorProfiles().has(name)) throw invalid(`AppArmor profile ${quoted(name)} is not loaded on this node`);
  return name;
}

const levelForm = /^s\d{1,2}(-s\d{1,2})?(:c\d{1,4}([.,]c\d{1,4})*(-s\d{1,2}(:c\d{1,4}([.,]c\d{1,4})*)?)?)?$/;

export interface SelinuxLabels {
  readonly process: string;
  /** Of the root and of the file systems that are mounted; empty where the policy has no type for a container's files. */
  readonly mount: string;
}

type Security = Pick<LinuxContainerSecurityContext, "selinuxOptions" | "privileged">;

/**
 * Labels of a container: of its own options, else of its sandbox's, so that a pod's containers share them. What the options leave out is the
 * policy's; without a level the pod gets a pair of categories of its own. undefined: nothing is asked for, or SELinux is off, where options are
 * checked and otherwise ignored, as other runtimes do; privileged containers have none.
 */
export function resolveSelinux(
  container: Security | undefined,
  pod: Security | undefined,
  facts: Pick<NodeFacts, "selinux">,
  podId: string,
): SelinuxLabels | undefined {
  for (const options of [container?.selinuxOptions, pod?.selinuxOptions]) checkSelinuxOptions(options);
  const policy = facts.selinux;
  const options = [container?.selinuxOptions, pod?.selinuxOptions].find(saysSomething);
  if (policy === undefined || options === undefined || container?.privileged === true) return undefined;
  const [user, role, type, ...level] = policy.process.split(":");
  const wanted = options.level || (level.length === 0 ? "" : `${level[0]}:${categoriesOf(podId)}`);
  const withLevel = (parts: readonly (string | undefined)[]) => [...parts, ...(wanted === "" ? [] : [wanted])].join(":");
  const process = withLevel([options.user || user, options.role || role, options.type || type]);
  if (!policy.knows(process)) throw invalid(`SELinux label ${quoted(process)} is not known to this node's policy`);
  const mount = withLevel(policy.file.split(":").slice(0, 3));
  return { process, mount: policy.knows(mount) ? mount : "" };
}

function saysSomething(options: SELinuxOption | undefined): options is SELinuxOption {
  return options !== undefined && [options.user, options.role, options.type, options.level].some((part) => part !== "");
}

/** Two of the 1024 categories, by the pod's id: half a million pairs. */
function categoriesOf(podId: string): string {
  const pick = (at: number) => Number.parseInt(podId.slice(at, at + 8), 16) % 1024;
  const [low, high] = [pick(0), pick(8)].toSorted((a, b) => a - b);
  return low === high ? `c${low},c${((high ?? 0) + 1) % 1024}` : `c${low},c${high}`;
}

export function checkSelinuxOptions(options: SELinuxOption | undefined): void {
  if (options === undefined) return;
  const { user, role, type, level } = options;
  if (level !== "" && !levelForm.test(level)) throw invalid(`SELinux level ${quoted(level)} is not valid`);
  for (const part of [user, role, type]) {
    if (part !== "" && !/^[A-Za-z0-9_.-]{1,255}$/.test(part)) throw invalid(`SELinux option ${quoted(part)} is not valid`);
  }
}
