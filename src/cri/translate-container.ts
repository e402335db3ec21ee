import { dirname, join } from "node:path";
import type { OciProcess, OciSpec } from "../core/oci.ts";
import type { PodSpec } from "../core/runtime.ts";
import type { LinuxContainerSecurityContext } from "../gen/cri/v1/api.ts";
import { containerLogPath } from "./log-path.ts";
import { resolveCapabilities } from "./translate-capabilities.ts";
import { cdiDeviceNames } from "./translate-cdi.ts";
import { containerCgroup } from "./translate-cgroup.ts";
import { cleanAbsolutePath, invalid } from "./translate-check.ts";
import { resolveArgs, resolveEnvironment, resolveWorkingDir } from "./translate-command.ts";
import { hostDevices, resolveDevices } from "./translate-devices.ts";
import { reportedMount } from "./translate-image-mounts.ts";
import { resolveApparmor, resolveSelinux, type SelinuxLabels } from "./translate-labels.ts";
import { resolveMounts } from "./translate-mounts.ts";
import { resolvePidNamespace } from "./translate-namespaces.ts";
import type { TranslationNode } from "./translate-node.ts";
import { resolveResources } from "./translate-resources.ts";
import { resolveSeccomp } from "./translate-seccomp.ts";
import { resolveStopSignal } from "./translate-signal.ts";
import { type ResolvedUser, resolveUser } from "./translate-user.ts";
import type { ContainerInput, ContainerTranslation, RootLabel, TranslateContainer } from "./translation.ts";

/** A container config without a security context asks for the defaults of each field. */
const noIdentity = {
  runAsUser: undefined,
  runAsUsername: "",
  runAsGroup: undefined,
  supplementalGroups: [],
  supplementalGroupsPolicy: 0,
} as const;

function checkMapped({ uid, gid, groups }: Pick<ResolvedUser, "uid" | "gid" | "groups">, user: PodSpec["user"]): void {
  if (user === null) return;
  const mapped = (id: number, maps: typeof user.uid): boolean =>
    maps.some((map) => id >= map.containerID && id < map.containerID + map.size);
  if (!mapped(uid, user.uid)) throw invalid(`user ${uid} is not mapped in the pod's user namespace`);
  const unmapped = [gid, ...groups].find((id) => !mapped(id, user.gid));
  if (unmapped !== undefined) throw invalid(`group ${unmapped} is not mapped in the pod's user namespace`);
}

type LabelInput = Pick<ContainerInput, "config" | "podConfig"> & { readonly pod: Pick<ContainerInput["pod"], "spec"> };

function labelsOf({ config, podConfig, pod }: LabelInput, node: TranslationNode): SelinuxLabels | undefined {
  const { linux } = podConfig;
  return resolveSelinux(config.linux?.securityContext, linux?.securityContext, node.facts, pod.spec.id);
}

/** It may read whatever label a file has. */
const isUnlimited = (process: string): boolean => process.split(":")[2] === "spc_t";

/** The label of the container's root, which is mounted before the translation can look into it. Empty: none. */
export function rootLabelOn(node: TranslationNode): RootLabel {
  return (input) => labelsOf(input, node)?.mount ?? "";
}

/** Exactly as given: an empty list means that nothing is masked. */
function procPaths(what: string, paths: readonly string[]): string[] {
  return paths.map((path) => cleanAbsolutePath(what, path));
}

function checkPrivileged(input: ContainerInput, privileged: boolean): void {
  if (privileged && !input.pod.privileged) {
    throw invalid("a privileged container needs a privileged sandbox: set privileged in the sandbox's security context");
  }
}

async function resolveProcess(
  input: ContainerInput,
  security: LinuxContainerSecurityContext | undefined,
  node: TranslationNode,
  oomScoreAdj: number,
  notes: string[],
): Promise<{ process: OciProcess; user: ResolvedUser }> {
  const { config, image } = input;
  const privileged = security?.privileged === true;
  const user = await resolveUser(security ?? noIdentity, image.config.user, input.rootfs);
  checkMapped(user, input.pod.spec.user);
  const capabilities = resolveCapabilities(
    security?.capabilities,
    privileged,
    input.options.defaultCapabilities,
    node.facts.capabilities,
  );
  if (capabilities.lacking.length > 0) {
    notes.push(`the daemon itself lacks ${capabilities.lacking.join(", ")}: left out of the container's capabilities`);
  }
  const apparmorProfile = resolveApparmor(security, node.facts);
  const selinux = labelsOf(input, node);
  return {
    user,
    process: {
      terminal: config.tty,
      user: { uid: user.uid, gid: user.gid, additionalGids: user.groups },
      args: resolveArgs(config, image.config),
      env: resolveEnvironment(config, image.config, input.pod.spec.hostname),
      cwd: resolveWorkingDir(config, image.config),
      capabilities: capabilities.sets,
      rlimits: [],
      noNewPrivileges: security?.noNewPrivs === true && !privileged,
      oomScoreAdj,
      ...(apparmorProfile === undefined ? {} : { apparmorProfile }),
      ...(selinux === undefined ? {} : { selinuxLabel: selinux.process }),
    },
  };
}

