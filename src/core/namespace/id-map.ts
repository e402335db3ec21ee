import { RuntimeError } from "../../lib/errors.ts";
import type { OciIdMapping } from "../oci.ts";

/** Lines for /proc/PID/uid_map. */
export function mapText(mappings: readonly OciIdMapping[]): string {
  return mappings.map(({ containerID, hostID, size }) => `${containerID} ${hostID} ${size}\n`).join("");
}

/** The host's id of an id in the container. */
export function toHostId(id: number, mappings: readonly OciIdMapping[]): number {
  const found = mappings.find(({ containerID, size }) => id >= containerID && id < containerID + size);
  if (found === undefined) {
    throw new RuntimeError("invalid_argument", `id ${id} has no mapping in the pod's user namespace`);
  }
  return found.hostID + (id - found.containerID);
}
