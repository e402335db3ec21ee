/** Mounts that NRI plugins want: sources are looked at as those of a pod, and must be there. */
import type { OciMount } from "../core/oci.ts";
import { MountPropagation } from "../gen/cri/v1/api.ts";
import type { Mount } from "../gen/nri/v1alpha1/api.ts";
import { applyEntries, bareKey } from "../nri/merge-keyed.ts";
import { parseMountinfo, propagationOption } from "./mount-propagation.ts";
import { cleanAbsolutePath, hasControlCharacter, invalid, pathDepth, quoted } from "./translate-check.ts";
import type { TranslationNode } from "./translate-node.ts";
import type { ContainerInput, ContainerTranslation } from "./translation.ts";

interface AdjustedMounts extends Pick<ContainerTranslation, "volumes" | "images"> {
  readonly mounts: readonly OciMount[];
  readonly rootfsPropagation: "rslave" | "rshared" | undefined;
}

/** Filesystems that show nothing of the node which the container does not have already. */
const ownFilesystems = new Set(["tmpfs", "proc", "sysfs", "mqueue", "cgroup", "cgroup2", "devpts"]);

function destinationOf(mount: Mount): string {
  const path = cleanAbsolutePath("destination of an NRI plugin's mount", mount.destination);
  if (path === "/") throw invalid("an NRI plugin's mount must not be at the root of the container");
  if (hasControlCharacter(path))
    throw invalid(`destination ${quoted(path)} of an NRI plugin's mount contains control characters`);
  return path;
}

const isBind = ({ type, options }: Mount): boolean => type === "bind" || options.includes("bind") || options.includes("rbind");

async function mountOf(mount: Mount, mountinfo: () => Promise<string>, node: TranslationNode): Promise<OciMount> {
  const destination = destinationOf(mount);
  const { type, options } = mount;
  if (!isBind(mount)) {
    if (!ownFilesystems.has(type))
      throw invalid(`mount at ${destination} of type ${quoted(type)}, which an NRI plugin wants, is not allowed`);
    return { destination, type, source: mount.source || type, options };
  }
  const source = cleanAbsolutePath(`source of an NRI plugin's mount at ${destination}`, mount.source);
  const real = await node.host.realpath(source);
  if (real === undefined) throw invalid(`source ${quoted(source)} of an NRI plugin's mount at ${destination} does not exist`);
  const asked = options.find((option) => /^r?(shared|slave)$/.test(option));
  if (asked !== undefined) {
    const propagation = asked.endsWith("shared")
      ? MountPropagation.PROPAGATION_BIDIRECTIONAL
      : MountPropagation.PROPAGATION_HOST_TO_CONTAINER;
    propagationOption(propagation, real, parseMountinfo(await mountinfo()));
  }
  const kind = options.some((option) => option === "bind" || option === "rbind") ? [] : ["rbind"];
  return { destination, type: "bind", source: real, options: [...kind, ...options] };
}

export async function adjustMounts(
  { pod }: ContainerInput,
  translation: ContainerTranslation,
  wanted: readonly Mount[],
  node: TranslationNode,
): Promise<AdjustedMounts> {
  const { oci, volumes, images } = translation;
  if (wanted.length === 0) return { mounts: oci.mounts, volumes, images, rootfsPropagation: undefined };
  const converted = new Map<Mount, OciMount>();
  for (const mount of wanted) {
    if (!mount.destination.startsWith("-")) converted.set(mount, await mountOf(mount, () => node.host.mountinfo(), node));
  }
  const touched = new Set(wanted.map(({ destination }) => bareKey(destination)));
  const mounts = applyEntries(
    oci.mounts,
    ({ destination }) => destination,
    wanted,
    ({ destination }) => destination,
    (mount) => converted.get(mount) ?? { destination: mount.destination },
  ).sort((a, b) => pathDepth(a.destination) - pathDepth(b.destination));
  if (pod.spec.user !== null && [...converted.values()].some(({ type }) => type === "sysfs" || type === "proc"))
    throw invalid("an NRI plugin's mount of proc or sysfs is not possible in a pod with a user namespace");
  const used = new Set(mounts.flatMap(({ options = [] }) => options));
  return {
    mounts,
    volumes: volumes.filter(({ path }) => !touched.has(path)),
    images: images.filter(({ destination }) => !touched.has(destination)),
    rootfsPropagation:
      used.has("rshared") || used.has("shared") ? "rshared" : used.has("rslave") || used.has("slave") ? "rslave" : undefined,
  };
}
