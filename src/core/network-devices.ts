/** Network devices of the host that a container gets for itself (runtime-spec "Network Devices"). They go back, if they can, with its namespace. */
import { closeSync, openSync } from "node:fs";
import { RuntimeError } from "../lib/errors.ts";
import type { OciNetDevices } from "./oci.ts";
import type { RunRequest } from "./shim/requests.ts";

const deadlineMs = 20_000;

/** @throws RuntimeError invalid_argument. */
export function checkNetDevices(devices: OciNetDevices | undefined, hasOwnNamespace: boolean): void {
  const entries = Object.entries(devices ?? {});
  if (entries.length > 0 && !hasOwnNamespace) throw invalid("network devices need a network namespace of the container's own");
  const inside = new Set<string>();
  for (const [name, { name: as = name }] of entries) {
    for (const one of [name, as]) {
      if (!/^[^\s/:]{1,15}$/.test(one) || one === "." || one === "..")
        throw invalid(`network device name ${JSON.stringify(one)} is not valid`);
    }
    if (inside.has(as)) throw invalid(`two network devices cannot both become ${as}`);
    inside.add(as);
  }
}

/** Into the network namespace of that process, in a child of the helper: it is still in the host's. */
export async function moveNetDevices(
  devices: OciNetDevices,
  pid: number,
  run: (request: RunRequest) => Promise<unknown>,
  signal: AbortSignal,
): Promise<void> {
  const netns = openSync(`/proc/${pid}/ns/net`, "r");
  try {
    // One after another: each goes into the namespace itself, and does not come back.
    for (const [name, { name: inside = name }] of Object.entries(devices)) {
      const plan = [{ op: "net-device", netns: 0, name, inside }] as const;
      await run({ plan, fds: [netns], cloneKinds: 0, deadlineMs, what: `network device ${name}`, signal });
    }
  } finally {
    closeSync(netns);
  }
}

function invalid(message: string): RuntimeError {
  return new RuntimeError("invalid_argument", message);
}
