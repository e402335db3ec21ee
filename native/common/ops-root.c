/* What is made and covered inside the container's root. */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

int op_mkdir(struct run *run, const value *v)
{
	mode_t mode = v[OP_MKDIR_MODE].u32;
	int made;
	struct stat st;
	autoclose int fd = root_create(run, v[OP_MKDIR_PATH].str, ROOT_MKDIR, mode, &made);
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISDIR(st.st_mode))
		return -ENOTDIR;
	return made || v[OP_MKDIR_FORCE].u32 ? set_owner_mode(run, fd, v[OP_MKDIR_UID].u32, v[OP_MKDIR_GID].u32, mode) : 0;
}

int op_mknod(struct run *run, const value *v)
{
	char name[NAME_MAX + 1];
	mode_t mode = v[OP_MKNOD_MODE].u32;
	struct stat st;
	dev_t device = makedev(v[OP_MKNOD_MAJOR].u32, v[OP_MKNOD_MINOR].u32);
	autoclose int parent = root_parent(run, v[OP_MKNOD_PATH].str, name);
	if (parent < 0)
		return parent;
	if (mknodat(parent, name, mode, device) < 0 && errno != EEXIST)
		return -errno;
	autoclose int node = (int)k_result(openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
	if (node < 0)
		return node;
	if (fstat(node, &st) < 0)
		return -errno;
	int is_device_type = S_ISCHR(mode) || S_ISBLK(mode);
	if ((st.st_mode & S_IFMT) != (mode & S_IFMT) || (is_device_type && st.st_rdev != device))
		return say(run, -EEXIST, v[OP_MKNOD_PATH].str, " exists and is something else", NULL);
	return set_owner_mode(run, node, v[OP_MKNOD_UID].u32, v[OP_MKNOD_GID].u32, mode);
}

int op_symlink(struct run *run, const value *v)
{
	char name[NAME_MAX + 1], present[PATH_MAX];
	const char *target = v[OP_SYMLINK_TARGET].str, *path = v[OP_SYMLINK_PATH].str;
	size_t length = v[OP_SYMLINK_TARGET].size;
	autoclose int parent = root_parent(run, path, name);
	if (parent < 0)
		return say(run, parent, path, NULL, NULL);
	if (symlinkat(target, parent, name) == 0)
		return 0;
	if (errno != EEXIST)
		return say(run, -errno, path, NULL, NULL);
	ssize_t got = readlinkat(parent, name, present, sizeof present);
	if (got >= 0 && (size_t)got == length && memcmp(present, target, length) == 0)
		return 0;
	return say(run, -EEXIST, path, " exists and is something else", NULL);
}

/* Covers an open target by a mount and looks whether the path leads to that mount. */
static int cover(struct run *run, const char *path, int mount, int target)
{
	int error = k_move_mount(mount, "", target, "", K_MOVE_MOUNT_F_EMPTY_PATH | K_MOVE_MOUNT_T_EMPTY_PATH);
	return error < 0 ? error : root_verify(run, path, 0, mount);
}

/*
 * The source of every file mask. Taken from the host's tree before the pivot, from the root after it, and never believed: a
 * link in its place would bind whatever it names over the masked file, writable (CVE-2025-31133).
 */
static int null_device(struct run *run)
{
	if (run->null_device >= 0)
		return run->null_device;
	autoclose int fd = run->in_container ? root_open(run, "/dev/null", ROOT_NO_FOLLOW)
					     : (int)k_result(open("/dev/null", O_PATH | O_NOFOLLOW | O_CLOEXEC));
	if (fd < 0)
		return say(run, fd, "/dev/null", NULL, NULL);
	if (!is_device(fd, S_IFCHR, 1, 3))
		return say(run, -ENODEV, "/dev/null is not the null device", NULL, NULL);
	return run->null_device = steal_fd(&fd);
}

static int mask_file(struct run *run, const char *path, int target)
{
	int source = null_device(run);
	if (source < 0)
		return source;
	autoclose int mount = k_open_tree(source, "", K_OPEN_TREE_CLONE | K_AT_EMPTY_PATH);
	return mount < 0 ? mount : cover(run, path, mount, target);
}

static int empty_tmpfs(void)
{
	for (const char *inodes = "1";; inodes = "2") {
		autoclose int fs = k_fsopen("tmpfs");
		if (fs < 0)
			return fs;
		int error = k_fsconfig(fs, K_FSCONFIG_SET_STRING, "nr_blocks", "1", 0);
		if (error == 0)
			error = k_fsconfig(fs, K_FSCONFIG_SET_STRING, "nr_inodes", inodes, 0);
		if (error == 0)
			error = k_fsconfig(fs, K_FSCONFIG_SET_FLAG, "ro", NULL, 0);
		if (error == 0)
			error = k_fsconfig(fs, K_FSCONFIG_CMD_CREATE, NULL, NULL, 0);
		if (error == 0)
			return k_fsmount(fs, K_MOUNT_ATTR_RDONLY | K_MOUNT_ATTR_NOSUID | K_MOUNT_ATTR_NODEV | K_MOUNT_ATTR_NOEXEC);
		/* A policy module may put a second inode beside the root. */
		if (inodes[0] == '2')
			return error;
	}
}

static int mask_directory(struct run *run, const char *path, int target)
{
	autoclose int mount = run->mask_template >= 0 ? k_open_tree(run->mask_template, "", K_OPEN_TREE_CLONE | K_AT_EMPTY_PATH) : empty_tmpfs();
	if (mount < 0)
		return mount;
	int error = cover(run, path, mount, target);
	/* Further directories get copies of the first mount: one superblock for all. Only an attached mount can be copied everywhere. */
	if (error == 0 && run->mask_template < 0)
		run->mask_template = steal_fd(&mount);
	return error;
}

static int is_missing(int error)
{
	return error == -ENOENT || error == -ENOTDIR;
}

int op_mask(struct run *run, const value *v)
{
	const char *path = v[OP_MASK_PATH].str;
	struct stat st;
	autoclose int target = root_open(run, path, 0);
	if (is_missing(target))
		return 0;
	if (target < 0)
		return target;
	if (fstat(target, &st) < 0)
		return -errno;
	return S_ISDIR(st.st_mode) ? mask_directory(run, path, target) : mask_file(run, path, target);
}

int op_readonly(struct run *run, const value *v)
{
	const char *path = v[OP_READONLY_PATH].str;
	struct k_mount_attr attr = { .set = K_MOUNT_ATTR_RDONLY };
	autoclose int target = root_open(run, path, 0);
	if (is_missing(target))
		return 0;
	if (target < 0)
		return target;
	autoclose int mount = k_open_tree(target, "", K_OPEN_TREE_CLONE | K_AT_EMPTY_PATH | K_AT_RECURSIVE);
	if (mount < 0)
		return mount;
	int error = k_mount_setattr(mount, "", K_AT_EMPTY_PATH | K_AT_RECURSIVE, &attr);
	return error < 0 ? error : cover(run, path, mount, target);
}

int op_remount_attr(struct run *run, const value *v)
{
	struct k_mount_attr attr = { .set = v[OP_REMOUNT_ATTR_SET].u32, .clear = v[OP_REMOUNT_ATTR_CLEAR].u32 };
	autoclose int fd = root_open(run, v[OP_REMOUNT_ATTR_PATH].str, 0);
	return fd < 0 ? fd : k_mount_setattr(fd, "", K_AT_EMPTY_PATH, &attr);
}

int op_chown_slot(struct run *run, const value *v)
{
	int fd = slot_fd(run, v[OP_CHOWN_SLOT_SLOT].u32);
	if (fd < 0)
		return fd;
	if (is_device(fd, S_IFCHR, 1, 3))
		return 0;
	return (int)k_result(fchownat(fd, "", v[OP_CHOWN_SLOT_UID].u32, v[OP_CHOWN_SLOT_GID].u32, K_AT_EMPTY_PATH));
}
