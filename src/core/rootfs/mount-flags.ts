/** Numbers of the kernel's mount interface (linux/mount.h), as far as plans use them. */

export const mountAttr = {
  rdonly: 0x1,
  nosuid: 0x2,
  nodev: 0x4,
  noexec: 0x8,
  /** Mask of the access-time modes; must be in `clear` when one of them is set. */
  atimeMask: 0x70,
  relatime: 0x0,
  noatime: 0x10,
  strictatime: 0x20,
  nodiratime: 0x80,
  nosymfollow: 0x20_0000,
} as const;

/** Propagation types for mount-attr and root-propagation. */
export const propagation = { unbindable: 1 << 17, private: 1 << 18, slave: 1 << 19, shared: 1 << 20 } as const;
/** MS_REC, for root-propagation only. */
export const msRec = 0x4000;
/** MNT_DETACH of umount2. */
export const mntDetach = 2;
