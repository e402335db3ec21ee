/**
 * Start of the daemon: from records to truth. Assumptions:
 *
 * 1. One daemon works on ROOT and STATE; app.ts holds the lock.
 * 2. A helper's own answer is truer than any record; of two records of one object the one with the higher revision is newer.
 * 3. The records beside a live helper are enough to rebuild its pod: a lost, truncated or older database kills nothing.
 * 4. After a reboot no process, namespace, mount or cgroup of ours exists, whatever lies in STATE; CNI DEL is still owed.
 * 5. An object that is still `creating` was never seen by a client: it is taken back. Only what cannot be taken back is shown.
 * 6. A dead helper ends its pod: what is left in its cgroups is killed, exits that it wrote down count, the others are lost.
 * 7. A helper that does not answer in time may have running containers: they are UNKNOWN and not killed until somebody asks.
 * 8. Only objects with this installation's id are touched; ROOT and STATE hold nothing else.
 * 9. Containers refer to images only through holds; these are renewed before anything may collect layers.
 */
import { existsSync } from "node:fs";
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { errnoName, messageOf } from "../lib/errors.ts";
import { step } from "../lib/step.ts";
import type { CriApp } from "./app-types.ts";
import { forgetContainer, removeAttachPoint } from "./container-remove.ts";
import { identifyEventLog } from "./events.ts";
import { checkCgroupDriver, identifyInstance } from "./instance.ts";
import { attachPointsDir, isObjectId, netnsPath, podDir, writableLayersDir } from "./paths.ts";
import { type MirroredPod, readMirrors } from "./record-mirror.ts";
import { tellMissedEvents } from "./recover-events.ts";
import { recoverSandbox } from "./recover-sandbox.ts";
import { sweepUnfinished } from "./unfinished-checkpoints.ts";

const orphanMs = 60_000;

/** Brings every object to its true state, then opens the door. `failed_precondition` when the daemon must not run like this. */
export async function recover(app: CriApp): Promise<void> {
  app.instance = await identifyInstance(app);
  const mine = (record: { readonly instanceId: string }): boolean => record.instanceId === app.instance.id;
  app.sandboxes.load(mine);
  app.containers.load(mine);
  app.ledger.load(app.instance.bootId);
  const mirrors = await readMirrors(app);
  const adopted = adoptMirrors(app, mirrors);
  checkCgroupDriver(app);
  app.eventLog = identifyEventLog(app.store, app.instance.bootId, app.log);
  tellMissedEvents(app);
  for (const container of app.containers.all())
    for (const image of [container.imageId, ...container.mountedImages]) app.images.hold(image, container.id);

  await Promise.all(
    app.sandboxes
      .all()
      .map((record) => guarded(app, record.id, () => step("recovery.sandbox", () => recoverSandbox(app, record)))),
  );
  const podDirs = new Set(mirrors.map((mirror) => mirror.id));
  const podless = app.containers.all().filter((record) => !app.sandboxes.knows(record.podId) && !podDirs.has(record.podId));
  await Promise.all(podless.map((record) => guarded(app, record.id, () => forgetPodless(app, record.id))));
  await Promise.all(mirrors.map((mirror) => guarded(app, mirror.id, () => sweepStrangePod(app, mirror))));
  await step("recovery.sweep", async () => {
    await sweepWritableLayers(app);
    await sweepAttachPoints(app);
  });
  // Of a daemon that was killed in the middle of one: the memory of containers.
  await sweepUnfinished(app);
  tellMissedEvents(app);
  await app.images.recovered();
  for (const container of app.containers.all())
    app.writableLayers.request(container.id, join(writableLayersDir(app.config), container.id));

  app.ready = true;
  collectAttachments(app);
  app.log.info({ sandboxes: app.sandboxes.all().length, containers: app.containers.all().length, adopted }, "recovery is done");
}

