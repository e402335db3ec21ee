/** Mounts of a container: what every container gets, what the pod asks for, and the image's volumes (cri-semantics 5.9). */
import { posix } from "node:path";
import type { OciIdMapping, OciMount } from "../core/oci.ts";
import type { PodSpec, Relabel } from "../core/runtime.ts";
import type { IDMapping, Mount } from "../gen/cri/v1/api.ts";
import type { Image } from "../image/image-service.ts";
import { codeOf, messageOf } from "../lib/errors.ts";
import { defaultMounts, type MountSituation } from "./default-mounts.ts";
import { type HostMount, parseMountinfo, propagationOption } from "./mount-propagation.ts";
import { cleanAbsolutePath, hasControlCharacter, invalid, isAtOrBelow, pathDepth, quoted } from "./translate-check.ts";
import { imageMount, namesImage } from "./translate-image-mounts.ts";
import type { TranslationNode } from "./translate-node.ts";
import type { ImageMount } from "./translation.ts";

export interface MountRequest extends MountSituation {
  readonly mounts: readonly Mount[];
  readonly mountedImages: ReadonlyMap<string, Image>;
  readonly imageVolumes: readonly string[];
  readonly volumesDir: string;
  readonly absentMountSources: "create" | "refuse";
  /** SELinux label of volumes that ask for one; empty: there is none. */
  readonly volumeLabel: string;
}

export interface ResolvedMounts {
  readonly mounts: readonly OciMount[];
  readonly volumes: readonly { readonly path: string; readonly hostPath: string }[];
  readonly images: readonly ImageMount[];
  readonly relabels: readonly Relabel[];
  readonly rootfsPropagation: "rslave" | "rshared" | undefined;
  readonly notes: readonly string[];
}

const mostImageVolumes = 256;
/** Each is a descriptor of the container's plan, which has 64. */
const mostImageMounts = 32;

function destinationOf(mount: Mount): string {
  const path = cleanAbsolutePath("mount container_path", mount.containerPath);
  if (path === "/") throw invalid("mount container_path must not be the root of the container");
  if (hasControlCharacter(path)) throw invalid(`mount container_path ${quoted(path)} contains control characters`);
  return path;
}

/** Descriptors of a kubelet are given as links that must be opened, not read: their target may be swapped (CVE-2021-25741). */
const isDescriptorLink = (path: string): boolean => /^\/proc\/(self|\d+)\/fd\/\d+$/.test(path);

/** What to mount, and where that lies on the host. */
interface MountSource {
  readonly source: string;
  readonly real: string;
}

async function resolveSource(mount: Mount, request: MountRequest, node: TranslationNode): Promise<MountSource> {
  const source = cleanAbsolutePath(`host_path of the mount at ${mount.containerPath}`, mount.hostPath);
  const real = await node.host.realpath(source);
  if (isDescriptorLink(source)) return { source, real: real ?? source };
  if (real !== undefined) return { source: real, real };
  if (request.absentMountSources === "refuse") {
    throw invalid(`host_path ${quoted(source)} of the mount at ${mount.containerPath} does not exist`);
  }
  try {
    await node.host.makeDirectory(source);
  } catch (error) {
    if (codeOf(error) === "unavailable") throw error;
    throw invalid(`host_path ${quoted(source)} of the mount at ${mount.containerPath} cannot be made: ${messageOf(error)}`);
  }
  const made = await node.host.realpath(source);
  if (made === undefined) throw invalid(`host_path ${quoted(source)} of the mount at ${mount.containerPath} vanished`);
  return { source: made, real: made };
}

function recursiveReadOnly(mount: Mount, supported: boolean): boolean {
  if (!mount.recursiveReadOnly) return false;
  const at = `mount at ${mount.containerPath}`;
  if (!mount.readonly) throw invalid(`recursive_read_only of the ${at} needs readonly`);
  if (mount.propagation !== 0) throw invalid(`recursive_read_only of the ${at} needs propagation PRIVATE`);
  if (!supported) throw invalid(`RROUnsupported: the kernel cannot make the ${at} read-only recursively (Linux 5.12 can)`);
  return true;
}

/** An id-mapped mount shows the ids of the pod's user namespace, so its mappings must be that namespace's. */
function idMappings(mount: Mount, user: PodSpec["user"]): Pick<OciMount, "uidMappings" | "gidMappings"> {
  if (mount.uidMappings.length === 0 && mount.gidMappings.length === 0) return {};
  const convert = (mappings: readonly IDMapping[]): OciIdMapping[] =>
    mappings.map(({ containerId, hostId, length }) => ({ containerID: containerId, hostID: hostId, size: length }));
  const [uidMappings, gidMappings] = [convert(mount.uidMappings), convert(mount.gidMappings)];
  if (user === null) throw invalid(`mount at ${mount.containerPath} has id mappings but the pod has no user namespace`);
  if (JSON.stringify([uidMappings, gidMappings]) !== JSON.stringify([user.uid, user.gid])) {
    throw invalid(`id mappings of the mount at ${mount.containerPath} differ from those of the pod's user namespace`);
  }
  return { uidMappings, gidMappings };
}

function extraOptions(mount: Mount): string[] {
  const unknown = mount.mountOptions.find((option) => !["noexec", "nodev", "nosuid"].includes(option));
  if (unknown !== undefined)
    throw invalid(`mount option ${quoted(unknown)} of the mount at ${mount.containerPath} is not supported`);
  return mount.mountOptions;
}

/** Whose label belongs to the node: with another one, services of the node could no longer read it. */
const ofTheNode =
  "/ /boot /dev /etc /home /media /mnt /opt /root /run /srv /tmp /var /var/lib /var/log /var/run /etc/passwd /etc/shadow /etc/group".split(
    " ",
  );
