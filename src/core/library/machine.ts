/** What every container of this process shares: the machine as it was found, the shim's image, compiled filters. */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { addon } from "../../native/addon.ts";
import { Cgroups } from "../cgroup/cgroups.ts";
import { hierarchiesBelow, parseOwnCgroups } from "../cgroup/hierarchies.ts";
import { Systemd } from "../cgroup/systemd.ts";
import { deviceLinks } from "../device/default-devices.ts";
import { type OwnLimits, readOwnLimits } from "../process/own-limits.ts";
import { SeccompCompiler } from "../process/seccomp.ts";
import { loadShimImage, type ShimImage } from "../shim/start.ts";
import { noHierarchies } from "./delegated-cgroups.ts";
import { type Caller, ordinaryUser } from "./rootless.ts";

export interface Machine {
  /** Who we are, where that is not root. */
  readonly caller: Caller | undefined;
  readonly cgroups: Cgroups;
  /** Asked by those containers whose cgroups it makes; not before. */
  readonly systemd: Systemd;
  /** With paths that begin at this process's own cgroups; on v2 at their parent, since a cgroup with processes takes no children. */
  readonly ownCgroups: Cgroups;
  /** This process's own cgroups by hierarchyKey. */
  readonly ownPaths: ReadonlyMap<string, string>;
  /** Where helpers are kept apart; an ordinary user's stay in their caller's. */
  readonly shimCgroups: Cgroups;
  readonly own: OwnLimits;
  readonly ownOomScoreAdj: number;
  readonly seccomp: SeccompCompiler;
  readonly image: ShimImage;
  /** Links of /dev; /dev/core only where the host has a kcore. */
  readonly links: readonly { readonly path: string; readonly target: string }[];
}

/** The helper that was built with this module, from src/ and dist/ alike. */
const shimPath = join(import.meta.dirname, "../../../build/native/caisson-shim");

let found: Promise<Machine> | undefined;

/** Looked at once, when the first container needs it. */
export function findMachine(): Promise<Machine> {
  found ??= look();
  const machine = found;
  // A failure is not kept: a build or a mount may have been missing.
  machine.catch(() => {
    found = undefined;
  });
  return machine;
}

async function look(): Promise<Machine> {
  const [cgroups, own, image, ownPaths, score] = await Promise.all([
    Cgroups.find(),
    readOwnLimits(),
    loadShimImage(shimPath),
    readFile("/proc/self/cgroup", "utf8").then(parseOwnCgroups),
    readFile("/proc/self/oom_score_adj", "utf8"),
  ]);
  const below = new Map(ownPaths);
  const unified = below.get("");
  if (unified !== undefined && cgroups.hierarchies.version === "v2") below.set("", unified.slice(0, unified.lastIndexOf("/")));
  const core = { path: "/dev/core", target: "/proc/kcore" };
  const caller = ordinaryUser();
  return {
    caller,
    cgroups,
    systemd: new Systemd(),
    ownPaths,
    shimCgroups: caller === undefined ? cgroups : new Cgroups(noHierarchies(cgroups.hierarchies)),
    ownCgroups: new Cgroups(hierarchiesBelow(cgroups.hierarchies, below)),
    own,
    ownOomScoreAdj: Number.parseInt(score, 10),
    seccomp: new SeccompCompiler(addon),
    image,
    links: existsSync("/proc/kcore") ? [...deviceLinks, core] : deviceLinks,
  };
}
