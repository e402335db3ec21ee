/*
 * Cgroups held frozen. Whatever becomes of the daemon, the shim and this process: a guard, which is a process of its own, thaws them
 * when this one has ended without a word, and when the time is over. Those that somebody else had frozen before it freezes again: a CRIU
 * that was killed may have thawed them.
 */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* v1 may stay in FREEZING while something forks: it is asked again, and now and then let go for a moment. */
enum { LOOK_MS = 1, ASK_EVERY = 25, LET_GO_EVERY = 200 };
/* Those who die with the one that is guarded may write once more before they do. */
enum { AGAIN = 25, AGAIN_EVERY_MS = 2 };

struct hold {
	const value *paths;
	uint8_t ours[PLAN_HELD_CGROUPS]; /* frozen by us */
	int64_t end;
};

static int64_t clock_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int open_in(const char *directory, const char *file, int flags)
{
	autoclose int at = (int)k_result(open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC));
	if (at < 0)
		return at;
	uint64_t magic = k_fs_magic(at);
	if (magic != K_CGROUP_MAGIC && magic != K_CGROUP2_MAGIC)
		return -EXDEV;
	return (int)k_result(openat(at, file, flags | O_CLOEXEC | O_NOFOLLOW));
}

static int write_file(const char *directory, const char *file, const char *text)
{
	autoclose int fd = open_in(directory, file, O_WRONLY);
	return fd < 0 ? fd : write_once(fd, text);
}

static int read_file(const char *directory, const char *file, char *text, size_t room)
{
	autoclose int fd = open_in(directory, file, O_RDONLY);
	if (fd < 0)
		return fd;
	ssize_t size = read(fd, text, room - 1);
	text[size > 0 ? size : 0] = 0;
	return size < 0 ? -errno : 0;
}

static int is_v1(const char *directory)
{
	char text[32];
	return read_file(directory, "freezer.state", text, sizeof text) == 0;
}

static int set_frozen(const char *directory, int frozen)
{
	return is_v1(directory) ? write_file(directory, "freezer.state", frozen ? "FROZEN" : "THAWED")
				: write_file(directory, "cgroup.freeze", frozen ? "1" : "0");
}

/* By somebody, whether it has come to rest or not. A cgroup that is gone is not. */
static int is_asked_to_freeze(const char *directory)
{
	char text[32];
	if (read_file(directory, "freezer.self_freezing", text, sizeof text) == 0)
		return text[0] == '1';
	return read_file(directory, "cgroup.freeze", text, sizeof text) == 0 && text[0] == '1';
}

static int is_at_rest(const char *directory)
{
	char text[256];
	if (read_file(directory, "freezer.state", text, sizeof text) == 0)
		return strncmp(text, "FROZEN", 6) == 0;
	return read_file(directory, "cgroup.events", text, sizeof text) == 0 && strstr(text, "frozen 1") != NULL;
}

static void thaw(const struct hold *hold)
{
	struct wire_items paths = wire_items(hold->paths);
	const char *path;
	for (uint32_t i = 0; (path = wire_next_str(&paths, NULL)); i++)
		if (hold->ours[i])
			set_frozen(path, 0);
}

static void sleep_ms(unsigned ms)
{
	nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000L }, NULL);
}

static void freeze_others(const struct hold *hold)
{
	for (unsigned i = 0; i < AGAIN; i++, sleep_ms(AGAIN_EVERY_MS)) {
		struct wire_items paths = wire_items(hold->paths);
		const char *path;
		int any = 0;
		for (uint32_t at = 0; (path = wire_next_str(&paths, NULL)); at++) {
			if (hold->ours[at])
				continue;
			any = 1;
			if (!is_asked_to_freeze(path))
				set_frozen(path, 1);
		}
		if (!any)
			return;
	}
}

static int freeze(struct run *run, struct hold *hold)
{
	struct wire_items paths = wire_items(hold->paths);
	const char *path;
	for (uint32_t i = 0; (path = wire_next_str(&paths, NULL)); i++) {
		if (!hold->ours[i])
			continue;
		int error = set_frozen(path, 1);
		if (error < 0)
			return say(run, error, path, NULL, NULL);
	}
	return 0;
}

static int wait_at_rest(struct run *run, const struct hold *hold)
{
	struct wire_items paths = wire_items(hold->paths);
	const char *path;
	while ((path = wire_next_str(&paths, NULL))) {
		for (unsigned look = 1; !is_at_rest(path); look++) {
			if (clock_ms() >= hold->end)
				return say(run, -ETIMEDOUT, path, ": its processes do not come to rest", NULL);
			if (look % LET_GO_EVERY == 0)
				set_frozen(path, 0);
			sleep_ms(LOOK_MS);
			if (look % ASK_EVERY == 0)
				set_frozen(path, 1);
		}
	}
	return 0;
}

/* Waits until the pipe says something or `end` is reached: 1, 0, or 0 at the time-out with *late set. */
static int await(int fd, int64_t end, int *late)
{
	for (;;) {
		int64_t left = end - clock_ms();
		struct pollfd wait = { .fd = fd, .events = POLLIN };
		char byte;
		*late = left <= 0;
		if (*late)
			return 0;
		if (poll(&wait, 1, left > 60000 ? 60000 : (int)left) > 0)
			return read(fd, &byte, 1) == 1;
	}
}

_Noreturn static void guard(const struct hold *hold, int word)
{
	int late;
	/* A signal to the session of the one that is guarded is not for the guard. */
	setsid();
	if (!await(word, hold->end, &late)) {
		thaw(hold);
		freeze_others(hold);
	}
	_exit(0);
}

int op_hold_frozen(struct run *run, const value *v)
{
	struct hold hold = { .paths = &v[OP_HOLD_FROZEN_PATHS], .end = clock_ms() + v[OP_HOLD_FROZEN_DEADLINE_MS].u32 };
	struct wire_items paths = wire_items(hold.paths);
	const char *path;
	int ends[2], late;
	for (uint32_t i = 0; (path = wire_next_str(&paths, NULL)); i++)
		hold.ours[i] = !is_asked_to_freeze(path);
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	autoclose int word = ends[0], told = ends[1];
	pid_t pid = k_fork(SIGCHLD);
	if (pid < 0)
		return (int)pid;
	if (pid == 0) {
		close_fd(&told);
		close(run->env->report);
		close(run->env->release);
		guard(&hold, word);
	}
	int error = freeze(run, &hold);
	if (error == 0)
		error = wait_at_rest(run, &hold);
	if (error < 0)
		return error; /* the guard thaws */
	report_send(run, PLAN_BARRIER, v[OP_HOLD_FROZEN_NUMBER].u32, 0, -1);
	if (!await(run->env->release, hold.end, &late))
		return say(run, late ? -ETIMEDOUT : -ECANCELED, "frozen cgroups were let go", NULL, NULL);
	thaw(&hold);
	(void)!write(told, "1", 1);
	return 0;
}
