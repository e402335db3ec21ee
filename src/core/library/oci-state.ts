/** A container as hooks and OCI tools see it (runtime-spec "State"). */
import type { HookState } from "../hooks.ts";
import type { Config } from "./config.ts";
import type { Status } from "./container-state.ts";
import type { SavedState } from "./saved-state.ts";
import { ociVersion } from "./translate.ts";

export interface OciState {
  readonly ociVersion: string;
  readonly id: string;
  /** "paused" is an extension. */
  readonly status: Status;
  /** Absent when it is stopped. */
  readonly pid?: number;
  readonly bundle: string;
  readonly annotations: Readonly<Record<string, string>>;
}

/** What of it never changes. */
export function hookStateOf(id: string, config: Config): HookState {
  const { bundle = "", ...annotations } = config.labels ?? {};
  return { ociVersion, id, bundle, annotations };
}

export function ociStateOf(state: SavedState, status: Status): OciState {
  const { bundle, annotations } = hookStateOf(state.id, state.config);
  return {
    ociVersion,
    id: state.id,
    status,
    ...(status === "stopped" ? {} : { pid: state.init_process_pid }),
    bundle,
    annotations,
  };
}
