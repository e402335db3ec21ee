/* Mounts as descriptors, from where they come to where they go. What happens inside the root is in ops-root.c. */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

/* openTreeFlag and attachFlag of plan-schema.ts. */
enum { TREE_CLONE = 1, TREE_RECURSIVE = 2, TREE_NO_FOLLOW = 4, TREE_IN_ROOT = 8 };
enum { ATTACH_CREATE = 1, ATTACH_FRESH = 2, ATTACH_PROC_RULE = 4 };

int op_open_tree(struct run *run, const value *v)
{
	const char *path = v[OP_OPEN_TREE_PATH].str;
	uint32_t asked = v[OP_OPEN_TREE_FLAGS].u32;
	unsigned flags = asked & TREE_CLONE ? K_OPEN_TREE_CLONE : 0;
	autoclose int start = -1;
	if ((asked & TREE_CLONE) && (asked & TREE_RECURSIVE))
		flags |= K_AT_RECURSIVE;
	if (asked & TREE_IN_ROOT) {
		start = root_open(run, path, asked & TREE_NO_FOLLOW ? ROOT_NO_FOLLOW : 0);
		if (start < 0)
			return start;
		path = "";
		flags |= K_AT_EMPTY_PATH;
	} else if (asked & TREE_NO_FOLLOW) {
		flags |= K_AT_SYMLINK_NOFOLLOW;
	}
	int fd = k_open_tree(start < 0 ? AT_FDCWD : start, path, flags);
	if (fd < 0)
		return fd;
	slot_set(run, v[OP_OPEN_TREE_OUT].u32, fd);
	return 0;
}

int op_mount_attr(struct run *run, const value *v)
{
	struct k_mount_attr attr = {
		.set = v[OP_MOUNT_ATTR_SET].u32,
		.clear = v[OP_MOUNT_ATTR_CLEAR].u32,
		.propagation = v[OP_MOUNT_ATTR_PROPAGATION].u32,
	};
	unsigned flags = K_AT_EMPTY_PATH | (v[OP_MOUNT_ATTR_RECURSIVE].u32 ? K_AT_RECURSIVE : 0);
	int fd = slot_fd(run, v[OP_MOUNT_ATTR_SLOT].u32);
	if (fd < 0)
		return fd;
	if (v[OP_MOUNT_ATTR_USERNS].u32 != PLAN_NO_SLOT) {
		int userns = slot_fd(run, v[OP_MOUNT_ATTR_USERNS].u32);
		if (userns < 0)
			return userns;
		attr.set |= K_MOUNT_ATTR_IDMAP;
		attr.userns = (uint64_t)userns;
	}
	return k_mount_setattr(fd, "", flags, &attr);
}

int op_root_propagation(struct run *run, const value *v)
{
	unsigned long flags = v[OP_ROOT_PROPAGATION_FLAGS].u32;
	if (mount(NULL, "/", NULL, flags, NULL) < 0)
		return say(run, -errno, "/", NULL, NULL);
	run->tree_is_slave = (flags & MS_REC) && (flags & (MS_SLAVE | MS_PRIVATE | MS_UNBINDABLE));
	return 0;
}

static int make_host_directory(const char *path)
{
	char part[PATH_MAX];
	size_t length = strlen(path);
	if (length >= sizeof part)
		return -ENAMETOOLONG;
	memcpy(part, path, length + 1);
	for (size_t i = 1; i <= length; i++) {
		if (part[i] != '/' && part[i] != 0)
			continue;
		char kept = part[i];
		part[i] = 0;
		if (mkdir(part, 0755) < 0 && errno != EEXIST)
			return -errno;
		part[i] = kept;
	}
	return 0;
}

