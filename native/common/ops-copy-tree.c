/* Content of an image's directory, copied into a new volume. Names come from the image: nothing is followed, every level is a descriptor. */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { MAX_DEPTH = 128, LIST_BYTES = 4096, XATTR_BYTES = 65536 };

struct entry {
	uint64_t ino;
	int64_t offset;
	uint16_t size;
	uint8_t type;
	char name[];
};

static char names[XATTR_BYTES], data[XATTR_BYTES];

/* Values that do not suit the other filesystem are left out; anything else is an error. */
static int copy_xattrs(int from, int to)
{
	ssize_t length = flistxattr(from, names, sizeof names);
	if (length < 0)
		return errno == EOPNOTSUPP ? 0 : -errno;
	for (char *name = names; name < names + length; name += strlen(name) + 1) {
		/* An overlay's own marks would be acted on if the volume became a layer. */
		if (strncmp(name, "trusted.overlay.", 16) == 0 || strncmp(name, "user.overlay.", 13) == 0)
			continue;
		ssize_t size = fgetxattr(from, name, data, sizeof data);
		if (size < 0 && errno == ENODATA)
			continue;
		if (size < 0 || (fsetxattr(to, name, data, (size_t)size, 0) < 0 && errno != EOPNOTSUPP && errno != EPERM))
			return -errno;
	}
	return 0;
}

static int copy_data(int from, int to)
{
	for (;;) {
		ssize_t got = read(from, data, sizeof data);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : 0;
		for (ssize_t done = 0; done < got;) {
			ssize_t put = write(to, data + done, (size_t)(got - done));
			if (put < 0 && errno != EINTR)
				return -errno;
			done += put > 0 ? put : 0;
		}
	}
}

static int finish(int from, int to, const struct stat *st)
{
	struct timespec times[2] = { st->st_atim, st->st_mtim };
	int error = 0;
	/* Owner first: chown takes setuid bits and file capabilities away. */
	if (fchown(to, st->st_uid, st->st_gid) < 0 || fchmod(to, st->st_mode & 07777) < 0)
		error = -errno;
	if (error == 0)
		error = copy_xattrs(from, to);
	if (error == 0 && futimens(to, times) < 0)
		error = -errno;
	return error;
}

static int copy_file(int from_dir, int to_dir, const char *name, const struct stat *seen)
{
	struct stat st;
	autoclose int from = (int)k_result(openat(from_dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
	if (from < 0)
		return from;
	if (fstat(from, &st) < 0 || !S_ISREG(st.st_mode) || st.st_ino != seen->st_ino)
		return -ESTALE;
	autoclose int to = (int)k_result(openat(to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
	if (to < 0)
		return to;
	int error = copy_data(from, to);
	return error < 0 ? error : finish(from, to, &st);
}

static int copy_link(int from_dir, int to_dir, const char *name, const struct stat *st)
{
	char target[PATH_MAX];
	ssize_t length = readlinkat(from_dir, name, target, sizeof target - 1);
	if (length < 0)
		return -errno;
	target[length] = 0;
	if (symlinkat(target, to_dir, name) < 0 || fchownat(to_dir, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return 0;
}

static int copy_special(struct run *run, int to_dir, const char *name, const struct stat *st)
{
	if (mknodat(to_dir, name, st->st_mode, st->st_rdev) < 0)
		return -errno;
	autoclose int node = (int)k_result(openat(to_dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
	return node < 0 ? node : set_owner_mode(run, node, st->st_uid, st->st_gid, st->st_mode);
}

static int copy_directory(struct run *run, int from, int to, int depth);

static int copy_entry(struct run *run, int from_dir, int to_dir, const char *name, int depth)
{
	struct stat st;
	if (fstatat(from_dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (S_ISREG(st.st_mode))
		return copy_file(from_dir, to_dir, name, &st);
	if (S_ISLNK(st.st_mode))
		return copy_link(from_dir, to_dir, name, &st);
	if (!S_ISDIR(st.st_mode))
		return copy_special(run, to_dir, name, &st);
	if (mkdirat(to_dir, name, 0700) < 0 && errno != EEXIST)
		return -errno;
	autoclose int from = (int)k_result(openat(from_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
	if (from < 0)
		return from;
	autoclose int to = (int)k_result(openat(to_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
	return to < 0 ? to : copy_directory(run, from, to, depth + 1);
}

static int copy_directory(struct run *run, int from, int to, int depth)
{
	char list[LIST_BYTES] __attribute__((aligned(8)));
	struct stat st;
	long got;
	if (depth > MAX_DEPTH)
		return -ELOOP;
	while ((got = k_result(syscall(SYS_getdents64, from, list, sizeof list))) > 0)
		for (long at = 0; at < got;) {
			const struct entry *entry = (const struct entry *)(list + at);
			at += entry->size;
			if (strcmp(entry->name, ".") == 0 || strcmp(entry->name, "..") == 0)
				continue;
			int error = copy_entry(run, from, to, entry->name, depth);
			if (error < 0)
				return run->detail[0] ? error : say(run, error, entry->name, NULL, NULL);
		}
	if (got < 0)
		return (int)got;
	return fstat(from, &st) < 0 ? -errno : finish(from, to, &st);
}

int op_copy_tree(struct run *run, const value *v)
{
	int slot = slot_fd(run, v[OP_COPY_TREE_INTO].u32);
	if (slot < 0)
		return slot;
	autoclose int found = root_open(run, v[OP_COPY_TREE_PATH].str, 0);
	if (found == -ENOENT || found == -ENOTDIR)
		return 0;
	if (found < 0)
		return found;
	autoclose int from = (int)k_result(openat(found, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	if (from == -ENOTDIR)
		return 0;
	if (from < 0)
		return from;
	autoclose int to = (int)k_result(openat(slot, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	return to < 0 ? to : copy_directory(run, from, to, 0);
}