/** In the background: a plugin may take its time. A pod that is left alone has a directory and no record. */
function collectAttachments(app: CriApp): void {
  const isKnown = (podId: string): boolean => app.sandboxes.knows(podId) || existsSync(podDir(app.config, podId));
  app.network.collect(isKnown, app.stopping).catch((error: unknown) => {
    if (!app.stopping.aborted) app.log.warn({ err: messageOf(error) }, "what pods of before left in the network is not freed");
  });
}

/** One object that cannot be recovered must not keep the others from it. */
async function guarded(app: CriApp, id: string, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    app.log.error({ id, err: error }, `could not be recovered: ${messageOf(error)}`);
  }
}

function adoptMirrors(app: CriApp, mirrors: readonly MirroredPod[]): number {
  let adopted = 0;
  for (const { sandbox, containers } of mirrors) {
    if (sandbox?.instanceId !== app.instance.id || sandbox.bootId !== app.instance.bootId) continue;
    if (app.sandboxes.adopt(sandbox)) adopted++;
    for (const container of containers) {
      // An older copy of a container is no news: its phase comes from the helper.
      if (app.containers.get(container.id) === undefined && app.containers.adopt(container)) adopted++;
    }
  }
  return adopted;
}

/** Its pod is gone, and so is everything of it but files. */
async function forgetPodless(app: CriApp, id: string): Promise<void> {
  const signal = AbortSignal.timeout(orphanMs);
  const record = app.containers.get(id);
  if (record === undefined) return;
  await app.runtime.killRemains([record.cgroupsPath], signal);
  await app.runtime.removeCgroup(record.cgroupsPath, signal);
  await forgetContainer(app, id, signal);
}

/**
 * A pod's directory without any record: the daemon died between making it and writing its record, and the database was lost. Where
 * containers run in it, it is left alone and reported.
 */
async function sweepStrangePod(app: CriApp, mirror: MirroredPod): Promise<void> {
  if (app.sandboxes.knows(mirror.id)) return;
  if (mirror.sandbox !== undefined && mirror.sandbox.instanceId !== app.instance.id) return;
  const signal = AbortSignal.timeout(orphanMs);
  const spec = mirror.sandbox?.translation.spec ?? {
    id: mirror.id,
    hostname: "",
    network: "new" as const,
    ipc: "new" as const,
    uts: "new" as const,
    pid: "none" as const,
    user: null,
    runDir: podDir(app.config, mirror.id),
    netnsPath: netnsPath(app.config, mirror.id),
    shmBytes: 0,
  };
  const pod = await app.runtime.reconnectPod(spec, signal);
  const running = pod === undefined ? [] : (await pod.list()).filter((state) => state.phase === "running");
  if (running.length > 0) {
    app.log.error({ id: mirror.id, containers: running.length }, "a pod runs of which no record is left; it is left alone");
    pod?.disconnect();
    return;
  }
  if (pod === undefined) await app.runtime.destroyRemains(spec, [], signal);
  else await pod.destroy(signal);
}

/** Writable layers that no container owns: of containers that were removed while the database could not be written. */
async function sweepWritableLayers(app: CriApp): Promise<void> {
  const dir = writableLayersDir(app.config);
  const orphans = await unownedIn(app, dir);
  await Promise.all(orphans.map((name) => guarded(app, name, () => rm(join(dir, name), { recursive: true, force: true }))));
}

/** Mount points that no container owns: a reboot takes them, the death of a pod with its daemon does not. */
async function sweepAttachPoints(app: CriApp): Promise<void> {
  const orphans = await unownedIn(app, attachPointsDir(app.config));
  await Promise.all(orphans.map((name) => guarded(app, name, () => removeAttachPoint(app, name))));
}

async function unownedIn(app: CriApp, dir: string): Promise<readonly string[]> {
  const names = await readdir(dir).catch((error: unknown) => {
    if (errnoName(error) === "ENOENT") return [];
    throw error;
  });
  return names.filter((name) => isObjectId(name) && !app.containers.knows(name));
}
