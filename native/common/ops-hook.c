/* Hooks that run inside the container's namespaces (createContainer, startContainer): programs of their own, with a state on stdin. */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOOK_AGAIN_MS 5
#define HOOK_NOT_EXECUTED 126

static char **strings_of(const value *list)
{
	size_t count = 0;
	const char *item;
	struct wire_items items = wire_items(list);
	char **array = mmap(NULL, ((size_t)list->count + 1) * sizeof(char *), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (array == MAP_FAILED)
		return NULL;
	while ((item = wire_next_str(&items, NULL)))
		array[count++] = (char *)item;
	array[count] = NULL;
	return array;
}

static int put(int fd, const char *text, size_t size)
{
	while (size > 0) {
		ssize_t written = write(fd, text, size);
		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0)
			return -errno;
		text += written;
		size -= (size_t)written;
	}
	return 0;
}

/* The state, with the pid of this process as the container sees it (runtime-spec "State"). No pipe: it may be larger than one holds. */
static int open_state(const value *before, const value *after)
{
	char pid[12];
	autoclose int fd = (int)k_result(syscall(SYS_memfd_create, "state", MFD_CLOEXEC));
	if (fd < 0)
		return fd;
	decimal(pid, (uint32_t)getpid());
	int error = put(fd, before->str, before->size);
	if (error == 0)
		error = put(fd, pid, strlen(pid));
	if (error == 0)
		error = put(fd, after->str, after->size);
	if (error == 0 && lseek(fd, 0, SEEK_SET) < 0)
		error = -errno;
	return error < 0 ? error : steal_fd(&fd);
}

_Noreturn static void hook_child(const struct run *run, const value *v, int state, int output, char **argv, char **envp)
{
	char number[12];
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	setsid();
	if (dup2(state, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0)
		_exit(HOOK_NOT_EXECUTED);
	/* createContainer: the root is the working directory, though not yet "/". */
	if (!run->in_container && run->root >= 0 && fchdir(run->root) < 0)
		_exit(HOOK_NOT_EXECUTED);
	/* Nothing of the runtime's may be reached from a program (CVE-2024-21626). */
	k_close_range(3, ~0u);
	execve(v[OP_HOOK_PATH].str, argv, envp);
	int error = errno;
	put(2, "it cannot be executed, errno ", 29);
	decimal(number, (uint32_t)error);
	put(2, number, strlen(number));
	_exit(HOOK_NOT_EXECUTED);
}

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Keeps the end of what the hook writes, for the message. */
struct tail {
	char text[160];
	size_t size; /* behind the ": " at the start */
};
enum { TAIL_START = 2, TAIL_ROOM = sizeof((struct tail *)0)->text - TAIL_START - 1 };

/* 0 at the end of the output, or when there is none now. */
static int take_output(int fd, struct tail *tail)
{
	char part[256];
	ssize_t got = read(fd, part, sizeof part);
	if (got <= 0)
		return 0;
	char *text = tail->text + TAIL_START;
	size_t size = (size_t)got, from = size > TAIL_ROOM ? size - TAIL_ROOM : 0;
	size -= from;
	if (tail->size + size > TAIL_ROOM) {
		size_t drop = tail->size + size - TAIL_ROOM;
		memmove(text, text + drop, tail->size - drop);
		tail->size -= drop;
	}
	memcpy(text + tail->size, part + from, size);
	tail->size += size;
	text[tail->size] = 0;
	return 1;
}

/* Polls: pidfds and signal descriptors are more than a filter that is already loaded may allow. Returns the wait status or -errno. */
static int wait_for_hook(pid_t pid, int output, uint32_t timeout_ms, struct tail *tail)
{
	int status;
	int64_t end = now_ms() + timeout_ms;
	for (;;) {
		struct pollfd ready = { .fd = output, .events = POLLIN };
		if (poll(&ready, 1, LOOK_AGAIN_MS) > 0 && (ready.revents & POLLIN) && take_output(output, tail))
			continue;
		pid_t done = waitpid(pid, &status, WNOHANG);
		if (done == pid)
			break;
		if (done < 0 && errno != EINTR)
			return -errno;
		if (ready.revents & POLLHUP)
			nanosleep(&(struct timespec){ .tv_nsec = LOOK_AGAIN_MS * 1000000 }, NULL);
		if (timeout_ms != 0 && now_ms() >= end) {
			kill(-pid, SIGKILL);
			kill(pid, SIGKILL);
			while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
				;
			return -ETIMEDOUT;
		}
	}
	while (take_output(output, tail))
		;
	return status;
}

int op_hook(struct run *run, const value *v)
{
	char what[64] = "", number[16] = " #";
	struct tail tail = { .text = ": " };
	int ends[2];
	char **argv = strings_of(&v[OP_HOOK_ARGS]), **envp = strings_of(&v[OP_HOOK_ENV]);
	if (!argv || !envp)
		return -ENOMEM;
	if (v[OP_HOOK_NAME].size < sizeof what - 16) {
		memcpy(what, v[OP_HOOK_NAME].str, v[OP_HOOK_NAME].size + 1);
		decimal(number + 2, v[OP_HOOK_INDEX].u32);
		strcat(strcat(what, " hook"), number);
	}
	autoclose int state = open_state(&v[OP_HOOK_BEFORE], &v[OP_HOOK_AFTER]);
	if (state < 0)
		return say(run, state, what, ": state", NULL);
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return say(run, -errno, what, ": pipe", NULL);
	autoclose int output = ends[0];
	autoclose int other_end = ends[1];
	/* The hook writes as programs do: only our end does not wait. */
	fcntl(other_end, F_SETFL, 0);
	pid_t pid = k_fork(SIGCHLD);
	if (pid == 0)
		hook_child(run, v, state, other_end, argv, envp);
	if (pid < 0)
		return say(run, pid, what, ": fork", NULL);
	close(steal_fd(&other_end));
	int status = wait_for_hook(pid, output, v[OP_HOOK_TIMEOUT_MS].u32, &tail);
	if (status == 0)
		return 0;
	if (status == -ETIMEDOUT)
		return say(run, -ETIMEDOUT, "error running ", what, ": hook ran past its timeout");
	if (status < 0)
		return say(run, status, what, ": wait", NULL);
	return say(run, -ECANCELED, "error running ", what, tail.size > 0 ? tail.text : ": it failed without a word");
}
