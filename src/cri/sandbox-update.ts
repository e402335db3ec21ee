import type {
  LinuxPodSandboxConfig,
  UpdatePodSandboxResourcesRequest,
  UpdatePodSandboxResourcesResponse,
} from "../gen/cri/v1/api.ts";
import { step } from "../lib/step.ts";
import type { Context, CriApp } from "./app-types.ts";
import { askForPodUpdate, tellOfPod } from "./plugin-calls.ts";
import { visibleSandbox } from "./queries.ts";
import { mirrorSandboxRegardless } from "./record-mirror.ts";
import { checkPodResources } from "./translate-resources.ts";

/** Keeps what the kubelet tells of a resize: it has set the pod's cgroup itself. Shown in verbose info and in the metrics. */
export async function updatePodSandboxResources(
  app: CriApp,
  _ctx: Context,
  request: UpdatePodSandboxResourcesRequest,
): Promise<UpdatePodSandboxResourcesResponse> {
  const before = visibleSandbox(app, request.podSandboxId);
  const { id } = before;
  const { overhead, resources } = request;
  if (overhead === undefined && resources === undefined) return {};
  checkPodResources("overhead", overhead);
  checkPodResources("resources", resources);
  await askForPodUpdate(app, before, request);
  const told = { ...(overhead === undefined ? {} : { overhead }), ...(resources === undefined ? {} : { resources }) };
  const record = await step("pod.record-limits", () =>
    app.sandboxes.update(id, (old) => ({
      ...old,
      config: { ...old.config, linux: { ...(old.config.linux ?? noLinux), ...told } },
    })),
  );
  await mirrorSandboxRegardless(app, record);
  await tellOfPod(app, "PostUpdatePodSandbox", record);
  return {};
}

const noLinux: LinuxPodSandboxConfig = {
  cgroupParent: "",
  securityContext: undefined,
  sysctls: {},
  overhead: undefined,
  resources: undefined,
};
