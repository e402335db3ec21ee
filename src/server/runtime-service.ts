import type { CriApp } from "../cri/app-types.ts";
import { attach } from "../cri/attach.ts";
import { checkpointContainer } from "../cri/container-checkpoint.ts";
import { createContainer } from "../cri/container-create.ts";
import { getContainerEvents } from "../cri/container-events.ts";
import { listContainers } from "../cri/container-list.ts";
import { streamContainers } from "../cri/container-list-stream.ts";
import { removeContainer } from "../cri/container-remove.ts";
import { startContainer } from "../cri/container-start.ts";
import { containerStats } from "../cri/container-stats.ts";
import { listContainerStats } from "../cri/container-stats-list.ts";
import { streamContainerStats } from "../cri/container-stats-stream.ts";
import { containerStatus } from "../cri/container-status.ts";
import { stopContainer } from "../cri/container-stop.ts";
import { updateContainerResources } from "../cri/container-update.ts";
import { exec } from "../cri/exec.ts";
import { execSync } from "../cri/exec-sync.ts";
import { reopenContainerLog } from "../cri/log-reopen.ts";
import { listMetricDescriptors } from "../cri/metric-descriptors.ts";
import { portForward } from "../cri/port-forward.ts";
import { runtimeConfig } from "../cri/runtime-config.ts";
import { updateRuntimeConfig } from "../cri/runtime-config-update.ts";
import { status } from "../cri/runtime-status.ts";
import { version } from "../cri/runtime-version.ts";
import { checkpointPod } from "../cri/sandbox-checkpoint.ts";
import { listPodSandbox } from "../cri/sandbox-list.ts";
import { streamPodSandboxes } from "../cri/sandbox-list-stream.ts";
import { listPodSandboxMetrics } from "../cri/sandbox-metrics.ts";
import { streamPodSandboxMetrics } from "../cri/sandbox-metrics-stream.ts";
import { removePodSandbox } from "../cri/sandbox-remove.ts";
import { restorePod } from "../cri/sandbox-restore.ts";
import { runPodSandbox } from "../cri/sandbox-run.ts";
import { podSandboxStats } from "../cri/sandbox-stats.ts";
import { listPodSandboxStats } from "../cri/sandbox-stats-list.ts";
import { streamPodSandboxStats } from "../cri/sandbox-stats-stream.ts";
import { podSandboxStatus } from "../cri/sandbox-status.ts";
import { stopPodSandbox } from "../cri/sandbox-stop.ts";
import { updatePodSandboxResources } from "../cri/sandbox-update.ts";
import { type RuntimeServiceServer, RuntimeServiceService } from "../gen/cri/v1/api.ts";
import type { Gate } from "./call.ts";
import type { Service } from "./grpc-server.ts";
import { serverStream } from "./server-stream.ts";
import { unary, withUnimplemented } from "./unary.ts";

