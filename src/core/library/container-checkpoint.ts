/** Checkpoints of a container, by CRIU. */
import { RuntimeError } from "../../lib/errors.ts";
import { type CheckpointOptions, timeoutOf } from "../criu/checkpoint-options.ts";
import type { ContainerAccess } from "./container-access.ts";
import { outsideKinds } from "./restore-plan.ts";
import type { SavedState } from "./saved-state.ts";
import { shapeOf } from "./shape.ts";

/** @throws RuntimeError as Container.checkpoint() says. */
export async function saveContainer(access: ContainerAccess, state: SavedState, options: CheckpointOptions): Promise<void> {
  const { dump, findCriu, refuseUnsupportedShape } = await loadCriu();
  const status = await access.status(state);
  const init = access.init(state);
  if (init === undefined || (status !== "running" && status !== "paused"))
    throw new RuntimeError("failed_precondition", `Container cannot be checkpointed in ${status} state`);
  const shape = state.caisson.shape ?? shapeOf(state.config);
  refuseUnsupportedShape(shape);
  const { cgroups, path } = access.cgroup(state);
  await dump({
    what: `container ${access.id}`,
    shim: await access.needShim(state),
    program: await findCriu(),
    init,
    terminal: state.caisson.terminal === true,
    maskedPaths: state.config.maskPaths ?? [],
    outside: outsideKinds(shapeOf(state.config)),
    freezer: cgroups.freezer(path),
    options,
    signal: AbortSignal.timeout(timeoutOf(options)),
  });
}

/** CRIU's messages and what reads them are a third of the library's code, which few containers need. */
export async function loadCriu() {
  const [program, dumping, restoring] = await Promise.all([
    import("../criu/criu-program.ts"),
    import("../criu/dump.ts"),
    import("./restore-start.ts"),
  ]);
  return { ...program, ...dumping, ...restoring };
}
