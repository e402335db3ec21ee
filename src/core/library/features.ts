/** The OCI features structure (runtime-spec "Features structure"). Said of config.json is what `ociFields` says: it cannot go stale. */
import { findCriu } from "../criu/criu-program.ts";
import { capabilityNames } from "../process/capabilities.ts";
import { memoryPolicyWords } from "../process/process-attributes.ts";
import { seccompWords } from "../process/seccomp.ts";
import { mountOptionWords } from "../rootfs/mount-options.ts";
import { findMachine } from "./machine.ts";
import { ociFields } from "./oci-fields.ts";
import { ociNamespace, ociVersion } from "./translate.ts";

const hookNames = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/** Whether a field of config.json is carried out, not refused. */
function honours(field: string): boolean {
  return ociFields[field] === "honoured";
}

export async function runtimeFeatures(version: string): Promise<object> {
  const { hierarchies } = (await findMachine()).cgroups;
  const v1 = hierarchies.v1.length > 0;
  const criu = await findCriu().then(
    () => true,
    () => false,
  );
  return {
    ociVersionMin: "1.0.0",
    ociVersionMax: ociVersion,
    hooks: hookNames.filter((name) => honours(`hooks.${name}`)),
    mountOptions: mountOptionWords(),
    linux: {
      namespaces: Object.values(ociNamespace),
      capabilities: capabilityNames,
      cgroup: {
        v1,
        v2: hierarchies.unified !== undefined,
        systemd: true,
        systemdUser: false,
        rdma: honours("linux.resources.rdma"),
      },
      seccomp: { enabled: true, ...seccompWords(honours("linux.seccomp.listenerPath")) },
      apparmor: { enabled: honours("process.apparmorProfile") },
      selinux: { enabled: honours("process.selinuxLabel") },
      intelRdt: { enabled: honours("linux.intelRdt.closID") },
      ...(honours("linux.memoryPolicy") ? { memoryPolicy: memoryPolicyWords() } : {}),
      mountExtensions: { idmap: { enabled: true } },
      netDevices: { enabled: honours("linux.netDevices") },
    },
    annotations: { "dev.caisson.version": version, "org.opencontainers.runc.checkpoint.enabled": String(criu) },
    potentiallyUnsafeConfigAnnotations: ["bundle"],
  };
}
