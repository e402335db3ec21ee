#include "unpack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

enum { MAX_LINKS = 40, MAX_DEPTH = PATH_MAX / 2 };

int path_clean(const char *raw, char out[PATH_MAX])
{
	size_t length = 0;
	for (const char *at = raw; *at != '\0';) {
		size_t span = strcspn(at, "/");
		if (span == 2 && at[0] == '.' && at[1] == '.') {
			while (length > 0 && out[--length] != '/')
				;
		} else if (span > 0 && !(span == 1 && at[0] == '.')) {
			if (span > MAX_NAME)
				return -ENAMETOOLONG;
			if (length + span + 2 > PATH_MAX)
				return -ENAMETOOLONG;
			if (length > 0)
				out[length++] = '/';
			memcpy(out + length, at, span);
			length += span;
		}
		at += span;
		at += strspn(at, "/");
	}
	out[length] = '\0';
	return 0;
}

const char *path_split(const char *path, char parent[PATH_MAX])
{
	const char *slash = strrchr(path, '/');
	size_t length = slash == NULL ? 0 : (size_t)(slash - path);
	memcpy(parent, path, length);
	parent[length] = '\0';
	return slash == NULL ? path : slash + 1;
}

int path_join(char out[PATH_MAX], const char *parent, const char *name)
{
	size_t head = strlen(parent), tail = strlen(name);
	if (head + tail + 2 > PATH_MAX)
		return -ENAMETOOLONG;
	memmove(out, parent, head);
	if (head > 0)
		out[head++] = '/';
	memcpy(out + head, name, tail + 1);
	return 0;
}

bool is_whiteout(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == makedev(0, 0);
}

int tree_count(struct tree *tree)
{
	if (++tree->made > tree->limits->entries)
		return fail(FAIL_LIMIT, "the layer has more than %llu entries", (unsigned long long)tree->limits->entries);
	tree->inodes++;
	return 0;
}

void tree_account(struct tree *tree, const struct stat *st)
{
	tree->disk_bytes += (uint64_t)st->st_blocks * 512;
}

int name_list_add(struct tree *tree, struct name_list *list, const char *path, const char *target)
{
	size_t need = strlen(path) + (target == NULL ? 0 : strlen(target)) + sizeof *list->records;
	tree->name_bytes += need;
	if (tree->name_bytes > tree->limits->names)
		return fail(FAIL_LIMIT, "the names of the layer take more than %llu bytes", (unsigned long long)tree->limits->names);
	if (list->count == list->room) {
		size_t room = list->room == 0 ? 64 : list->room * 2;
		struct name_record *grown = reallocarray(list->records, room, sizeof *grown);
		if (grown == NULL)
			return fail_errno(ENOMEM, "cannot remember a name");
		list->records = grown;
		list->room = room;
	}
	struct name_record *record = &list->records[list->count];
	*record = (struct name_record){ .path = strdup(path), .target = target == NULL ? NULL : strdup(target) };
	if (record->path == NULL || (target != NULL && record->target == NULL))
		return fail_errno(ENOMEM, "cannot remember a name");
	list->count++;
	return 0;
}

/* The walk's state: the resolved directory as descriptor and text, and the components still to go. */
struct walk {
	int at;
	char *resolved;      /* PATH_MAX */
	char rest[2 * PATH_MAX];
	int links;
};

