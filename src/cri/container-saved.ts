/**
 * A container out of a checkpoint: what lies in a directory, as container-save.ts makes it. It may come from anybody. The request alone
 * says what the container may do and see; what is saved has to fit it, or is refused.
 */
import { constants } from "node:fs";
import { lstat, mkdir, open, readdir, rm, writeFile } from "node:fs/promises";
import { isIP } from "node:net";
import { basename, dirname, join, normalize } from "node:path/posix";
import type { SocketPlace } from "../core/criu/saved-sockets.ts";
import type { OciSpec } from "../core/oci.ts";
import type { ContainerRestore, RootfsLayers } from "../core/runtime.ts";
import type { Image } from "../image/image-service.ts";
import { RuntimeError } from "../lib/errors.ts";
import type { CriApp } from "./app-types.ts";
import { type ConfigDump, member } from "./container-save.ts";
import { writableLayerDir } from "./paths.ts";
import { packTar } from "./tar-program.ts";

export interface SavedContainer {
  readonly directory: string;
  /** With which others of its pod it is restored, itself included, and the pod's addresses as they were: as `SocketPlace` has them. */
  readonly sockets: SocketPlace;
  readonly config: ConfigDump;
  readonly process: OciSpec["process"];
  readonly deleted: readonly string[];
  /** Whether it changed any file of its root. */
  readonly changed: boolean;
}

const ownNotes = `${member.images}/caisson.json`;
const neededOfAll = [member.config, member.spec, `${member.images}/inventory.img`, `${member.images}/descriptors.json`];
const neededOfOurs = [member.deleted, member.diff];
const largestDocument = 8 << 20;
const mostDeleted = 100_000;
/** The runtime's own, of the pod. */
const ownVariables = new Set(["HOSTNAME"]);

/** @throws RuntimeError failed_precondition for what it lacks, data_loss for what is damaged or something else than it should be. */
export async function readSaved(directory: string): Promise<SavedContainer> {
  const images = join(directory, member.images);
  // CRIU follows links: one in an archive would lead it to any file of the node.
  for (const path of [images, ...(await readdir(images).catch(() => [])).map((name) => join(images, name))]) {
    const stats = await lstat(path).catch(() => undefined);
    if (stats === undefined) throw lacks(`${member.images}/, which holds CRIU's images`);
    if (path === images ? !stats.isDirectory() : !stats.isFile()) throw damaged(path, "it is something else than it should be");
  }
  const has = async (name: string) => (await lstat(join(directory, name)).catch(() => undefined))?.isFile() === true;
  // Without our notes it is another runtime's, and those leave out what would be empty.
  const own = await has(ownNotes);
  const needed = own ? [...neededOfAll, ...neededOfOurs] : neededOfAll;
  const lacking = (await Promise.all(needed.map(async (name) => ((await has(name)) ? [] : [name])))).flat();
  if (lacking.length > 0) throw lacks(lacking.join(", "));
  const config = (await readDocument(join(directory, member.config))) as Partial<ConfigDump>;
  const spec = (await readDocument(join(directory, member.spec))) as Partial<OciSpec>;
  const deleted = (await has(member.deleted)) ? await readDocument(join(directory, member.deleted)) : [];
  if (typeof config?.rootfsImageRef !== "string") throw lacks(`rootfsImageRef, the digest of its image, in ${member.config}`);
  if (!isStrings(spec?.process?.args)) throw lacks(`process.args, its command, in ${member.spec}`);
  if (typeof spec.process.user?.uid !== "number") throw lacks(`process.user, its user, in ${member.spec}`);
  if (!isStrings(deleted) || deleted.length > mostDeleted)
    throw damaged(join(directory, member.deleted), "it is no list of paths");
  return {
    directory,
    sockets: { directories: [images], addresses: new Map() },
    config: config as ConfigDump,
    process: spec.process as OciSpec["process"],
    deleted,
    changed: await has(member.diff),
  };
}

/** By its digest only: names may have come to mean something else. */
export function savedImage(app: CriApp, { config }: SavedContainer): Image {
  const id = config.rootfsImageRef.replace(/^(?=[0-9a-f]{64}$)/, "sha256:");
  const image = /(?:^|@)sha256:[0-9a-f]{64}$/.test(id) ? app.images.find(id) : undefined;
  if (image?.checkpointOf !== undefined)
    throw new RuntimeError("failed_precondition", `the image of the checkpoint (${id}) holds a checkpoint itself`);
  if (image !== undefined) return image;
  throw new RuntimeError(
    "not_found",
    `the image of the checkpoint (${id}) is not on this node; pull ${config.rootfsImageName ?? "it"} first`,
  );
}

