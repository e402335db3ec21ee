/** Mounts whose content is an image (cri-semantics 5.9). */
import type { OciMount } from "../core/oci.ts";
import { type ContainerConfig, type Mount, MountPropagation } from "../gen/cri/v1/api.ts";
import type { Image } from "../image/image-service.ts";
import { RuntimeError, wrapError } from "../lib/errors.ts";
import { hasControlCharacter, invalid, quoted } from "./translate-check.ts";
import type { ImageMount } from "./translation.ts";

/** The kubelet takes the beginning of the message for the reason that it shows. */
const prefix = "ImageVolumeMountFailed";
const longestPath = 4095;

/** A failure of the mount at this place, in the words that a kubelet knows. */
export function imageMountFailure(destination: string, error: unknown): RuntimeError {
  return wrapError(`${prefix}: image mount at ${destination}`, error);
}

/** The images that mounts name, by the names that they use; nothing is ever pulled. */
export function mountedImages(
  config: Pick<ContainerConfig, "mounts">,
  find: (name: string) => Image | undefined,
): ReadonlyMap<string, Image> {
  const images = new Map<string, Image>();
  for (const { image, containerPath } of config.mounts) {
    const name = image?.image ?? "";
    if (name === "") continue;
    const found = find(name);
    if (found === undefined) {
      const message = `${prefix}: image ${quoted(name)} of the mount at ${containerPath} is not on this node; pull it first`;
      throw new RuntimeError("not_found", message, { image: name });
    }
    images.set(name, found);
  }
  return images;
}

/** Whether the mount's content is an image. */
export function namesImage(mount: Mount): boolean {
  if (mount.image !== undefined && mount.image.image !== "") return true;
  if (mount.imageSubPath !== "") throw invalid(`mount at ${mount.containerPath} has an image_sub_path but no image`);
  return false;
}

/** Clean, relative; `..` is refused, not resolved: what it means depends on symlinks of the image. */
function subPath({ imageSubPath: path, containerPath }: Mount): string {
  const problem = path.startsWith("/")
    ? "must be relative"
    : path.split("/").includes("..")
      ? 'must not contain ".."'
      : hasControlCharacter(path)
        ? "contains control characters"
        : Buffer.byteLength(path) > longestPath
          ? `is longer than ${longestPath} bytes`
          : undefined;
  if (problem !== undefined) {
    throw invalid(`${prefix}: image_sub_path ${quoted(path)} of the mount at ${containerPath} ${problem}`);
  }
  return path
    .split("/")
    .filter((part) => part !== "" && part !== ".")
    .join("/");
}

/** Always read-only, and without setuid files and devices: nobody vouches for the owners of what is in it. */
export function imageMount(
  mount: Mount,
  destination: string,
  extraOptions: readonly string[],
  images: ReadonlyMap<string, Image>,
): { readonly mount: OciMount; readonly image: ImageMount } {
  const at = `mount at ${mount.containerPath}`;
  if (mount.hostPath !== "") throw invalid(`${prefix}: the ${at} has both a host_path and an image`);
  if (!mount.readonly) throw invalid(`${prefix}: the ${at} is an image and must be readonly`);
  if (mount.propagation !== MountPropagation.PROPAGATION_PRIVATE) {
    throw invalid(`${prefix}: the ${at} is an image and must have propagation PRIVATE`);
  }
  const image = images.get(mount.image?.image ?? "");
  if (image === undefined) throw new RuntimeError("internal", `${prefix}: the image of the ${at} was not looked up`);
  const { layerDirs } = image;
  return {
    mount: {
      destination,
      type: "overlay",
      source: image.id,
      options: ["ro", "nosuid", "nodev", ...extraOptions, `lowerdir=${layerDirs.join(":")}`],
    },
    image: { destination, layerDirs, path: subPath(mount) },
  };
}

/** As ContainerStatus shows it: with the id of what is mounted. */
export function reportedMount(mount: Mount, images: ReadonlyMap<string, Image>): Mount {
  const image = images.get(mount.image?.image ?? "");
  if (mount.image === undefined || image === undefined) return mount;
  return { ...mount, image: { ...mount.image, imageRef: image.id } };
}
