/* Descriptors that the process gets: 0, 1, 2 are pipes, the null device or a terminal; further ones are the caller's. */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { PTY_SLAVE_MAJOR = 136, PTMX_MAJOR = 5, PTMX_MINOR = 2 };

/* A duplicate out of the way of 0, 1, 2, so that none is overwritten before it is used. */
static int high_copy(int fd)
{
	return (int)k_result(fcntl(fd, F_DUPFD_CLOEXEC, 3));
}

int op_stdio(struct run *run, const value *v)
{
	int from[3] = { -1, -1, -1 }, error = 0;
	for (int i = 0; i < 3 && error == 0; i++) {
		uint32_t slot = v[i].u32;
		autoclose int opened = slot == PLAN_NO_SLOT ? open_null(run) : -1;
		int fd = slot == PLAN_NO_SLOT ? opened : slot_fd(run, slot);
		from[i] = fd < 0 ? fd : high_copy(fd);
		error = from[i] < 0 ? from[i] : 0;
	}
	for (int i = 0; i < 3; i++) {
		if (error == 0 && dup2(from[i], i) < 0)
			error = -errno;
		close_fd(&from[i]);
	}
	return error;
}

/* The container's own ptmx, not whatever an image or a volume put there. */
static int open_ptmx(struct run *run)
{
	struct stat st;
	autoclose int fd = root_open(run, "/dev/pts/ptmx", ROOT_NO_FOLLOW);
	if (fd < 0)
		return say(run, fd, "/dev/pts/ptmx", NULL, NULL);
	if (k_fs_magic(fd) != K_DEVPTS_MAGIC || fstat(fd, &st) < 0 || st.st_ino != K_DEVPTS_PTMX_INO ||
	    !is_device(fd, S_IFCHR, PTMX_MAJOR, PTMX_MINOR))
		return say(run, -ENODEV, "/dev/pts/ptmx is not a pty multiplexer", NULL, NULL);
	return proc_reopen(run, fd, O_RDWR | O_NOCTTY);
}

/* By number, where the kernel cannot open a slave by its master. */
static int open_slave_by_name(struct run *run, int master)
{
	char path[32] = "/dev/pts/";
	unsigned number;
	struct stat st;
	if (ioctl(master, TIOCGPTN, &number) < 0)
		return -errno;
	decimal(path + 9, number);
	autoclose int fd = root_open(run, path, ROOT_NO_FOLLOW | ROOT_NO_SYMLINKS);
	if (fd < 0)
		return say(run, fd, path, NULL, NULL);
	if (k_fs_magic(fd) != K_DEVPTS_MAGIC || fstat(fd, &st) < 0 || !S_ISCHR(st.st_mode) || major(st.st_rdev) != PTY_SLAVE_MAJOR)
		return say(run, -ENODEV, path, " is not a pty", NULL);
	return proc_reopen(run, fd, O_RDWR | O_NOCTTY);
}

static int open_slave(struct run *run, int master)
{
	int locked = 0;
	if (ioctl(master, TIOCSPTLCK, &locked) < 0)
		return -errno;
	int fd = kernel_denied(KERNEL_TIOCGPTPEER) ? -ENOTTY : (int)k_result(ioctl(master, K_TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
	return fd == -ENOTTY || fd == -EINVAL ? open_slave_by_name(run, master) : fd;
}

static int bind_console(struct run *run, int slave)
{
	char name[NAME_MAX + 1];
	struct stat st;
	autoclose int parent = root_parent(run, "/dev/console", name);
	if (parent < 0)
		return parent;
	int made = openat(parent, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, 0600);
	if (made >= 0)
		close(made);
	else if (errno != EEXIST)
		return -errno;
	autoclose int target = (int)k_result(openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
	if (target < 0)
		return target;
	if (fstat(target, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) && !S_ISCHR(st.st_mode))
		return say(run, -EEXIST, "/dev/console exists and is something else", NULL, NULL);
	autoclose int mount = k_open_tree(slave, "", K_OPEN_TREE_CLONE | K_AT_EMPTY_PATH);
	if (mount < 0)
		return mount;
	int error = k_move_mount(mount, "", target, "", K_MOVE_MOUNT_F_EMPTY_PATH | K_MOVE_MOUNT_T_EMPTY_PATH);
	return error < 0 ? error : root_verify(run, "/dev/console", ROOT_NO_FOLLOW, mount);
}

int op_console(struct run *run, const value *v)
{
	struct winsize size = { .ws_row = (unsigned short)v[OP_CONSOLE_ROWS].u32, .ws_col = (unsigned short)v[OP_CONSOLE_COLS].u32 };
	say(run, 0, "console", NULL, NULL);
	autoclose int master = open_ptmx(run);
	if (master < 0)
		return master;
	autoclose int slave = open_slave(run, master);
	if (slave < 0)
		return slave;
	if (size.ws_row != 0 && size.ws_col != 0 && ioctl(master, TIOCSWINSZ, &size) < 0)
		return -errno;
	int error = v[OP_CONSOLE_BIND_CONSOLE].u32 ? bind_console(run, slave) : 0;
	if (error < 0)
		return error;
	run->terminal_waits = (uint8_t)plan_forks_later(run);
	if (!run->terminal_waits && ioctl(slave, TIOCSCTTY, 0) < 0)
		return say(run, -errno, "controlling terminal", NULL, NULL);
	for (int fd = 0; fd < 3; fd++)
		if (dup2(slave, fd) < 0)
			return -errno;
	if (v[OP_CONSOLE_EXPORT].u32)
		report_send(run, PLAN_EXPORT, run->exported++, 0, master);
	else
		report_send(run, PLAN_CONSOLE, 0, 0, master);
	/* 0 to 2 are the slave now and must stay when it was one of them. */
	if (slave < 3)
		steal_fd(&slave);
	return 0;
}

/* Out of the numbers that the process's own descriptors get. */
static int move_away(int *fd, int first_free)
{
	if (*fd < 3 || *fd >= first_free)
		return 0;
	int moved = (int)k_result(fcntl(*fd, F_DUPFD_CLOEXEC, first_free));
	if (moved < 0)
		return moved;
	close(*fd);
	*fd = moved;
	return 0;
}

static int make_room(struct run *run, int first_free)
{
	struct plan_env *env = run->env;
	int *const singles[] = { &env->report, &env->release, &env->image, &env->proc, &run->root, &run->proc, &run->own_fds, &run->null_device,
		&run->mask_template };
	int error = 0;
	for (size_t i = 0; error == 0 && i < sizeof singles / sizeof *singles; i++)
		error = move_away(singles[i], first_free);
	for (size_t i = 0; error == 0 && i < PLAN_SLOTS; i++)
		error = move_away(&env->slots[i], first_free);
	for (size_t i = 0; error == 0 && i < PLAN_PINS; i++)
		error = move_away(&env->pins[i], first_free);
	return error;
}

/* Before seccomp, which may refuse all of this; the executed process gets what has no close-on-exec. */
int op_keep(struct run *run, const value *v)
{
	struct wire_items items = wire_items(&v[OP_KEEP_SLOTS]);
	unsigned count = v[OP_KEEP_SLOTS].count;
	uint32_t slot;
	int error = run->kept > 0 || count > PLAN_SLOTS ? -EINVAL : make_room(run, 3 + (int)count);
	while (error == 0 && wire_next_u32(&items, &slot)) {
		int fd = slot_fd(run, slot);
		error = fd < 0 ? fd : (int)k_result(dup2(fd, 3 + (int)run->kept));
		if (error >= 0) {
			run->kept++;
			error = 0;
		}
	}
	return error;
}
