import { lstat, readFile } from "node:fs/promises";
import { join, resolve } from "node:path/posix";
import type { ContainerConfig, RestoredContainer, RestorePodRequest, RestorePodResponse } from "../gen/cri/v1/api.ts";
import { RuntimeError } from "../lib/errors.ts";
import { Undo } from "../lib/undo.ts";
import type { Context, CriApp } from "./app-types.ts";
import { claimContainer } from "./container-create.ts";
import { readySandbox } from "./container-preconditions.ts";
import { member } from "./container-save.ts";
import { movedAddresses, readSaved, type SavedContainer } from "./container-saved.ts";
import { sandboxName } from "./names.ts";
import { podDir } from "./paths.ts";
import { isEmptyDirectory, podVolumes } from "./pod-volumes.ts";
import {
  checkedContainerConfig,
  checkedContainerMetadata,
  checkedSandboxConfig,
  checkedSandboxMetadata,
} from "./request-checks.ts";
import { type PodDump, podDump, shmArchive } from "./sandbox-checkpoint.ts";
import { removeSandbox } from "./sandbox-remove.ts";
import { runPodSandbox } from "./sandbox-run.ts";

const deadlineMs = 600_000;
const largestDump = 1 << 20;

interface Planned {
  readonly name: string;
  readonly config: ContainerConfig;
  readonly saved: SavedContainer;
}

/** A pod whose containers are CREATED and have not run since the checkpoint; StartContainer lets each go. Nothing stays of one that fails. */
export async function restorePod(app: CriApp, ctx: Context, request: RestorePodRequest): Promise<RestorePodResponse> {
  const config = checkedSandboxConfig(request.config);
  const metadata = checkedSandboxMetadata(config);
  const [unknown] = Object.keys(request.options);
  if (unknown !== undefined) throw new RuntimeError("invalid_argument", `option ${JSON.stringify(unknown)} is not known`);
  const directory = request.checkpointPath.startsWith("/") ? resolve(request.checkpointPath) : "";
  if (directory === "") throw new RuntimeError("invalid_argument", "checkpoint_path must be absolute");
  const dump = await readDump(directory);
  const planned = await match(dump, directory, request.containerConfigs);
  if (app.sandboxes.named(sandboxName(metadata)) !== undefined)
    throw new RuntimeError("already_exists", `pod sandbox ${metadata.namespace}/${metadata.name} exists already`);
  return await app.operations.runFor(ctx.signal, `restoring pod sandbox ${metadata.name}`, deadlineMs, async (own) => {
    // Not as in RunPodSandbox: a second request would not find the pod of the first, but be refused by its name.
    const signal = AbortSignal.any([own, ctx.signal]);
    await using undo = new Undo(({ error }) => app.log.error({ err: String(error) }, "a pod that could not be restored stays"));
    // Its end is waited for: else nobody would know what there is to take back.
    const context = { ...ctx, signal: own };
    const { podSandboxId } = await runPodSandbox(app, context, { config, runtimeHandler: request.runtimeHandler });
    undo.push("pod sandbox", (undoSignal) => removeSandbox(app, podSandboxId, undoSignal));
    await fillVolumes(app, dump, directory, podSandboxId, planned, signal);
    const addresses = movedAddresses(dump.addresses, readySandbox(app, podSandboxId).ips);
    const directories = planned.map(({ saved }) => join(saved.directory, member.images));
    const restoredContainers: RestoredContainer[] = [];
    // Else the first one's connections would be reset: their other ends are not there yet.
    await app.pods.need(podSandboxId).whileConnectionsHeld(directories, deadlineMs, async () => {
      // One after the other, as they were started: ids of a shared PID namespace are given out in that order.
      for (const { name, config: wanted, saved } of planned) {
        const own = { ...saved, sockets: { directories, addresses } };
        const containerId = await claimContainer(app, readySandbox(app, podSandboxId), wanted, own, signal);
        restoredContainers.push({ name, containerId });
      }
    });
    signal.throwIfAborted();
    undo.commit();
    return { podSandboxId, restoredContainers };
  });
}

async function readDump(directory: string): Promise<PodDump> {
  const path = join(directory, podDump);
  const stats = await lstat(path).catch(() => undefined);
  if (stats === undefined) throw new RuntimeError("not_found", `${directory} holds no checkpoint of a pod: it has no ${podDump}`);
  const damaged = (cause?: unknown) =>
    new RuntimeError("data_loss", `the checkpoint cannot be used: ${path} is damaged`, { path }, cause);
  if (!stats.isFile() || stats.size > largestDump) throw damaged();
  let dump: Partial<PodDump>;
  try {
    dump = JSON.parse(await readFile(path, "utf8")) as Partial<PodDump>;
  } catch (error) {
    throw damaged(error);
  }
  const { containers, volumes, addresses } = dump;
  const plain = (name: unknown) => typeof name === "string" && /^[a-z0-9.-]+$/.test(name) && !name.startsWith(".");
  if (dump.version !== 1 || !Array.isArray(containers) || !Array.isArray(volumes)) throw damaged();
  if (!containers.every(({ name, directory: own }) => typeof name === "string" && plain(own))) throw damaged();
  if (!volumes.every(({ name, file }) => typeof name === "string" && plain(file))) throw damaged();
  if (!Array.isArray(addresses) || !addresses.every((one) => typeof one === "string")) throw damaged();
  return dump as PodDump;
}

/** Exactly the containers of the checkpoint, in its order. */
async function match(dump: PodDump, directory: string, configs: readonly ContainerConfig[]): Promise<readonly Planned[]> {
  const byName = new Map(configs.map((config) => [checkedContainerMetadata(checkedContainerConfig(config)).name, config]));
  const names = dump.containers.map(({ name }) => name);
  if (byName.size !== configs.length || byName.size !== names.length || names.some((name) => !byName.has(name))) {
    const text = (list: Iterable<string>) => [...list].toSorted().join(", ");
    throw new RuntimeError(
      "invalid_argument",
      `the checkpoint is of ${text(names)}, and container_configs are of ${text(byName.keys())}`,
    );
  }
  return await Promise.all(
    dump.containers.map(async ({ name, directory: own }) => ({
      name,
      config: byName.get(name) as ContainerConfig,
      saved: await readSaved(join(directory, own)),
    })),
  );
}

/** What the pod's containers share. A directory that has something in it already is left alone. */
async function fillVolumes(
  app: CriApp,
  dump: PodDump,
  directory: string,
  podId: string,
  planned: readonly Planned[],
  signal: AbortSignal,
): Promise<void> {
  const fill = async (file: string, target: string) =>
    await app.images.unpackChanges([join(directory, file)], target, [], signal);
  const sandbox = readySandbox(app, podId);
  if (dump.shm && sandbox.translation.spec.ipc === "new") await fill(shmArchive, join(podDir(app.config, podId), "shm"));
  const wanted = podVolumes(planned.flatMap(({ config }) => config.mounts));
  for (const { name, file } of dump.volumes) {
    const volume = wanted.find((one) => one.name === name);
    if (volume !== undefined && (await isEmptyDirectory(volume.hostPath))) await fill(file, volume.hostPath);
  }
}
