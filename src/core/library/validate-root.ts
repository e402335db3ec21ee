/** Rules about a container's root: one directory, or an overlay above it. */
import { isAbsolute, normalize } from "node:path/posix";
import type { Config, RootOverlay } from "./config.ts";
import { invalidConfig as invalid } from "./errors.ts";
import type { MachineFacts } from "./validate.ts";

/** @throws RuntimeError invalid_argument. */
export function checkRoot(config: Config, facts: Pick<MachineFacts, "realDirectory">): void {
  checkDirectory("rootfs", config.rootfs, facts);
  checkOverlay(config, facts);
  checkRootIdmap(config);
}

function checkDirectory(what: string, path: string, facts: Facts): void {
  if (!isAbsolute(path)) throw invalid(`${what} ${JSON.stringify(path)} is not an absolute path`);
  const real = facts.realDirectory(path);
  if (real === undefined) throw invalid(`${what} ${path} is no existing directory`);
  if (real !== cleaned(path)) throw invalid(`${what} ${path} leads through a symlink to ${real}`);
}

function cleaned(path: string): string {
  return normalize(path).replace(/(?<=.)\/$/, "");
}

type Facts = Pick<MachineFacts, "realDirectory">;

/** As many as the kernel takes. */
const mostLayers = 500;

function checkOverlay({ rootfs, overlay }: Config, facts: Facts): void {
  if (overlay === undefined) return;
  const { layers = [], upper, work } = overlay;
  for (const layer of layers) checkDirectory("overlay layer", layer, facts);
  if ((upper === undefined) !== (work === undefined))
    throw invalid(`overlay: upper and work belong together, and ${upper === undefined ? "upper" : "work"} is missing`);
  if (upper === undefined && layers.length === 0)
    throw invalid("overlay: one layer and no upper one is no overlay: add upper and work, or leave overlay out");
  if (layers.length >= mostLayers) throw invalid(`overlay: ${layers.length + 1} layers are more than the kernel's ${mostLayers}`);
  checkWritable({ upper, work }, facts);
  const places = [rootfs, ...layers].map(cleaned);
  const twice = places.find((path, at) => places.indexOf(path) !== at);
  if (twice !== undefined) throw invalid(`overlay: layer ${twice} is there twice`);
  checkApart(upper, work, places);
}

/** These two may be missing: they are made. */
function checkWritable(
  overlay: Pick<{ [K in keyof RootOverlay]-?: RootOverlay[K] | undefined }, "upper" | "work">,
  facts: Facts,
): void {
  for (const [what, path] of Object.entries(overlay)) {
    if (path === undefined) continue;
    if (!isAbsolute(path)) throw invalid(`overlay ${what} ${JSON.stringify(path)} is not an absolute path`);
    const real = facts.realDirectory(path);
    if (real !== undefined && real !== cleaned(path)) throw invalid(`overlay ${what} ${path} leads through a symlink to ${real}`);
  }
}

/** What lies in one of them would show up, or change, in another: the kernel leaves open what becomes of that. */
function checkApart(upper: string | undefined, work: string | undefined, layers: readonly string[]): void {
  if (upper === undefined || work === undefined) return;
  const inside = (inner: string, outer: string) => inner === outer || inner.startsWith(outer === "/" ? "/" : `${outer}/`);
  const [up, own] = [cleaned(upper), cleaned(work)];
  for (const [a, b] of [[up, own] as const, ...layers.flatMap((layer) => [[up, layer] as const, [own, layer] as const])]) {
    if (inside(a, b) || inside(b, a)) throw invalid(`overlay: ${a} and ${b} lie one in the other`);
  }
}

/** A mapping that is joined may be unknown here, and is needed to know whose the upper layer is. */
function checkRootIdmap({ idmapRoot, uidMappings = [], gidMappings = [], ...config }: Config): void {
  if (idmapRoot !== true) return;
  if (config.namespaces?.some(({ type }) => type === "user") !== true)
    throw invalid("idmapRoot needs a user namespace: its mappings are the root's");
  if (uidMappings.length === 0 || gidMappings.length === 0) throw invalid("idmapRoot needs uidMappings and gidMappings");
}
