import { mkdir, rm } from "node:fs/promises";
import type { ContainerSpec, Pod, Rootfs } from "../core/runtime.ts";
import type { ContainerConfig, CreateContainerRequest, CreateContainerResponse } from "../gen/cri/v1/api.ts";
import type { Image } from "../image/image-service.ts";
import { messageOf, RuntimeError } from "../lib/errors.ts";
import { step } from "../lib/step.ts";
import { type Stuck, Undo } from "../lib/undo.ts";
import { checkCgroupPlace } from "./adjust-cgroup.ts";
import type { Context, CriApp } from "./app-types.ts";
import { openCheckpoint } from "./checkpoint-source.ts";
import { recordExit } from "./container-exit.ts";
import { checkTarget, readySandbox } from "./container-preconditions.ts";
import { checkSaved, restoreOf, type SavedContainer, savedImage, unpackChanges } from "./container-saved.ts";
import { advanceContainer } from "./container-state.ts";
import { containerLogPath, makeLogDirectory } from "./log-path.ts";
import type { Holder } from "./name-reservations.ts";
import { containerName, digestOf, newId } from "./names.ts";
import { spareDir, upperDir, volumesDir, workDir, writableLayerDir } from "./paths.ts";
import { adjustByPlugins, enterPlugins, tellOfContainer, tellOfRollback } from "./plugin-calls.ts";
import { removeBundle, writeBundle, writeBundleConfig } from "./record-mirror.ts";
import type { ContainerRecord, SandboxRecord } from "./records.ts";
import { checkedContainerConfig, checkedContainerMetadata, checkedSandboxMetadata, handlerOptions } from "./request-checks.ts";
import { containerCgroup } from "./translate-cgroup.ts";
import { imageMountFailure, mountedImages } from "./translate-image-mounts.ts";
import type { ContainerInput, ContainerTranslation } from "./translation.ts";

const deadlineMs = 120_000;

interface Wanted {
  readonly config: ContainerConfig;
  readonly sandbox: SandboxRecord;
  readonly image: Image;
  /** Those that its mounts name, by the name that they use. */
  readonly mountedImages: ReadonlyMap<string, Image>;
  /** Instead of its program: what a checkpoint has saved. */
  readonly saved: SavedContainer | undefined;
  readonly name: string;
  readonly digest: string;
}

export async function createContainer(
  app: CriApp,
  ctx: Context,
  request: CreateContainerRequest,
): Promise<CreateContainerResponse> {
  checkedSandboxMetadata(request.sandboxConfig);
  const sandbox = readySandbox(app, request.podSandboxId);
  const config = checkedContainerConfig(request.config);
  await using checkpoint = await openCheckpoint(app, config, ctx.signal);
  return { containerId: await claimContainer(app, sandbox, config, checkpoint?.saved, ctx.signal) };
}

/** Makes the container, or finds the one that an equal request has made. With `saved` it goes on from a checkpoint. */
export async function claimContainer(
  app: CriApp,
  sandbox: SandboxRecord,
  config: ContainerConfig,
  saved: SavedContainer | undefined,
  signal: AbortSignal,
): Promise<string> {
  const metadata = checkedContainerMetadata(config);
  const wanted = {
    config,
    sandbox,
    saved,
    image: saved === undefined ? presentImage(app, config) : savedImage(app, saved),
    mountedImages: mountedImages(config, (name) => app.images.find(name)),
    name: containerName(sandbox.id, metadata),
    digest: digestOf(config),
  };
  const what = `container ${metadata.name} of pod sandbox ${sandbox.id}`;
  return await app.names.claim(
    { what, name: wanted.name, digest: wanted.digest },
    () => holderOf(app, wanted.name),
    signal,
    () =>
      app.operations.run(`creating ${what}`, deadlineMs, (own) =>
        // What is restored from is the caller's, and goes with it.
        makeContainer(app, wanted, saved === undefined ? own : AbortSignal.any([own, signal])),
      ),
  );
}

function presentImage(app: CriApp, config: ContainerConfig): Image {
  const reference = config.image?.image ?? "";
  const image = app.images.find(reference);
  if (image !== undefined) return image;
  throw new RuntimeError("not_found", `image ${JSON.stringify(reference)} is not on this node; pull it first`, {
    image: reference,
  });
}

