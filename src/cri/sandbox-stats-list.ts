import type { ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, PodSandboxStats } from "../gen/cri/v1/api.ts";
import { inBatches } from "../lib/batches.ts";
import type { Context, CriApp } from "./app-types.ts";
import { filterId, matchesLabels } from "./queries.ts";
import { sandboxStatsOf } from "./sandbox-stats.ts";

/** Each pod reads its containers at the same time as itself. */
const podBatch = 8;

/** Of all pods that are ready and fit. */
export async function listPodSandboxStats(
  app: CriApp,
  ctx: Context,
  request: ListPodSandboxStatsRequest,
): Promise<ListPodSandboxStatsResponse> {
  const { id: wanted = "", labelSelector = {} } = request.filter ?? {};
  const id = filterId(app.sandboxes, wanted);
  const fitting = app.sandboxes
    .all()
    .filter(
      (record) =>
        record.phase === "ready" && (id === "any" || record.id === id) && matchesLabels(record.config.labels, labelSelector),
    );
  const stats = await inBatches(fitting, podBatch, async (record) => {
    ctx.signal.throwIfAborted();
    return await sandboxStatsOf(app, record);
  });
  return { stats: stats.filter((item) => isReady(app, item)) };
}

function isReady(app: CriApp, { attributes }: PodSandboxStats): boolean {
  return app.sandboxes.get(attributes?.id ?? "")?.phase === "ready";
}
