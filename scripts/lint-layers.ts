/**
 * Checks the layers of ARCHITECTURE.md over the imports of src/: lower layers never import higher ones, siblings never import
 * each other, the five modules of the core neither, core never imports gen (but core/criu the messages of CRIU), and only src/native/addon.ts loads a .node file,
 * only src/server imports grpc-js.
 */
import { globSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";

const rank: Readonly<Record<string, number>> = {
  lib: 0,
  gen: 0,
  native: 1,
  core: 2,
  image: 2,
  network: 2,
  nri: 2,
  store: 2,
  streaming: 2,
  cri: 3,
  containers: 3,
  server: 4,
  cli: 4,
  app: 5,
  config: 0,
  main: 6,
};
const coreModules = new Set(["namespace", "cgroup", "rootfs", "device", "criu"]);
const forbiddenNames = /(^|\/)(utils|helpers|manager|common)\.ts$/;

const problems: string[] = [];
const layerOf = (file: string): string => (file.includes("/") ? (file.split("/")[0] ?? "") : file.replace(/\.ts$/, ""));

for (const path of globSync("src/**/*.ts")) {
  const file = path.slice("src/".length);
  const from = layerOf(file);
  if (from === "gen") continue;
  if (forbiddenNames.test(file))
    problems.push(`${path}: a file is named for what it does, not utils, helpers, manager or common`);
  const text = readFileSync(path, "utf8");
  for (const [, target = ""] of text.matchAll(/^\s*(?:import|export)[^"';]*?from\s+"([^"]+)"|import\("([^"]+)"\)/gm)) {
    if (target === "@grpc/grpc-js" && !["server", "cli", "gen"].includes(from))
      problems.push(`${path}: only server/ and cli/ import grpc-js`);
    if (target === "node:child_process")
      problems.push(`${path}: host programs are started by the addon or the shim, not by node:child_process`);
    if (!target.startsWith(".")) continue;
    const to = normalize(join(dirname(file), target));
    const toLayer = layerOf(to);
    const [a, b] = [rank[from], rank[toLayer]];
    if (a === undefined || b === undefined) {
      problems.push(`${path}: ${a === undefined ? from : toLayer} is no layer of ARCHITECTURE.md`);
    } else if (b > a || (b === a && from !== toLayer && from !== "config" && toLayer !== "config")) {
      problems.push(`${path}: ${from} must not import ${toLayer} (${target})`);
    }
    if (from === "core" && toLayer === "gen" && !(file.startsWith("core/criu/") && to.startsWith("gen/criu/")))
      problems.push(`${path}: core must not import gen`);
    const [m, n] = [file.split("/")[1] ?? "", to.split("/")[1] ?? ""];
    if (from === "core" && toLayer === "core" && m !== n && coreModules.has(m) && coreModules.has(n)) {
      problems.push(`${path}: core/${m} must not import core/${n}; hand the data over in container.ts`);
    }
  }
  if (/\.node"/.test(text) && file !== "native/addon.ts") problems.push(`${path}: only src/native/addon.ts loads a .node file`);
}

for (const problem of problems) console.error(problem);
process.exitCode = problems.length > 0 ? 1 : 0;
