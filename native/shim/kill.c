/*
 * Killers, the children: forked, because walking cgroups, freezing and waiting until nothing is left takes time that the loop does not have.
 * Signals go through pidfds, so that a recycled pid is never hit.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "shim.h"

#define NR_PIDFD_SEND_SIGNAL 424
#define NR_PIDFD_OPEN 434
#define BOUND_MS 8000
#define FREEZE_MS 200
#define CGROUP_DEPTH 16
/* Rounds after which processes that keep forking are frozen meanwhile. */
#define PATIENT_ROUNDS 3

enum { NOTHING_LEFT = 0, STILL_THERE = 1, NO_WAY = 2, OURSELVES = 3 };

struct hunt {
	int signal, sid; /* sid 0: everybody */
	int shim, self;
	int found, met_ourselves;
	int dry;         /* only count */
};

static void pause_ms(long ms)
{
	nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 }, NULL);
}

/* Session of a living process; -1 for a dead one. */
static int session_of(int pid)
{
	char path[40], stat[256];
	struct text text = text_in(path, sizeof path);
	text_str(&text, "/proc/");
	text_u64(&text, (uint64_t)pid);
	text_str(&text, "/stat");
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, stat, sizeof stat - 1);
	if (size <= 0)
		return -1;
	stat[size] = '\0';
	const char *at = strrchr(stat, ')');
	if (at == NULL || at[1] != ' ' || at[2] == 'Z' || at[2] == 'X')
		return -1;
	at += 3; /* behind the state: ppid, pgrp, session */
	for (int i = 0; i < 2; i++) {
		at = strchr(at + 1, ' ');
		if (at == NULL)
			return -1;
	}
	return (int)text_parse(at + 1, NULL);
}

static void hunt_one(struct hunt *hunt, int pid)
{
	if (pid == hunt->shim || pid == hunt->self) {
		hunt->met_ourselves = 1;
		return;
	}
	if (hunt->sid != 0 && session_of(pid) != hunt->sid)
		return;
	hunt->found++;
	if (hunt->dry)
		return;
	autoclose int pidfd = (int)syscall(NR_PIDFD_OPEN, pid, 0);
	/* Looked at again through the descriptor's lifetime: the first look may have been at a predecessor of the same number. */
	if (pidfd < 0 || (hunt->sid != 0 && session_of(pid) != hunt->sid))
		return;
	syscall(NR_PIDFD_SEND_SIGNAL, pidfd, hunt->signal, NULL, 0);
}

static void hunt_procs(struct hunt *hunt, int directory)
{
	char chunk[2048];
	int64_t pid = -1;
	ssize_t size;
	autoclose int procs = openat(directory, "cgroup.procs", O_RDONLY | O_CLOEXEC);

	if (procs < 0)
		return;
	/* A number may be cut by the end of a chunk. */
	while ((size = read(procs, chunk, sizeof chunk)) > 0) {
		for (ssize_t i = 0; i < size; i++) {
			if (chunk[i] >= '0' && chunk[i] <= '9') {
				pid = (pid < 0 ? 0 : pid) * 10 + (chunk[i] - '0');
			} else if (pid > 0) {
				hunt_one(hunt, (int)pid);
				pid = -1;
			}
		}
	}
	if (pid > 0)
		hunt_one(hunt, (int)pid);
}

struct dirent64 {
	uint64_t inode;
	int64_t offset;
	uint16_t size;
	uint8_t type;
	char name[];
};
#define DIRECTORY_TYPE 4

typedef void (*entry_visitor)(struct hunt *hunt, int directory, const char *name, int depth);

static void each_directory(struct hunt *hunt, int directory, int depth, entry_visitor visit)
{
	_Alignas(struct dirent64) char entries[1024];
	long size;

	lseek(directory, 0, SEEK_SET);
	while ((size = syscall(SYS_getdents64, directory, entries, sizeof entries)) > 0)
		for (long at = 0; at < size;) {
			struct dirent64 *entry = (struct dirent64 *)(entries + at);
			at += entry->size;
			if (entry->type == DIRECTORY_TYPE && entry->name[0] != '.')
				visit(hunt, directory, entry->name, depth);
		}
}

static void hunt_below(struct hunt *hunt, int directory, const char *name, int depth);

static void hunt_cgroup(struct hunt *hunt, int directory, int depth)
{
	hunt_procs(hunt, directory);
	if (depth < CGROUP_DEPTH)
		each_directory(hunt, directory, depth + 1, hunt_below);
}

static void hunt_below(struct hunt *hunt, int directory, const char *name, int depth)
{
	autoclose int below = openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (below >= 0)
		hunt_cgroup(hunt, below, depth);
}

static void hunt_proc_entry(struct hunt *hunt, int directory, const char *name, int depth)
{
	int64_t pid = text_parse(name, NULL);
	(void)directory;
	(void)depth;
	if (pid > 0)
		hunt_one(hunt, (int)pid);
}

/* Without a cgroup (directory -1) the whole of /proc is looked through. */
static int hunt_round(struct hunt *hunt, int directory)
{
	hunt->found = 0;
	if (directory >= 0) {
		hunt_cgroup(hunt, directory, 0);
	} else {
		autoclose int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		each_directory(hunt, proc, 0, hunt_proc_entry);
	}
	return hunt->found;
}

