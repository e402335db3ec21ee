/** Capability sets as /proc/PID/status prints them. Numbers are the kernel's. */
const numbered = [
  ...["CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE"],
  ...[
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
  ],
  ...[
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
  ],
  ...[
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
  ],
  ...["PERFMON", "BPF", "CHECKPOINT_RESTORE"],
];

export function capabilitySet(hex: string): ReadonlySet<string> {
  const mask = BigInt(`0x${hex.trim() || "0"}`);
  return new Set(numbered.filter((_, i) => (mask >> BigInt(i)) & 1n));
}
