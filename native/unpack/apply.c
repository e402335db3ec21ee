#include "unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

static const char whiteout_prefix[] = ".wh.";
static const char aufs_prefix[] = ".wh..wh.";
static const char opaque_name[] = ".wh..wh..opq";

struct target {
	int parent; /* owned by the tree */
	const char *parent_path, *name;
	char path[PATH_MAX]; /* resolved */
	bool exists;
	struct stat st;
};

struct layer {
	struct tree *tree;
	struct tar *tar;
	struct applied *applied;
	/* Nothing lies below: whiteouts mean nothing, and as device nodes they would show up in listings. */
	bool bottom;
};

static bool begins(const char *text, const char *head)
{
	return strncmp(text, head, strlen(head)) == 0;
}

static int locate(struct layer *layer, const char *parent, const char *name, struct target *target)
{
	target->name = name;
	target->parent = tree_parent(layer->tree, parent, &target->parent_path);
	if (target->parent < 0)
		return -1;
	if (path_join(target->path, target->parent_path, name) < 0)
		return fail(FAIL_INVALID, "%s/%s: too long", parent, name);
	target->exists = fstatat(target->parent, name, &target->st, AT_SYMLINK_NOFOLLOW) == 0;
	if (!target->exists && errno != ENOENT)
		return fail_errno(errno, "cannot look at %s", target->path);
	return 0;
}

static int write_all(int fd, const char *data, size_t n, const char *name)
{
	for (size_t done = 0; done < n;) {
		ssize_t put = write(fd, data + done, n - done);
		if (put < 0 && errno != EINTR)
			return fail_errno(errno, "%s: cannot write", name);
		done += put > 0 ? (size_t)put : 0;
	}
	return 0;
}

static int copy_data(struct layer *layer, int fd, uint64_t n, const char *name)
{
	static char buffer[256 * 1024];
	while (n > 0) {
		ssize_t got = tar_data(layer->tar, buffer, n < sizeof buffer ? (size_t)n : sizeof buffer);
		if (got < 0 || write_all(fd, buffer, (size_t)got, name) < 0)
			return -1;
		n -= (uint64_t)got;
	}
	return 0;
}

static int write_content(struct layer *layer, int fd, const struct entry *entry)
{
	if (!entry->sparse)
		return copy_data(layer, fd, entry->size, entry->name);
	const struct sparse_part *parts = tar_parts(layer->tar);
	for (size_t i = 0; i < entry->part_count; i++) {
		if (lseek(fd, (off_t)parts[i].offset, SEEK_SET) < 0)
			return fail_errno(errno, "%s: cannot seek", entry->name);
		if (copy_data(layer, fd, parts[i].length, entry->name) < 0)
			return -1;
	}
	return ftruncate(fd, (off_t)entry->real_size) < 0 ? fail_errno(errno, "%s: cannot set the size", entry->name) : 0;
}

