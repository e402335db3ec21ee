/** Capability names and bit sets (linux/capability.h). */
import { RuntimeError } from "../../lib/errors.ts";
import type { OciCapabilities } from "../oci.ts";

/** In the order of their numbers. */
export const capabilityNames = [
  "CAP_CHOWN",
  "CAP_DAC_OVERRIDE",
  "CAP_DAC_READ_SEARCH",
  "CAP_FOWNER",
  "CAP_FSETID",
  "CAP_KILL",
  "CAP_SETGID",
  "CAP_SETUID",
  "CAP_SETPCAP",
  "CAP_LINUX_IMMUTABLE",
  "CAP_NET_BIND_SERVICE",
  "CAP_NET_BROADCAST",
  "CAP_NET_ADMIN",
  "CAP_NET_RAW",
  "CAP_IPC_LOCK",
  "CAP_IPC_OWNER",
  "CAP_SYS_MODULE",
  "CAP_SYS_RAWIO",
  "CAP_SYS_CHROOT",
  "CAP_SYS_PTRACE",
  "CAP_SYS_PACCT",
  "CAP_SYS_ADMIN",
  "CAP_SYS_BOOT",
  "CAP_SYS_NICE",
  "CAP_SYS_RESOURCE",
  "CAP_SYS_TIME",
  "CAP_SYS_TTY_CONFIG",
  "CAP_MKNOD",
  "CAP_LEASE",
  "CAP_AUDIT_WRITE",
  "CAP_AUDIT_CONTROL",
  "CAP_SETFCAP",
  "CAP_MAC_OVERRIDE",
  "CAP_MAC_ADMIN",
  "CAP_SYSLOG",
  "CAP_WAKE_ALARM",
  "CAP_BLOCK_SUSPEND",
  "CAP_AUDIT_READ",
  "CAP_PERFMON",
  "CAP_BPF",
  "CAP_CHECKPOINT_RESTORE",
] as const;
export type CapabilityName = (typeof capabilityNames)[number];

const bitByName: ReadonlyMap<string, bigint> = new Map(capabilityNames.map((name, number) => [name, 1n << BigInt(number)]));

/** Bit set of names. An unknown name is `invalid_argument`: silently giving less than asked for hides a misspelling. */
export function capabilityBits(names: readonly string[]): bigint {
  let bits = 0n;
  for (const name of names) {
    const bit = bitByName.get(name.toUpperCase());
    if (bit === undefined) throw new RuntimeError("invalid_argument", `capability ${JSON.stringify(name)} is not known`);
    bits |= bit;
  }
  return bits;
}

/** Names of the bits, in the order of their numbers. */
export function capabilitiesOf(bits: bigint): readonly CapabilityName[] {
  return capabilityNames.filter((_, number) => (bits & (1n << BigInt(number))) !== 0n);
}

export interface CapabilitySets {
  readonly bounding: bigint;
  readonly permitted: bigint;
  readonly effective: bigint;
  readonly inheritable: bigint;
  readonly ambient: bigint;
}

/** The sets of a process; `ceiling`: the most that this machine can give. Without any set there are no capabilities. */
export function capabilitySets(asked: OciCapabilities | undefined, ceiling: bigint): CapabilitySets {
  const set = (names: readonly string[] | undefined) => capabilityBits(names ?? []) & ceiling;
  const permitted = set(asked?.permitted);
  const inheritable = set(asked?.inheritable);
  return {
    bounding: set(asked?.bounding),
    permitted,
    // The kernel refuses effective bits outside permitted, and ambient ones outside permitted and inheritable.
    effective: set(asked?.effective) & permitted,
    inheritable,
    ambient: set(asked?.ambient) & permitted & inheritable,
  };
}
