/** AppArmor and SELinux fields (cri-semantics 5.6). */

import { defaultApparmorProfile } from "../core/process/apparmor-default.ts";
import type { LinuxContainerSecurityContext, SELinuxOption } from "../gen/cri/v1/api.ts";
import { RuntimeError } from "../lib/errors.ts";
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

/** Without SELinux the options are checked and otherwise ignored, as other runtimes do. */
export function checkSelinux(options: SELinuxOption | undefined, facts: NodeFacts): void {
  if (options === undefined) return;
  const { user, role, type, level } = options;
  if (level !== "" && !levelForm.test(level)) throw invalid(`SELinux level ${quoted(level)} is not valid`);
  for (const part of [user, role, type]) {
    if (part !== "" && !/^[A-Za-z0-9_.-]{1,255}$/.test(part)) throw invalid(`SELinux option ${quoted(part)} is not valid`);
  }
  if (facts.selinux && [user, role, type, level].some((part) => part !== "")) {
    throw new RuntimeError("unimplemented", "SELinux labels cannot be applied yet: remove selinux_options or turn SELinux off");
  }
}
