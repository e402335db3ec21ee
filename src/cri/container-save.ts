/**
 * What a checkpoint of one container consists of, in a directory: the members of the archive that the Kubernetes checkpoint tools read.
 * What has to belong to one moment is taken while the container stands still; the rest afterwards.
 */
import { copyFile, lstat, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path/posix";
import { ContainerStatus } from "../gen/cri/v1/api.ts";
import { errnoName } from "../lib/errors.ts";
import type { CriApp } from "./app-types.ts";
import { containerStatusView } from "./container-status.ts";
import { infoText, messageJson } from "./info-json.ts";
import { upperDir } from "./paths.ts";
import type { ContainerRecord } from "./records.ts";
import { rootfsDiff } from "./rootfs-diff.ts";
import { packTar } from "./tar-program.ts";

export const member = {
  images: "checkpoint",
  diff: "rootfs-diff.tar",
  deleted: "deleted.files",
  config: "config.dump",
  spec: "spec.dump",
  status: "status.dump",
  binds: "bind.mounts",
  log: "container.log",
} as const;

/** Of config.dump, what is read again. */
export interface ConfigDump {
  readonly id: string;
  readonly name: string;
  readonly rootfsImage: string;
  readonly rootfsImageRef: string;
  readonly rootfsImageName: string;
  readonly runtime: string;
  readonly createdTime: string;
  readonly checkpointedTime: string;
  readonly restored: boolean;
}

/** While the container is held frozen. `directory` exists and is root's alone. */
export async function saveFrozen(
  app: CriApp,
  record: ContainerRecord,
  directory: string,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<void> {
  const pod = app.pods.need(record.podId);
  const imagesDirectory = join(directory, member.images);
  await pod.checkpoint(
    record.id,
    await app.specs.need(record),
    {
      imagesDirectory,
      workDirectory: directory,
      leaveRunning: true,
      fileLocks: true,
      tcpEstablished: true,
      timeoutMs,
      held: true,
    },
    signal,
  );
  const upper = upperDir(app.config, record.id);
  const lowers = app.images.find(record.imageId)?.layerDirs ?? [];
  const diff = await rootfsDiff(upper, lowers, (path) => app.runtime.isOpaqueDirectory(path));
  await writeFile(join(directory, member.deleted), JSON.stringify(diff.deleted), { mode: 0o600 });
  await packTar(join(directory, member.diff), upper, diff.changed, signal);
}

/** When it runs again. */
export async function saveFacts(app: CriApp, record: ContainerRecord, directory: string): Promise<void> {
  const write = async (name: string, value: unknown) =>
    await writeFile(join(directory, name), `${infoText(value)}\n`, { mode: 0o600 });
  const spec = await app.specs.need(record);
  const config: ConfigDump = {
    id: record.id,
    name: record.config.metadata?.name ?? "",
    rootfsImage: record.config.image?.userSpecifiedImage || record.imageName,
    rootfsImageRef: record.imageId,
    rootfsImageName: record.imageName,
    runtime: "caisson",
    createdTime: timeOf(record.createdAtNs),
    checkpointedTime: timeOf(app.clock.nowNs()),
    restored: false,
  };
  await write(member.config, config);
  await write(member.spec, spec);
  await write(member.status, messageJson(ContainerStatus.fromPartial(containerStatusView(record))));
  const binds = spec.mounts.filter(({ type, options }) => type === "bind" || options?.some((word) => /^r?bind$/.test(word)));
  await write(
    member.binds,
    await Promise.all(binds.map(async ({ source = "", destination }) => await bindOf(source, destination))),
  );
  if (record.logPath !== null) await copyLog(record.logPath, join(directory, member.log));
}

async function bindOf(source: string, destination: string) {
  const stats = await lstat(source).catch(() => undefined);
  return {
    source,
    destination,
    file_type: stats?.isDirectory() === true ? "directory" : "file",
    permissions: (stats?.mode ?? 0) & 0o7777,
  };
}

/** Absent where nothing was logged yet. */
async function copyLog(from: string, to: string): Promise<void> {
  try {
    if ((await lstat(from)).isFile()) await copyFile(from, to);
  } catch (error) {
    if (errnoName(error) !== "ENOENT") throw error;
  }
}

function timeOf(ns: bigint): string {
  return new Date(Number(ns / 1_000_000n)).toISOString();
}

export async function makePrivate(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
}
