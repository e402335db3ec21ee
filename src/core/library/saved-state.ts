/** state.json: all that another process has to know to control the container (libcontainer section 11). Replaced as a whole. */
import { readFileSync } from "node:fs";
import { join } from "node:path/posix";
import { errnoName, RuntimeError } from "../../lib/errors.ts";
import { replaceStateFile } from "../../lib/state-files.ts";
import type { Config } from "./config.ts";
import { doesNotExist } from "./errors.ts";
import type { Attachable } from "./process-spec.ts";
import type { Shape } from "./shape.ts";

export interface SavedState {
  readonly id: string;
  /** 0 before the first process. */
  readonly init_process_pid: number;
  /** Clock ticks after boot. */
  readonly init_process_start: number;
  /** RFC 3339, UTC. */
  readonly created: string;
  readonly config: Config;
  readonly rootless: boolean;
  /** Directories by controllers, "" for v2. */
  readonly cgroup_paths: Readonly<Record<string, string>>;
  readonly namespace_paths: Readonly<Record<string, string>>;
  /** What descriptors 0, 1 and 2 of the first process were. */
  readonly external_descriptors: readonly string[];
  readonly intel_rdt_path: string;
  readonly intel_rdt_mon_path: string;
  /** Our own. */
  readonly caisson: {
    /** 64 hex digits, by which the container's helper knows itself. */
    readonly shim_id: string;
    readonly boot_id: string;
    /** How the namespaces were found when the first process was made; absent before. */
    readonly shape?: Shape;
    /** Whether the first process has a terminal. */
    readonly terminal?: boolean;
    /** What the helper keeps of the first process's stdio; absent: nothing. */
    readonly attachable?: Attachable;
    /** Cgroups above the container's own that were made for it, below the root of each hierarchy or of the caller's cgroup. */
    readonly made_parents: readonly string[];
  };
}

const fileName = "state.json";

/** @throws RuntimeError not_found `container does not exist`; data_loss when it cannot be read as a state. */
export function readState(directory: string): SavedState {
  const path = join(directory, fileName);
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if (errnoName(error) === "ENOENT" || errnoName(error) === "ENOTDIR") throw doesNotExist();
    throw error;
  }
  try {
    const state = JSON.parse(text) as SavedState;
    if (typeof state.id === "string" && typeof state.init_process_pid === "number" && typeof state.caisson?.shim_id === "string")
      return state;
  } catch (error) {
    throw new RuntimeError("data_loss", `${path} is damaged`, { path }, error);
  }
  throw new RuntimeError("data_loss", `${path} is not the state of a container of this library`, { path });
}

export function writeState(directory: string, state: SavedState): void {
  replaceStateFile(join(directory, fileName), `${JSON.stringify(state)}\n`);
}
