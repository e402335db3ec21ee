/** Numbers of the kernel that Node's own constants lack. The same on x86-64 and arm64 unless taken from Node. */
import { constants } from "node:fs";

/** open(2) flags. */
export const openFlag = {
  readOnly: constants.O_RDONLY,
  writeOnly: constants.O_WRONLY,
  readWrite: constants.O_RDWR,
  create: constants.O_CREAT,
  exclusive: constants.O_EXCL,
  truncate: constants.O_TRUNC,
  append: constants.O_APPEND,
  nonBlock: constants.O_NONBLOCK,
  directory: constants.O_DIRECTORY,
  noFollow: constants.O_NOFOLLOW,
  path: 0o10000000,
  closeOnExec: 0o2000000,
} as const;

/** RESOLVE_* of openat2(2). */
export const resolveFlag = { noXdev: 0x01, noMagicLinks: 0x02, noSymlinks: 0x04, beneath: 0x08, inRoot: 0x10 } as const;

/** Flags of umount2(2). */
export const unmountFlag = { force: 1, detach: 2, expire: 4, noFollow: 8 } as const;

/** f_type of file systems whose identity matters. */
export const fsType = {
  cgroup: 0x27e0ebn,
  cgroup2: 0x6367_7270n,
  proc: 0x9fa0n,
  sysfs: 0x6265_6572n,
  tmpfs: 0x0102_1994n,
  overlay: 0x794c_7630n,
  devpts: 0x1cd1n,
  nsfs: 0x6e73_6673n,
} as const;

/** SCMP_ACT_* of libseccomp; errno and trace take a number in their low 16 bits. */
export const seccompAction = {
  killProcess: 0x8000_0000,
  killThread: 0x0000_0000,
  trap: 0x0003_0000,
  errno: 0x0005_0000,
  notify: 0x7fc0_0000,
  trace: 0x7ff0_0000,
  log: 0x7ffc_0000,
  allow: 0x7fff_0000,
} as const;

/** SCMP_CMP_* of libseccomp. */
export const seccompCompare = { ne: 1, lt: 2, le: 3, eq: 4, ge: 5, gt: 6, maskedEq: 7 } as const;

/** SCMP_ARCH_* of libseccomp. */
export const seccompArch = {
  x86: 0x4000_0003,
  x86_64: 0xc000_003e,
  x32: 0x4000_003e,
  arm: 0x4000_0028,
  aarch64: 0xc000_00b7,
} as const;
