/** Changes of a container's limits, all or none. */
import { isDeepStrictEqual } from "node:util";
import { RuntimeError, wrapError } from "../../lib/errors.ts";
import type { Config } from "./config.ts";
import type { ContainerAccess } from "./container-access.ts";
import { changeCgroup } from "./container-cgroup.ts";
import { notRunning } from "./errors.ts";
import { type SavedState, writeState } from "./saved-state.ts";

/** @throws RuntimeError invalid_argument when something else than limits differs, failed_precondition `container not running`. */
export async function changeLimits(access: ContainerAccess, state: SavedState, config: Config): Promise<void> {
  if ((await access.status(state)) === "stopped") throw notRunning();
  const wanted = { ...state.config, cgroups: { ...state.config.cgroups, resources: config.cgroups?.resources ?? {} } };
  if (!isDeepStrictEqual(withoutResources(wanted), withoutResources(config))) {
    throw new RuntimeError("invalid_argument", "only cgroups.resources of a container can be changed");
  }
  const cgroup = access.cgroup(state);
  try {
    await changeCgroup(cgroup, wanted);
  } catch (error) {
    await changeCgroup(cgroup, state.config).catch((stuck: unknown) => {
      throw wrapError(`${String(error)}; putting back the former values failed`, stuck);
    });
    throw error;
  }
  writeState(access.directory, { ...state, config: wanted });
}

function withoutResources({ cgroups, ...config }: Config): object {
  const { resources: _, ...place } = cgroups ?? {};
  return { ...config, cgroups: place };
}
