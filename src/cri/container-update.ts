import type { OciSpec } from "../core/oci.ts";
import type {
  ContainerConfig,
  LinuxContainerResources,
  UpdateContainerResourcesRequest,
  UpdateContainerResourcesResponse,
} from "../gen/cri/v1/api.ts";
import { LinuxResources } from "../gen/nri/v1alpha1/api.ts";
import { messageOf, RuntimeError } from "../lib/errors.ts";
import { step } from "../lib/step.ts";
import { Undo } from "../lib/undo.ts";
import { asCriResources, refuseFixed, resolveWanted } from "./adjust-resources.ts";
import type { Context, CriApp } from "./app-types.ts";
import { askForUpdate, tellOfContainer } from "./plugin-calls.ts";
import { visibleContainer } from "./queries.ts";
import { writeBundle } from "./record-mirror.ts";
import type { ContainerRecord } from "./records.ts";
import { mergeResources, withPartners } from "./resource-merge.ts";

const deadlineMs = 60_000;
const nothingWanted = LinuxResources.create();

/** Changes limits of a container that is created or runs: all that were asked for, or none. Zero and empty mean "leave". */
export async function updateContainerResources(
  app: CriApp,
  ctx: Context,
  request: UpdateContainerResourcesRequest,
): Promise<UpdateContainerResourcesResponse> {
  const before = visibleContainer(app, request.containerId);
  const { id } = before;
  const asked = request.linux;
  if (asked === undefined) return {};
  await app.operations.runFor(ctx.signal, `updating container ${id}`, deadlineMs, async (signal) => {
    const wanted = await askForUpdate(app, before, asked);
    const all = wanted === undefined ? asked : mergeResources(asked, asCriResources(wanted));
    const updated = await app.locks.run(id, signal, () => changeLimits(app, id, all, wanted));
    await tellOfContainer(app, "PostUpdateContainer", updated);
  });
  return {};
}

/** Under the container's lock. `wanted` is what NRI plugins want; what the CRI has words for is in `asked` too. */
export async function changeLimits(
  app: CriApp,
  id: string,
  asked: LinuxContainerResources,
  wanted: LinuxResources | undefined,
): Promise<ContainerRecord> {
  const record = visibleContainer(app, id);
  if (record.phase !== "created" && record.phase !== "running") {
    const sentence = `container ${id} is ${record.phase}; only a created or running one has limits to change`;
    throw new RuntimeError("failed_precondition", sentence, { id });
  }
  if (wanted !== undefined) refuseFixed(wanted);
  const before = record.config.linux?.resources;
  const { resources, notes } = resolveWanted(app.resolveResources, withPartners(asked, before), wanted ?? nothingWanted);
  await using undo = new Undo(({ error }) =>
    app.log.error({ id, err: messageOf(error) }, "former limits of a container could not be put back"),
  );
  const change = await step("container.update-limits", () => app.runtime.updateResources(record.cgroupsPath, resources));
  undo.push("former limits", () => change.undo());
  const merged = mergeResources(before, asked);
  const updated = await step("container.record-limits", () =>
    app.containers.update(id, (old) => ({ ...old, config: withResources(old.config, merged) })),
  );
  undo.commit();
  for (const note of notes) app.log.warn({ id }, note);
  await rewriteBundle(app, updated, resources);
  return updated;
}

function withResources(config: ContainerConfig, resources: LinuxContainerResources): ContainerConfig {
  return { ...config, linux: { securityContext: undefined, ...config.linux, resources } };
}

/** For hooks, people and a recovery without a database. What it shows of limits is not worth failing for. */
async function rewriteBundle(
  app: CriApp,
  record: ContainerRecord,
  resources: NonNullable<OciSpec["linux"]["resources"]>,
): Promise<void> {
  const spec = await app.specs.read(record);
  if (spec === undefined) return;
  const { cpu, memory, unified, ...rest } = spec.linux.resources ?? {};
  const merged: OciSpec = {
    ...spec,
    linux: {
      ...spec.linux,
      resources: {
        ...rest,
        ...resources,
        cpu: { ...cpu, ...resources.cpu },
        memory: { ...memory, ...resources.memory },
        unified: { ...unified, ...resources.unified },
      },
    },
  };
  app.specs.set(record.id, merged);
  try {
    await writeBundle(app, record, merged);
  } catch (error) {
    app.log.warn({ id: record.id, err: messageOf(error) }, "the container's bundle could not be written anew");
  }
}
