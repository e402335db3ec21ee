/*
 * The way into the root without pivot_root: a file system that was the kernel's first (an initramfs) cannot be pivoted away. The root is
 * moved over "/" and chroot leads into it; what was there before stays below. Full views of procfs and sysfs must not: they would
 * be what the kernel compares a new one with when it decides whether a container with a user namespace may mount one unmasked.
 */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#define MOST_MOUNTINFO (4 << 20)

/* Space, tab, newline and backslash are octal in mountinfo. In place. */
static void unescape(char *text)
{
	char *out = text;
	for (; *text; text++)
		if (text[0] == '\\' && text[1] && text[2] && text[3]) {
			*out++ = (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 | (text[3] - '0'));
			text += 3;
		} else {
			*out++ = *text;
		}
	*out = 0;
}

static int below(const char *path, const char *root, size_t length)
{
	return strncmp(path, root, length) == 0 && (path[length] == '/' || path[length] == 0);
}

/* "ID PARENT DEVICE ROOT POINT OPTIONS ... - TYPE ...": the point, if it is a whole procfs or sysfs. */
static char *full_view(char *line)
{
	char *field[5], *kind = strstr(line, " - ");
	if (!kind || (strncmp(kind + 3, "proc ", 5) != 0 && strncmp(kind + 3, "sysfs ", 6) != 0))
		return NULL;
	for (size_t i = 0; i < 5; i++) {
		field[i] = line;
		line = strchr(line, ' ');
		if (!line)
			return NULL;
		*line++ = 0;
	}
	unescape(field[4]);
	return strcmp(field[3], "/") == 0 ? field[4] : NULL;
}

static int hide(const char *path)
{
	if (umount2(path, MNT_DETACH) == 0)
		return 0;
	/* Locked in a user namespace: then it is covered. */
	if (errno != EINVAL && errno != EPERM)
		return -errno;
	return (int)k_result(mount("tmpfs", path, "tmpfs", MS_RDONLY, "size=0k,mode=000"));
}

static int hide_outside(struct run *run, const char *root)
{
	size_t length = strlen(root), size = 0;
	autoclose int fd = proc_open_self(run, "mountinfo", O_RDONLY);
	if (fd < 0)
		return fd;
	char *text = mmap(NULL, MOST_MOUNTINFO, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (text == MAP_FAILED)
		return -errno;
	for (ssize_t got; (got = read(fd, text + size, MOST_MOUNTINFO - 1 - size)) != 0; size += (size_t)got) {
		if (got < 0)
			return -errno;
		if (size + (size_t)got == MOST_MOUNTINFO - 1)
			return -EFBIG;
	}
	int error = 0;
	for (char *line = text, *next; error == 0 && line && *line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = 0;
		const char *point = full_view(line);
		if (point && !below(point, root, length))
			error = hide(point);
		/* A mount below one that is gone is gone as well. */
		if (error == -ENOENT || error == -EINVAL)
			error = 0;
		if (error < 0)
			say(run, error, point, NULL, NULL);
	}
	munmap(text, MOST_MOUNTINFO);
	return error;
}

int move_root(struct run *run)
{
	char path[PATH_MAX];
	int root = root_fd(run);
	if (root < 0)
		return root;
	if (!run->tree_is_slave && mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0)
		return say(run, -errno, "propagation of /", NULL, NULL);
	int error = proc_fd_path(run, root, path, sizeof path);
	if (error >= 0)
		error = hide_outside(run, path);
	if (error < 0)
		return error;
	if (fchdir(root) < 0)
		return say(run, -errno, "chdir", NULL, NULL);
	if (mount(".", "/", NULL, MS_MOVE, NULL) < 0)
		return say(run, -errno, "move of the root", NULL, NULL);
	if (chroot(".") < 0 || chdir("/") < 0)
		return say(run, -errno, "chroot", NULL, NULL);
	/* Would hold the host's /dev. */
	close_fd(&run->null_device);
	run->null_device = -1;
	run->in_container = 1;
	return 0;
}

int op_move_root(struct run *run, const value *v)
{
	(void)v;
	return move_root(run);
}
