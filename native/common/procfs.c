/*
 * Procfs through a handle of our own: a detached mount that nothing can be mounted over, so that a write meant for
 * oom_score_adj or a sysctl cannot be led elsewhere by a container's mounts (CVE-2025-52881, CVE-2019-16884).
 */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int is_procfs_root(int fd)
{
	struct stat st;
	return k_fs_magic(fd) == K_PROC_MAGIC && fstat(fd, &st) == 0 && st.st_ino == K_PROC_ROOT_INO;
}

static int mount_private(int masked)
{
	if (kernel_denied(KERNEL_PRIVATE_PROC))
		return -ENOSYS;
	autoclose int fs = k_fsopen("proc");
	if (fs < 0)
		return fs;
	if (masked) {
		/* Kernels before 5.8 lack these; what matters is that the mount is private. */
		k_fsconfig(fs, K_FSCONFIG_SET_STRING, "hidepid", "ptraceable", 0);
		k_fsconfig(fs, K_FSCONFIG_SET_STRING, "subset", "pid", 0);
	}
	int error = k_fsconfig(fs, K_FSCONFIG_CMD_CREATE, NULL, NULL, 0);
	if (error < 0)
		return error;
	return k_fsmount(fs, K_MOUNT_ATTR_NOSUID | K_MOUNT_ATTR_NODEV | K_MOUNT_ATTR_NOEXEC);
}

int proc_private(void)
{
	return mount_private(1);
}

static int open_handle(int masked)
{
	autoclose int fd = mount_private(masked);
	/* A copy without what is mounted over it; refused by the kernel where those mounts are locked. */
	if (fd < 0)
		fd = k_open_tree(AT_FDCWD, "/proc", K_OPEN_TREE_CLONE);
	if (fd < 0)
		fd = (int)k_result(open("/proc", O_PATH | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC));
	if (fd < 0)
		return fd;
	return is_procfs_root(fd) ? steal_fd(&fd) : -EUCLEAN;
}

int proc_handle(struct run *run)
{
	if (run->proc < 0) {
		int fd = run->env->proc >= 0 ? steal_fd(&run->env->proc) : open_handle(1);
		if (fd < 0)
			return fd;
		run->proc = fd;
	}
	return run->proc;
}

int proc_unmasked(void)
{
	return open_handle(0);
}

/* Without openat2: one component at a time, each on procfs and on the mount of the handle, and no links. */
static int walk(int proc, const char *path, int flags)
{
	uint64_t mount = 0, here = 0;
	int have_mount = k_mount_id(proc, &mount) == 0;
	autoclose int at = -1;
	for (;;) {
		char name[NAME_MAX + 1];
		size_t length = strcspn(path, "/");
		if (length == 0 || length > NAME_MAX || (path[0] == '.' && path[1] == '.'))
			return -EINVAL;
		memcpy(name, path, length);
		name[length] = 0;
		path += length + (path[length] == '/');
		int last = *path == 0;
		int mode = last ? flags | O_NOFOLLOW | O_CLOEXEC : O_PATH | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC;
		int next = (int)k_result(openat(at < 0 ? proc : at, name, mode));
		close_fd(&at);
		at = next;
		if (at < 0)
			return at;
		if (k_fs_magic(at) != K_PROC_MAGIC || (have_mount && (k_mount_id(at, &here) < 0 || here != mount)))
			return -EXDEV;
		if (last)
			return steal_fd(&at);
	}
}

int proc_open(int proc, const char *path, int flags)
{
	uint64_t resolve = K_RESOLVE_BENEATH | K_RESOLVE_NO_XDEV | K_RESOLVE_NO_SYMLINKS;
	for (int tries = 0; tries < 128; tries++) {
		autoclose int fd = k_openat2(proc, path, (uint64_t)flags | O_NOFOLLOW | O_CLOEXEC, 0, resolve);
		if (fd == -ENOSYS || fd == -EPERM)
			return walk(proc, path, flags);
		if (fd == -EAGAIN)
			continue;
		if (fd >= 0 && k_fs_magic(fd) != K_PROC_MAGIC)
			return -EXDEV;
		return steal_fd(&fd);
	}
	return -EAGAIN;
}

char *decimal(char *out, uint32_t n)
{
	char digits[10];
	size_t count = 0, at = 0;
	do
		digits[count++] = (char)('0' + n % 10);
	while (n /= 10);
	while (count > 0)
		out[at++] = digits[--count];
	out[at] = 0;
	return out;
}

/* "PID/PATH": the number is this process's as the handle's own pid namespace sees it, which only its link knows. */
int proc_open_self(struct run *run, const char *path, int flags)
{
	char full[PATH_MAX];
	int proc = proc_handle(run);
	if (proc < 0)
		return proc;
	ssize_t length = readlinkat(proc, "self", full, 32);
	if (length <= 0)
		return -errno;
	size_t size = strlen(path);
	if ((size_t)length + size + 2 > sizeof full)
		return -ENAMETOOLONG;
	full[length] = '/';
	memcpy(full + length + 1, path, size + 1);
	return proc_open(proc, full, flags);
}

int proc_open_link(struct run *run, const char *directory, const char *name, int flags)
{
	autoclose int parent = proc_open_self(run, directory, O_PATH | O_DIRECTORY);
	if (parent < 0)
		return parent;
	return (int)k_result(openat(parent, name, flags | O_CLOEXEC));
}

/* Looked at for every path that is resolved, so it is opened once. */
int proc_own_fds(struct run *run)
{
	if (run->own_fds < 0) {
		int fd = proc_open_self(run, "fd", O_PATH | O_DIRECTORY);
		if (fd < 0)
			return fd;
		run->own_fds = fd;
	}
	return run->own_fds;
}

int proc_reopen(struct run *run, int fd, int flags)
{
	char name[12];
	int parent = proc_own_fds(run);
	if (parent < 0)
		return parent;
	return (int)k_result(openat(parent, decimal(name, (uint32_t)fd), flags | O_CLOEXEC));
}

int proc_fd_path(struct run *run, int fd, char *out, size_t room)
{
	char name[12];
	int parent = proc_own_fds(run);
	if (parent < 0)
		return parent;
	ssize_t length = readlinkat(parent, decimal(name, (uint32_t)fd), out, room - 1);
	if (length < 0)
		return -errno;
	if ((size_t)length == room - 1)
		return -ENAMETOOLONG;
	out[length] = 0;
	return (int)length;
}

int write_once(int fd, const char *text)
{
	size_t length = strlen(text);
	ssize_t written;
	do
		written = write(fd, text, length);
	while (written < 0 && errno == EINTR);
	if (written < 0)
		return -errno;
	return (size_t)written == length ? 0 : -EIO;
}
