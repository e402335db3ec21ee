/* Start: log opened, init released, execve seen; and what an init's end means at each stage. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim.h"

#define EXECVE_CHECK_MS 1000

void handle_start(struct request *request)
{
	struct container *container = container_find(request->value[MSG_START_ID].str);

	if (container == NULL || container->phase != PHASE_PARKED || !container->answered || container->exit_step != EXIT_NONE) {
		reply_failed(request->client, request->id, container == NULL ? ENOENT : 0, PLAN_NO_OP, "the container is not waiting to be started");
		return;
	}
	if (!container_expect(container, request))
		return;
	container->phase = PHASE_STARTING;
	oom_baseline(&container->oom);
	container_deadline(container, now_ms() + LOG_OPEN_MS);
	work_post(&container->log.work, LOG_OPEN);
}

static void start_fail(struct container *container, int err, const char *detail)
{
	task_fail(&container->init, err, PLAN_NO_OP, detail);
	task_signal(&container->init, SIGKILL);
	kill_start(container, KILL_THAW, 0, 0, NULL);
	container_deadline(container, NEVER);
}

static void restored_thawed(struct task *killer);

void start_log_opened(struct container *container)
{
	if (container->phase != PHASE_STARTING || container->log.opened)
		return;
	if (container->log.open_error != 0) {
		start_fail(container, container->log.open_error, container->log_path);
		return;
	}
	container->log.opened = 1;
	if ((container->flags & CREATE_RESTORED) != 0) {
		if (kill_start(container, KILL_THAW, 0, 0, restored_thawed) == NULL)
			start_fail(container, ENOMEM, "thaw");
		return;
	}
	container_deadline(container, now_ms() + EXECVE_CHECK_MS);
	task_release(&container->init);
}

static void started(struct container *container)
{
	struct reply reply;

	container->phase = PHASE_RUNNING;
	container->started_ns = wall_ns();
	container->init.state = TASK_LIVE;
	container_deadline(container, NEVER);
	drop_fd(&container->init.release);
	if (container->waiter_type == MSG_START) {
		reply_begin(&reply);
		wire_put_u64(&reply.out, container->started_ns);
		reply_send(container->waiter, MSG_STARTED, container->waiter_request, &reply, NULL, 0);
		container->waiter = NULL;
		container->waiter_type = 0;
	}
}

static void restored_thawed(struct task *killer)
{
	struct container *container = killer->container;
	/* It may have ended meanwhile, which tells the same. */
	if (container->phase == PHASE_STARTING && container->exit_step == EXIT_NONE && container->init.state == TASK_PARKED)
		started(container);
}

static void init_report_closed(struct task *task)
{
	struct container *container = task->container;
	/* Before the release it means death, which is on its way. */
	if (container->phase == PHASE_STARTING && container->log.opened && task->failure == NULL)
		started(container);
}

/*
 * The report descriptor closes on execve unless a neighbour that may trace the parked init has taken a copy of it. Then the
 * program tells: the child runs our image until execve.
 */
static int has_executed(int pid)
{
	char path[40];
	struct stat theirs, ours;
	struct text text = text_in(path, sizeof path);
	text_str(&text, "/proc/");
	text_u64(&text, (uint64_t)pid);
	text_str(&text, "/exe");
	return stat(path, &theirs) == 0 && fstat(shim->image, &ours) == 0 && (theirs.st_dev != ours.st_dev || theirs.st_ino != ours.st_ino);
}

void start_deadline(struct container *container)
{
	if (!container->log.opened) {
		start_fail(container, ETIMEDOUT, container->log_path);
	} else if ((container->flags & CREATE_RESTORED) != 0) {
		return; /* being thawed */
	} else if (has_executed(container->init.pid)) {
		watch_close(&container->init.report);
		init_report_closed(&container->init);
	} else {
		container_deadline(container, now_ms() + EXECVE_CHECK_MS);
	}
}

static void init_ended(struct task *task)
{
	struct container *container = task->container;
	uint32_t status = task->status;

	container->exited_ns = task->at_ns;
	list_remove(&task->link);
	if (!container->answered || container->forgotten) {
		container_discard(container);
		return;
	}
	if (container->phase == PHASE_STARTING) {
		if (task->failure == NULL) {
			/* It has been released and has not complained, so it got as far as execve. */
			if (container->log.opened)
				started(container);
			else
				task_fail(task, ECHILD, PLAN_NO_OP, "init ended before it was started");
		}
		if (task->failure != NULL) {
			if (container->waiter_type == MSG_START) {
				reply_failed(container->waiter, container->waiter_request, task->failure->err, task->failure->op, task->failure->detail);
				container->waiter_type = 0;
				container->waiter = NULL;
			}
			status = STATUS_NEVER_STARTED;
		}
	}
	exit_begin(container, status);
}

static void init_deadline(struct task *task)
{
	if (task->doomed)
		task_reply_failure(task, "init does not end"); /* in an uninterruptible wait: it is cleaned up when it does */
	else if (!task->container->answered)
		task_doom(task, ETIMEDOUT, "the container was not ready in time");
}

static void init_client_gone(struct task *task)
{
	/* Nobody would ever start it. */
	if (!task->container->answered)
		task_doom(task, ECANCELED, "the client has gone");
}

const struct task_ops init_ops = {
	.parked = init_parked,
	.report_closed = init_report_closed,
	.ended = init_ended,
	.deadline = init_deadline,
	.client_gone = init_client_gone,
};
