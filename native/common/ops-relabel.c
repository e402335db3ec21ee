/* A tree of the host gets one SELinux label. Who owns the tree may change it meanwhile: every level is a descriptor, nothing is followed. */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { MAX_DEPTH = 128, LIST_BYTES = 4096 };

struct entry {
	uint64_t ino;
	int64_t offset;
	uint16_t size;
	uint8_t type;
	char name[];
};

struct label {
	const char *text;
	uint32_t size;
};

/* Of an O_PATH descriptor, a link's included; the working directory is that of the own descriptors in procfs. */
static int set_label(int fd, const struct label *label)
{
	char name[12];
	if (setxattr(decimal(name, (uint32_t)fd), "security.selinux", label->text, label->size + 1, 0) == 0)
		return 0;
	return errno == EOPNOTSUPP ? 0 : -errno;
}

static int relabel(struct run *run, int fd, const struct label *label, int depth);

static int relabel_entry(struct run *run, int dir, const char *name, const struct label *label, int depth)
{
	autoclose int fd = k_openat2(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0, K_RESOLVE_BENEATH | K_RESOLVE_NO_SYMLINKS | K_RESOLVE_NO_XDEV);
	/* Gone meanwhile, or something of its own is mounted there. */
	if (fd == -ENOENT || fd == -EXDEV)
		return 0;
	return fd < 0 ? fd : relabel(run, fd, label, depth);
}

static int relabel(struct run *run, int fd, const struct label *label, int depth)
{
	char list[LIST_BYTES] __attribute__((aligned(8)));
	struct stat st;
	long got;
	int error = set_label(fd, label);
	if (error < 0)
		return error;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISDIR(st.st_mode))
		return 0;
	if (depth > MAX_DEPTH)
		return -ELOOP;
	autoclose int dir = (int)k_result(openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	if (dir < 0)
		return dir;
	while ((got = k_result(syscall(SYS_getdents64, dir, list, sizeof list))) > 0)
		for (long at = 0; at < got;) {
			const struct entry *entry = (const struct entry *)(list + at);
			at += entry->size;
			if (strcmp(entry->name, ".") == 0 || strcmp(entry->name, "..") == 0)
				continue;
			error = relabel_entry(run, dir, entry->name, label, depth + 1);
			if (error < 0)
				return run->detail[0] ? error : say(run, error, entry->name, NULL, NULL);
		}
	return (int)got;
}

int op_relabel(struct run *run, const value *v)
{
	const char *path = v[OP_RELABEL_PATH].str;
	const struct label label = { v[OP_RELABEL_LABEL].str, v[OP_RELABEL_LABEL].size };
	int own = proc_own_fds(run);
	if (own < 0)
		return own;
	uint64_t resolve = v[OP_RELABEL_FOLLOW].u32 ? 0 : K_RESOLVE_NO_SYMLINKS;
	autoclose int fd = k_openat2(AT_FDCWD, path, O_PATH | O_CLOEXEC, 0, resolve);
	if (fd < 0)
		return say(run, fd, path, NULL, NULL);
	if (fchdir(own) < 0)
		return -errno;
	int error = relabel(run, fd, &label, 0);
	return error < 0 && !run->detail[0] ? say(run, error, path, NULL, NULL) : error;
}
