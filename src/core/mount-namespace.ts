import { readlinkSync } from "node:fs";

/**
 * A sentence when this process does not see the host's mounts, which is process 1's: volumes mounted later would not reach containers,
 * and theirs not the host. Nothing where process 1 may not be looked at.
 */
export function mountNamespaceLimitations(): readonly string[] {
  try {
    if (readlinkSync("/proc/self/ns/mnt") === readlinkSync("/proc/1/ns/mnt")) return [];
  } catch {
    return [];
  }
  return [
    "the daemon runs in a mount namespace of its own: mounts that the node makes later do not reach containers; start it without PrivateMounts, ProtectSystem and the like",
  ];
}
