/*
 * A detached overlay, by the newest way that the kernel knows:
 *   1. one fsconfig per layer (6.7; layers by descriptor 6.13);
 *   2. one option string (255 bytes at most, so few layers);
 *   3. mount(2) in a helper with its own mount namespace, where each layer has a short name, handed back as a descriptor.
 * Only 1 and 3 can take id-mapped layers.
 */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* The kernel takes no more than 500 layers. */
enum { FSCONFIG_MAX = 255, MOUNT_DATA = 4096, MAX_LOWERS = 500 };

/* A negative errno that another way cannot mend is DONE; one that tells that this way is unknown here is OLD. */
enum outcome { DONE, OLD };

static int open_lower(struct run *run, const value *v, const char *path)
{
	uint32_t slot = v[OP_OVERLAY_IDMAP].u32;
	if (slot == PLAN_NO_SLOT) {
		int fd = (int)k_result(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC));
		return fd < 0 ? say(run, fd, path, NULL, NULL) : fd;
	}
	int userns = slot_fd(run, slot);
	if (userns < 0)
		return userns;
	struct k_mount_attr attr = { .set = K_MOUNT_ATTR_IDMAP, .userns = (uint64_t)userns };
	autoclose int fd = k_open_tree(AT_FDCWD, path, K_OPEN_TREE_CLONE);
	if (fd < 0)
		return say(run, fd, path, NULL, NULL);
	int error = k_mount_setattr(fd, "", K_AT_EMPTY_PATH, &attr);
	return error < 0 ? say(run, error, "id map of ", path, NULL) : steal_fd(&fd);
}

static int set_path(int fs, const char *key, const char *path, uint32_t size)
{
	if (size <= FSCONFIG_MAX && strpbrk(path, ":,\\") == NULL)
		return k_fsconfig(fs, K_FSCONFIG_SET_STRING, key, path, 0);
	autoclose int fd = (int)k_result(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC));
	return fd < 0 ? fd : k_fsconfig(fs, K_FSCONFIG_SET_FD, key, NULL, fd);
}

/* *held: a detached mount ends with its descriptor, which must therefore outlive the making of the overlay. */
static int add_lower(struct run *run, const value *v, int fs, const char *path, uint32_t size, int *held, enum outcome *outcome)
{
	int error;
	*held = -1;
	if (v[OP_OVERLAY_IDMAP].u32 == PLAN_NO_SLOT) {
		error = set_path(fs, "lowerdir+", path, size);
	} else {
		*outcome = DONE;
		*held = open_lower(run, v, path);
		if (*held < 0)
			return *held;
		error = k_fsconfig(fs, K_FSCONFIG_SET_FD, "lowerdir+", NULL, *held);
	}
	/* EOPNOTSUPP: overlay's context takes strings only (before 6.5). */
	*outcome = error == -EINVAL || error == -EOPNOTSUPP ? OLD : DONE;
	return error < 0 ? fs_say_log(run, error, fs, path) : 0;
}

/* Before 6.5 a filesystem context of overlay takes any key and complains only at the end. */
static int takes_any_key(void)
{
	autoclose int fs = k_fsopen("overlay");
	return fs >= 0 && k_fsconfig(fs, K_FSCONFIG_SET_FLAG, "caisson_probe", NULL, 0) == 0;
}