static int write_at(int directory, const char *file, const char *value)
{
	autoclose int fd = openat(directory, file, O_WRONLY | O_CLOEXEC);
	return fd >= 0 && write(fd, value, strlen(value)) > 0;
}

static int starts_with(int directory, const char *file, const char *prefix)
{
	char value[32] = "";
	autoclose int fd = openat(directory, file, O_RDONLY | O_CLOEXEC);
	return fd >= 0 && read(fd, value, sizeof value - 1) > 0 && strncmp(value, prefix, strlen(prefix)) == 0;
}

/* 1 if this call froze it, which is then to be undone. */
static int freeze(int directory)
{
	if (directory < 0 || starts_with(directory, "freezer.state", "FROZEN") || starts_with(directory, "cgroup.freeze", "1"))
		return 0;
	if (write_at(directory, "cgroup.freeze", "1"))
		return 1;
	if (!write_at(directory, "freezer.state", "FROZEN"))
		return 0;
	/* A process in an uninterruptible wait keeps it FREEZING: the others stand still all the same. */
	for (int waited = 0; waited < FREEZE_MS && !starts_with(directory, "freezer.state", "FROZEN"); waited++)
		pause_ms(1);
	return 1;
}

static void thaw(int directory)
{
	if (!write_at(directory, "cgroup.freeze", "0"))
		write_at(directory, "freezer.state", "THAWED");
}

static int hunt_until_none(struct hunt *hunt, int directory)
{
	int64_t end = now_ms() + BOUND_MS;

	for (int round = 0; now_ms() < end; round++) {
		int froze = round >= PATIENT_ROUNDS && freeze(directory);
		int found = hunt_round(hunt, directory);
		if (froze)
			thaw(directory);
		if (hunt->met_ourselves && hunt->sid == 0)
			return OURSELVES;
		if (found == 0)
			return NOTHING_LEFT;
		pause_ms(round < 10 ? 1 : 10);
	}
	return STILL_THERE;
}

/* A v1 cgroup that somebody froze does not even let SIGKILL through. v2 does, but a restored container is to go on. */
static void thaw_all(const struct wire_value *paths)
{
	struct wire_items items = wire_items(paths);
	const char *path;

	while ((path = wire_next_str(&items, NULL)) != NULL) {
		autoclose int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (directory >= 0 && (starts_with(directory, "freezer.state", "FR") || starts_with(directory, "cgroup.freeze", "1")))
			thaw(directory);
	}
}

static int kill_cgroup(struct hunt *hunt, int directory, const struct wire_value *paths)
{
	/* The path came from outside: a cgroup that holds the shim is never the container's. */
	hunt->dry = 1;
	hunt_round(hunt, directory);
	hunt->dry = 0;
	if (hunt->met_ourselves)
		return OURSELVES;
	if (hunt->found == 0)
		return NOTHING_LEFT;
	if (hunt->signal != SIGKILL) {
		int froze = freeze(directory);
		hunt_round(hunt, directory);
		if (froze)
			thaw(directory);
		return NOTHING_LEFT;
	}
	if (!kernel_denied(KERNEL_CGROUP_KILL) && write_at(directory, "cgroup.kill", "1"))
		hunt->dry = 1; /* the kernel kills, forks included: only wait */
	else
		hunt_round(hunt, directory);
	thaw_all(paths);
	int result = hunt_until_none(hunt, directory);
	hunt->dry = 0;
	return result;
}

/* The next of the cgroups that is there, -1 behind the last. `gone`: one is not there any more, so nobody is left in it. */
static int next_cgroup(struct wire_items *paths, int *gone)
{
	const char *path;

	while ((path = wire_next_str(paths, NULL)) != NULL) {
		int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (directory < 0 && errno == ENOENT)
			*gone = 1;
		if (directory >= 0 && faccessat(directory, "cgroup.procs", R_OK, 0) == 0)
			return directory;
		close_fd(&directory);
	}
	return -1;
}

/* Whoever is in any of the container's hierarchies: a privileged container may have left one of them. */
static int kill_cgroups(struct hunt *hunt, const struct wire_value *paths)
{
	struct wire_items items = wire_items(paths);
	int gone = 0, seen = 0, worst = NOTHING_LEFT, directory;

	while ((directory = next_cgroup(&items, &gone)) >= 0) {
		int result = kill_cgroup(hunt, directory, paths);
		close(directory);
		worst = result > worst ? result : worst;
		seen = 1;
		/* A signal that can be handled is sent once. */
		if (hunt->signal != SIGKILL)
			break;
	}
	return seen || gone ? worst : NO_WAY;
}

_Noreturn void kill_child(enum kill_mode mode, int signal, int sid, const struct wire_value *paths, int shim_pid)
{
	struct hunt hunt = { .signal = signal, .sid = mode == KILL_SESSION ? sid : 0, .shim = shim_pid, .self = getpid() };
	struct wire_items items = wire_items(paths);
	int gone = 0;

	switch (mode) {
	case KILL_THAW:
		thaw_all(paths);
		_exit(NOTHING_LEFT);
	case KILL_SESSION:
		_exit(hunt_until_none(&hunt, next_cgroup(&items, &gone)));
	case KILL_CGROUP:
		break;
	}
	_exit(kill_cgroups(&hunt, paths));
}
