/*
 * Paths inside a container's root. The image and every volume belong to somebody else: names may be links to anywhere and may be
 * exchanged at any moment, so a path is never checked and then used; it becomes a descriptor, and what follows acts on that.
 */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { MAX_LINKS = 255, MAX_TRIES = 128 };

/* A walk in user space. It opens one plain component after another from the root down and never "..", so it cannot leave. */
struct walk {
	struct run *run;
	int root;
	int at;              /* where it is; -1: the root itself */
	int made;            /* something was missing and has been made */
	unsigned links;
	char rest[PATH_MAX]; /* still to go */
	char done[PATH_MAX]; /* gone: components without links, each with a "/" before it */
};

int root_fd(struct run *run)
{
	if (run->root < 0 && run->in_container)
		run->root = (int)k_result(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
	return run->root < 0 ? say(run, -EBADF, "no root is set", NULL, NULL) : run->root;
}

int same_file(int a, int b)
{
	struct stat x, y;
	return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

int is_device(int fd, mode_t type, unsigned major_number, unsigned minor_number)
{
	struct stat st;
	return fstat(fd, &st) == 0 && (st.st_mode & S_IFMT) == type && st.st_rdev == makedev(major_number, minor_number);
}

int root_relative(struct run *run, int fd, char *out, size_t room)
{
	char root[PATH_MAX];
	int length = root_fd(run);
	if (length < 0 || (length = proc_fd_path(run, length, root, sizeof root)) < 0)
		return length;
	int error = proc_fd_path(run, fd, out, room);
	if (error < 0)
		return error;
	if (length == 1)
		return 0;
	size_t prefix = (size_t)length;
	if (strncmp(out, root, prefix) != 0 || (out[prefix] != '/' && out[prefix] != 0))
		return -EXDEV;
	memmove(out, out + prefix, strlen(out + prefix) + 1);
	if (out[0] == 0)
		memcpy(out, "/", 2);
	return 0;
}

static int prepend(struct walk *w, const char *target, size_t length)
{
	size_t rest = strlen(w->rest);
	if (length + 1 + rest + 1 > sizeof w->rest)
		return -ENAMETOOLONG;
	memmove(w->rest + length + 1, w->rest, rest + 1);
	memcpy(w->rest, target, length);
	w->rest[length] = '/';
	return 0;
}

/* Goes back to the start of `done`, then down its first `length` bytes again. */
static int reopen(struct walk *w, size_t length)
{
	w->done[length] = 0;
	close_fd(&w->at);
	w->at = -1;
	for (const char *p = w->done; *p;) {
		char name[NAME_MAX + 1];
		size_t size = strcspn(++p, "/");
		memcpy(name, p, size);
		name[size] = 0;
		p += size;
		int next = (int)k_result(openat(w->at < 0 ? w->root : w->at, name, O_PATH | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC));
		close_fd(&w->at);
		w->at = next;
		if (next < 0)
			return next;
	}
	return 0;
}

/* Links of procfs to what a process has open, whose text would be taken for a path in the root: the kernel's own links are relative. */
static int is_magic_link(int link, const char *target, size_t length)
{
	return k_fs_magic(link) == K_PROC_MAGIC && (target[0] == '/' || memchr(target, ':', length));
}

static int follow(struct walk *w, int link)
{
	char target[PATH_MAX];
	ssize_t length = readlinkat(link, "", target, sizeof target);
	if (length < 0)
		return -errno;
	if (length == 0 || (size_t)length == sizeof target)
		return -ENAMETOOLONG;
	if (++w->links > MAX_LINKS || is_magic_link(link, target, (size_t)length))
		return -ELOOP;
	int error = target[0] == '/' ? reopen(w, 0) : 0;
	return error < 0 ? error : prepend(w, target, (size_t)length);
}

/* Makes the missing component; whether it was this process that made it in the end is told by what is opened afterwards. */
static int make(struct walk *w, const char *name, int directory, mode_t mode)
{
	int at = w->at < 0 ? w->root : w->at;
	if (directory)
		return mkdirat(at, name, mode & 01777) < 0 && errno != EEXIST ? -errno : 0;
	int fd = openat(at, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, mode & 0777);
	if (fd < 0)
		return errno == EEXIST ? 0 : -errno;
	close(fd);
	return 0;
}

/* Nothing but "/" and "." is left. */
static int is_end(const char *rest)
{
	for (;;) {
		rest += strspn(rest, "/");
		if (*rest == 0)
			return 1;
		if (rest[0] != '.' || (rest[1] != '/' && rest[1] != 0))
			return 0;
		rest++;
	}
}

/* One component. `create`: what is missing is made. Owner and mode of a new directory are not compared: root-squashing and
 * mode-less filesystems are legitimate volumes and give others. */
static int step(struct walk *w, const char *name, unsigned flags, mode_t mode, int create, int *made)
{
	int last = is_end(w->rest);
	int base = w->at < 0 ? w->root : w->at;
	int directory = !last || (flags & ROOT_MKDIR);
	int is_new = 0;
	struct stat st;
	autoclose int next = (int)k_result(openat(base, name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
	if (next == -ENOENT && create) {
		int error = make(w, name, directory, last ? mode : 0755);
		if (error < 0)
			return error;
		is_new = 1;
		next = (int)k_result(openat(base, name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
	}
	if (next < 0)
		return next;
	if (fstat(next, &st) < 0)
		return -errno;
	if (is_new && (directory ? !S_ISDIR(st.st_mode) : !S_ISREG(st.st_mode)))
		return -ESTALE;
	if (S_ISLNK(st.st_mode) && !(last && (flags & ROOT_NO_FOLLOW)))
		return flags & ROOT_NO_SYMLINKS ? -ELOOP : follow(w, next);
	size_t length = strlen(w->done), size = strlen(name);
	if (length + size + 2 > sizeof w->done)
		return -ENAMETOOLONG;
	w->done[length] = '/';
	memcpy(w->done + length + 1, name, size + 1);
	close_fd(&w->at);
	w->at = steal_fd(&next);
	w->made |= is_new;
	if (made && last)
		*made = is_new;
	return 0;
}

/* A directory that somebody moves away while the walk is in it could carry the walk out of the root. */
static int verify_place(struct walk *w)
{
	char path[PATH_MAX];
	int error = root_relative(w->run, w->at, path, sizeof path);
	if (error < 0)
		return error;
	return strcmp(path, w->done[0] ? w->done : "/") == 0 ? 0 : -EXDEV;
}

static int walk(struct run *run, int root, const char *path, unsigned flags, mode_t mode, int create, int *made)
{
	struct walk w = { .run = run, .root = root, .at = -1 };
	size_t length = strlen(path);
	int error = 0;
	if (length >= sizeof w.rest)
		return -ENAMETOOLONG;
	memcpy(w.rest, path, length + 1);
	while (error == 0) {
		char name[NAME_MAX + 1];
		size_t skip = strspn(w.rest, "/");
		size_t size = strcspn(w.rest + skip, "/");
		if (size == 0)
			break;
		if (size > NAME_MAX) {
			error = -ENAMETOOLONG;
			break;
		}
		memcpy(name, w.rest + skip, size);
		name[size] = 0;
		memmove(w.rest, w.rest + skip + size, strlen(w.rest + skip + size) + 1);
		if (strcmp(name, ".") == 0)
			continue;
		if (strcmp(name, "..") == 0) {
			char *slash = strrchr(w.done, '/');
			/* What did not exist has no parent to go back to. */
			error = w.made ? -ENOENT : reopen(&w, slash ? (size_t)(slash - w.done) : 0);
			continue;
		}
		error = step(&w, name, flags, mode, create, made);
	}
	if (error == 0 && w.at < 0)
		w.at = (int)k_result(openat(root, ".", O_PATH | O_DIRECTORY | O_CLOEXEC));
	if (error == 0)
		error = w.at < 0 ? w.at : verify_place(&w);
	if (error < 0)
		close_fd(&w.at);
	return error < 0 ? error : w.at;
}

int root_open(struct run *run, const char *path, unsigned flags)
{
	uint64_t resolve = K_RESOLVE_IN_ROOT | K_RESOLVE_NO_MAGICLINKS;
	uint64_t open_flags = O_PATH | O_CLOEXEC;
	int root = root_fd(run);
	if (root < 0)
		return root;
	if (flags & ROOT_NO_SYMLINKS)
		resolve |= K_RESOLVE_NO_SYMLINKS;
	if (flags & ROOT_NO_FOLLOW)
		open_flags |= O_NOFOLLOW;
	for (int tries = 0; tries < MAX_TRIES; tries++) {
		int fd = k_openat2(root, path, open_flags, 0, resolve);
		if (fd == -ENOSYS || fd == -EPERM)
			return walk(run, root, path, flags, 0, 0, NULL);
		/* The kernel saw a rename or a mount while it went through ".." and cannot tell where it is. */
		if (fd != -EAGAIN && fd != -EXDEV)
			return fd;
	}
	return -EAGAIN;
}

int root_create(struct run *run, const char *path, unsigned flags, mode_t mode, int *made)
{
	if (made)
		*made = 0;
	int fd = root_open(run, path, flags);
	if (fd != -ENOENT)
		return fd;
	return walk(run, run->root, path, flags, mode, 1, made);
}

int root_parent(struct run *run, const char *path, char name[NAME_MAX + 1])
{
	char parent[PATH_MAX];
	size_t length = strlen(path);
	while (length > 0 && path[length - 1] == '/')
		length--;
	size_t start = length;
	while (start > 0 && path[start - 1] != '/')
		start--;
	size_t size = length - start;
	if (size == 0 || size > NAME_MAX || start + 1 >= sizeof parent)
		return -ENAMETOOLONG;
	memcpy(name, path + start, size);
	name[size] = 0;
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return -EINVAL;
	memcpy(parent, path, start);
	memcpy(parent + start, ".", 2);
	return root_create(run, parent, ROOT_MKDIR, 0755, NULL);
}

int root_verify(struct run *run, const char *path, unsigned flags, int fd)
{
	uint64_t wanted = 0, got = 0;
	autoclose int again = root_open(run, path, flags);
	if (again < 0)
		return again;
	if (k_mount_id(fd, &wanted) == 0 && (k_mount_id(again, &got) < 0 || wanted != got))
		return say(run, -ESTALE, path, " was moved while it was mounted", NULL);
	return same_file(fd, again) ? 0 : say(run, -ESTALE, path, " was moved while it was mounted", NULL);
}

int open_null(struct run *run)
{
	autoclose int fd = run->root >= 0 || run->in_container ? root_open(run, "/dev/null", ROOT_NO_FOLLOW)
							    : (int)k_result(open("/dev/null", O_PATH | O_NOFOLLOW | O_CLOEXEC));
	if (fd < 0)
		return say(run, fd, "/dev/null", NULL, NULL);
	if (!is_device(fd, S_IFCHR, 1, 3))
		return say(run, -ENODEV, "/dev/null is not the null device", NULL, NULL);
	return proc_reopen(run, fd, O_RDWR);
}

int set_owner_mode(struct run *run, int fd, uint32_t uid, uint32_t gid, mode_t mode)
{
	char name[12];
	if (fchownat(fd, "", uid, gid, K_AT_EMPTY_PATH) < 0)
		return -errno;
	int error = k_fchmod_path(fd, mode & 07777);
	if (error != -ENOSYS)
		return error;
	int parent = proc_own_fds(run);
	if (parent < 0)
		return parent;
	return (int)k_result(fchmodat(parent, decimal(name, (uint32_t)fd), mode & 07777, 0));
}
