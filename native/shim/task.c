/* Forked children: their reports, their end, their deadlines. What an init, an exec or a killer makes of these is in task_ops. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "shim.h"

#define NR_PIDFD_SEND_SIGNAL 424
#define NR_PIDFD_OPEN 434
/* How long a client waits for the end of a child that has been killed. */
#define DOOM_MS 2000

void task_init(struct task *task, enum task_kind kind, const struct task_ops *ops)
{
	*task = (struct task){
		.ops = ops, .kind = kind, .report = { .fd = -1 }, .release = -1, .pidfd = -1, .console = -1, .deadline = NEVER,
	};
	list_init(&task->link);
}

struct task *task_new(enum task_kind kind, const struct task_ops *ops)
{
	struct task *task = cell_alloc();
	if (task != NULL)
		task_init(task, kind, ops);
	return task;
}

static void close_and_forget(int *fd)
{
	close_fd(fd);
	*fd = -1;
}

/* Gives back everything but the task's own memory: an init lies inside its container. */
static void task_clear(struct task *task)
{
	list_remove(&task->link);
	watch_close(&task->report);
	close_and_forget(&task->release);
	close_and_forget(&task->pidfd);
	close_and_forget(&task->console);
	for (uint32_t i = 0; i < task->export_count; i++)
		close(task->exports[i].fd);
	task->export_count = 0;
	cell_free(task->exports);
	cell_free(task->failure);
	task->exports = NULL;
	task->failure = NULL;
}

void task_free(struct task *task)
{
	/* Whoever waited for this killer looks again on its own end. */
	list_each(at, &shim->tasks) {
		struct task *other = container_of(at, struct task, link);
		if (other->waits_for == task)
			other->waits_for = NULL;
	}
	task_clear(task);
	if (task->kind != TASK_INIT)
		cell_free(task);
}

void task_set_deadline(struct task *task, int64_t at_ms)
{
	task->deadline = at_ms;
	deadline_at(at_ms);
}

void task_signal(struct task *task, int signal)
{
	if (task->pidfd >= 0 && task->state != TASK_ENDED)
		syscall(NR_PIDFD_SEND_SIGNAL, task->pidfd, signal, NULL, 0);
}

void task_release(struct task *task)
{
	(void)!write(task->release, "\1", 1);
}

void task_fail(struct task *task, int err, uint32_t op, const char *detail)
{
	if (task->failure != NULL)
		return; /* the first reason is the one to tell */
	task->failure = cell_alloc();
	if (task->failure == NULL)
		return;
	task->failure->err = err;
	task->failure->op = op;
	struct text text = text_in(task->failure->detail, sizeof task->failure->detail);
	text_str(&text, detail);
}

void task_doom(struct task *task, int err, const char *detail)
{
	task_fail(task, err, PLAN_NO_OP, detail);
	task->doomed = 1;
	task_signal(task, SIGKILL);
	close_and_forget(&task->release);
	task_set_deadline(task, now_ms() + DOOM_MS);
}

void task_reply_failure(struct task *task, const char *otherwise)
{
	const struct failure *failure = task->failure;
	if (failure != NULL)
		reply_failed(task->client, task->request, failure->err, failure->op, failure->detail);
	else
		reply_failed(task->client, task->request, 0, PLAN_NO_OP, otherwise);
	task->client = NULL;
}

uint32_t task_take_exports(struct task *task, int *fds)
{
	uint32_t count = 0;
	for (uint32_t i = 0; i < task->export_count; i++) {
		struct task_export *export = &task->exports[i];
		if (export->pin == 0) {
			fds[count++] = export->fd;
			continue;
		}
		int *pin = &shim->pins[export->pin - PLAN_FIRST_PIN];
		close_and_forget(pin);
		*pin = export->fd;
	}
	task->export_count = 0;
	return count;
}

int task_is_dead(struct task *task)
{
	siginfo_t info = { 0 };
	/* Looks without reaping. */
	if (waitid(P_PID, (id_t)task->pid, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) < 0)
		return 1;
	return info.si_pid != 0;
}

static struct task *task_find(int pid)
{
	list_each(at, &shim->tasks) {
		struct task *task = container_of(at, struct task, link);
		if (task->pid == pid && task->state != TASK_ENDED)
			return task;
	}
	return NULL;
}

int task_known(int pid)
{
	return task_find(pid) != NULL;
}

