import { randomBytes } from "node:crypto";
import { chmod, readdir, rename, rm, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path/posix";
import type { CheckpointContainerRequest, CheckpointContainerResponse } from "../gen/cri/v1/api.ts";
import { errnoName, messageOf, RuntimeError } from "../lib/errors.ts";
import { Undo } from "../lib/undo.ts";
import type { Context, CriApp } from "./app-types.ts";
import { makePrivate, saveFacts, saveFrozen } from "./container-save.ts";
import { checkpointsDir } from "./paths.ts";
import { visibleContainer } from "./queries.ts";
import type { ContainerRecord } from "./records.ts";
import { packTar } from "./tar-program.ts";
import { noteUnfinished } from "./unfinished-checkpoints.ts";

const defaultTimeoutMs = 120_000;
const longestTimeoutS = 86_400n;

/** The container keeps running; nothing is left of a checkpoint that fails. */
export async function checkpointContainer(
  app: CriApp,
  ctx: Context,
  request: CheckpointContainerRequest,
): Promise<CheckpointContainerResponse> {
  const { id } = visibleContainer(app, request.containerId);
  const { location, timeout } = request;
  if (!location.startsWith("/") || location.endsWith("/") || location.includes("\0"))
    throw new RuntimeError("invalid_argument", `location ${JSON.stringify(location)} is no absolute path of a file`);
  if (timeout < 0n || timeout > longestTimeoutS) throw new RuntimeError("invalid_argument", `timeout ${timeout} is out of range`);
  const deadlineMs = timeout === 0n ? defaultTimeoutMs : Number(timeout) * 1000;
  await app.operations.runFor(ctx.signal, `checkpoint of container ${id}`, deadlineMs, (signal) =>
    app.locks.run(id, signal, () => checkpoint(app, id, resolve(location), deadlineMs, signal)),
  );
  return {};
}

async function checkpoint(app: CriApp, id: string, location: string, deadlineMs: number, signal: AbortSignal): Promise<void> {
  const record = runningContainer(app, id);
  await needDirectory(dirname(location));
  const name = randomBytes(6).toString("hex");
  const partial = `${location}.partial-${name}`;
  await using _note = await noteUnfinished(app, [partial]);
  await using undo = new Undo(({ failed, error }) =>
    app.log.error({ id, err: messageOf(error) }, `a checkpoint that failed leaves its ${failed}`),
  );
  const directory = join(checkpointsDir(app.config), `${id}-${name}`);
  // Also when all goes well: only the archive stays.
  await using scratch = new AsyncDisposableStack();
  scratch.defer(() => rm(directory, { recursive: true, force: true }));
  await makePrivate(directory);
  const pod = app.pods.need(record.podId);
  await pod.whileFrozen([record.cgroupsPath], deadlineMs, () => saveFrozen(app, record, directory, deadlineMs, signal));
  await saveFacts(app, record, directory);
  undo.push("unfinished archive", () => rm(partial, { force: true }));
  await packTar(partial, directory, await namesIn(directory), signal);
  await chmod(partial, 0o600);
  await rename(partial, location);
  undo.commit();
  app.log.info({ id, location }, "container was checkpointed");
}

export function runningContainer(app: CriApp, id: string): ContainerRecord {
  const record = visibleContainer(app, id);
  if (record.phase === "running") return record;
  throw new RuntimeError("failed_precondition", `container ${id} is ${record.phase}; only a running one can be checkpointed`, {
    id,
  });
}

async function needDirectory(path: string): Promise<void> {
  try {
    if ((await stat(path)).isDirectory()) return;
  } catch (error) {
    if (errnoName(error) !== "ENOENT" && errnoName(error) !== "ENOTDIR") throw error;
  }
  throw new RuntimeError("invalid_argument", `${path} is no directory of this node`, { path });
}

/** Everything below, parents first. */
async function namesIn(directory: string): Promise<readonly string[]> {
  const names = await readdir(directory, { recursive: true });
  return names.toSorted();
}