int op_attach_root(struct run *run, const value *v)
{
	const char *path = v[OP_ATTACH_ROOT_PATH].str;
	uint32_t slot = v[OP_ATTACH_ROOT_SLOT].u32;
	int fd = slot_fd(run, slot);
	if (fd < 0)
		return fd;
	int error = k_move_mount(fd, "", AT_FDCWD, path, K_MOVE_MOUNT_F_EMPTY_PATH);
	if (error == -ENOENT && (error = make_host_directory(path)) == 0)
		error = k_move_mount(fd, "", AT_FDCWD, path, K_MOVE_MOUNT_F_EMPTY_PATH);
	/* The root of a user namespace may not enter the host's private directories. Stacked on "/" the mount serves as well: the
	 * place is forgotten at the pivot. */
	if (error == -EACCES)
		error = k_move_mount(fd, "", AT_FDCWD, "/", K_MOVE_MOUNT_F_EMPTY_PATH);
	if (error < 0)
		return error;
	/* The mount's own descriptor is its root: no path is looked up again. */
	int root = (int)k_result(openat(fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC));
	if (root < 0)
		return root;
	close_fd(&run->root);
	run->root = root;
	slot_close(run, slot);
	return 0;
}

int op_use_root(struct run *run, const value *v)
{
	int fd = slot_fd(run, v[OP_USE_ROOT_SLOT].u32);
	if (fd < 0)
		return fd;
	int root = (int)k_result(openat(fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC));
	if (root < 0)
		return root;
	close_fd(&run->root);
	run->root = root;
	return 0;
}

/* The procfs overmount rule, section 1.1 of the reference, on the resolved target. */
static int check_proc_rule(struct run *run, int source, int target)
{
	static const char *const allowed[] = {
		"cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo",
		/* CRIU in containers; an override of the state shown to programs. */
		"sys/kernel/ns_last_pid", "sys/crypto/fips_enabled",
	};
	char path[PATH_MAX];
	int error = root_relative(run, target, path, sizeof path);
	if (error < 0)
		return error;
	if (strncmp(path, "/proc", 5) != 0 || (path[5] != 0 && path[5] != '/'))
		return 0;
	if (path[5] == 0 || path[6] == 0)
		return k_fs_magic(source) == K_PROC_MAGIC ? 0 : say(run, -EPERM, path, " cannot be mounted because it is not of type proc", NULL);
	for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++)
		if (strcmp(path + 6, allowed[i]) == 0)
			return 0;
	return say(run, -EPERM, path, " cannot be mounted because it is inside /proc", NULL);
}

static int open_target(struct run *run, const char *path, uint32_t flags, int source)
{
	struct stat st;
	if (fstat(source, &st) < 0)
		return -errno;
	unsigned how = (flags & ATTACH_FRESH ? ROOT_NO_SYMLINKS : 0) | (S_ISDIR(st.st_mode) ? ROOT_MKDIR : 0);
	int fd = flags & ATTACH_CREATE ? root_create(run, path, how, S_ISDIR(st.st_mode) ? 0755 : 0644, NULL) : root_open(run, path, how);
	if ((flags & ATTACH_FRESH) && fd == -ELOOP)
		return say(run, -ELOOP, path, " must be mounted on an ordinary directory", NULL);
	return fd;
}

int op_attach(struct run *run, const value *v)
{
	const char *path = v[OP_ATTACH_PATH].str;
	uint32_t slot = v[OP_ATTACH_SLOT].u32, flags = v[OP_ATTACH_FLAGS].u32;
	int source = slot_fd(run, slot);
	if (source < 0)
		return source;
	autoclose int target = open_target(run, path, flags, source);
	if (target < 0)
		return target;
	struct stat st;
	if (fstat(target, &st) < 0)
		return -errno;
	if ((flags & ATTACH_FRESH) && !S_ISDIR(st.st_mode))
		return say(run, -ENOTDIR, path, " must be mounted on an ordinary directory", NULL);
	if (same_file(target, run->root))
		return say(run, -EBUSY, path, " is on the top of the root", NULL);
	int error = flags & ATTACH_PROC_RULE ? check_proc_rule(run, source, target) : 0;
	if (error == 0)
		error = k_move_mount(source, "", target, "", K_MOVE_MOUNT_F_EMPTY_PATH | K_MOVE_MOUNT_T_EMPTY_PATH);
	if (error == 0)
		error = root_verify(run, path, flags & ATTACH_FRESH ? ROOT_NO_SYMLINKS : 0, source);
	/* A descriptor of an attached mount would keep a volume busy on the host. */
	if (error == 0)
		slot_close(run, slot);
	return error;
}

