#define _GNU_SOURCE
#include "kernel.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "plan.h"

/* Numbers from 424 on are the same on every architecture. */
#define NR_OPEN_TREE 428
#define NR_MOVE_MOUNT 429
#define NR_FSOPEN 430
#define NR_FSCONFIG 431
#define NR_FSMOUNT 432
#define NR_CLOSE_RANGE 436
#define NR_OPENAT2 437
#define NR_MOUNT_SETATTR 442
#define NR_FCHMODAT2 452

#define STATX_INO_BIT 0x100u
#define STATX_MNT_ID_BIT 0x1000u

static uint32_t denied;

long k_result(long r)
{
	return r < 0 ? -errno : r;
}

void close_fd(int *fd)
{
	if (*fd >= 0) {
		int saved = errno;
		close(*fd);
		errno = saved;
	}
}

int kernel_denied(enum kernel_feature feature)
{
	return denied >> feature & 1;
}

int kernel_is_restricted(void)
{
	return denied != 0;
}

int kernel_deny(const char *names)
{
	static const char *const known[] = {
#define X(id, name) name,
		KERNEL_FEATURES(X)
#undef X
	};
	while (names && *names) {
		size_t length = strcspn(names, ",");
		size_t i = 0;
		while (i < sizeof known / sizeof *known && (strlen(known[i]) != length || memcmp(known[i], names, length) != 0))
			i++;
		if (length != 0 && i == sizeof known / sizeof *known)
			return -EINVAL;
		if (length != 0)
			denied |= 1u << i;
		names += length + (names[length] == ',');
	}
	return 0;
}

int k_openat2(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
	uint64_t how[3] = { flags, mode, resolve };
	if (kernel_denied(KERNEL_OPENAT2))
		return -ENOSYS;
	return k_result(syscall(NR_OPENAT2, dir, path, how, sizeof how));
}

int k_open_tree(int dir, const char *path, unsigned flags)
{
	if (kernel_denied(KERNEL_OPEN_TREE))
		return -ENOSYS;
	return k_result(syscall(NR_OPEN_TREE, dir, path, flags | K_OPEN_TREE_CLOEXEC));
}

int k_move_mount(int from, const char *from_path, int to, const char *to_path, unsigned flags)
{
	if (kernel_denied(KERNEL_MOVE_MOUNT))
		return -ENOSYS;
	return k_result(syscall(NR_MOVE_MOUNT, from, from_path, to, to_path, flags));
}

int k_fsopen(const char *type)
{
	if (kernel_denied(KERNEL_FSOPEN))
		return -ENOSYS;
	return k_result(syscall(NR_FSOPEN, type, 1 /* FSOPEN_CLOEXEC */));
}

int k_fsconfig(int fs, unsigned command, const char *key, const void *value, int aux)
{
	return k_result(syscall(NR_FSCONFIG, fs, command, key, value, aux));
}

int k_fsmount(int fs, unsigned attrs)
{
	return k_result(syscall(NR_FSMOUNT, fs, 1 /* FSMOUNT_CLOEXEC */, attrs));
}

int k_mount_setattr(int dir, const char *path, unsigned flags, const struct k_mount_attr *attr)
{
	if (kernel_denied(KERNEL_MOUNT_SETATTR))
		return -ENOSYS;
	return k_result(syscall(NR_MOUNT_SETATTR, dir, path, flags, attr, sizeof *attr));
}

struct dirent_head {
	uint64_t ino;
	int64_t offset;
	uint16_t size;
	uint8_t type;
	char name[];
};

static int number_of(const char *name)
{
	int n = 0;
	for (; *name; name++) {
		if (*name < '0' || *name > '9' || n > 100000000)
			return -1;
		n = n * 10 + (*name - '0');
	}
	return n;
}

/* Listing and closing at once would skip entries, so whole passes are repeated until one closes nothing. */
static int close_listed(unsigned from, unsigned to)
{
	autoclose int dir = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0 || k_fs_magic(dir) != K_PROC_MAGIC)
		return 0;
	for (int again = 1; again;) {
		char buffer[2048] __attribute__((aligned(8)));
		long got;
		again = 0;
		if (lseek(dir, 0, SEEK_SET) != 0)
			return 0;
		while ((got = syscall(SYS_getdents64, dir, buffer, sizeof buffer)) > 0) {
			for (long at = 0; at < got;) {
				struct dirent_head *entry = (struct dirent_head *)(buffer + at);
				int fd = entry->name[0] == '.' ? -1 : number_of(entry->name);
				if (fd >= 0 && fd != dir && (unsigned)fd >= from && (unsigned)fd <= to) {
					close(fd);
					again = 1;
				}
				at += entry->size;
			}
		}
		if (got < 0)
			return 0;
	}
	return 1;
}

void k_close_range(unsigned from, unsigned to)
{
	struct rlimit limit;
	if (from > to)
		return;
	if (!kernel_denied(KERNEL_CLOSE_RANGE) && syscall(NR_CLOSE_RANGE, from, to, 0) == 0)
		return;
	if (close_listed(from, to))
		return;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_max > 1u << 20)
		limit.rlim_max = 1u << 20;
	for (unsigned fd = from; fd <= to && fd < limit.rlim_max; fd++)
		close((int)fd);
}

int k_fchmod_path(int fd, mode_t mode)
{
	if (kernel_denied(KERNEL_FCHMODAT2))
		return -ENOSYS;
	return k_result(syscall(NR_FCHMODAT2, fd, "", mode, K_AT_EMPTY_PATH));
}

int k_mount_id(int fd, uint64_t *id)
{
	/* struct statx: mask at 0, mount id at 144. */
	uint8_t out[256] __attribute__((aligned(8))) = { 0 };
	uint32_t mask;
	if (kernel_denied(KERNEL_STATX_MNT_ID))
		return -ENOSYS;
	long r = k_result(syscall(SYS_statx, fd, "", K_AT_EMPTY_PATH, STATX_INO_BIT | STATX_MNT_ID_BIT, out));
	if (r < 0)
		return (int)r;
	memcpy(&mask, out, sizeof mask);
	if (!(mask & STATX_MNT_ID_BIT))
		return -ENOSYS;
	memcpy(id, out + 144, sizeof *id);
	return 0;
}

pid_t k_fork(unsigned long flags)
{
	return (pid_t)k_result(syscall(SYS_clone, flags, 0, 0, 0, 0));
}

uint64_t k_fs_magic(int fd)
{
	struct statfs fs;
	return fstatfs(fd, &fs) < 0 ? 0 : (uint64_t)fs.f_type;
}

void k_signal(int signal, unsigned long disposition)
{
	/* The kernel's struct: handler, flags, restorer, mask; zero means default everywhere. */
	unsigned long action[4] = { disposition, 0, 0, 0 };
	syscall(SYS_rt_sigaction, signal, action, 0, sizeof(uint64_t));
}

void k_signal_mask(uint64_t mask)
{
	syscall(SYS_rt_sigprocmask, 2 /* SIG_SETMASK */, &mask, 0, sizeof mask);
}