static void report_forked(struct task *task, int pid)
{
	siginfo_t info;
	if (pid == task->pid || pid <= 0 || task->forks_left == 0)
		return;
	/* Only a child of ours that nothing else claims: a traced process could name anybody. */
	if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) < 0 || task_find(pid) != NULL)
		return;
	int pidfd = (int)syscall(NR_PIDFD_OPEN, pid, 0);
	if (pidfd < 0)
		return;
	task->forks_left--;
	close_and_forget(&task->pidfd);
	task->pid = pid;
	task->pidfd = pidfd;
	if (task->doomed)
		task_signal(task, SIGKILL);
}

static void report_descriptor(struct task *task, uint32_t pin, int *fd)
{
	struct winsize size;

	if (task->exports == NULL)
		task->exports = cell_alloc();
	if (task->exports == NULL || task->export_count == EXPORT_LIMIT) {
		task_doom(task, EMFILE, "the plan exports too many descriptors");
		return;
	}
	/* Somebody must be able to resize an exec's terminal; its user gets the master itself. */
	if (pin == 0 && task->kind == TASK_EXEC && task->console < 0 && ioctl(*fd, TIOCGWINSZ, &size) == 0)
		task->console = fcntl(*fd, F_DUPFD_CLOEXEC, 3);
	task->exports[task->export_count++] = (struct task_export){ steal_fd(fd), pin };
}

static void report_barrier(struct task *task, uint32_t number)
{
	struct reply reply;

	if (task->client == NULL) {
		task_doom(task, ECANCELED, "the client has gone");
		return;
	}
	task->barrier = number;
	task->barrier_waits = 1;
	reply_begin(&reply);
	wire_put_u32(&reply.out, (uint32_t)task->pid);
	wire_put_u32(&reply.out, number);
	reply_send(task->client, MSG_BARRIER, task->request, &reply, NULL, 0);
}

static void report_handle(struct task *task, struct plan_report *report, int *fd)
{
	report->detail[sizeof report->detail - 1] = '\0';
	if (report->type == PLAN_FAILED) {
		task_fail(task, report->err, report->op, report->detail);
		/* It ends by itself, if it was the one who said so. */
		task_signal(task, SIGKILL);
		return;
	}
	/* A parked process may be traced by its neighbours: from then on nothing else is believed. */
	if (task->state != TASK_SETUP)
		return;
	switch (report->type) {
	case PLAN_BARRIER:
		report_barrier(task, report->number);
		break;
	case PLAN_EXPORT:
		if (*fd >= 0 && task->exports_left > 0) {
			task->exports_left--;
			report_descriptor(task, 0, fd);
		}
		break;
	case PLAN_PIN:
		if (*fd >= 0 && task->pins_left > 0 && report->number >= PLAN_FIRST_PIN && report->number < PLAN_FIRST_PIN + PLAN_PINS) {
			task->pins_left--;
			report_descriptor(task, report->number, fd);
		}
		break;
	case PLAN_FORKED:
		report_forked(task, report->pid);
		break;
	case PLAN_CONSOLE:
		if (task->console < 0 && task->makes_console)
			task->console = steal_fd(fd);
		break;
	case PLAN_PARKED:
		if (task->kind == TASK_INIT && !task->doomed && task->failure == NULL) {
			task->state = TASK_PARKED;
			task->ops->parked(task);
		}
		break;
	}
}