static int make_file(struct layer *layer, const struct target *target, const struct entry *entry)
{
	autoclose int fd = openat(target->parent, target->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return fail_errno(errno, "%s: cannot create", entry->name);
	if (write_content(layer, fd, entry) < 0 || attributes_of_fd(fd, entry, layer->applied, true) < 0)
		return -1;
	struct stat st;
	if (fstat(fd, &st) < 0)
		return fail_errno(errno, "%s: cannot look at the file", entry->name);
	tree_account(layer->tree, &st);
	return 0;
}

/* Also for the root and for a directory that is there already: its content stays, its attributes become the entry's. */
static int make_directory(struct layer *layer, struct target *target, const struct entry *entry)
{
	struct tree *tree = layer->tree;
	bool there = target->exists && S_ISDIR(target->st.st_mode);
	if (!there) {
		/* What stood here hid the lower layers' directory; its successor must not let it shine through. */
		if (target->exists && !layer->bottom && name_list_add(tree, &tree->opaque, target->path, NULL) < 0)
			return -1;
		if (target->exists && tree_remove(tree, target->parent, target->name) < 0)
			return -1;
		if (tree_count(tree) < 0)
			return -1;
		if (mkdirat(target->parent, target->name, 0700) < 0)
			return fail_errno(errno, "%s: cannot make the directory", entry->name);
		tree->disk_bytes += DIRECTORY_BYTES;
	}
	autoclose int fd = openat(target->parent, target->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return fail_errno(errno, "%s: cannot open the directory", entry->name);
	if (attributes_of_fd(fd, entry, layer->applied, false) < 0)
		return -1;
	/* Its times come last: each entry made inside would change them. */
	if (name_list_add(tree, &tree->directories, target->path, NULL) < 0)
		return -1;
	struct name_record *record = &tree->directories.records[tree->directories.count - 1];
	record->atime = entry->atime;
	record->mtime = entry->mtime;
	return 0;
}

static int make_symlink(struct layer *layer, const struct target *target, const struct entry *entry)
{
	if (entry->link[0] == '\0')
		return fail(FAIL_INVALID, "%s: a symlink to nothing", entry->name);
	if (symlinkat(entry->link, target->parent, target->name) < 0)
		return fail_errno(errno, "%s: cannot make the symlink", entry->name);
	return attributes_of_name(target->parent, target->name, entry, layer->applied);
}

static int make_node(struct layer *layer, const struct target *target, const struct entry *entry)
{
	mode_t kind = entry->type == '3' ? S_IFCHR : entry->type == '4' ? S_IFBLK : S_IFIFO;
	dev_t device = kind == S_IFIFO ? 0 : makedev(entry->major, entry->minor);
	/* To overlayfs such a node *is* a whiteout. */
	if (kind == S_IFCHR && device == makedev(0, 0))
		return fail(FAIL_INVALID, "%s: character device 0:0 is not allowed in a layer", entry->name);
	if (mknodat(target->parent, target->name, kind | 0600, device) < 0)
		return fail_errno(errno, "%s: cannot make the node", entry->name);
	return attributes_of_name(target->parent, target->name, entry, layer->applied);
}

static int remove_existing(struct layer *layer, const struct target *target)
{
	return target->exists ? tree_remove(layer->tree, target->parent, target->name) : 0;
}

static int make_hard_link(struct layer *layer, const struct target *target, const struct entry *entry)
{
	char clean[PATH_MAX], parent[PATH_MAX], resolved[PATH_MAX], path[PATH_MAX];
	if (entry->link[0] == '\0' || path_clean(entry->link, clean) < 0 || clean[0] == '\0')
		return fail(FAIL_INVALID, "%s: a hard link with a bad target", entry->name);
	const char *name = path_split(clean, parent);
	struct stat st;
	autoclose int from = tree_find(layer->tree, parent, resolved);
	bool found = from >= 0 && fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && !is_whiteout(&st);
	if (found && S_ISDIR(st.st_mode))
		return fail(FAIL_INVALID, "%s: a hard link to a directory", entry->name);
	if (found && path_join(path, resolved, name) == 0 && strcmp(path, target->path) == 0)
		return 0;
	if (remove_existing(layer, target) < 0)
		return -1;
	/* The target may be in a lower layer, or may just have gone with what was replaced: settle finds out. */
	if (!found)
		return name_list_add(layer->tree, &layer->tree->links, target->path, clean);
	if (linkat(from, name, target->parent, target->name, 0) == 0)
		return 0;
	if (errno == ENOENT)
		return name_list_add(layer->tree, &layer->tree->links, target->path, clean);
	return errno == EMLINK ? fail(FAIL_LIMIT, "%s: too many hard links to one file", entry->name)
			       : fail_errno(errno, "%s: cannot link to %s", entry->name, entry->link);
}

static int make_whiteout(struct layer *layer, const char *parent, const char *name)
{
	struct tree *tree = layer->tree;
	struct target target;
	if (*name == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return fail(FAIL_INVALID, "%s: a whiteout of nothing", parent);
	if (layer->bottom)
		return 0;
	if (locate(layer, parent, name, &target) < 0)
		return -1;
	if (!target.exists) {
		if (tree_count(tree) < 0)
			return -1;
		if (mknodat(target.parent, name, S_IFCHR, makedev(0, 0)) < 0)
			return fail_errno(errno, "%s: cannot make the whiteout", target.path);
		return name_list_add(tree, &tree->whiteouts, target.path, NULL);
	}
	/* A whiteout is about lower layers only, wherever it stands in the archive: this layer's own entry stays. */
	return S_ISDIR(target.st.st_mode) ? name_list_add(tree, &tree->opaque, target.path, NULL) : 0;
}

static int make_opaque(struct layer *layer, const char *parent)
{
	const char *resolved;
	if (layer->bottom)
		return 0;
	if (tree_parent(layer->tree, parent, &resolved) < 0)
		return -1;
	return name_list_add(layer->tree, &layer->tree->opaque, resolved, NULL);
}

/* 1: the name has to do with whiteouts and was dealt with. */
static int special_name(struct layer *layer, const char *parent, const char *name)
{
	if (begins(parent, aufs_prefix) || strstr(parent, "/.wh..wh.") != NULL)
		return 1; /* AUFS's own book-keeping */
	if (begins(parent, whiteout_prefix) || strstr(parent, "/.wh.") != NULL)
		return fail(FAIL_INVALID, "%s/%s: an entry below a whiteout", parent, name);
	if (!begins(name, whiteout_prefix))
		return 0;
	if (strcmp(name, opaque_name) == 0)
		return make_opaque(layer, parent) < 0 ? -1 : 1;
	if (begins(name, aufs_prefix))
		return 1;
	return make_whiteout(layer, parent, name + sizeof whiteout_prefix - 1) < 0 ? -1 : 1;
}

static int apply_root(struct layer *layer, const struct entry *entry)
{
	struct target root = { .parent = layer->tree->root, .parent_path = "", .name = ".", .path = "", .exists = true };
	if (entry->type != '5')
		return fail(FAIL_INVALID, "the root of the layer is not a directory");
	root.st.st_mode = S_IFDIR;
	return make_directory(layer, &root, entry);
}

static int apply_entry(struct layer *layer, const struct entry *entry)
{
	char clean[PATH_MAX], parent[PATH_MAX];
	if (entry->name[0] == '\0')
		return fail(FAIL_INVALID, "an entry without a name");
	if (path_clean(entry->name, clean) < 0)
		return fail(FAIL_INVALID, "%.300s...: too long a name", entry->name);
	if (clean[0] == '\0')
		return apply_root(layer, entry);
	const char *name = path_split(clean, parent);
	int rc = special_name(layer, parent, name);
	if (rc != 0)
		return rc < 0 ? -1 : 0;
	struct target target;
	if (locate(layer, parent, name, &target) < 0)
		return -1;
	if (entry->type == '5')
		return make_directory(layer, &target, entry);
	if (entry->type == '1')
		return make_hard_link(layer, &target, entry);
	if (remove_existing(layer, &target) < 0 || tree_count(layer->tree) < 0)
		return -1;
	if (entry->type == '0')
		return make_file(layer, &target, entry);
	return entry->type == '2' ? make_symlink(layer, &target, entry) : make_node(layer, &target, entry);
}

static int set_directory_times(struct tree *tree)
{
	for (size_t i = 0; i < tree->directories.count; i++) {
		const struct name_record *record = &tree->directories.records[i];
		const struct timespec stamps[2] = { record->atime, record->mtime };
		const char *path = record->path[0] == '\0' ? "." : record->path;
		/* It may have been replaced since; then these times are not the newcomer's, unless it is a directory again,
		 * which has a record of its own further down. */
		struct stat st;
		if (fstatat(tree->root, path, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode))
			continue;
		if (utimensat(tree->root, path, stamps, AT_SYMLINK_NOFOLLOW) < 0)
			return fail_errno(errno, "%s: cannot set the times", path);
	}
	return 0;
}

int apply_layer(struct tree *tree, struct tar *tar, bool bottom, struct applied *applied)
{
	struct layer layer = { .tree = tree, .tar = tar, .applied = applied, .bottom = bottom };
	static struct entry entry;
	int rc;
	while ((rc = tar_next(tar, &entry)) > 0) {
		/* Counted apart from inodes: an archive of nothing but replacements and links must end as well. */
		if (++applied->entries > tree->limits->entries)
			return fail(FAIL_LIMIT, "the layer has more than %llu entries", (unsigned long long)tree->limits->entries);
		if (apply_entry(&layer, &entry) < 0)
			return -1;
	}
	return rc < 0 ? -1 : set_directory_times(tree);
}
