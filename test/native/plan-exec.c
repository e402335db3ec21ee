/*
 * Runs plans as the shim does, for tests. plan-exec [-d DENY] [-h] [-p PID]... FILE[:CLONE_KINDS]...
 *
 * Each file is an encoded plan, run in a child of its own. Slots 0 to 2 are this program's stdio, from 3 on come the descriptors
 * that earlier plans exported, before them pidfds for each -p; pins are kept from plan to plan. Events go to descriptor 3, one per line; with -h a line must be read
 * from descriptor 4 before a barrier or park goes on. A child that executes something is waited for only if its plan is the last.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel.h"
#include "plan.h"

enum { MAX_CHILDREN = 32 };

static struct plan_env state;
static int exported = 3, hold;
static pid_t children[MAX_CHILDREN];
static int child_count;
static unsigned char bytes[PLAN_MAX_BYTES];

static void read_plan(const char *path, struct plan *plan)
{
	struct plan_error error;
	FILE *file = fopen(path, "re");
	size_t size = file ? fread(bytes, 1, sizeof bytes, file) : 0;
	if (!file)
		exit(2);
	fclose(file);
	int code = plan_decode(bytes, size, plan, &error);
	if (code < 0) {
		dprintf(3, "refused op=%d errno=%d %s\n", (int)error.op, -code, error.why);
		exit(2);
	}
}

static void await_line(void)
{
	char c;
	while (hold && read(4, &c, 1) == 1 && c != '\n')
		;
}

static int receive(int fd, struct plan_report *report, int *passed)
{
	char control[CMSG_SPACE(sizeof(int))];
	struct iovec data = { .iov_base = report, .iov_len = sizeof *report };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	ssize_t got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
	*passed = -1;
	struct cmsghdr *head = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
	if (head)
		memcpy(passed, CMSG_DATA(head), sizeof *passed);
	return got == (ssize_t)sizeof *report;
}

static const char *name_of(const struct plan *plan, uint32_t index)
{
	struct plan_cursor cursor;
	plan_cursor(plan, &cursor);
	for (uint32_t i = 0; plan_next(&cursor); i++)
		if (i == index)
			return plan_op_name(cursor.code);
	return "?";
}

static int handle(const struct plan *plan, const struct plan_report *report, int passed, int release)
{
	switch (report->type) {
	case PLAN_FAILED:
		dprintf(3, "failed %s errno=%d %s\n", name_of(plan, report->op), report->err, report->detail);
		return 0;
	case PLAN_EXPORT:
		state.slots[exported++] = passed;
		dprintf(3, "export %u\n", report->number);
		return 0;
	case PLAN_PIN:
		state.pins[report->number - PLAN_FIRST_PIN] = passed;
		dprintf(3, "pin %u\n", report->number);
		return 0;
	case PLAN_FORKED:
		children[child_count - 1] = report->pid;
		dprintf(3, "forked %d\n", report->pid);
		return 0;
	case PLAN_CONSOLE:
		state.slots[exported++] = passed;
		dprintf(3, "console\n");
		return 0;
	case PLAN_BARRIER:
	case PLAN_PARKED:
		dprintf(3, report->type == PLAN_PARKED ? "parked %d\n" : "barrier %d\n", report->type == PLAN_PARKED ? children[child_count - 1] : (int)report->number);
		await_line();
		return write(release, "", 1) == 1 ? 0 : -1;
	}
	return -1;
}

/* Copies the terminal's output to stdout, for plans with a console. */
static void drain_console(int master)
{
	char text[512];
	ssize_t got;
	while ((got = read(master, text, sizeof text)) > 0)
		(void)!write(1, text, (size_t)got);
}

static int run_plan(char *argument, int last)
{
	char *kinds = strchr(argument, ':');
	struct plan plan;
	struct plan_report report;
	int ends[2], gate[2], passed, console = -1, status = 0;
	if (kinds)
		*kinds++ = 0;
	read_plan(argument, &plan);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0 || pipe2(gate, O_CLOEXEC) < 0)
		exit(2);
	uint64_t args[11] = { kinds ? strtoul(kinds, NULL, 0) : 0, 0, 0, 0, SIGCHLD };
	pid_t pid = (pid_t)syscall(435, args, sizeof args);
	if (pid == 0) {
		state.report = ends[1];
		state.release = gate[0];
		plan_run(&plan, &state);
	}
	if (pid < 0)
		exit(2);
	children[child_count++] = pid;
	close(ends[1]);
	close(gate[0]);
	while (receive(ends[0], &report, &passed)) {
		if (report.type == PLAN_CONSOLE)
			console = passed;
		if (handle(&plan, &report, passed, gate[1]) < 0)
			exit(2);
	}
	close(ends[0]);
	close(gate[1]);
	pid_t final = children[child_count - 1];
	if (final != pid)
		waitpid(pid, &status, 0);
	if (!last && waitpid(final, &status, WNOHANG) == 0 && plan_has(&plan, OP_REAPER)) {
		dprintf(3, "runs %d\n", final);
		return 0;
	}
	if (last)
		dprintf(3, "runs %d\n", final);
	if (console >= 0)
		drain_console(console);
	waitpid(final, &status, 0);
	child_count--;
	if (WIFSIGNALED(status))
		dprintf(3, "killed %d\n", WTERMSIG(status));
	else
		dprintf(3, "exit %d\n", WEXITSTATUS(status));
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int main(int argc, char **argv)
{
	int i = 1, code = 0;
	if (argc > 0 && strcmp(argv[0], REAPER_NAME) == 0)
		return reaper_main();
	/* As the shim is. */
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	plan_env_init(&state);
	for (; i < argc && argv[i][0] == '-'; i++) {
		if (strcmp(argv[i], "-h") == 0)
			hold = 1;
		else if (strcmp(argv[i], "-p") == 0 && i + 1 < argc)
			state.slots[exported++] = (int)syscall(434, atoi(argv[++i]), 0);
		else if (strcmp(argv[i], "-d") == 0 && i + 1 < argc && kernel_deny(argv[++i]) < 0)
			return 2;
	}
	for (int fd = 0; fd < 3; fd++)
		state.slots[fd] = fcntl(fd, F_DUPFD_CLOEXEC, 10);
	state.image = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	for (; i < argc && code == 0; i++)
		code = run_plan(argv[i], i + 1 == argc);
	for (int c = 0; c < child_count; c++)
		kill(children[c], SIGKILL);
	while (wait(NULL) > 0)
		;
	return code;
}
