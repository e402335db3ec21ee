/*
 * The kernel's newer calls and constants, which musl's headers lack, as functions that return a result or -errno. Each can be made
 * to answer ENOSYS (kernel_deny), so that the fallbacks for older kernels and for stricter outer sandboxes are tested.
 */
#ifndef CAISSON_KERNEL_H
#define CAISSON_KERNEL_H

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

/* X(identifier, name in CAISSON_DENY_SYSCALLS) */
#define KERNEL_FEATURES(X) \
	X(OPENAT2, "openat2") \
	X(CLOSE_RANGE, "close_range") \
	X(SETNS_PIDFD, "setns_pidfd") \
	X(OVERLAY_LOWERDIR, "overlay_lowerdir") \
	X(OVERLAY_FSCONFIG, "overlay_fsconfig") \
	X(PRIVATE_PROC, "private_proc") \
	X(PROC_PIDNS, "proc_pidns") \
	X(FCHMODAT2, "fchmodat2") \
	X(TIOCGPTPEER, "tiocgptpeer") \
	X(STATX_MNT_ID, "statx_mnt_id") \
	X(OPEN_TREE, "open_tree") \
	X(MOVE_MOUNT, "move_mount") \
	X(FSOPEN, "fsopen") \
	X(MOUNT_SETATTR, "mount_setattr") \
	X(PIVOT_ROOT, "pivot_root") \
	X(CLONE3, "clone3") \
	X(INTO_CGROUP, "clone_into_cgroup") \
	X(CGROUP_KILL, "cgroup_kill")

enum kernel_feature {
#define X(id, name) KERNEL_##id,
	KERNEL_FEATURES(X)
#undef X
};
int kernel_denied(enum kernel_feature feature);

#define K_RESOLVE_NO_XDEV 0x01
#define K_RESOLVE_NO_MAGICLINKS 0x02
#define K_RESOLVE_NO_SYMLINKS 0x04
#define K_RESOLVE_BENEATH 0x08
#define K_RESOLVE_IN_ROOT 0x10

#define K_AT_EMPTY_PATH 0x1000
#define K_AT_SYMLINK_NOFOLLOW 0x100
#define K_AT_RECURSIVE 0x8000
#define K_OPEN_TREE_CLONE 1
#define K_OPEN_TREE_CLOEXEC O_CLOEXEC
#define K_MOVE_MOUNT_F_EMPTY_PATH 0x04
#define K_MOVE_MOUNT_T_EMPTY_PATH 0x40
#define K_FSCONFIG_SET_FLAG 0
#define K_FSCONFIG_SET_STRING 1
#define K_FSCONFIG_SET_FD 5
#define K_FSCONFIG_CMD_CREATE 6
#define K_MOUNT_ATTR_RDONLY 0x01
#define K_MOUNT_ATTR_NOSUID 0x02
#define K_MOUNT_ATTR_NODEV 0x04
#define K_MOUNT_ATTR_NOEXEC 0x08
#define K_MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#define K_MOUNT_ATTR_IDMAP 0x00100000
#define K_CLONE_NEWTIME 0x80
#define K_RAMFS_MAGIC 0x858458f6
#define K_PROC_MAGIC 0x9fa0
#define K_PROC_ROOT_INO 1
#define K_CGROUP_MAGIC 0x27e0eb
#define K_CGROUP2_MAGIC 0x63677270
#define K_DEVPTS_MAGIC 0x1cd1
#define K_DEVPTS_PTMX_INO 2
#define K_TIOCGPTPEER 0x5441
#define K_CAP_LAST 63

struct k_mount_attr {
	uint64_t set;
	uint64_t clear;
	uint64_t propagation;
	uint64_t userns;
};

int k_openat2(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);
int k_open_tree(int dir, const char *path, unsigned flags);
int k_move_mount(int from, const char *from_path, int to, const char *to_path, unsigned flags);
int k_fsopen(const char *type);
int k_fsconfig(int fs, unsigned command, const char *key, const void *value, int aux);
int k_fsmount(int fs, unsigned attrs);
int k_mount_setattr(int dir, const char *path, unsigned flags, const struct k_mount_attr *attr);
/* Closes from..to; without the system call, those that /proc or the descriptor limit names. */
void k_close_range(unsigned from, unsigned to);
/* chmod of what an O_PATH descriptor names; -ENOSYS where the kernel cannot. */
int k_fchmod_path(int fd, mode_t mode);
/* Id of the mount that the descriptor lies on; -ENOSYS where the kernel cannot tell. */
int k_mount_id(int fd, uint64_t *id);
/* fork without libc's handlers and locks: the caller may be the child of a threaded process. */
pid_t k_fork(unsigned long flags);
/* Filesystem magic of a descriptor, or 0. */
uint64_t k_fs_magic(int fd);
/* sigaction with SIG_DFL (0) or SIG_IGN (1), of any signal; musl's refuses those that it keeps for itself. */
void k_signal(int signal, unsigned long disposition);
/* Replaces the signal mask; bit N-1 is signal N. */
void k_signal_mask(uint64_t mask);

/* r of a system call wrapper: the value, or -errno. */
long k_result(long r);

static inline int steal_fd(int *fd)
{
	int taken = *fd;
	*fd = -1;
	return taken;
}
void close_fd(int *fd);
#define autoclose __attribute__((cleanup(close_fd)))

#endif
