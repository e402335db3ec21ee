/** The node as NRI plugins can look at it and change it. */
import type { ContainerEviction, ContainerUpdate } from "../gen/nri/v1alpha1/api.ts";
import { messageOf, RuntimeError } from "../lib/errors.ts";
import type { NodeView } from "../nri/node-plugins.ts";
import { asCriResources } from "./adjust-resources.ts";
import type { CriApp } from "./app-types.ts";
import { endContainer } from "./container-end.ts";
import { changeLimits } from "./container-update.ts";
import { containerMessage, podMessage } from "./plugin-view.ts";
import { visibleContainer } from "./queries.ts";

const updateDeadlineMs = 60_000;
/** An evicted container may end by itself for so long. */
const evictionGraceMs = 10_000;

export function nodeView(app: () => CriApp): NodeView {
  return {
    everything: async () => {
      const pods = app()
        .sandboxes.all()
        .filter(({ phase }) => phase !== "creating" && phase !== "removing");
      const known = new Set(pods.map(({ id }) => id));
      const containers = app()
        .containers.all()
        .filter(({ podId, phase }) => known.has(podId) && ["created", "starting", "running"].includes(phase));
      return {
        pods: pods.map(podMessage),
        containers: await Promise.all(containers.map(async (record) => containerMessage(record, await app().specs.read(record)))),
      };
    },
    update: (plugin, updates) => updateForPlugin(app(), plugin, updates),
    evict: (_plugin, evictions) => evictForPlugins(app(), evictions),
  };
}

async function updateOne(app: CriApp, { containerId, linux }: ContainerUpdate): Promise<void> {
  const wanted = linux?.resources;
  if (wanted === undefined) return;
  // Before the lock is asked for: its holder may be waiting for this very plugin.
  const { id, phase } = visibleContainer(app, containerId);
  if (phase !== "created" && phase !== "running")
    throw new RuntimeError("failed_precondition", `container ${id} is ${phase}; it has no limits to change`, { id });
  await app.operations.run(`updating container ${id} for an NRI plugin`, updateDeadlineMs, (signal) =>
    app.locks.run(id, signal, () => changeLimits(app, id, asCriResources(wanted), wanted)),
  );
}

/** What failed and matters. */
async function updateForPlugin(
  app: CriApp,
  plugin: string,
  updates: readonly ContainerUpdate[],
): Promise<readonly ContainerUpdate[]> {
  const failed: ContainerUpdate[] = [];
  for (const update of updates) {
    try {
      await updateOne(app, update);
    } catch (error) {
      app.log.warn({ id: update.containerId, plugin, err: messageOf(error) }, "limits that an NRI plugin wants could not be set");
      if (!update.ignoreFailure) failed.push(update);
    }
  }
  return failed;
}

/** For a verb, which fails with what matters. */
export async function changeOthers(app: CriApp, updates: readonly ContainerUpdate[]): Promise<void> {
  for (const update of updates) {
    try {
      await updateOne(app, update);
    } catch (error) {
      if (!update.ignoreFailure) throw error;
      app.log.warn({ id: update.containerId, err: messageOf(error) }, "limits that an NRI plugin wants could not be set");
    }
  }
}

/** Nobody waits for the end of a container here: the plugin that wants it may be the one that is told of it. */
export function evictForPlugins(app: CriApp, evictions: readonly ContainerEviction[]): void {
  for (const { containerId, reason } of evictions) {
    app.log.warn({ id: containerId, reason }, "an NRI plugin evicts a container");
    Promise.resolve()
      .then(() => visibleContainer(app, containerId))
      .then(({ id }) => endContainer(app, id, { graceMs: evictionGraceMs, parked: true }, app.stopping))
      .catch((error: unknown) => {
        app.log.warn({ id: containerId, err: messageOf(error) }, "a container that an NRI plugin evicts does not end");
      });
  }
}