static int finish(struct run *run, const value *v, int fs, enum outcome *outcome)
{
	uint32_t size;
	const char *option;
	struct wire_items options = wire_items(&v[OP_OVERLAY_OPTIONS]);
	int error = k_fsconfig(fs, K_FSCONFIG_SET_STRING, "source", "overlay", 0);
	static const struct {
		const char *key;
		int field;
	} writable[] = { { "upperdir", OP_OVERLAY_UPPER }, { "workdir", OP_OVERLAY_WORK } };
	for (size_t i = 0; i < 2 && error == 0 && v[OP_OVERLAY_UPPER].size != 0; i++) {
		const value *path = &v[writable[i].field];
		error = set_path(fs, writable[i].key, path->str, path->size);
		*outcome = error == -EOPNOTSUPP ? OLD : DONE;
		if (error < 0)
			return fs_say_log(run, error, fs, path->str);
	}
	while (error == 0 && (option = wire_next_str(&options, &size)))
		if ((error = fs_set_option(fs, option, size)) < 0)
			return fs_say_log(run, error, fs, option);
	if (error == 0)
		error = k_fsconfig(fs, K_FSCONFIG_CMD_CREATE, NULL, NULL, 0);
	if (error < 0) {
		*outcome = error == -EINVAL && takes_any_key() ? OLD : DONE;
		return fs_say_log(run, error, fs, "overlay");
	}
	return k_fsmount(fs, v[OP_OVERLAY_ATTRS].u32);
}

static int layer_by_layer(struct run *run, const value *v, enum outcome *outcome)
{
	static int held[MAX_LOWERS];
	uint32_t size, count = 0;
	int result = 0;
	const char *path;
	struct wire_items lowers = wire_items(&v[OP_OVERLAY_LOWERS]);
	*outcome = OLD;
	if (kernel_denied(KERNEL_OVERLAY_LOWERDIR))
		return -EINVAL;
	autoclose int fs = k_fsopen("overlay");
	if (fs < 0)
		return fs;
	while (result == 0 && (path = wire_next_str(&lowers, &size)))
		result = add_lower(run, v, fs, path, size, &held[count++], outcome);
	if (result == 0) {
		*outcome = DONE;
		result = finish(run, v, fs, outcome);
	}
	while (count > 0)
		close_fd(&held[--count]);
	return result;
}

static int one_string(struct run *run, const value *v, enum outcome *outcome)
{
	char joined[FSCONFIG_MAX + 1];
	uint32_t size, at = 0;
	const char *path;
	struct wire_items lowers = wire_items(&v[OP_OVERLAY_LOWERS]);
	*outcome = OLD;
	if (kernel_denied(KERNEL_OVERLAY_FSCONFIG) || v[OP_OVERLAY_IDMAP].u32 != PLAN_NO_SLOT)
		return -EINVAL;
	while ((path = wire_next_str(&lowers, &size))) {
		if (strpbrk(path, ":,\\") || at + size + 1 > sizeof joined)
			return -EINVAL;
		memcpy(joined + at, path, size);
		at += size;
		joined[at++] = ':';
	}
	joined[at - 1] = 0;
	if (v[OP_OVERLAY_UPPER].size > FSCONFIG_MAX || v[OP_OVERLAY_WORK].size > FSCONFIG_MAX)
		return -EINVAL;
	autoclose int fs = k_fsopen("overlay");
	if (fs < 0)
		return fs;
	int error = k_fsconfig(fs, K_FSCONFIG_SET_STRING, "lowerdir", joined, 0);
	*outcome = DONE;
	return error < 0 ? fs_say_log(run, error, fs, "overlay") : finish(run, v, fs, outcome);
}

struct text {
	char data[MOUNT_DATA];
	uint32_t at;
	int overflow;
};

static void append(struct text *text, const char *part)
{
	size_t size = strlen(part);
	if (size >= sizeof text->data - text->at)
		text->overflow = 1;
	else
		memcpy(text->data + text->at, part, size + 1), text->at += (uint32_t)size;
}

/* Gives each lower a short name in the current directory. */
static int name_lowers(struct run *run, const value *v, struct text *options)
{
	char name[12];
	const char *path;
	struct wire_items lowers = wire_items(&v[OP_OVERLAY_LOWERS]);
	append(options, "lowerdir=");
	for (uint32_t i = 0; (path = wire_next_str(&lowers, NULL)); i++) {
		decimal(name, i);
		append(options, i == 0 ? "" : ":");
		append(options, name);
		if (v[OP_OVERLAY_IDMAP].u32 == PLAN_NO_SLOT) {
			if (symlink(path, name) < 0)
				return -errno;
			continue;
		}
		autoclose int fd = open_lower(run, v, path);
		if (fd < 0)
			return fd;
		if (mkdir(name, 0700) < 0)
			return -errno;
		int error = k_move_mount(fd, "", AT_FDCWD, name, K_MOVE_MOUNT_F_EMPTY_PATH);
		if (error < 0)
			return error;
	}
	return 0;
}

