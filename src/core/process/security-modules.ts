/** AppArmor and SELinux as this kernel has them, and what becomes of labels where it has not. */
import { readFileSync } from "node:fs";
import { errnoName, RuntimeError } from "../../lib/errors.ts";
import type { OciSpec } from "../oci.ts";

export interface SecurityModules {
  readonly apparmor: boolean;
  readonly selinux: boolean;
}

/** Asked of the running kernel. */
export function findSecurityModules(): SecurityModules {
  return {
    apparmor: textOf("/sys/module/apparmor/parameters/enabled").startsWith("Y"),
    // Without a loaded policy every process has the initial label.
    selinux: textOf("/sys/fs/selinux/enforce") !== "" && !/^(kernel)?\0?$/.test(textOf("/proc/self/attr/current").trim()),
  };
}

/**
 * @throws RuntimeError failed_precondition for a label that this kernel cannot apply: a container with less protection than was asked
 *   for is worse than none. "unconfined" asks for nothing.
 */
export function withLabels<S extends Pick<OciSpec, "process" | "linux">>(spec: S, modules: SecurityModules): S {
  const { apparmorProfile = "", selinuxLabel = "", ...process } = spec.process;
  const mountLabel = spec.linux.mountLabel ?? "";
  const wanted = modules.apparmor || apparmorProfile !== "unconfined" ? apparmorProfile : "";
  if (wanted !== "" && !modules.apparmor) throw cannot("AppArmor profile", wanted, "AppArmor is");
  if (selinuxLabel !== "" && !modules.selinux) throw cannot("SELinux label", selinuxLabel, "SELinux is");
  if (mountLabel !== "" && !modules.selinux) throw cannot("mount label", mountLabel, "SELinux is");
  return {
    ...spec,
    process: {
      ...process,
      ...(wanted === "" ? {} : { apparmorProfile: wanted }),
      ...(selinuxLabel === "" ? {} : { selinuxLabel }),
    },
  };
}

function cannot(what: string, name: string, module: string): RuntimeError {
  return new RuntimeError(
    "failed_precondition",
    `${what} ${JSON.stringify(name)} cannot be applied: ${module} not enabled on this node`,
  );
}

function textOf(path: string): string {
  try {
    return readFileSync(path, "latin1");
  } catch (error) {
    if (errnoName(error) === undefined) throw error;
    return "";
  }
}
