/**
 * Copies of the records beside the pod's shim, from which recovery rebuilds a database that was lost. They hold what the shim itself
 * does not know; phases of containers come from the shim. Not synced: the directory is not trusted after a reboot.
 */
import { readdir, readFile } from "node:fs/promises";
import type { OciSpec } from "../core/oci.ts";
import { errnoName, messageOf } from "../lib/errors.ts";
import { makeStateDirectory, removeStateTree, replaceStateFile } from "../lib/state-files.ts";
import { step } from "../lib/step.ts";
import { parse, stringify } from "../store/tagged-json.ts";
import type { CriApp } from "./app-types.ts";
import { bundleConfigPath, bundleDir, bundlesDir, containerRecordPath, isObjectId, podRecordPath, podsDir } from "./paths.ts";
import { type ContainerRecord, containerCodec, type RecordCodec, type SandboxRecord, sandboxCodec } from "./records.ts";

export async function mirrorSandbox(app: CriApp, record: SandboxRecord): Promise<void> {
  await step("pod.write-record", () =>
    replaceStateFile(podRecordPath(app.config, record.id), stringify(sandboxCodec.encode(record))),
  );
}

/** For later changes: an outdated copy is corrected by recovery, so a full disk does not fail what has happened. */
export async function mirrorSandboxRegardless(app: CriApp, record: SandboxRecord): Promise<void> {
  try {
    await mirrorSandbox(app, record);
  } catch (error) {
    if (errnoName(error) === "ENOENT") return;
    app.log.warn({ id: record.id, err: messageOf(error) }, "the copy of the pod's record could not be written");
  }
}

/** The bundle: config.json for hooks and people, record.json for recovery. */
export async function writeBundle(app: CriApp, record: ContainerRecord, oci: OciSpec): Promise<void> {
  await step("container.write-bundle", () => {
    makeStateDirectory(bundleDir(app.config, record.podId, record.id), 0o700);
    replaceStateFile(bundleConfigPath(app.config, record.podId, record.id), JSON.stringify(oci));
    replaceStateFile(containerRecordPath(app.config, record.podId, record.id), stringify(containerCodec.encode(record)));
  });
}

/** For hooks, which run before there is a whole record. */
export function writeBundleConfig(app: CriApp, podId: string, id: string, oci: OciSpec): void {
  makeStateDirectory(bundleDir(app.config, podId, id), 0o700);
  replaceStateFile(bundleConfigPath(app.config, podId, id), JSON.stringify(oci));
}

export async function removeBundle(app: CriApp, podId: string, id: string): Promise<void> {
  await removeStateTree(bundleDir(app.config, podId, id));
}

export interface MirroredPod {
  readonly id: string;
  /** Undefined: there is none, or it cannot be read. */
  readonly sandbox: SandboxRecord | undefined;
  readonly containers: readonly ContainerRecord[];
}

/** Everything that lies below STATE/pods. */
export async function readMirrors(app: CriApp): Promise<readonly MirroredPod[]> {
  const ids = await objectIds(podsDir(app.config));
  return await Promise.all(ids.map((id) => readMirror(app, id)));
}

async function readMirror(app: CriApp, id: string): Promise<MirroredPod> {
  const containerIds = await objectIds(bundlesDir(app.config, id));
  const containers = await Promise.all(
    containerIds.map((containerId) => readRecord(app, containerRecordPath(app.config, id, containerId), containerCodec)),
  );
  return {
    id,
    sandbox: await readRecord(app, podRecordPath(app.config, id), sandboxCodec),
    containers: containers.filter((record) => record !== undefined),
  };
}

async function objectIds(dir: string): Promise<readonly string[]> {
  try {
    return (await readdir(dir)).filter(isObjectId);
  } catch (error) {
    if (errnoName(error) === "ENOENT") return [];
    throw error;
  }
}

async function readRecord<T>(app: CriApp, path: string, codec: RecordCodec<T>): Promise<T | undefined> {
  try {
    return codec.decode(parse(await readFile(path, "utf8")));
  } catch (error) {
    if (errnoName(error) !== "ENOENT") app.log.warn({ path, err: messageOf(error) }, "the copy of a record cannot be read");
    return undefined;
  }
}
