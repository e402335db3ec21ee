import { readdir, rm, stat, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path/posix";
import type { CheckpointPodRequest, CheckpointPodResponse } from "../gen/cri/v1/api.ts";
import { messageOf, RuntimeError } from "../lib/errors.ts";
import { Undo } from "../lib/undo.ts";
import type { Context, CriApp } from "./app-types.ts";
import { runningContainer } from "./container-checkpoint.ts";
import { readySandbox } from "./container-preconditions.ts";
import { makePrivate, saveFacts, saveFrozen } from "./container-save.ts";
import { podDir } from "./paths.ts";
import { namesBelow, podVolumes } from "./pod-volumes.ts";
import type { ContainerRecord, SandboxRecord } from "./records.ts";
import { packTar } from "./tar-program.ts";
import { noteUnfinished } from "./unfinished-checkpoints.ts";

/** The caller's deadline counts; this only bounds one that has none worth the name. */
const deadlineMs = 600_000;

/** `pod.dump`. */
export interface PodDump {
  readonly version: 1;
  readonly id: string;
  /** In this order they are restored. */
  readonly containers: readonly { readonly name: string; readonly directory: string }[];
  readonly shm: boolean;
  /** Of the pod, when it was saved. */
  readonly addresses: readonly string[];
  readonly volumes: readonly { readonly name: string; readonly file: string }[];
}

export const podDump = "pod.dump";
export const shmArchive = "shm.tar";

/** One cut: all containers stand still before the first is saved, and go on before this returns, whatever happens. */
export async function checkpointPod(app: CriApp, ctx: Context, request: CheckpointPodRequest): Promise<CheckpointPodResponse> {
  const sandbox = readySandbox(app, request.podSandboxId);
  const [unknown] = Object.keys(request.options);
  if (unknown !== undefined) throw new RuntimeError("invalid_argument", `option ${JSON.stringify(unknown)} is not known`);
  const directory = await emptyDirectory(request.outputPath);
  const containers = selected(app, sandbox, request.containerIds);
  await app.operations.runFor(ctx.signal, `checkpoint of pod sandbox ${sandbox.id}`, deadlineMs, async (signal) => {
    const both = AbortSignal.any([signal, ctx.signal]);
    await holdingLocks(app, containers, both, () => checkpoint(app, sandbox, containers, directory, both));
  });
  return {};
}

async function emptyDirectory(path: string): Promise<string> {
  const found = path.startsWith("/") ? await stat(path).catch(() => undefined) : undefined;
  if (found?.isDirectory() !== true)
    throw new RuntimeError("invalid_argument", `output_path ${JSON.stringify(path)} is no directory of this node`);
  if ((await readdir(path)).length > 0) throw new RuntimeError("invalid_argument", `output_path ${path} is not empty`);
  return resolve(path);
}

/** @throws RuntimeError invalid_argument, not_found, or failed_precondition for one that does not run. */
function selected(app: CriApp, sandbox: SandboxRecord, ids: readonly string[]): readonly ContainerRecord[] {
  if (ids.length === 0) throw new RuntimeError("invalid_argument", "container_ids is empty");
  const records = ids.map((id) => runningContainer(app, id));
  const strange = records.find(({ podId }) => podId !== sandbox.id);
  if (strange !== undefined)
    throw new RuntimeError("invalid_argument", `container ${strange.id} is not in pod sandbox ${sandbox.id}`);
  if (new Set(records.map(({ id }) => id)).size < records.length)
    throw new RuntimeError("invalid_argument", "container_ids names one twice");
  // As they were started: process ids of a shared namespace were given out in that order.
  return records.toSorted((a, b) => Number(a.startedAtNs - b.startedAtNs));
}

/** In one order for everybody, so that two that want several do not wait for each other. */
async function holdingLocks(
  app: CriApp,
  containers: readonly ContainerRecord[],
  signal: AbortSignal,
  work: () => Promise<void>,
): Promise<void> {
  const [first, ...rest] = containers.toSorted((a, b) => (a.id < b.id ? -1 : 1));
  if (first === undefined) return await work();
  await app.locks.run(first.id, signal, () => holdingLocks(app, rest, signal, work));
}

async function checkpoint(
  app: CriApp,
  sandbox: SandboxRecord,
  asked: readonly ContainerRecord[],
  output: string,
  signal: AbortSignal,
): Promise<void> {
  const containers = asked.map((record, index) => ({
    record: runningContainer(app, record.id),
    directory: join(output, `container-${index}`),
    name: record.config.metadata?.name ?? "",
  }));
  const pod = app.pods.need(sandbox.id);
  const volumes = podVolumes(containers.flatMap(({ record }) => record.mounts)).map((volume, index) => ({
    ...volume,
    file: `volume-${index}.tar`,
  }));
  const shm = sandbox.translation.spec.ipc === "new";
  const names = [podDump, shmArchive, ...volumes.map(({ file }) => file)];
  await using _note = await noteUnfinished(app, [
    ...containers.map(({ directory }) => directory),
    ...names.map((name) => join(output, name)),
  ]);
  await using undo = new Undo(({ failed, error }) =>
    app.log.error({ id: sandbox.id, err: messageOf(error) }, `a checkpoint of a pod that failed leaves its ${failed}`),
  );
  undo.push("files", async () => {
    for (const name of await readdir(output)) await rm(join(output, name), { recursive: true, force: true });
  });
  for (const { directory } of containers) await makePrivate(directory);
  const paths = containers.map(({ record }) => record.cgroupsPath);
  await pod.whileFrozen(paths, deadlineMs, async () => {
    for (const { record, directory } of containers) await saveFrozen(app, record, directory, deadlineMs, signal);
    for (const { hostPath, file } of volumes) await pack(join(output, file), hostPath, signal);
    if (shm) await pack(join(output, shmArchive), join(podDir(app.config, sandbox.id), "shm"), signal);
  });
  for (const { record, directory } of containers) await saveFacts(app, record, directory);
  const dump: PodDump = {
    version: 1,
    id: sandbox.id,
    containers: containers.map(({ name }, index) => ({ name, directory: `container-${index}` })),
    shm,
    addresses: sandbox.ips,
    volumes: volumes.map(({ name, file }) => ({ name, file })),
  };
  await writeFile(join(output, podDump), `${JSON.stringify(dump)}\n`, { mode: 0o600 });
  signal.throwIfAborted();
  undo.commit();
  app.log.info({ id: sandbox.id, output }, "pod sandbox was checkpointed");
}

async function pack(file: string, directory: string, signal: AbortSignal): Promise<void> {
  await packTar(file, directory, await namesBelow(directory), signal);
}