/** For hooks, agents and VM-style tools; the names are containerd's. Never the pod's own annotations (CVE-2024-3154, CVE-2023-6476). */
function annotationsOf(input: ContainerInput): Record<string, string> {
  const pod = input.podConfig.metadata;
  return {
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.container-name": input.config.metadata?.name ?? "",
    "io.kubernetes.cri.image-name": input.config.image?.userSpecifiedImage || (input.config.image?.image ?? ""),
    "io.kubernetes.cri.sandbox-id": input.pod.spec.id,
    "io.kubernetes.cri.sandbox-name": pod?.name ?? "",
    "io.kubernetes.cri.sandbox-namespace": pod?.namespace ?? "",
    "io.kubernetes.cri.sandbox-uid": pod?.uid ?? "",
  };
}

/** STATE/containers/ID/rootfs: the pod's directory is STATE/pods/POD. */
function rootPath(input: ContainerInput): string {
  return join(dirname(dirname(input.pod.spec.runDir)), "containers", input.id, "rootfs");
}

/** Everything that CreateContainer needs to know. Cheap checks of the request come before the image's and the host's files are read. */
export async function translateContainer(input: ContainerInput, node: TranslationNode): Promise<ContainerTranslation> {
  const { config, pod, podConfig } = input;
  containerLogPath(podConfig, config);
  const security = config.linux?.securityContext;
  const privileged = security?.privileged === true;
  checkPrivileged(input, privileged);
  const podOptions = podConfig.linux?.securityContext?.namespaceOptions;
  const pidNamespace = resolvePidNamespace(security?.namespaceOptions, podOptions, pod.spec);
  const stop = resolveStopSignal(config.stopSignal, input.image.config.stopSignal);
  const resources = resolveResources(config.linux?.resources, node.facts);
  const notes = [...(stop.note === undefined ? [] : [stop.note]), ...resources.notes];
  const maskedPaths = privileged ? [] : procPaths("masked path", security?.maskedPaths ?? []);
  const readonlyPaths = privileged ? [] : procPaths("read-only path", security?.readonlyPaths ?? []);

  const { process, user } = await resolveProcess(input, security, node, resources.oomScoreAdj, notes);
  const seccomp = await resolveSeccomp(security, process.capabilities?.bounding ?? [], node);
  const userNamespace = pod.spec.user !== null;
  const asked = await resolveDevices(config.devices, userNamespace, node.host);
  const everyDevice = privileged && input.options.privilegedHostDevices ? await hostDevices(userNamespace, node.host) : undefined;
  const askedPaths = new Set(asked.devices.map((device) => device.path));
  const labels = labelsOf(input, node);
  const mounts = await resolveMounts(
    {
      mounts: config.mounts,
      mountedImages: input.mountedImages,
      imageVolumes: input.image.config.volumes,
      volumesDir: input.volumesDir,
      absentMountSources: input.options.absentMountSources,
      volumeLabel: labels === undefined || isUnlimited(labels.process) ? "" : labels.mount,
      privileged,
      readonlyRootfs: security?.readonlyRootfs === true,
      runDir: pod.spec.runDir,
      network: pod.spec.network,
      ipc: pod.spec.ipc,
      user: pod.spec.user,
    },
    node,
  );
  const mountLabel = labels?.mount ?? "";
  const base: OciSpec = {
    ociVersion: "1.3.0",
    process,
    root: { path: rootPath(input), readonly: security?.readonlyRootfs === true },
    mounts: mounts.mounts,
    annotations: annotationsOf(input),
    linux: {
      ...(pod.spec.user === null ? {} : { uidMappings: pod.spec.user.uid, gidMappings: pod.spec.user.gid }),
      devices: [...(everyDevice?.devices.filter((device) => !askedPaths.has(device.path)) ?? []), ...asked.devices],
      cgroupsPath: containerCgroup(pod.cgroupParent, input.id),
      resources: {
        ...resources.resources,
        devices: [{ allow: false, access: "rwm" }, ...(everyDevice?.rules ?? asked.rules)],
      },
      ...(mounts.rootfsPropagation === undefined ? {} : { rootfsPropagation: mounts.rootfsPropagation }),
      ...(seccomp === undefined ? {} : { seccomp }),
      maskedPaths,
      readonlyPaths,
      ...(mountLabel === "" ? {} : { mountLabel }),
    },
  };
  const oci = await node.cdi.inject(base, cdiDeviceNames(config, input.options.cdiAnnotations));
  const groups = oci.process.user.additionalGids ?? [];
  checkMapped({ ...user, groups }, pod.spec.user);
  return {
    oci,
    pidNamespace,
    cgroupNamespace: input.cgroupVersion === "v2" && !privileged ? "private" : "host",
    volumes: mounts.volumes,
    images: mounts.images,
    relabels: mounts.relabels,
    user: { uid: user.uid, gid: user.gid, supplementalGroups: groups },
    stopSignal: stop.signal,
    mounts: config.mounts.map((mount) => reportedMount(mount, input.mountedImages)),
    notes: [...notes, ...mounts.notes],
  };
}

/** What the verbs are given: the translation for this node. */
export function translateContainerOn(node: TranslationNode): TranslateContainer {
  return (input) => translateContainer(input, node);
}