/** runtime.v1.RuntimeService: which verb answers which call. `app` is there once the gate is open. */
export function runtimeService(gate: Gate, app: () => CriApp): Service {
  const table: Partial<RuntimeServiceServer> = {
    version: unary("Version", gate, (ctx, req) => version(app(), ctx, req)),
    status: unary("Status", gate, (ctx, req) => status(app(), ctx, req)),
    runtimeConfig: unary("RuntimeConfig", gate, (ctx, req) => runtimeConfig(app(), ctx, req)),
    updateRuntimeConfig: unary("UpdateRuntimeConfig", gate, (ctx, req) => updateRuntimeConfig(app(), ctx, req)),
    runPodSandbox: unary("RunPodSandbox", gate, (ctx, req) => runPodSandbox(app(), ctx, req)),
    stopPodSandbox: unary("StopPodSandbox", gate, (ctx, req) => stopPodSandbox(app(), ctx, req)),
    removePodSandbox: unary("RemovePodSandbox", gate, (ctx, req) => removePodSandbox(app(), ctx, req)),
    podSandboxStatus: unary("PodSandboxStatus", gate, (ctx, req) => podSandboxStatus(app(), ctx, req)),
    listPodSandbox: unary("ListPodSandbox", gate, (ctx, req) => listPodSandbox(app(), ctx, req)),
    createContainer: unary("CreateContainer", gate, (ctx, req) => createContainer(app(), ctx, req)),
    startContainer: unary("StartContainer", gate, (ctx, req) => startContainer(app(), ctx, req)),
    stopContainer: unary("StopContainer", gate, (ctx, req) => stopContainer(app(), ctx, req)),
    removeContainer: unary("RemoveContainer", gate, (ctx, req) => removeContainer(app(), ctx, req)),
    updateContainerResources: unary("UpdateContainerResources", gate, (ctx, req) => updateContainerResources(app(), ctx, req)),
    updatePodSandboxResources: unary("UpdatePodSandboxResources", gate, (ctx, req) => updatePodSandboxResources(app(), ctx, req)),
    containerStatus: unary("ContainerStatus", gate, (ctx, req) => containerStatus(app(), ctx, req)),
    listContainers: unary("ListContainers", gate, (ctx, req) => listContainers(app(), ctx, req)),
    containerStats: unary("ContainerStats", gate, (ctx, req) => containerStats(app(), ctx, req)),
    listContainerStats: unary("ListContainerStats", gate, (ctx, req) => listContainerStats(app(), ctx, req)),
    execSync: unary("ExecSync", gate, (ctx, req) => execSync(app(), ctx, req)),
    streamPodSandboxes: serverStream("StreamPodSandboxes", gate, (ctx, req, send) => streamPodSandboxes(app(), ctx, req, send)),
    streamContainers: serverStream("StreamContainers", gate, (ctx, req, send) => streamContainers(app(), ctx, req, send)),
    streamContainerStats: serverStream("StreamContainerStats", gate, (ctx, req, send) =>
      streamContainerStats(app(), ctx, req, send),
    ),
    podSandboxStats: unary("PodSandboxStats", gate, (ctx, req) => podSandboxStats(app(), ctx, req)),
    listPodSandboxStats: unary("ListPodSandboxStats", gate, (ctx, req) => listPodSandboxStats(app(), ctx, req)),
    streamPodSandboxStats: serverStream("StreamPodSandboxStats", gate, (ctx, req, send) =>
      streamPodSandboxStats(app(), ctx, req, send),
    ),
    listMetricDescriptors: unary("ListMetricDescriptors", gate, (ctx, req) => listMetricDescriptors(app(), ctx, req)),
    listPodSandboxMetrics: unary("ListPodSandboxMetrics", gate, (ctx, req) => listPodSandboxMetrics(app(), ctx, req)),
    streamPodSandboxMetrics: serverStream("StreamPodSandboxMetrics", gate, (ctx, req, send) =>
      streamPodSandboxMetrics(app(), ctx, req, send),
    ),
    checkpointContainer: unary("CheckpointContainer", gate, (ctx, req) => checkpointContainer(app(), ctx, req)),
    checkpointPod: unary("CheckpointPod", gate, (ctx, req) => checkpointPod(app(), ctx, req)),
    restorePod: unary("RestorePod", gate, (ctx, req) => restorePod(app(), ctx, req)),
    getContainerEvents: serverStream("GetContainerEvents", gate, (ctx, req, send) => getContainerEvents(app(), ctx, req, send)),
    exec: unary("Exec", gate, (ctx, req) => exec(app(), ctx, req)),
    attach: unary("Attach", gate, (ctx, req) => attach(app(), ctx, req)),
    portForward: unary("PortForward", gate, (ctx, req) => portForward(app(), ctx, req)),
    reopenContainerLog: unary("ReopenContainerLog", gate, (ctx, req) => reopenContainerLog(app(), ctx, req)),
  };
  return {
    definition: RuntimeServiceService,
    implementation: withUnimplemented<RuntimeServiceServer>(RuntimeServiceService, gate, table),
  };
}
