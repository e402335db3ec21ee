import type { CgroupMetrics, DiskFacts, InterfaceCounters } from "../core/runtime.ts";
import type {
  ContainerMetrics,
  ListPodSandboxMetricsRequest,
  ListPodSandboxMetricsResponse,
  Metric,
  PodSandboxMetrics,
} from "../gen/cri/v1/api.ts";
import { inBatches } from "../lib/batches.ts";
import { messageOf } from "../lib/errors.ts";
import type { Context, CriApp } from "./app-types.ts";
import { mayHaveProcesses } from "./container-state.ts";
import type { commonLabels } from "./metric-descriptors.ts";
import { type MetricSource, metricTable } from "./metric-table.ts";
import { writableLayerDir } from "./paths.ts";
import { containersOf, visible } from "./queries.ts";
import type { ContainerRecord, SandboxRecord } from "./records.ts";

const podBatch = 8;

/** Of all pods that are ready, and of their containers that live. */
export async function listPodSandboxMetrics(
  app: CriApp,
  ctx: Context,
  _request: ListPodSandboxMetricsRequest,
): Promise<ListPodSandboxMetricsResponse> {
  const disk = await orNothing(app, "disk", app.runtime.diskOf(app.config.rootDir));
  const ready = app.sandboxes.all().filter((record) => record.phase === "ready");
  const podMetrics = await inBatches(ready, podBatch, async (record) => {
    ctx.signal.throwIfAborted();
    return await metricsOf(app, record, disk);
  });
  return { podMetrics: podMetrics.filter(({ podSandboxId }) => app.sandboxes.get(podSandboxId)?.phase === "ready") };
}

async function metricsOf(app: CriApp, pod: SandboxRecord, disk: DiskFacts | undefined): Promise<PodSandboxMetrics> {
  const alive = containersOf(app, pod.id).filter((record) => visible(record) && mayHaveProcesses(record.phase));
  const { cgroupParent } = pod.translation;
  const [cgroup, interfaces, containerMetrics] = await Promise.all([
    readMetrics(app, pod.id, cgroupParent),
    orNothing(app, pod.id, app.pods.get(pod.id)?.networkCounters() ?? Promise.resolve(undefined)),
    Promise.all(alive.map((record) => ofContainer(app, pod, record, disk))),
  ]);
  return {
    podSandboxId: pod.id,
    metrics: render(podLabels(pod), podSource(app, pod, cgroup, interfaces ?? [])),
    containerMetrics: containerMetrics.filter(({ containerId }) => app.containers.get(containerId) !== undefined),
  };
}

async function ofContainer(
  app: CriApp,
  pod: SandboxRecord,
  record: ContainerRecord,
  disk: DiskFacts | undefined,
): Promise<ContainerMetrics> {
  const source: MetricSource = {
    nowNs: app.clock.nowNs(),
    createdAtNs: record.createdAtNs,
    cgroup: await readMetrics(app, record.id, record.cgroupsPath),
    resources: record.config.linux?.resources,
    layer: app.writableLayers.read(record.id, writableLayerDir(app.config, record.id)),
    disk,
    interfaces: [],
  };
  return { containerId: record.id, metrics: render(containerLabels(pod, record), source) };
}

function podSource(
  app: CriApp,
  pod: SandboxRecord,
  cgroup: CgroupMetrics | undefined,
  interfaces: readonly InterfaceCounters[],
): MetricSource {
  return {
    nowNs: app.clock.nowNs(),
    createdAtNs: pod.createdAtNs,
    cgroup,
    resources: pod.config.linux?.resources,
    layer: undefined,
    disk: undefined,
    interfaces,
  };
}

type LabelValues = Readonly<Record<(typeof commonLabels)[number], string>>;

function podLabels({ config: { metadata }, translation }: SandboxRecord): LabelValues {
  const { name = "", namespace = "" } = metadata ?? {};
  return { pod: name, namespace, container: "", id: translation.cgroupParent, image: "" };
}

function containerLabels(pod: SandboxRecord, { config, cgroupsPath, imageName }: ContainerRecord): LabelValues {
  const image = config.image?.userSpecifiedImage || imageName;
  return { ...podLabels(pod), container: config.metadata?.name ?? "", id: cgroupsPath, image };
}

function render({ pod, namespace, container, id, image }: LabelValues, source: MetricSource): Metric[] {
  const common = [pod, namespace, container, id, image];
  return metricTable.flatMap(({ name, type, samples }) =>
    samples(source).map(({ labels, value, timestampNs }) => ({
      name,
      timestamp: timestampNs,
      metricType: type,
      labelValues: [...common, ...labels],
      value: { value },
    })),
  );
}

async function readMetrics(app: CriApp, id: string, cgroupsPath: string): Promise<CgroupMetrics | undefined> {
  return await orNothing(app, id, app.runtime.metrics(cgroupsPath));
}

/** What goes away meanwhile has no numbers; that is no error. */
async function orNothing<T>(app: CriApp, id: string, reading: Promise<T | undefined>): Promise<T | undefined> {
  try {
    return await reading;
  } catch (error) {
    app.log.debug({ id, err: messageOf(error) }, "metrics could not be read");
    return undefined;
  }
}