/** In one tick with the look: an image that is found is held before anybody can remove it. */
function holdImages(app: CriApp, id: string, { image, mountedImages: mounted }: Wanted): void {
  for (const one of [image, ...mounted.values()]) {
    if (app.images.find(one.id) === undefined) {
      throw new RuntimeError("not_found", `image ${one.id} was removed meanwhile; pull it again`, { image: one.id });
    }
    app.images.hold(one.id, id);
  }
}

/** They belong to `opened`, which closes what the container has not taken. */
async function openImages(
  app: CriApp,
  pod: Pod,
  { id }: ContainerRecord,
  { images }: ContainerTranslation,
  opened: AsyncDisposableStack,
  signal: AbortSignal,
): Promise<NonNullable<ContainerSpec["trees"]>> {
  const trees = [];
  for (const { destination, layerDirs, path } of images) {
    try {
      const layers = { lowers: layerDirs, spare: spareDir(app.config, id) };
      const { fd } = opened.use(await pod.openImage(layers, path, signal));
      trees.push({ destination, fd });
    } catch (error) {
      throw imageMountFailure(destination, error);
    }
  }
  return trees;
}

function holderOf(app: CriApp, name: string): Holder | undefined {
  const record = app.containers.named(name);
  if (record === undefined) return undefined;
  const whole = record.phase === "created" || record.phase === "starting" || record.phase === "running";
  return { id: record.id, digest: record.digest, unusable: whole ? undefined : `is ${record.phase}` };
}

async function makeContainer(app: CriApp, wanted: Wanted, signal: AbortSignal): Promise<string> {
  const id = newId();
  const planned = intent(app, id, wanted);
  const pod = app.pods.need(wanted.sandbox.id);
  await app.locks.run(id, signal, async () => {
    await using undo = new Undo((stuck) => keepHalfMade(app, id, stuck));
    await step("container.record-intent", () => {
      // In one tick with the record: a StopPodSandbox either is seen here or sees this container.
      readySandbox(app, wanted.sandbox.id);
      return app.containers.add(planned);
    });
    undo.push("record", () => app.containers.forget(id));
    await step("container.hold-image", () => holdImages(app, id, wanted));
    undo.push("hold on its images", () => app.images.release(id));

    undo.push("writable layer", () => rm(writableLayerDir(app.config, id), { recursive: true, force: true }));
    await step("container.make-layer", () => mkdir(writableLayerDir(app.config, id), { recursive: true, mode: 0o700 }));
    const layers = {
      lowers: wanted.image.layerDirs,
      upper: upperDir(app.config, id),
      work: workDir(app.config, id),
      mountLabel: app.rootLabel({ config: wanted.config, podConfig: wanted.sandbox.config, pod: wanted.sandbox.translation }),
    };
    if (wanted.saved !== undefined) await unpackChanges(app, wanted.saved, layers, signal);
    await using rootfs = await step("container.open-rootfs", () => pod.openRootfs(layers, signal));
    const input = translationInput(app, id, wanted, rootfs);
    const plain = await app.translateContainer(input);
    using _told = await enterPlugins(app);
    undo.push("what plugins know", () => tellOfRollback(app, planned, plain.oci));
    const translation = await adjustByPlugins(app, planned, input, plain);
    const record = await withCgroup(app, planned, translation);
    checkTarget(app, wanted.sandbox.id, translation.pidNamespace);
    if (wanted.saved !== undefined) checkSaved(wanted.saved, translation.oci);
    await step("container.make-volumes", () => makeDirectories(app, record.logPath, translation));

    if (translation.sysctls !== undefined) await pod.applySysctls(translation.sysctls, signal);
    undo.push("processes and cgroups", (undoSignal) => pod.remove(id, record.cgroupsPath, undoSignal));
    await using images = new AsyncDisposableStack();
    const trees = await step("container.open-images", () => openImages(app, pod, record, translation, images, signal));
    const spec = { ...specOf(record, translation), ...restoreOf(app, id, wanted.saved), rootfs: layers, trees };
    undo.push("bundle", () => forgetBundle(app, record));
    if (spec.oci.hooks !== undefined) writeBundleConfig(app, record.podId, id, spec.oci);
    const parked = await step("container.shim-create", () => pod.create(spec, rootfs, signal));
    app.specs.set(id, parked.oci);
    const created = {
      process: parked.process,
      pidNamespace: translation.pidNamespace,
      user: translation.user,
      stopSignal: translation.stopSignal,
      mounts: translation.mounts,
    };
    await writeBundle(app, { ...record, ...created, phase: "created" }, parked.oci);
    await step("container.record-created", () =>
      app.containers.update(id, (old) => ({ ...old, ...created, phase: advanceContainer(old.phase, "created") })),
    );
    undo.commit();
    app.writableLayers.empty(id);
    for (const note of translation.notes) app.log.warn({ id }, note);
  });
  app.events.emit("created", id, wanted.sandbox.id);
  const made = app.containers.get(id);
  if (made !== undefined) await tellOfContainer(app, "PostCreateContainer", made);
  return id;
}

