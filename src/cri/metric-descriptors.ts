import type { ListMetricDescriptorsRequest, ListMetricDescriptorsResponse } from "../gen/cri/v1/api.ts";
import type { Context, CriApp } from "./app-types.ts";
import { metricTable } from "./metric-table.ts";

/** Labels that every metric begins with; the values are in sandbox-metrics.ts, in this order. `id` is the cgroup, as in cAdvisor. */
export const commonLabels = ["pod", "namespace", "container", "id", "image"] as const;

/** The same for the daemon's whole life. */
export async function listMetricDescriptors(
  _app: CriApp,
  _ctx: Context,
  _request: ListMetricDescriptorsRequest,
): Promise<ListMetricDescriptorsResponse> {
  return {
    descriptors: metricTable.map(({ name, help, labels }) => ({ name, help, labelKeys: [...commonLabels, ...labels] })),
  };
}
