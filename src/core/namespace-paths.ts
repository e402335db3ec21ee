import { readdirSync, readlinkSync } from "node:fs";
import type { Pod, PodSpec, ProcessIdentity } from "./runtime.ts";

type Paths = Pod["namespacePaths"];

const kinds: ReadonlyMap<string, keyof Paths> = new Map([
  ["net", "network"],
  ["ipc", "ipc"],
  ["uts", "uts"],
  ["pid", "pid"],
  ["user", "user"],
]);

/** The shim's pins by way of its descriptors, which stay for the pod's life; the network's by its own file. */
export function namespacePaths(spec: PodSpec, shim: ProcessIdentity): Paths {
  const paths: { -readonly [K in keyof Paths]: Paths[K] } = {};
  const directory = `/proc/${shim.pid}/fd`;
  for (const fd of readdirSync(directory)) {
    const path = `${directory}/${fd}`;
    const kind = kinds.get(/^([a-z]+):\[/.exec(linkOf(path))?.[1] ?? "");
    if (kind !== undefined) paths[kind] = path;
  }
  if (spec.netnsPath !== null) paths.network = spec.netnsPath;
  return paths;
}

/** A descriptor may be closed between the listing and the look. */
function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
}
