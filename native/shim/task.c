/* Forked children: made, signalled, given up, freed. What an init, an exec or a killer makes of its events is in task_ops. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim.h"

#define NR_PIDFD_SEND_SIGNAL 424
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

/* Gives back everything but the task's own memory: an init lies inside its container. */
static void task_clear(struct task *task)
{
	list_remove(&task->link);
	watch_close(&task->report);
	drop_fd(&task->release);
	drop_fd(&task->pidfd);
	drop_fd(&task->console);
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
	drop_fd(&task->release);
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
		drop_fd(pin);
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
	env->proc = shim->proc;
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

struct task *task_find(int pid)
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
