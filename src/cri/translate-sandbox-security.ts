/**
 * A sandbox has no process of its own, so what it says of one has no effect; a value that no process could have is refused all the same, before
 * anything is made: a client learns of its mistake at the call that has it.
 */
import type { LinuxSandboxSecurityContext } from "../gen/cri/v1/api.ts";
import { invalid } from "./translate-check.ts";
import { checkSelinuxOptions } from "./translate-labels.ts";
import { chooseSeccomp, chooseTyped } from "./translate-seccomp.ts";
import { checkAskedUser } from "./translate-user.ts";

/** Profiles of the node's disk are not looked for: nothing would be confined by them. */
export function checkSandboxSecurity(security: LinuxSandboxSecurityContext | undefined): void {
  if (security === undefined) return;
  if (security.runAsGroup !== undefined && security.runAsUser === undefined) {
    throw invalid("run_as_group of the sandbox is set without run_as_user");
  }
  checkAskedUser({ ...security, runAsUsername: "" });
  checkSelinuxOptions(security.selinuxOptions);
  chooseSeccomp(security);
  if (security.apparmor !== undefined) chooseTyped("apparmor", security.apparmor);
}
