import type {
  LinuxPodSandboxConfig,
  UpdatePodSandboxResourcesRequest,
  UpdatePodSandboxResourcesResponse,
} from "../gen/cri/v1/api.ts";
import { step } from "../lib/step.ts";
import type { Context, CriApp } from "./app-types.ts";
import { visibleSandbox } from "./queries.ts";
import { mirrorSandboxRegardless } from "./record-mirror.ts";

/** Keeps what the kubelet tells of a resize: it has set the pod's cgroup itself. Shown in verbose info and in the metrics. */
export async function updatePodSandboxResources(
  app: CriApp,
  _ctx: Context,
  request: UpdatePodSandboxResourcesRequest,
): Promise<UpdatePodSandboxResourcesResponse> {
  const { id } = visibleSandbox(app, request.podSandboxId);
  const { overhead, resources } = request;
  if (overhead === undefined && resources === undefined) return {};
  const told = { ...(overhead === undefined ? {} : { overhead }), ...(resources === undefined ? {} : { resources }) };
  const record = await step("pod.record-limits", () =>
    app.sandboxes.update(id, (old) => ({
      ...old,
      config: { ...old.config, linux: { ...(old.config.linux ?? noLinux), ...told } },
    })),
  );
  await mirrorSandboxRegardless(app, record);
  return {};
}

const noLinux: LinuxPodSandboxConfig = {
  cgroupParent: "",
  securityContext: undefined,
  sysctls: {},
  overhead: undefined,
  resources: undefined,
};
