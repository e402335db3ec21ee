/** What the verbs ask NRI plugins and tell them. Without plugins each of these returns at once. */
import type { OciSpec } from "../core/oci.ts";
import type { LinuxContainerResources, UpdatePodSandboxResourcesRequest } from "../gen/cri/v1/api.ts";
import type { LinuxResources } from "../gen/nri/v1alpha1/api.ts";
import { messageOf } from "../lib/errors.ts";
import type { NoticeName } from "../nri/methods.ts";
import type { NodePlugins } from "../nri/node-plugins.ts";
import type { CriApp } from "./app-types.ts";
import { changeOthers, evictForPlugins } from "./plugin-node.ts";
import { containerMessage, podMessage, resourcesOfCri, withPodNamespaces } from "./plugin-view.ts";
import type { ContainerRecord, SandboxRecord } from "./records.ts";
import type { ContainerInput, ContainerTranslation } from "./translation.ts";

type PodNotice = Extract<NoticeName, `${string}PodSandbox`>;
type ContainerNotice = Exclude<NoticeName, PodNotice>;

const nobody: Disposable = { [Symbol.dispose]: () => {} };

/** Those that have a say in this pod; undefined: nobody has. */
function pluginsFor(app: CriApp, pod: SandboxRecord | undefined): NodePlugins | undefined {
  const { plugins } = app;
  return plugins === undefined || pod === undefined || plugins.idleFor(pod.config.annotations) ? undefined : plugins;
}

/** Held from telling the plugins of a new object until it is recorded: a plugin that connects meanwhile learns of it once. */
export async function enterPlugins(app: CriApp): Promise<Disposable> {
  return (await app.plugins?.enter()) ?? nobody;
}

/** Rejects when a plugin forbids the pod, or a required one does not see it. */
export async function askForPod(app: CriApp, record: SandboxRecord): Promise<void> {
  const plugins = pluginsFor(app, record);
  if (plugins === undefined) return;
  const pod = podMessage(record);
  await plugins.ask("RunPodSandbox", pod, undefined, { pod });
}

export async function tellOfPod(app: CriApp, event: PodNotice, record: SandboxRecord): Promise<void> {
  await pluginsFor(app, record)?.tell(event, { pod: podMessage(record) });
}

export async function askForPodUpdate(
  app: CriApp,
  record: SandboxRecord,
  { overhead, resources }: UpdatePodSandboxResourcesRequest,
): Promise<void> {
  const plugins = pluginsFor(app, record);
  if (plugins === undefined) return;
  const pod = podMessage(record);
  await plugins.updatePod(pod, {
    pod,
    overheadLinuxResources: resourcesOfCri(overhead),
    linuxResources: resourcesOfCri(resources),
  });
}

/** The container as all plugins together want it. Rejects when they disagree, want what they may not have, or forbid it. */
export async function adjustByPlugins(
  app: CriApp,
  record: ContainerRecord,
  input: ContainerInput,
  translation: ContainerTranslation,
): Promise<ContainerTranslation> {
  const sandbox = app.sandboxes.get(record.podId);
  const plugins = pluginsFor(app, sandbox);
  if (plugins === undefined || sandbox === undefined || app.adjustContainer === undefined) return translation;
  const container = containerMessage(record, withPodNamespaces(translation, app.pods.need(sandbox.id).namespacePaths));
  const { adjustment, updates, evictions } = await plugins.adjust(podMessage(sandbox), container);
  const adjusted = await app.adjustContainer(input, translation, adjustment);
  await changeOthers(app, updates);
  evictForPlugins(app, evictions);
  return adjusted;
}

/** Before the container's program is started. */
export async function askForStart(app: CriApp, record: ContainerRecord): Promise<void> {
  const sandbox = app.sandboxes.get(record.podId);
  const plugins = pluginsFor(app, sandbox);
  if (plugins === undefined || sandbox === undefined) return;
  const pod = podMessage(sandbox);
  const container = containerMessage(record, await app.specs.read(record));
  await plugins.ask("StartContainer", pod, container.name, { pod, container });
}

/** Limits that they want for the container beside those that are asked for; undefined: none. */
export async function askForUpdate(
  app: CriApp,
  record: ContainerRecord,
  asked: LinuxContainerResources,
): Promise<LinuxResources | undefined> {
  const sandbox = app.sandboxes.get(record.podId);
  const plugins = pluginsFor(app, sandbox);
  if (plugins === undefined || sandbox === undefined) return undefined;
  const container = containerMessage(record, await app.specs.read(record));
  const { own, others, evictions } = await plugins.update(podMessage(sandbox), container, resourcesOfCri(asked));
  await changeOthers(app, others);
  evictForPlugins(app, evictions);
  return own;
}

/** In the order in which things have happened to the container. */
function inOrder(app: CriApp, id: string, work: () => Promise<void>): Promise<void> {
  return app.locks.run(`what plugins know of ${id}`, undefined, work);
}

export async function tellOfContainer(
  app: CriApp,
  event: ContainerNotice,
  record: ContainerRecord,
  oci?: OciSpec,
): Promise<void> {
  const sandbox = app.sandboxes.get(record.podId);
  const plugins = pluginsFor(app, sandbox);
  if (plugins === undefined || sandbox === undefined) return;
  const container = containerMessage(record, oci ?? (await app.specs.read(record)));
  await inOrder(app, record.id, () => plugins.tell(event, { pod: podMessage(sandbox), container }));
}

/** Nobody waits for it: it is told of what has happened. */
export function tellOfExit(app: CriApp, record: ContainerRecord): void {
  const sandbox = app.sandboxes.get(record.podId);
  const plugins = pluginsFor(app, sandbox);
  if (plugins === undefined || sandbox === undefined) return;
  inOrder(app, record.id, async () => {
    const container = containerMessage(record, await app.specs.read(record));
    await changeOthers(app, await plugins.stop(podMessage(sandbox), container));
  }).catch((error: unknown) => {
    app.log.warn({ id: record.id, err: messageOf(error) }, "what NRI plugins want after the end of a container was not done");
  });
}

/** Of a container that they have heard of and that never came to be. */
export async function tellOfRollback(app: CriApp, record: ContainerRecord, oci: OciSpec): Promise<void> {
  tellOfExit(app, record);
  await tellOfContainer(app, "RemoveContainer", record, oci);
}
