/** The root of a container before there is a container: looked into for its users, and made where it is more than a directory. */
import { existsSync, mkdirSync, openSync, statSync } from "node:fs";
import { RuntimeError, wrapError } from "../../lib/errors.ts";
import { openFlag } from "../../native/constants.ts";
import { HostRootfs } from "../host-rootfs.ts";
import { prepareWritableLayer } from "../rootfs/writable-layer.ts";
import type { Shim } from "../shim/shim.ts";
import type { Config, RootOverlay } from "./config.ts";
import { invalidConfig } from "./errors.ts";
import { planDetachedRoot } from "./root-plan.ts";

const runDeadlineMs = 30_000;

export interface RootInput {
  readonly config: Config;
  /** An ordinary user's. */
  readonly rootless: boolean;
  readonly signal: AbortSignal;
}

/** Whether openRoot() returns a detached mount, which the container's plan takes. */
export function isMadeAhead({ overlay, idmapRoot }: Config): boolean {
  return overlay !== undefined || idmapRoot === true;
}

/** The user namespace, if there is one, is pinned by now. */
export async function openRoot(shim: Pick<Shim, "run">, { config, rootless, signal }: RootInput): Promise<HostRootfs> {
  const { rootfs, overlay, idmapRoot } = config;
  if (!isMadeAhead(config)) return new HostRootfs(openSync(rootfs, openFlag.path | openFlag.directory));
  const user = idmapRoot === true ? { uid: config.uidMappings ?? [], gid: config.gidMappings ?? [] } : null;
  if (overlay !== undefined) await makeWritable([...(overlay.layers ?? []), rootfs], overlay, user);
  const plan = planDetachedRoot(config, rootless);
  const request = { cloneKinds: 0, plan, deadlineMs: runDeadlineMs, what: "root of the container", signal };
  const { fds } = await shim.run(request).catch((error: unknown) => {
    throw idmapRoot === true ? explain(error, overlay === undefined ? rootfs : undefined) : error;
  });
  const [fd] = fds;
  if (fd === undefined) throw new RuntimeError("internal", "the helper sent no root of the container");
  return new HostRootfs(fd);
}

/** One that is there holds what a container has written before: it is taken as it is. */
async function makeWritable(
  lowers: readonly string[],
  { upper, work }: RootOverlay,
  user: Parameters<typeof prepareWritableLayer>[1],
): Promise<void> {
  if (upper === undefined || work === undefined) return;
  if (existsSync(upper)) makeWork(work);
  else await prepareWritableLayer({ lowers, upper, work }, user);
  if (statSync(upper).dev !== statSync(work).dev)
    throw invalidConfig(`overlay: upper ${upper} and work ${work} are on different file systems`);
}

function makeWork(work: string): void {
  try {
    mkdirSync(work, { recursive: true, mode: 0o711 });
  } catch (error) {
    throw wrapError(`the overlay's work directory ${work} cannot be made`, error);
  }
}

/** The helper's words are about what it was doing; these are about the config. `tree`: what was mapped as a whole. */
function explain(error: unknown, tree: string | undefined): unknown {
  const { errnoName, detail } = error instanceof RuntimeError ? error.fields : {};
  const [, layer] = /^id map of (.*)/s.exec(String(detail)) ?? [];
  const found = tree ?? layer;
  // EPERM: one that is mapped already, by somebody else.
  if (found === undefined || (errnoName !== "EINVAL" && errnoName !== "EPERM")) return error;
  const what = tree === undefined ? "overlay layer" : "root";
  const reason = "its file system cannot be id-mapped on this kernel, or is so already";
  const remedy = "leave out idmapRoot, and give the files to the mapped ids";
  return new RuntimeError("failed_precondition", `${what} ${found}: ${reason}: ${remedy}`, {}, error);
}
