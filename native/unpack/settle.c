#include "unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

static const char opaque_xattr[] = "trusted.overlay.opaque";

struct settle {
	int root;
	const int *lowers;
	size_t count;
	const struct limits *limits;
	struct settled *settled;
	FILE *work;
};

/* A string of the list; 0 at its end, -1 failed. */
static int next_string(struct settle *settle, char out[PATH_MAX])
{
	for (size_t n = 0; n < PATH_MAX; n++) {
		int c = getc(settle->work);
		if (c == EOF)
			return n == 0 && !ferror(settle->work) ? 0 : fail(FAIL_SYSTEM, "the pending work is cut off");
		out[n] = (char)c;
		if (c == '\0')
			return 1;
	}
	return fail(FAIL_SYSTEM, "the pending work is malformed");
}

static bool is_opaque(int dir)
{
	char value;
	return fgetxattr(dir, opaque_xattr, &value, 1) == 1 && value == 'y';
}

enum { ABSENT, COVERED, FOUND };

/*
 * Looks for `path` in one layer, never through a symlink. COVERED: overlayfs would not look further down, because a component is
 * no directory here (a whiteout, a file, a symlink); *last: a directory on the way, or the found one, is opaque.
 */
static int look(int layer, const char *path, int *found, bool *last)
{
	autoclose int at = openat(layer, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (at < 0)
		return fail_errno(errno, "cannot open a layer");
	*last = is_opaque(at);
	while (*path != '\0') {
		char name[MAX_NAME + 1];
		size_t span = strcspn(path, "/");
		if (span > MAX_NAME)
			return ABSENT;
		memcpy(name, path, span);
		name[span] = '\0';
		path += span + (path[span] == '/');
		struct stat st;
		if (fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return errno == ENOENT ? ABSENT : fail_errno(errno, "cannot look at %s in a layer", name);
		bool final = *path == '\0';
		if (is_whiteout(&st) || (!final && !S_ISDIR(st.st_mode)))
			return COVERED;
		int flags = S_ISDIR(st.st_mode) ? O_RDONLY | O_DIRECTORY : O_PATH;
		int next = openat(at, name, flags | O_NOFOLLOW | O_CLOEXEC);
		if (next < 0)
			return fail_errno(errno, "cannot open %s in a layer", name);
		close(at);
		at = next;
		*last |= S_ISDIR(st.st_mode) && is_opaque(at);
	}
	*found = steal_fd(&at);
	return FOUND;
}

/* What overlayfs would show at `path` from the layers below this one: a descriptor, -ENOENT, or -1 failed. */
static int lower_lookup(const struct settle *settle, const char *path)
{
	/* The way there costs a step for each directory, and a bottom layer may imply thousands, one in the other. */
	if (settle->count == 0)
		return -ENOENT;
	bool last;
	int found = -1;
	/* Our own directories on the way may be opaque. */
	int rc = look(settle->root, path, &found, &last);
	close_fd(&found);
	if (rc < 0)
		return -1;
	for (size_t i = 0; i < settle->count && !last; i++) {
		rc = look(settle->lowers[i], path, &found, &last);
		if (rc < 0)
			return -1;
		if (rc == FOUND)
			return found;
		if (rc == COVERED)
			break;
	}
	return -ENOENT;
}

static int open_own(const struct settle *settle, const char *path, int flags)
{
	return openat(settle->root, *path == '\0' ? "." : path, flags | O_NOFOLLOW | O_CLOEXEC);
}

static int settle_opaque(struct settle *settle, const char *path)
{
	autoclose int fd = open_own(settle, path, O_RDONLY | O_DIRECTORY);
	/* Something else may have taken its place later in the archive. */
	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? 0 : fail_errno(errno, "cannot open %s", path);
	return fsetxattr(fd, opaque_xattr, "y", 1, 0) < 0 ? fail_errno(errno, "%s: cannot mark as opaque", path) : 0;
}

/*
 * overlayfs hides a whiteout only where it merges layers. In a directory that is this layer's alone, new or opaque, it would be
 * listed as a name that cannot be opened.
 */
static int settle_whiteout(struct settle *settle, const char *path)
{
	char parent_path[PATH_MAX];
	const char *name = path_split(path, parent_path);
	autoclose int parent = open_own(settle, parent_path, O_RDONLY | O_DIRECTORY);
	struct stat before, st;
	if (parent < 0 || fstat(parent, &before) < 0)
		return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? 0 : fail_errno(errno, "cannot open %s", parent_path);
	/* Replaced later in the archive. */
	if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !is_whiteout(&st))
		return 0;
	autoclose int lower = lower_lookup(settle, path);
	if (lower != -ENOENT)
		return lower == -1 ? -1 : 0;
	const struct timespec stamps[2] = { before.st_atim, before.st_mtim };
	if (unlinkat(parent, name, 0) < 0 || futimens(parent, stamps) < 0)
		return fail_errno(errno, "%s: cannot drop the whiteout", path);
	settle->settled->inodes--;
	return 0;
}

/* user.* and security.capability only: nothing else is ever in a layer but overlayfs's own marks. */
static int copy_xattrs(int from, int to, const char *path)
{
	static char names[65536], value[65536];
	ssize_t length = flistxattr(from, names, sizeof names);
	if (length < 0)
		return errno == ENOTSUP ? 0 : fail_errno(errno, "%s: cannot list extended attributes", path);
	for (const char *name = names; name < names + length; name += strlen(name) + 1) {
		if (strncmp(name, "user.", 5) != 0 && strcmp(name, "security.capability") != 0)
			continue;
		ssize_t size = fgetxattr(from, name, value, sizeof value);
		if (size < 0 || fsetxattr(to, name, value, (size_t)size, 0) < 0)
			return fail_errno(errno, "%s: cannot copy %s", path, name);
	}
	return 0;
}

static int copy_attributes(int from, int to, const struct stat *st, const char *path)
{
	if (fchown(to, st->st_uid, st->st_gid) < 0)
		return fail_errno(errno, "%s: cannot set the owner", path);
	if (copy_xattrs(from, to, path) < 0)
		return -1;
	if (fchmod(to, st->st_mode & 07777) < 0)
		return fail_errno(errno, "%s: cannot set the mode", path);
	const struct timespec stamps[2] = { st->st_atim, st->st_mtim };
	return futimens(to, stamps) < 0 ? fail_errno(errno, "%s: cannot set the times", path) : 0;
}

static int settle_directory(struct settle *settle, const char *path)
{
	autoclose int own = open_own(settle, path, O_RDONLY | O_DIRECTORY);
	if (own < 0)
		return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? 0 : fail_errno(errno, "cannot open %s", path);
	autoclose int lower = lower_lookup(settle, path);
	if (lower == -1)
		return -1;
	struct stat st;
	if (lower < 0 || fstat(lower, &st) < 0 || !S_ISDIR(st.st_mode))
		return 0;
	return copy_attributes(lower, own, &st, path);
}

static int copy_file(struct settle *settle, int from, const struct stat *st, int parent, const char *name, const char *path)
{
	autoclose int to = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (to < 0)
		return fail_errno(errno, "%s: cannot create", path);
	settle->settled->disk_bytes += (uint64_t)st->st_size;
	if (settle->settled->disk_bytes > settle->limits->bytes)
		return fail(FAIL_LIMIT, "%s: hard links copy more than %llu bytes", path, (unsigned long long)settle->limits->bytes);
	settle->settled->inodes++;
	static char buffer[256 * 1024];
	for (;;) {
		ssize_t got = read(from, buffer, sizeof buffer);
		if (got < 0)
			return fail_errno(errno, "%s: cannot read the lower layer's file", path);
		if (got == 0)
			break;
		for (ssize_t done = 0; done < got;) {
			ssize_t n = write(to, buffer + done, (size_t)(got - done));
			if (n < 0)
				return fail_errno(errno, "%s: cannot write", path);
			done += n;
		}
	}
	return copy_attributes(from, to, st, path);
}

/* Links to this layer's own file if the archive had it further down, else copies the lower layer's, as a copy-up would. */
static int link_or_copy(struct settle *settle, int parent, const char *name, const char *path, const char *target)
{
	bool last;
	autoclose int own = -1;
	int rc = look(settle->root, target, &own, &last);
	if (rc < 0)
		return -1;
	if (rc == FOUND) {
		struct stat st;
		if (fstat(own, &st) < 0 || S_ISDIR(st.st_mode))
			return fail(FAIL_INVALID, "%s: a hard link to a directory", path);
		return linkat(settle->root, target, parent, name, 0) < 0 ? fail_errno(errno, "%s: cannot link to %s", path, target) : 0;
	}
	autoclose int lower = rc == COVERED ? -ENOENT : lower_lookup(settle, target);
	if (lower == -1)
		return -1;
	struct stat st;
	if (lower < 0 || fstat(lower, &st) < 0)
		return fail(FAIL_INVALID, "%s: its hard link's target %s does not exist", path, target);
	if (!S_ISREG(st.st_mode))
		return fail(FAIL_INVALID, "%s: its hard link's target %s is no regular file of the layers below", path, target);
	/* It was opened with O_PATH, so as not to wake a device or fifo. */
	char parent_of_target[PATH_MAX];
	const char *last_name = path_split(target, parent_of_target);
	for (size_t i = 0; i < settle->count; i++) {
		autoclose int dir = -1;
		if (look(settle->lowers[i], parent_of_target, &dir, &last) != FOUND)
			continue;
		autoclose int from = openat(dir, last_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		struct stat again;
		if (from >= 0 && fstat(from, &again) == 0 && again.st_ino == st.st_ino && again.st_dev == st.st_dev)
			return copy_file(settle, from, &st, parent, name, path);
	}
	return fail(FAIL_SYSTEM, "%s: cannot open its hard link's target %s", path, target);
}

static int settle_link(struct settle *settle, const char *path, const char *target)
{
	char parent_path[PATH_MAX];
	const char *name = path_split(path, parent_path);
	autoclose int parent = open_own(settle, parent_path, O_RDONLY | O_DIRECTORY);
	struct stat before, st;
	if (parent < 0 || fstat(parent, &before) < 0)
		return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? 0 : fail_errno(errno, "cannot open %s", parent_path);
	/* A later entry of the archive took the name. */
	if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return 0;
	if (link_or_copy(settle, parent, name, path, target) < 0)
		return -1;
	const struct timespec stamps[2] = { before.st_atim, before.st_mtim };
	return futimens(parent, stamps) < 0 ? fail_errno(errno, "%s: cannot set the times", parent_path) : 0;
}

int pending_settle(int work, int root, const int *lowers, size_t count, const struct limits *limits, struct settled *settled)
{
	struct settle settle = { .root = root, .lowers = lowers, .count = count, .limits = limits, .settled = settled };
	settle.work = fdopen(work, "r");
	if (settle.work == NULL)
		return fail_errno(errno, "cannot read the pending work");
	char kind[PATH_MAX], path[PATH_MAX], target[PATH_MAX];
	for (;;) {
		int rc = next_string(&settle, kind);
		if (rc <= 0)
			return rc;
		if (next_string(&settle, path) <= 0)
			return fail(FAIL_SYSTEM, "the pending work is cut off");
		if (strcmp(kind, "O") == 0)
			rc = settle_opaque(&settle, path);
		else if (strcmp(kind, "W") == 0)
			rc = settle_whiteout(&settle, path);
		else if (strcmp(kind, "D") == 0)
			rc = settle_directory(&settle, path);
		else if (strcmp(kind, "L") == 0)
			rc = next_string(&settle, target) <= 0 ? fail(FAIL_SYSTEM, "the pending work is cut off")
							      : settle_link(&settle, path, target);
		else
			rc = fail(FAIL_SYSTEM, "the pending work is malformed");
		if (rc < 0)
			return -1;
	}
}
