/**
 * The freezer of a container that has a cgroup namespace of its own on v2. CRIU works inside that namespace, where the kernel lets nobody
 * write to cgroup.freeze of the cgroup that is its root (nsdelegate, with which systemd mounts v2). So it is not told of the freezer, and
 * we do its part:
 *
 *     frozen (hold.ts) -> CRIU seizes all processes -> "query-ext-files": we thaw, so that what it puts into them runs
 *                      -> "post-dump": we freeze, before it lets go of them -> hold.ts thaws
 */
import { RuntimeError } from "../../lib/errors.ts";
import { nsKind } from "../plan-schema.ts";
import { type CriuProgram, versionText } from "./criu-program.ts";
import { askToFreeze, hasFreezeFile } from "./freezer-state.ts";

/** Older ones do not say when they have seized everything. */
const leastVersion = 40_000;

export class SeizedFreezer {
  readonly #directory: string;

  private constructor(directory: string) {
    this.#directory = directory;
  }

  /** undefined: CRIU can write to it itself. `outside` are the namespaces (CLONE_NEW*) of the container that it works in. */
  static needed(directory: string, outside: number, program: CriuProgram): SeizedFreezer | undefined {
    if ((outside & nsKind.cgroup) === 0 || !hasFreezeFile(directory)) return undefined;
    if (program.version >= leastVersion) return new SeizedFreezer(directory);
    throw new RuntimeError(
      "failed_precondition",
      `${program.path} is CRIU ${versionText(program.version)}; with a cgroup namespace of its own on cgroup v2 a container needs ` +
        `${versionText(leastVersion)} or newer`,
    );
  }

  /** At each of CRIU's notifications. */
  step(script: string): void {
    if (script === "query-ext-files") this.set(false);
    if (script === "post-dump") this.set(true);
  }

  set(frozen: boolean): void {
    askToFreeze(this.#directory, frozen);
  }
}