function intent(app: CriApp, id: string, wanted: Wanted): ContainerRecord {
  const { config, sandbox, image } = wanted;
  return {
    id,
    revision: 1,
    instanceId: app.instance.id,
    bootId: app.instance.bootId,
    name: wanted.name,
    digest: wanted.digest,
    createdAtNs: app.clock.nowNs(),
    podId: sandbox.id,
    config,
    phase: "creating",
    imageId: image.id,
    imageRef: image.repoDigests[0] ?? image.id,
    mountedImages: [...new Set([...wanted.mountedImages.values()].map((mounted) => mounted.id))],
    imageName: image.repoTags[0] ?? config.image?.image ?? image.id,
    cgroupsPath: containerCgroup(sandbox.translation.cgroupParent, id),
    logPath: containerLogPath(sandbox.config, config),
    pidNamespace: { kind: "private" },
    user: { uid: 0, gid: 0, supplementalGroups: [] },
    stopSignal: 15,
    mounts: [],
    process: null,
    startedAtNs: 0n,
    stop: null,
    exit: null,
  };
}

/** Recorded before there is such a cgroup: a daemon that comes back finds what is in it. */
async function withCgroup(app: CriApp, record: ContainerRecord, { cgroupsPath }: ContainerTranslation): Promise<ContainerRecord> {
  if (cgroupsPath === undefined) return record;
  checkCgroupPlace(app, record.id, cgroupsPath);
  return await app.containers.update(record.id, (old) => ({ ...old, cgroupsPath }));
}

function translationInput(app: CriApp, id: string, wanted: Wanted, rootfs: Rootfs): ContainerInput {
  return {
    id,
    config: wanted.config,
    podConfig: wanted.sandbox.config,
    pod: wanted.sandbox.translation,
    image: wanted.image,
    mountedImages: wanted.mountedImages,
    rootfs,
    cgroupVersion: app.runtime.cgroupVersion,
    volumesDir: volumesDir(app.config, id),
    options: handlerOptions(app.config, wanted.sandbox.handler),
  };
}

function specOf(record: ContainerRecord, translation: ContainerTranslation): Omit<Parameters<Pod["create"]>[0], "rootfs"> {
  return {
    id: record.id,
    oci: translation.oci,
    pidNamespace: translation.pidNamespace,
    cgroupNamespace: translation.cgroupNamespace,
    ...(translation.namespaces === undefined ? {} : { namespaces: translation.namespaces }),
    logPath: record.logPath,
    stdin: record.config.stdin,
    stdinOnce: record.config.stdinOnce,
    volumes: translation.volumes,
    relabels: translation.relabels,
  };
}

async function makeDirectories(app: CriApp, logPath: string | null, translation: ContainerTranslation): Promise<void> {
  if (logPath !== null) await makeLogDirectory(logPath, app.logHost);
  for (const volume of translation.volumes) await mkdir(volume.hostPath, { recursive: true, mode: 0o755 });
}

async function forgetBundle(app: CriApp, record: ContainerRecord): Promise<void> {
  app.specs.forget(record.id);
  await removeBundle(app, record.podId, record.id);
}

/** A roll-back that is stuck leaves the container EXITED under its name, for RemoveContainer to try again. */
async function keepHalfMade(app: CriApp, id: string, stuck: Stuck): Promise<void> {
  const message = `half made, and its ${stuck.failed} could not be taken back: ${messageOf(stuck.error)}`;
  app.log.error({ id, notTried: stuck.notTried.join(", ") }, `container is ${message}`);
  await recordExit(app, id, { kind: "never-started", message });
}