/* Takes one report. 1: there may be more; 0: nothing now, or the channel is closed. */
static int report_take(struct task *task)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct plan_report report;
	struct iovec data = { &report, sizeof report };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes };
	autoclose int fd = -1;

	if (task->report.fd < 0)
		return 0;
	ssize_t size = recvmsg(task->report.fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (size < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (size <= 0) {
		watch_close(&task->report);
		task->ops->report_closed(task);
		return 0;
	}
	struct cmsghdr *c = CMSG_FIRSTHDR(&message);
	if (c != NULL && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(c), sizeof fd);
	if (size == sizeof report)
		report_handle(task, &report, &fd);
	return 1;
}

static void report_ready(struct watch *watch, uint32_t events)
{
	(void)events;
	/* One at a time: the handler may free the task. */
	report_take(container_of(watch, struct task, report));
}

int task_fork(struct task *task, uint32_t kinds, const char *cgroup, struct child_ends *ends)
{
	int sockets[2], pipes[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
		return -errno;
	task->report = (struct watch){ .fd = sockets[0], .ready = report_ready };
	autoclose int report = sockets[1];
	if (pipe2(pipes, O_CLOEXEC) < 0)
		return -errno;
	autoclose int release = pipes[0];
	task->release = pipes[1];

	int pid = fork_child(kinds, cgroup, &task->pidfd);
	if (pid == 0) {
		/* The task itself is not here: see pages_alloc. */
		ends->report = steal_fd(&report);
		ends->release = steal_fd(&release);
		return 0;
	}
	if (pid < 0)
		return pid;
	task->pid = pid;
	task->state = TASK_SETUP;
	list_append(&shim->tasks, &task->link);
	int err = watch_add(&task->report, EPOLLIN);
	if (err < 0)
		task_doom(task, -err, "epoll");
	return 1;
}

int task_fork_plan(struct task *task, uint32_t kinds, const char *cgroup, const struct plan *plan, struct plan_env *env)
{
	struct child_ends ends;

	/*
	 * A process that has been forked into a shared PID namespace may be traced already: it can only report what its plan says, so
	 * that nobody slips a namespace of his own choice into the pod's pins.
	 */
	task->forks_left = count_ops(plan, OP_FORK);
	task->pins_left = count_ops(plan, OP_PIN);
	task->makes_console = count_ops(plan, OP_CONSOLE) > 0;
	task->exports_left = (uint8_t)(count_ops(plan, OP_EXPORT) + task->makes_console);
	env->image = plan_has(plan, OP_REAPER) ? shim->image : -1;
	memcpy(env->pins, shim->pins, sizeof env->pins);
	int err = task_fork(task, kinds, cgroup, &ends);
	if (err == 0) {
		env->report = ends.report;
		env->release = ends.release;
		plan_child(plan, env);
	}
	return err < 0 ? err : 0;
}

void task_restore(struct task *task, int pidfd, int report, int release, enum task_state state)
{
	task->pidfd = pidfd;
	task->release = release;
	task->state = (uint8_t)state;
	task->report = (struct watch){ .fd = report, .ready = report_ready };
	if (report >= 0)
		watch_add(&task->report, EPOLLIN);
	list_append(&shim->tasks, &task->link);
}

/* Reads what a task that may just have died has still to say. The task may be freed by it. */
static void drain(struct task *task)
{
	for (int i = 0; i < 64 && task->report.fd >= 0; i++)
		if (report_take(task) == 0)
			break;
}

/* Behind a fork the process that went before holds the channel too, and may be slower to end than its successor was to execute and
 * be done: without its end an execve could not be told from a death. It has nothing to do but to leave. */
#define PREDECESSOR_MS 100
static void drain_to_end(struct task *task)
{
	struct pollfd end = { .fd = task->report.fd, .events = POLLIN };
	if (task->state != TASK_SETUP || task->failure != NULL)
		return;
	while (task->report.fd >= 0 && poll(&end, 1, PREDECESSOR_MS) == 1)
		drain(task);
}

void tasks_reap(void)
{
	for (;;) {
		siginfo_t info = { 0 };
		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) < 0 || info.si_pid == 0)
			return;
		/* Nothing is reaped before all reports are read: one may say that this pid is a task's new process. */
		struct task *task = task_find(info.si_pid);
		if (task != NULL) {
			drain(task);
		} else {
			list_each(at, &shim->tasks) {
				struct task *other = container_of(at, struct task, link);
				if (other->state == TASK_SETUP && other->forks_left > 0)
					drain(other);
			}
		}
		task = task_find(info.si_pid);
		if (task != NULL && task->report.fd >= 0)
			drain_to_end(task);
		int status;
		/* Orphans of the containers come here too: we are their subreaper. */
		if (waitpid(info.si_pid, &status, WNOHANG | __WALL) != info.si_pid || task == NULL)
			continue;
		watch_close(&task->report);
		task->was_live = task->state == TASK_LIVE;
		task->state = TASK_ENDED;
		task->status = (uint32_t)status;
		task->at_ns = wall_ns();
		close_and_forget(&task->pidfd);
		close_and_forget(&task->release);
		task->ops->ended(task);
	}
}

void tasks_deadlines(int64_t now)
{
	list_each(at, &shim->tasks) {
		struct task *task = container_of(at, struct task, link);
		if (task->deadline > now) {
			deadline_at(task->deadline);
			continue;
		}
		task->deadline = NEVER;
		task->ops->deadline(task);
	}
}

void tasks_client_gone(struct client *client)
{
	list_each(at, &shim->tasks) {
		struct task *task = container_of(at, struct task, link);
		if (task->client != client)
			continue;
		task->client = NULL;
		task->ops->client_gone(task);
	}
}

void handle_continue(struct request *request)
{
	list_each(at, &shim->tasks) {
		struct task *task = container_of(at, struct task, link);
		if (task->client != request->client || task->request != request->id || !task->barrier_waits)
			continue;
		if (task->barrier != request->value[MSG_CONTINUE_NUMBER].u32)
			continue;
		task->barrier_waits = 0;
		task_release(task);
		return;
	}
	/* Nobody waits any more: the answer to the request itself has said why. */
}
