/*
 * caisson-unpack: decompresses, hashes and applies one image layer, confined to the layer's directory.
 *
 *   caisson-unpack apply KEY=VALUE...    0: compressed layer   1: result (JSON)   3: directory   4: file for pending work
 *   caisson-unpack clear                 1: result (JSON)   3: directory that is to be emptied
 *   caisson-unpack settle KEY=VALUE...   0: pending work       1: result (JSON)   3: directory   4...: layers below, topmost first
 *
 * apply reads the hostile archive and has no CAP_SYS_ADMIN. What needs that capability (trusted.overlay.opaque) or the layers
 * below (attributes of directories that the archive implies but does not carry, hard links to files of lower layers) is written
 * down as pending work with resolved names only, and done by settle, which parses no archive.
 */
#ifndef CAISSON_UNPACK_H
#define CAISSON_UNPACK_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include "../common/kernel.h"
#include "../common/plan.h"

/* ---- failure.c: the first failure wins and is told to the daemon ---- */

enum fail_kind {
	FAIL_NONE,
	FAIL_INVALID, /* the archive or its compression is malformed or forbidden */
	FAIL_LIMIT,   /* a configured limit was reached */
	FAIL_SPACE,   /* ENOSPC, EDQUOT */
	FAIL_SYSTEM,  /* any other errno */
};

/* Records the failure and returns -1. */
__attribute__((format(printf, 2, 3))) int fail(enum fail_kind kind, const char *format, ...);
/* The same for a system call that set errno or returned -error. */
__attribute__((format(printf, 2, 3))) int fail_errno(int error, const char *format, ...);
enum fail_kind failed_kind(void);
const char *failed_text(void);

struct limits {
	uint64_t entries;     /* inodes that the layer may make */
	uint64_t bytes;       /* of the decompressed stream, and apparent size of any file */
	uint64_t ratio;       /* decompressed : compressed ... */
	uint64_t ratio_floor; /* ... looked at from this many decompressed bytes on */
	uint64_t names;       /* bytes of names kept in memory */
};

/* ---- confine.c ---- */

/* Makes the directory `root` this process's root in its own mount namespace; closes every descriptor above `last_fd`. */
int confine_root(int root, int last_fd);
/* Drops all capabilities but those needed; `overlay` keeps CAP_SYS_ADMIN for trusted.overlay.*. Then no_new_privs and seccomp. */
int confine_privileges(bool overlay);

/* ---- input.c: stdin, hashed, decompressed, hashed ---- */

struct input;
struct input_totals {
	uint64_t blob_bytes, tar_bytes;
	char blob_hex[129], tar_hex[65];
};

struct input *input_new(int fd, const struct limits *limits, bool sha512);
/* Up to n bytes of the decompressed stream; 0 at its clean end; -1 failed. */
ssize_t input_read(struct input *in, void *buffer, size_t n);
/* Exactly n bytes, or failed. */
int input_exact(struct input *in, void *buffer, size_t n);
int input_skip(struct input *in, uint64_t n);
/* Reads what is left after the end of the archive, so that both hashes cover the whole stream. */
int input_finish(struct input *in, struct input_totals *totals);

/* ---- tar.c ---- */

#define MAX_SPARSE 32768
#define MAX_XATTRS 128
#define MAX_EXTENSION (1024 * 1024)

struct sparse_part {
	uint64_t offset, length;
};

struct xattr {
	char *name; /* into the extension's buffer */
	void *value;
	size_t length;
};

struct entry {
	char type; /* '0' file, '1' hard link, '2' symlink, '3' char, '4' block, '5' directory, '6' fifo */
	char name[PATH_MAX], link[PATH_MAX];
	uint32_t mode, uid, gid, major, minor;
	uint64_t size;      /* of the data in the archive */
	uint64_t real_size; /* of the file */
	struct timespec atime, mtime;
	size_t xattr_count;
	struct xattr xattrs[MAX_XATTRS];
	bool sparse;
	size_t part_count;
};

