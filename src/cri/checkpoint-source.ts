/**
 * Checkpoints that CreateContainer names in place of an image: an archive of this node, or an image that holds what an archive holds.
 * Both may come from anybody: container-saved.ts reads them.
 */
import { randomBytes } from "node:crypto";
import { lstat, readdir, rm } from "node:fs/promises";
import { join } from "node:path/posix";
import type { ContainerConfig } from "../gen/cri/v1/api.ts";
import type { Image } from "../image/image-service.ts";
import { RuntimeError } from "../lib/errors.ts";
import type { CriApp } from "./app-types.ts";
import { makePrivate } from "./container-save.ts";
import { readSaved, type SavedContainer } from "./container-saved.ts";
import { checkpointsDir } from "./paths.ts";

export interface CheckpointSource extends AsyncDisposable {
  readonly saved: SavedContainer;
}

/** undefined: an image like any other. What it takes is given back when it is closed. */
export async function openCheckpoint(
  app: CriApp,
  config: ContainerConfig,
  signal: AbortSignal,
): Promise<CheckpointSource | undefined> {
  const reference = config.image?.image ?? "";
  if (reference.startsWith("/")) return app.config.restoreFromArchives ? await openArchive(app, reference, signal) : undefined;
  const image = app.images.find(reference);
  if (image?.checkpointOf === undefined) return undefined;
  if (app.config.restoreFromArchives) return await openImage(app, image, reference);
  throw new RuntimeError(
    "failed_precondition",
    `image ${JSON.stringify(reference)} holds a checkpoint of container ${JSON.stringify(image.checkpointOf)}; restoring it is off on this node, see [checkpoint] restore of the configuration`,
  );
}

/** Unpacks by the rules of layers. */
async function openArchive(app: CriApp, path: string, signal: AbortSignal): Promise<CheckpointSource> {
  const stats = await lstat(path).catch(() => undefined);
  if (stats?.isFile() !== true) throw new RuntimeError("not_found", `${path} is no checkpoint archive on this node`, { path });
  const top = join(checkpointsDir(app.config), `restore-${randomBytes(6).toString("hex")}`);
  const remove = async () => await rm(top, { recursive: true, force: true });
  try {
    await makePrivate(top);
    const directory = join(top, "archive");
    await app.images.unpackChanges([path], directory, [], signal);
    await refuseLinks(directory);
    return { saved: await readSaved(directory), [Symbol.asyncDispose]: remove };
  } catch (error) {
    await remove();
    throw error;
  }
}

/** Its layer lies there unpacked, by the same rules, for everybody: it is read, and nothing is changed in it. */
async function openImage(app: CriApp, { id, layerDirs }: Image, reference: string): Promise<CheckpointSource> {
  const [directory, ...others] = layerDirs;
  if (directory === undefined || others.length > 0)
    throw new RuntimeError(
      "failed_precondition",
      `image ${JSON.stringify(reference)} holds no checkpoint that can be restored: it has ${layerDirs.length} layers, and a checkpoint is one`,
    );
  const holder = `restore-${randomBytes(6).toString("hex")}`;
  app.images.hold(id, holder);
  const release = async () => await app.images.release(holder);
  try {
    await refuseLinks(directory);
    return { saved: await readSaved(directory), [Symbol.asyncDispose]: release };
  } catch (error) {
    await release();
    throw error;
  }
}

/** No checkpoint has anything but directories and files of one name: whoever opens what else there is might be led elsewhere, or wait. */
async function refuseLinks(directory: string): Promise<void> {
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isDirectory() || (entry.isFile() && (await lstat(path)).nlink === 1)) continue;
    throw new RuntimeError("data_loss", `the checkpoint cannot be used: ${path} is a link, a device or a pipe`, { path });
  }
}