const ofTheNodeWhole = [
  "/bin",
  "/boot",
  "/dev",
  "/etc/pki",
  "/etc/selinux",
  "/lib",
  "/lib32",
  "/lib64",
  "/proc",
  "/sbin",
  "/sys",
  "/usr",
];

/** What CRI calls a no-op where the node has no SELinux, or the container no label. */
function relabelOf(mount: Mount, source: string, real: string, label: string): { readonly relabel?: Relabel } {
  if (!mount.selinuxRelabel || label === "") return {};
  if (ofTheNode.includes(real) || ofTheNodeWhole.some((parent) => isAtOrBelow(real, parent)))
    throw invalid(`selinux_relabel of the mount at ${mount.containerPath}: ${real} belongs to the node and keeps its label`);
  return { relabel: { path: source, follow: isDescriptorLink(source), label } };
}

interface PodMount {
  readonly mount: OciMount;
  readonly image: ImageMount | undefined;
  readonly relabel?: Relabel;
}

async function podMount(
  mount: Mount,
  request: MountRequest,
  hostMounts: readonly HostMount[],
  node: TranslationNode,
): Promise<PodMount> {
  const ofImage = namesImage(mount);
  const destination = destinationOf(mount);
  const recursive = recursiveReadOnly(mount, node.facts.recursiveReadOnly);
  const mappings = idMappings(mount, request.user);
  const extra = extraOptions(mount);
  if (ofImage) return imageMount(mount, destination, extra, request.mountedImages);
  const { source, real } = await resolveSource(mount, request, node);
  const bind: OciMount = {
    destination,
    type: "bind",
    source,
    options: [
      "rbind",
      propagationOption(mount.propagation, real, hostMounts),
      recursive ? "rro" : mount.readonly ? "ro" : "rw",
      // What is mounted below must not give what is denied here.
      ...extra.map((option) => `r${option}`),
    ],
    ...mappings,
  };
  return { mount: bind, image: undefined, ...relabelOf(mount, source, real, request.volumeLabel) };
}

/** What has no meaning inside a filesystem of the kernel, and must not replace one. */
const noVolumesBelow = ["/proc", "/sys", "/dev"];

/** Image-declared volumes: the path is data of the image, resolved inside the root by the core (CVE-2022-23648). */
function imageVolumes(request: MountRequest, taken: ReadonlySet<string>, notes: string[]): ResolvedMounts["volumes"] {
  const paths = new Set<string>();
  for (const declared of request.imageVolumes) {
    if (declared === "" || hasControlCharacter(declared)) throw invalid(`volume ${quoted(declared)} of the image is not a path`);
    const path = posix.join("/", declared).replace(/(.)\/$/, "$1");
    if (path === "/") throw invalid("the image declares its whole root as a volume");
    if (noVolumesBelow.some((parent) => isAtOrBelow(path, parent))) notes.push(`volume ${quoted(path)} of the image is ignored`);
    else if (!taken.has(path)) paths.add(path);
  }
  if (paths.size > mostImageVolumes) throw invalid(`the image declares ${paths.size} volumes, more than ${mostImageVolumes}`);
  return [...paths].sort().map((path, index) => ({ path, hostPath: posix.join(request.volumesDir, String(index)) }));
}

/** A pod's mount replaces the default at the same place; one over /dev or /sys also replaces the defaults below it. */
function keepDefault(destination: string, asked: ReadonlySet<string>): boolean {
  if (asked.has(destination)) return false;
  return !["/dev", "/sys"].some((parent) => asked.has(parent) && isAtOrBelow(destination, parent));
}

export async function resolveMounts(request: MountRequest, node: TranslationNode): Promise<ResolvedMounts> {
  const notes: string[] = [];
  const hostMounts = request.mounts.some((mount) => mount.propagation !== 0) ? parseMountinfo(await node.host.mountinfo()) : [];
  const asked = new Map<string, PodMount>();
  for (const mount of request.mounts) {
    const translated = await podMount(mount, request, hostMounts, node);
    const { destination } = translated.mount;
    if (asked.has(destination)) {
      notes.push(`several mounts at ${destination}: the last one is used`);
      asked.delete(destination);
    }
    asked.set(destination, translated);
  }
  const images = [...asked.values()].flatMap(({ image }) => image ?? []);
  if (images.length > mostImageMounts) {
    throw invalid(`ImageVolumeMountFailed: ${images.length} image mounts are more than ${mostImageMounts}`);
  }
  const podMounts = [...asked.values()].map(({ mount }) => mount);
  const defaults = defaultMounts(request).filter((mount) => keepDefault(mount.destination, new Set(asked.keys())));
  const volumes = imageVolumes(request, new Set([...asked.keys(), ...defaults.map((mount) => mount.destination)]), notes);
  const volumeMounts = volumes.map(
    ({ path, hostPath }): OciMount => ({
      destination: path,
      type: "bind",
      source: hostPath,
      options: ["rbind", "rprivate", "rw"],
    }),
  );
  const mounts = [...defaults, ...podMounts, ...volumeMounts].sort((a, b) => pathDepth(a.destination) - pathDepth(b.destination));
  const used = new Set(podMounts.flatMap((mount) => mount.options ?? []));
  return {
    mounts,
    volumes,
    images,
    relabels: [...asked.values()].flatMap(({ relabel }) => relabel ?? []),
    rootfsPropagation: used.has("rshared") ? "rshared" : used.has("rslave") ? "rslave" : undefined,
    notes,
  };
}