static int walk_to(const struct tree *tree, struct walk *walk)
{
	close_fd(&walk->at);
	/* `resolved` holds no symlink by construction, and the mount would refuse one. */
	walk->at = openat(tree->root, walk->resolved[0] == '\0' ? "." : walk->resolved, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return walk->at < 0 ? -errno : 0;
}

static int walk_up(const struct tree *tree, struct walk *walk)
{
	char *slash = strrchr(walk->resolved, '/');
	*(slash == NULL ? walk->resolved : slash) = '\0';
	return walk_to(tree, walk);
}

static int walk_link(const struct tree *tree, struct walk *walk, const char *name, const char *after)
{
	char target[PATH_MAX];
	ssize_t length = readlinkat(walk->at, name, target, sizeof target - 1);
	if (length < 0)
		return -errno;
	target[length] = '\0';
	if (++walk->links > MAX_LINKS)
		return -ELOOP;
	size_t tail = strlen(after);
	if ((size_t)length + tail + 2 > sizeof walk->rest)
		return -ENAMETOOLONG;
	memmove(walk->rest + length + 1, after, tail + 1);
	memcpy(walk->rest, target, (size_t)length);
	walk->rest[length] = '/';
	if (target[0] != '/')
		return 0;
	walk->resolved[0] = '\0';
	return walk_to(tree, walk);
}

/* Makes the directory that an archive implies; one that stands on a whiteout shall show nothing of the layers below. */
static int make_implied(struct tree *tree, struct walk *walk, const char *name, bool over_whiteout)
{
	char path[PATH_MAX];
	int rc = path_join(path, walk->resolved, name);
	if (rc < 0)
		return rc;
	if (over_whiteout && tree_remove(tree, walk->at, name) < 0)
		return -EIO;
	if (tree_count(tree) < 0)
		return -EIO;
	if (mkdirat(walk->at, name, 0755) < 0)
		return -errno;
	tree->disk_bytes += DIRECTORY_BYTES;
	return name_list_add(tree, over_whiteout ? &tree->opaque : &tree->implied, path, NULL) < 0 ? -EIO : 0;
}

static int walk_step(struct tree *tree, struct walk *walk, bool create)
{
	char name[MAX_NAME + 1];
	size_t lead = strspn(walk->rest, "/"), span = strcspn(walk->rest + lead, "/");
	if (span > MAX_NAME)
		return -ENAMETOOLONG;
	memcpy(name, walk->rest + lead, span);
	name[span] = '\0';
	const char *after = walk->rest + lead + span;
	memmove(walk->rest, after, strlen(after) + 1);
	if (span == 0 || strcmp(name, ".") == 0)
		return 0;
	if (strcmp(name, "..") == 0)
		return walk_up(tree, walk);
	struct stat st;
	bool found = fstatat(walk->at, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
	if (!found && errno != ENOENT)
		return -errno;
	if (found && S_ISLNK(st.st_mode)) {
		char rest[sizeof walk->rest];
		memcpy(rest, walk->rest, strlen(walk->rest) + 1);
		return walk_link(tree, walk, name, rest);
	}
	bool whiteout = found && is_whiteout(&st);
	if (!found || whiteout) {
		if (!create)
			return -ENOENT;
		int rc = make_implied(tree, walk, name, whiteout);
		if (rc < 0)
			return rc;
	} else if (!S_ISDIR(st.st_mode)) {
		return -ENOTDIR;
	}
	int next = openat(walk->at, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (next < 0)
		return -errno;
	close(walk->at);
	walk->at = next;
	return path_join(walk->resolved, walk->resolved, name);
}

static int walk_path(struct tree *tree, const char *dir, char resolved[PATH_MAX], bool create)
{
	struct walk walk = { .at = -1, .resolved = resolved };
	memcpy(walk.rest, dir, strlen(dir) + 1);
	resolved[0] = '\0';
	int rc = walk_to(tree, &walk);
	while (rc == 0 && walk.rest[0] != '\0')
		rc = walk_step(tree, &walk, create);
	if (rc < 0) {
		close_fd(&walk.at);
		return rc;
	}
	return walk.at;
}

int tree_find(struct tree *tree, const char *dir, char resolved[PATH_MAX])
{
	return walk_path(tree, dir, resolved, false);
}

static void forget_cached(struct tree *tree)
{
	close_fd(&tree->cached_fd);
	tree->cached_fd = -1;
}

int tree_parent(struct tree *tree, const char *dir, const char **resolved)
{
	*resolved = tree->cached_path;
	if (tree->cached_fd >= 0 && strcmp(tree->cached_name, dir) == 0)
		return tree->cached_fd;
	forget_cached(tree);
	int fd = walk_path(tree, dir, tree->cached_path, true);
	if (fd == -ENOTDIR)
		return fail(FAIL_INVALID, "%s: a parent of an entry is not a directory", dir);
	if (fd == -ELOOP || fd == -ENAMETOOLONG)
		return fail(FAIL_INVALID, "%s: a parent of an entry leads through too many or too long symlinks", dir);
	if (fd < 0)
		return fail_errno(fd, "cannot open or make %s", dir);
	memcpy(tree->cached_name, dir, strlen(dir) + 1);
	tree->cached_fd = fd;
	return fd;
}

static int remove_at(struct tree *tree, int parent, const char *name, int depth);

/* Removes what is in the directory parent/name. */
static int clear_at(struct tree *tree, int parent, const char *name, int depth)
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	DIR *dir = fdopendir(fd);
	if (dir == NULL) {
		close(fd);
		return -ENOMEM;
	}
	int rc = 0;
	for (struct dirent *item; rc == 0 && (item = readdir(dir)) != NULL;) {
		if (strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0)
			rc = remove_at(tree, fd, item->d_name, depth + 1);
	}
	closedir(dir);
	return rc;
}

static int remove_at(struct tree *tree, int parent, const char *name, int depth)
{
	struct stat st;
	if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (st.st_nlink <= 1 || S_ISDIR(st.st_mode)) {
		uint64_t blocks = S_ISDIR(st.st_mode) ? DIRECTORY_BYTES : (uint64_t)st.st_blocks * 512;
		tree->disk_bytes -= blocks < tree->disk_bytes ? blocks : tree->disk_bytes;
		tree->inodes -= tree->inodes > 0;
	}
	if (!S_ISDIR(st.st_mode))
		return unlinkat(parent, name, 0) < 0 ? -errno : 0;
	if (depth > MAX_DEPTH)
		return -ELOOP;
	int rc = clear_at(tree, parent, name, depth);
	if (rc == 0 && unlinkat(parent, name, AT_REMOVEDIR) < 0)
		rc = -errno;
	return rc;
}

int tree_remove(struct tree *tree, int parent, const char *name)
{
	/* What is removed may be what the cached name leads through. `parent` may be the cached descriptor itself: keep it open. */
	tree->cached_name[0] = '/';
	tree->cached_name[1] = '\0';
	int rc = remove_at(tree, parent, name, 0);
	return rc < 0 ? fail_errno(rc, "cannot replace %s", name) : 0;
}

int tree_clear(struct tree *tree)
{
	int rc = clear_at(tree, tree->root, ".", 0);
	return rc < 0 ? fail_errno(rc, "cannot empty the directory") : 0;
}
