/**
 * The freezer of a container that has a cgroup namespace of its own on v2. CRIU works inside that namespace, where the kernel lets nobody
 * write to cgroup.freeze of the cgroup that is its root (nsdelegate, with which systemd mounts v2). So it is not told of the freezer, and
 * we do its part:
 *
 *     frozen (hold.ts) -> CRIU seizes all processes -> "query-ext-files": we thaw, so that what it puts into them runs
 *                      -> "post-dump": we freeze, before it lets go of them -> hold.ts thaws
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path/posix";
import { RuntimeError } from "../../lib/errors.ts";
import { nsKind } from "../plan-schema.ts";
import { type CriuProgram, versionText } from "./criu-program.ts";

/** Older ones do not say when they have seized everything. */
const leastVersion = 40_000;

export class SeizedFreezer {
  readonly #file: string;

  constructor(directory: string) {
    this.#file = join(directory, "cgroup.freeze");
  }

  /** undefined: CRIU can write to it itself. `outside` are the namespaces (CLONE_NEW*) of the container that it works in. */
  static needed(directory: string, outside: number, program: CriuProgram): SeizedFreezer | undefined {
    const freezer = new SeizedFreezer(directory);
    if ((outside & nsKind.cgroup) === 0 || !existsSync(freezer.#file)) return undefined;
    if (program.version >= leastVersion) return freezer;
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

  isFrozen(): boolean {
    return existsSync(this.#file) && readFileSync(this.#file, "utf8").trim() === "1";
  }

  /** Harmless when it is so, when the cgroup has gone, and in v1's hierarchies. */
  set(frozen: boolean): void {
    if (existsSync(this.#file)) writeFileSync(this.#file, frozen ? "1" : "0");
  }
}