struct tar;
struct tar *tar_new(struct input *in, const struct limits *limits);
/* 1: an entry; 0: end of the archive; -1: failed. What is left of the entry before is skipped. */
int tar_next(struct tar *tar, struct entry *entry);
/* Bytes of the entry's data, in order; 0 at its end. */
ssize_t tar_data(struct tar *tar, void *buffer, size_t n);
const struct sparse_part *tar_parts(const struct tar *tar);

/* Decimal or octal text of a header field, or GNU's base-256. 0 or -1 (not a number). */
int tar_number(const uint8_t *field, size_t width, int64_t *value);

/* ---- pax.c ---- */

struct pax {
	char *buffer; /* the records; names and values below point into it */
	bool has_path, has_link, has_size, has_uid, has_gid, has_mtime, has_atime;
	const char *path, *link;
	size_t path_length, link_length;
	int64_t size, uid, gid;
	struct timespec mtime, atime;
	size_t xattr_count;
	struct xattr xattrs[MAX_XATTRS];
	/* GNU.sparse.* */
	bool sparse, has_real_size, map_in_data, half_part;
	int64_t real_size, sparse_major;
	const char *sparse_name;
	size_t sparse_name_length;
	size_t part_count;
	struct sparse_part *parts; /* MAX_SPARSE of them, the caller's */
};

/* Parses the records in buffer[0..length); buffer[length] must be writable. */
int pax_parse(struct pax *pax, char *buffer, size_t length);
int decimal(const char *text, size_t length, int64_t *value);

/* ---- tree.c: names inside the layer's directory ---- */

#define MAX_NAME 255
/* What a directory is taken to occupy. */
#define DIRECTORY_BYTES 4096

struct name_list {
	struct name_record {
		char *path;   /* resolved, relative to the root, "" for the root */
		char *target; /* of a hard link, else NULL */
		struct timespec atime, mtime;
	} *records;
	size_t count, room;
};

struct tree {
	int root;
	const struct limits *limits;
	uint64_t name_bytes;
	uint64_t inodes, disk_bytes, made;
	struct name_list implied, opaque, whiteouts, links, directories;
	int cached_fd;
	char cached_name[PATH_MAX], cached_path[PATH_MAX];
};

/* Lexical cleaning as if `raw` were rooted: no "", ".", "..", no slash at either end; "" is the root. */
int path_clean(const char *raw, char out[PATH_MAX]);
/* Splits a clean path in place; returns the last component. parent becomes "" for a name in the root. */
const char *path_split(const char *path, char parent[PATH_MAX]);
int path_join(char out[PATH_MAX], const char *parent, const char *name);

bool is_whiteout(const struct stat *st);
/* One more inode; fails at the limit. */
int tree_count(struct tree *tree);
/* Descriptor of the directory `dir` (owned by the tree), or -1. Missing ones are made and noted as implied. */
int tree_parent(struct tree *tree, const char *dir, const char **resolved);
/* Like tree_parent but makes nothing: -ENOENT and the like are returned, not recorded. The caller closes the descriptor. */
int tree_find(struct tree *tree, const char *dir, char resolved[PATH_MAX]);
/* Removes name, whatever it is. */
int tree_remove(struct tree *tree, int parent, const char *name);
/* Removes everything in the root. */
int tree_clear(struct tree *tree);
/* Counts the blocks of an inode that was just written. */
void tree_account(struct tree *tree, const struct stat *st);
int name_list_add(struct tree *tree, struct name_list *list, const char *path, const char *target);

/* ---- apply.c, attributes.c, settle.c ---- */

struct applied {
	uint64_t entries, stripped_xattrs;
};

int apply_layer(struct tree *tree, struct tar *tar, bool bottom, struct applied *applied);
/* Writes the pending work for settle to fd; returns how many items, or -1. */
int64_t pending_write(struct tree *tree, int fd);
struct settled {
	int64_t inodes;
	uint64_t disk_bytes;
};
/* Does it. `lowers`: the layers below, topmost first. */
int pending_settle(int work, int root, const int *lowers, size_t count, const struct limits *limits, struct settled *settled);

/* Owner, xattrs, mode, times, in the order in which none takes back another. */
int attributes_of_fd(int fd, const struct entry *entry, struct applied *applied, bool times);
int attributes_of_name(int parent, const char *name, const struct entry *entry, struct applied *applied);
#endif