/** Before anything uses the writable layer. */
export async function unpackChanges(
  app: CriApp,
  saved: SavedContainer,
  layers: RootfsLayers,
  signal: AbortSignal,
): Promise<void> {
  const scratch = join(dirname(layers.upper), "restore");
  try {
    const whiteouts = join(scratch, "whiteouts.tar");
    const names = await makeWhiteouts(join(scratch, "whiteouts"), saved.deleted);
    if (names.length > 0) await packTar(whiteouts, join(scratch, "whiteouts"), names, signal);
    const archives = [...(names.length > 0 ? [whiteouts] : []), ...(saved.changed ? [join(saved.directory, member.diff)] : [])];
    await app.images.unpackChanges(archives, layers.upper, layers.lowers, signal);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

/** Empty files with the names that layers have for what is removed. */
async function makeWhiteouts(directory: string, deleted: readonly string[]): Promise<readonly string[]> {
  const names: string[] = [];
  for (const path of deleted) {
    const clean = normalize(`/${path}`);
    if (clean === "/" || clean.includes("\0"))
      throw new RuntimeError("data_loss", `the checkpoint removes ${JSON.stringify(path)}, which is no path`);
    const name = join(dirname(clean).slice(1), `.wh.${basename(clean)}`);
    await mkdir(join(directory, dirname(name)), { recursive: true, mode: 0o700 });
    await writeFile(join(directory, name), "", { mode: 0o600 });
    names.push(name);
  }
  return names;
}

/** What was saved must be what is asked for: program, directory, user, environment. */
export function checkSaved({ process: saved }: SavedContainer, { process: asked }: OciSpec): void {
  const differs = (what: string): never => {
    throw new RuntimeError("failed_precondition", `the checkpoint was made with ${what} than the request has`);
  };
  const same = (a: unknown, b: unknown) => JSON.stringify(a) === JSON.stringify(b);
  if (!same(saved.args, asked.args)) differs("another command");
  if (saved.cwd !== asked.cwd) differs("another working directory");
  if (saved.user.uid !== asked.user.uid || saved.user.gid !== asked.user.gid) differs("another user");
  if (!same(environment(saved.env), environment(asked.env))) differs("another environment");
  if ((saved.terminal === true) !== (asked.terminal === true)) differs("or without a terminal, other");
}

function environment(env: readonly string[] | undefined): readonly string[] {
  return [...(env ?? [])].filter((entry) => !ownVariables.has(entry.split("=", 1)[0] ?? "")).toSorted();
}

/** Those of a checkpoint, and those of the pod where it is restored: the first of each family, as Kubernetes counts them. */
export function movedAddresses(old: readonly string[], next: readonly string[]): ReadonlyMap<string, string> {
  const pairs = old.map((address) => [address, next.find((one) => isIP(one) === isIP(address))] as const);
  return new Map(pairs.flatMap(([from, to]) => (isIP(from) === 0 || to === undefined ? [] : [[from, to] as const])));
}

export function restoreOf(app: CriApp, id: string, saved: SavedContainer | undefined): { readonly restore?: ContainerRestore } {
  if (saved === undefined) return {};
  return {
    restore: {
      imagesDirectory: join(saved.directory, member.images),
      sockets: saved.sockets,
      options: { tcpEstablished: true, fileLocks: true, workDirectory: join(writableLayerDir(app.config, id), "criu") },
    },
  };
}

async function readDocument(path: string): Promise<unknown> {
  try {
    await using file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const stats = await file.stat();
    if (!stats.isFile() || stats.size > largestDocument) throw damaged(path, "it is no file, or too large");
    return JSON.parse(await file.readFile("utf8"));
  } catch (error) {
    throw error instanceof RuntimeError ? error : damaged(path, "it is no JSON", error);
  }
}

function isStrings(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((item) => typeof item === "string");
}

function damaged(path: string, why: string, cause?: unknown): RuntimeError {
  return new RuntimeError("data_loss", `the checkpoint cannot be used: ${path} is damaged: ${why}`, { path }, cause);
}

function lacks(what: string): RuntimeError {
  return new RuntimeError("failed_precondition", `the checkpoint cannot be used: it lacks ${what}`);
}
