import { hostname } from "node:os";
import type { PodSandboxConfig, RunPodSandboxRequest, RunPodSandboxResponse } from "../gen/cri/v1/api.ts";
import { messageOf, RuntimeError } from "../lib/errors.ts";
import { step } from "../lib/step.ts";
import { type Stuck, Undo } from "../lib/undo.ts";
import type { Context, CriApp } from "./app-types.ts";
import type { Holder } from "./name-reservations.ts";
import { digestOf, newId, sandboxName } from "./names.ts";
import { netnsPath, podDir } from "./paths.ts";
import { askForPod, enterPlugins, tellOfPod } from "./plugin-calls.ts";
import { writePodFiles } from "./pod-files.ts";
import { supervise } from "./pod-supervision.ts";
import { mirrorSandbox, mirrorSandboxRegardless } from "./record-mirror.ts";
import type { SandboxRecord } from "./records.ts";
import { checkedHandler, checkedSandboxConfig, checkedSandboxMetadata, handlerOptions } from "./request-checks.ts";
import { podCidrs } from "./runtime-config-update.ts";
import { markStopping } from "./sandbox-notready.ts";
import { advanceNetwork, advanceSandbox } from "./sandbox-state.ts";
import { destroyPod } from "./sandbox-teardown.ts";

const deadlineMs = 240_000;

interface Wanted {
  readonly config: PodSandboxConfig;
  readonly handler: string;
  readonly name: string;
  readonly digest: string;
}

export async function runPodSandbox(app: CriApp, ctx: Context, request: RunPodSandboxRequest): Promise<RunPodSandboxResponse> {
  const config = checkedSandboxConfig(request.config);
  const metadata = checkedSandboxMetadata(config);
  const handler = checkedHandler(app.config, request.runtimeHandler);
  const wanted = { config, handler, name: sandboxName(metadata), digest: digestOf({ config, handler }) };
  const what = `pod sandbox ${metadata.namespace}/${metadata.name}`;
  const podSandboxId = await app.names.claim(
    { what, name: wanted.name, digest: wanted.digest },
    () => holderOf(app, wanted.name),
    ctx.signal,
    () => app.operations.run(`running ${what}`, deadlineMs, (signal) => makeSandbox(app, wanted, signal)),
  );
  return { podSandboxId };
}

function holderOf(app: CriApp, name: string): Holder | undefined {
  const record = app.sandboxes.named(name);
  if (record === undefined) return undefined;
  const unusable = record.phase === "ready" ? undefined : `is not ready${record.message === "" ? "" : ` (${record.message})`}`;
  return { id: record.id, digest: record.digest, unusable };
}

async function makeSandbox(app: CriApp, wanted: Wanted, signal: AbortSignal): Promise<string> {
  const id = newId();
  const record = intent(app, id, wanted);
  const { spec, network, sysctls } = record.translation;
  await app.locks.run(id, signal, async () => {
    await using undo = new Undo((stuck) => keepHalfMade(app, id, stuck));
    await step("pod.record-intent", () => app.sandboxes.add(record));
    undo.push("record", () => app.sandboxes.forget(id));

    // Pushed first: a pod that fails to start may have left something.
    undo.push("helper and namespaces", (undoSignal) => destroyPod(app, record, undoSignal));
    const pod = await step("pod.start-shim", () => app.runtime.startPod(spec, signal));
    supervise(app, pod);
    const started = await step("pod.record-helper", () => app.sandboxes.update(id, (old) => ({ ...old, shim: pod.shim })));
    await Promise.all([step("pod.write-files", () => writePodFiles(record.translation)), mirrorSandbox(app, started)]);

    let attached: Pick<SandboxRecord, "network" | "ips" | "cniResult"> = { network: "none", ips: [], cniResult: null };
    if (network !== null) {
      undo.push("pod network", (undoSignal) => app.network.detach(network, undoSignal));
      const { ips, cniResult } = await step("pod.network-attach", () =>
        app.network.attach({ ...network, podCidrs: podCidrs(app) }, signal),
      );
      attached = { network: advanceNetwork(started.network, "attached"), ips, cniResult };
    }
    if (Object.keys(sysctls).length > 0) await step("pod.sysctls", () => pod.applySysctls(sysctls, signal));

    using _told = await enterPlugins(app);
    const known = { ...started, ...attached };
    undo.push("what plugins know", async () => {
      await tellOfPod(app, "StopPodSandbox", known);
      await tellOfPod(app, "RemovePodSandbox", known);
    });
    await askForPod(app, known);
    const ready = await step("pod.record-ready", () => {
      app.pods.need(id); // its helper may have died meanwhile
      return app.sandboxes.update(id, (old) => ({ ...old, ...attached, phase: advanceSandbox(old.phase, "ready") }));
    });
    undo.commit();
    await mirrorSandboxRegardless(app, ready);
  });
  app.log.info({ id, name: wanted.name }, "pod sandbox is ready");
  app.events.emit("created", id, id);
  app.events.emit("started", id, id);
  return id;
}

function intent(app: CriApp, id: string, wanted: Wanted): SandboxRecord {
  const translation = app.translateSandbox({
    id,
    config: wanted.config,
    runDir: podDir(app.config, id),
    nodeHostname: hostname(),
    netnsPath: netnsPath(app.config, id),
    options: handlerOptions(app.config, wanted.handler),
  });
  if (translation.spec.user !== null && !app.config.features.userNamespaces) {
    throw new RuntimeError(
      "failed_precondition",
      "pods with a user namespace need Linux 5.19 or newer, which stacks id-mapped layers; this node's kernel is older",
    );
  }
  return {
    id,
    revision: 1,
    instanceId: app.instance.id,
    bootId: app.instance.bootId,
    name: wanted.name,
    digest: wanted.digest,
    createdAtNs: app.clock.nowNs(),
    config: wanted.config,
    handler: wanted.handler,
    phase: "creating",
    network: translation.network === null ? "none" : "attaching",
    reason: "",
    message: "",
    translation,
    shim: null,
    madeCgroupParent: !app.runtime.cgroupExists(translation.cgroupParent),
    ips: [],
    cniResult: null,
  };
}

/** A roll-back that is stuck leaves the sandbox NOTREADY under its name, to be stopped and removed; it is tried again meanwhile. */
async function keepHalfMade(app: CriApp, id: string, stuck: Stuck): Promise<void> {
  const message = `half made, and its ${stuck.failed} could not be taken back: ${messageOf(stuck.error)}`;
  app.log.error({ id, notTried: stuck.notTried.join(", ") }, `pod sandbox is ${message}`);
  await markStopping(app, id, "RollbackFailed", message);
  app.teardowns.request(id);
}