int op_attach_host(struct run *run, const value *v)
{
	uint32_t slot = v[OP_ATTACH_HOST_SLOT].u32;
	int fd = slot_fd(run, slot);
	if (fd < 0)
		return fd;
	int error = k_move_mount(fd, "", AT_FDCWD, v[OP_ATTACH_HOST_PATH].str, K_MOVE_MOUNT_F_EMPTY_PATH);
	if (error == 0)
		slot_close(run, slot);
	return error;
}

int op_expose(struct run *run, const value *v)
{
	const char *name = v[OP_EXPOSE_NAME].str;
	struct stat st;
	autoclose int source = root_open(run, v[OP_EXPOSE_PATH].str, 0);
	if (source == -ENOENT)
		return 0;
	if (source < 0 || fstat(source, &st) < 0)
		return source < 0 ? source : -errno;
	autoclose int tree = k_open_tree(source, "", K_OPEN_TREE_CLONE | K_AT_EMPTY_PATH);
	if (tree < 0)
		return tree;
	autoclose int directory = (int)k_result(open(v[OP_EXPOSE_DIRECTORY].str, O_PATH | O_DIRECTORY | O_CLOEXEC));
	if (directory < 0)
		return say(run, directory, v[OP_EXPOSE_DIRECTORY].str, NULL, NULL);
	autoclose int file = -1;
	if (S_ISDIR(st.st_mode) ? mkdirat(directory, name, 0700) < 0
				: (file = openat(directory, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600)) < 0)
		return say(run, -errno, name, NULL, NULL);
	return k_move_mount(tree, "", directory, name, K_MOVE_MOUNT_F_EMPTY_PATH);
}

int op_pivot(struct run *run, const value *v)
{
	(void)v;
	int root = root_fd(run);
	if (root < 0)
		return root;
	autoclose int old = (int)k_result(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
	if (old < 0)
		return old;
	/* Else the unmount below would reach the host's tree. */
	if (!run->tree_is_slave && mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0)
		return say(run, -errno, "propagation of /", NULL, NULL);
	if (fchdir(root) < 0)
		return say(run, -errno, "chdir", NULL, NULL);
	int error = kernel_denied(KERNEL_PIVOT_ROOT) ? -ENOSYS : (int)k_result(syscall(SYS_pivot_root, ".", "."));
	/* The kernel's first file system cannot be pivoted away. */
	if (error == -ENOSYS || (error == -EINVAL && k_fs_magic(old) == K_RAMFS_MAGIC))
		return move_root(run);
	if (error < 0)
		return say(run, error, "pivot_root", NULL, NULL);
	if (fchdir(old) < 0 || umount2(".", MNT_DETACH) < 0)
		return say(run, -errno, "unmount of the old root", NULL, NULL);
	if (chdir("/") < 0)
		return say(run, -errno, "chdir", NULL, NULL);
	/* Would hold the host's /dev. */
	close_fd(&run->null_device);
	run->null_device = -1;
	run->in_container = 1;
	return 0;
}

int op_unmount(struct run *run, const value *v)
{
	(void)run;
	return umount2(v[OP_UNMOUNT_PATH].str, (int)v[OP_UNMOUNT_FLAGS].u32) < 0 ? -errno : 0;
}

int op_open_host(struct run *run, const value *v)
{
	int fd = (int)k_result(open(v[OP_OPEN_HOST_PATH].str, O_PATH | O_CLOEXEC));
	if (fd < 0)
		return fd;
	slot_set(run, v[OP_OPEN_HOST_OUT].u32, fd);
	return 0;
}

int op_open_in_root(struct run *run, const value *v)
{
	int fd = root_open(run, v[OP_OPEN_IN_ROOT_PATH].str, 0);
	if (fd < 0)
		return fd;
	slot_set(run, v[OP_OPEN_IN_ROOT_OUT].u32, fd);
	return 0;
}
