/** What plugins may ask for at all, by the node's configuration. */
import { type Container, Field } from "../gen/nri/v1alpha1/api.ts";
import { RuntimeError } from "../lib/errors.ts";
import type { Owners } from "./owners.ts";

/** Words of nri.rejected and the fields that each stands for; those of seccomp depend on what the container had. */
const rejectable = {
  annotations: [Field.Annotations],
  mounts: [Field.Mounts],
  hooks: [Field.OciHooks],
  devices: [Field.Devices, Field.CdiDevices],
  env: [Field.Env],
  args: [Field.Args],
  rlimits: [Field.Rlimits],
  resources: Object.values(Field).filter(
    (field) =>
      (field >= Field.MemLimit && field <= Field.CgroupsPath) || (field >= Field.RdtClosID && field <= Field.MemoryPolicy),
  ),
  priorities: [Field.OomScoreAdj, Field.IoPriority, Field.LinuxSched],
  namespaces: [Field.Namespace],
  sysctls: [Field.Sysctl],
  "net-devices": [Field.LinuxNetDevices],
} as const;

const seccompKinds = ["seccomp-default", "seccomp-unconfined", "seccomp-localhost"] as const;
/** SecurityProfile.ProfileType. */
const kindOfProfile = (container: Container): (typeof seccompKinds)[number] =>
  seccompKinds[container.linux?.seccompProfile?.profileType ?? 1] ?? "seccomp-unconfined";

export const rejectableNames = [...(Object.keys(rejectable) as (keyof typeof rejectable)[]), ...seccompKinds] as const;
export type Rejectable = (typeof rejectableNames)[number];

/** @throws RuntimeError permission_denied that names the plugin. */
export function checkAllowed(rejected: readonly Rejectable[], pristine: Container, owners: Owners): void {
  for (const name of rejected) {
    for (const field of fieldsOf(name, pristine)) {
      const owner = owners.of(pristine.id, field);
      if (owner === undefined) continue;
      throw new RuntimeError(
        "permission_denied",
        `NRI plugin ${owner} changes ${name} of container ${pristine.name}, which nri.rejected of the node's configuration forbids`,
        { id: pristine.id },
      );
    }
  }
}

function fieldsOf(name: Rejectable, pristine: Container): readonly Field[] {
  if (name in rejectable) return rejectable[name as keyof typeof rejectable];
  return kindOfProfile(pristine) === name ? [Field.SeccompPolicy] : [];
}