/* Stacked on "/", below which absolute paths do not look, so that no directory of the host is needed or hidden. */
static int enter_scratch(void)
{
	if (syscall(SYS_unshare, (unsigned long)CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0)
		return -errno;
	autoclose int fs = k_fsopen("tmpfs");
	if (fs < 0)
		return fs;
	int error = k_fsconfig(fs, K_FSCONFIG_CMD_CREATE, NULL, NULL, 0);
	autoclose int scratch = error < 0 ? error : k_fsmount(fs, 0);
	if (scratch < 0)
		return scratch;
	error = k_move_mount(scratch, "", AT_FDCWD, "/", K_MOVE_MOUNT_F_EMPTY_PATH);
	return error < 0 ? error : (int)k_result(fchdir(scratch));
}

static int mount_in_scratch(struct run *run, const value *v, int placeholder)
{
	struct text options = { .at = 0 };
	const char *option;
	struct wire_items more = wire_items(&v[OP_OVERLAY_OPTIONS]);
	struct k_mount_attr attr = { .set = v[OP_OVERLAY_ATTRS].u32 };
	int error = enter_scratch();
	if (error == 0)
		error = name_lowers(run, v, &options);
	if (error < 0)
		return error;
	if (v[OP_OVERLAY_UPPER].size != 0) {
		if (symlink(v[OP_OVERLAY_UPPER].str, "u") < 0 || symlink(v[OP_OVERLAY_WORK].str, "w") < 0)
			return -errno;
		append(&options, ",upperdir=u,workdir=w");
	}
	while ((option = wire_next_str(&more, NULL))) {
		append(&options, ",");
		append(&options, option);
	}
	if (options.overflow)
		return -E2BIG;
	if (mkdir("m", 0700) < 0 || mount("overlay", "m", "overlay", 0, options.data) < 0)
		return -errno;
	autoclose int fd = k_open_tree(AT_FDCWD, "m", K_OPEN_TREE_CLONE);
	if (fd < 0)
		return fd;
	error = attr.set ? k_mount_setattr(fd, "", K_AT_EMPTY_PATH, &attr) : 0;
	return error < 0 ? error : (int)k_result(dup3(fd, placeholder, O_CLOEXEC));
}

/* The helper shares the descriptor table, so what it puts at the placeholder is ours. */
static int by_mount(struct run *run, const value *v)
{
	int status = 0;
	autoclose int placeholder = (int)k_result(fcntl(run->env->report, F_DUPFD_CLOEXEC, 3));
	if (placeholder < 0)
		return placeholder;
	pid_t helper = k_fork(CLONE_FILES | SIGCHLD);
	if (helper < 0)
		return helper;
	if (helper == 0) {
		int error = mount_in_scratch(run, v, placeholder);
		_exit(error < 0 ? -error : 0);
	}
	while (waitpid(helper, &status, 0) < 0 && errno == EINTR)
		;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return say(run, WIFEXITED(status) ? -WEXITSTATUS(status) : -ECHILD, "overlay by mount(2)", NULL, NULL);
	return steal_fd(&placeholder);
}

int op_overlay(struct run *run, const value *v)
{
	enum outcome outcome;
	if (v[OP_OVERLAY_LOWERS].count > MAX_LOWERS)
		return say(run, -E2BIG, "too many layers", NULL, NULL);
	int fd = layer_by_layer(run, v, &outcome);
	if (fd < 0 && outcome == OLD)
		fd = one_string(run, v, &outcome);
	if (fd < 0 && outcome == OLD)
		fd = by_mount(run, v);
	if (fd < 0)
		return fd;
	slot_set(run, v[OP_OVERLAY_OUT].u32, fd);
	return 0;
}
