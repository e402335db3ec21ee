import { chmod, chown, mkdir, stat } from "node:fs/promises";
import { RuntimeError, wrapError } from "../../lib/errors.ts";
import type { OciIdMapping } from "../oci.ts";

export interface LayerDirs {
  readonly lowers: readonly string[];
  readonly upper: string;
  readonly work: string;
}

/**
 * Makes the writable layer. The container's "/" shows mode and owner of the upper directory, so it copies those of the image's root;
 * with a user namespace that owner is a mapped one, since only the lower layers are id-mapped.
 */
export async function prepareWritableLayer(
  layers: LayerDirs,
  user: { readonly uid: readonly OciIdMapping[]; readonly gid: readonly OciIdMapping[] } | null,
): Promise<void> {
  const [top] = layers.lowers;
  if (top === undefined) throw new RuntimeError("invalid_argument", "a root filesystem needs at least one layer");
  try {
    const [image] = await Promise.all([
      stat(top),
      mkdir(layers.upper, { recursive: true, mode: 0o711 }),
      mkdir(layers.work, { recursive: true, mode: 0o711 }),
    ]);
    const uid = mapped(image.uid, user?.uid);
    const gid = mapped(image.gid, user?.gid);
    if (uid !== 0 || gid !== 0) await Promise.all([chown(layers.upper, uid, gid), chown(layers.work, uid, gid)]);
    await chmod(layers.upper, image.mode & 0o7777);
  } catch (error) {
    throw wrapError(`the writable layer ${layers.upper} cannot be made`, error);
  }
}

/** An id of the image as the host sees it; one without a mapping belongs to nobody in the container, so its root takes it. */
function mapped(id: number, mappings: readonly OciIdMapping[] | undefined): number {
  if (mappings === undefined) return id;
  const find = (wanted: number) => mappings.find(({ containerID, size }) => wanted >= containerID && wanted < containerID + size);
  const found = find(id);
  if (found !== undefined) return found.hostID + (id - found.containerID);
  return find(0)?.hostID ?? id;
}
