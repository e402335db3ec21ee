/*
 * A container: created and parked (create.c), started (start.c), exited (exit.c), forgotten.
 *
 *   creating --PARKED--> parked --start--> starting --execve--> running --reaped--> exited (exit.c) --forget--> gone
 *      |                   |                  |
 *      +--dies: failed     +--dies: exited    +--fails: failed, then exited; never started
 *
 * A restored one is made by restore-prepare (creating, without an init) and parked by restore-adopt.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "shim.h"

#define FORGET_MS 2000
#define PAGE 4096u

struct container *container_find(const char *id)
{
	list_each(at, &shim->containers) {
		struct container *container = container_of(at, struct container, link);
		if (!container->forgotten && strcmp(container->id, id) == 0)
			return container;
	}
	return NULL;
}

static const char *put_string(char **at, const char *string)
{
	size_t size = strlen(string) + 1;
	char *copy = memcpy(*at, string, size);
	*at += size;
	return copy;
}

struct container *container_alloc(const char *id, const char *cgroup, const char *log_path, const char *oom_path,
				  const struct wire_value *kill_paths)
{
	size_t size = sizeof(struct container) + strlen(id) + strlen(cgroup) + strlen(log_path) + strlen(oom_path) + 4 + kill_paths->size;
	size = (size + PAGE - 1) / PAGE * PAGE;
	struct container *container = pages_alloc(size);
	if (container == NULL)
		return NULL;
	char *at = (char *)(container + 1);
	container->pages = size;
	container->id = put_string(&at, id);
	container->cgroup = put_string(&at, cgroup);
	container->log_path = put_string(&at, log_path);
	container->oom_path = put_string(&at, oom_path);
	container->kill_paths = *kill_paths;
	container->kill_paths.bytes = kill_paths->size > 0 ? memcpy(at, kill_paths->bytes, kill_paths->size) : NULL;
	container->stdin_fd = container->console = container->console_slave = -1;
	container->stdin_source.fd = container->stdin_wait.fd = -1;
	container->oom.watch.fd = container->oom.control = -1;
	container->deadline = NEVER;
	container->phase = PHASE_CREATING;
	task_init(&container->init, TASK_INIT, &init_ops);
	container->init.container = container;
	log_init(&container->log, container->log_path, LOG_LINE_DEFAULT);
	record_init(&container->record, id);
	list_append(&shim->containers, &container->link);
	return container;
}

void container_deadline(struct container *container, int64_t at_ms)
{
	container->deadline = at_ms;
	deadline_at(at_ms);
}

/* Answers start, reopen-log or forget. err < 0: success. */
void container_answer(struct container *container, int err, const char *detail)
{
	if (err >= 0)
		reply_failed(container->waiter, container->waiter_request, err, PLAN_NO_OP, detail);
	else
		reply_ok(container->waiter, container->waiter_request, 0);
	container->waiter = NULL;
	container->waiter_type = 0;
}

int container_expect(struct container *container, struct request *request)
{
	if (container->waiter_type != 0) {
		reply_failed(request->client, request->id, EBUSY, PLAN_NO_OP, "another request for this container is being carried out");
		return 0;
	}
	container->waiter = request->client;
	container->waiter_request = request->id;
	container->waiter_type = request->type;
	return 1;
}

static int has_tasks(const struct container *container)
{
	list_each(at, &shim->tasks)
		if (container_of(at, struct task, link)->container == container)
			return 1;
	return 0;
}

/* Nothing of it is left: tells who asked for its end, or for a container that could not be made. */
static void container_answer_gone(struct container *container)
{
	if (!container->answered)
		task_reply_failure(&container->init, "init ended before it was ready");
	if (container->waiter_type != 0)
		container_answer(container, -1, NULL);
}

void stdin_close(struct container *container)
{
	watch_close(&container->stdin_source);
	watch_close(&container->stdin_wait);
	drop_fd(&container->stdin_fd);
	drop_fd(&container->console);
}

/* Frees a forgotten container once no writer, killer or exec refers to it. */
void container_free_when_idle(struct container *container)
{
	if (!container->forgotten || has_tasks(container) || !work_is_idle(&container->log.work) || !work_is_idle(&container->record.work))
		return;
	container_answer_gone(container);
	task_free(&container->init);
	stdin_close(container);
	close_fd(&container->console_slave);
	oom_close(&container->oom);
	log_close(&container->log);
	close_fd(&container->record.file);
	list_remove(&container->link);
	pages_free(container, container->pages);
}

void container_discard(struct container *container)
{
	container->forgotten = 1;
	list_each(at, &shim->tasks) {
		struct task *task = container_of(at, struct task, link);
		if (task->container == container && task->kind == TASK_EXEC)
			task_signal(task, SIGKILL);
	}
	work_post(&container->record.work, RECORD_REMOVE);
	container_deadline(container, now_ms() + FORGET_MS);
}

void container_log_done(struct work *work, uint32_t bits)
{
	struct container *container = container_of(container_of(work, struct log, work), struct container, log);

	if ((bits & LOG_OPEN) != 0)
		start_log_opened(container);
	if ((bits & LOG_REOPEN) != 0 && container->waiter_type == MSG_REOPEN_LOG)
		container_answer(container, container->log.open_error != 0 ? container->log.open_error : -1, container->log_path);
	if (log_waits_for_clients(&container->log))
		sinks_wait(&container->log);
	if (container->exit_step == EXIT_FLUSHING)
		exit_continue(container);
	else if (container->exit_step == EXIT_REPORTED && work_is_idle(work))
		log_close(&container->log);
	container_free_when_idle(container);
}

void handle_reopen_log(struct request *request)
{
	struct container *container = container_find(request->value[MSG_REOPEN_LOG_ID].str);

	/* No file is made for a container that does not run: kubelet takes that as a sign that rotation worked. */
	if (container == NULL || container->phase != PHASE_RUNNING || container->exit_step != EXIT_NONE) {
		reply_failed(request->client, request->id, container == NULL ? ENOENT : 0, PLAN_NO_OP, "the container is not running");
		return;
	}
	if (!container_expect(container, request))
		return;
	container_deadline(container, now_ms() + LOG_OPEN_MS);
	work_post(&container->log.work, LOG_REOPEN);
}

void handle_forget(struct request *request)
{
	struct container *container = container_find(request->value[MSG_FORGET_ID].str);

	if (container == NULL) {
		reply_failed(request->client, request->id, ENOENT, PLAN_NO_OP, "no such container");
		return;
	}
	int parked = container->phase == PHASE_PARKED && container->answered && container->exit_step == EXIT_NONE;
	if (container_is_prepared(container)) {
		if (container_expect(container, request))
			container_abandon(container);
		return;
	}
	if (!container->answered) {
		/* Whoever asked for it has given up: its plan is still running. */
		if (container_expect(container, request))
			task_doom(&container->init, ECANCELED, "the container was forgotten");
		return;
	}
	if (!parked && container->phase != PHASE_EXITED) {
		reply_failed(request->client, request->id, EBUSY, PLAN_NO_OP, "the container is neither exited nor waiting to be started");
		return;
	}
	if (!container_expect(container, request))
		return;
	container->forgotten = 1;
	if (parked) {
		task_signal(&container->init, SIGKILL);
		kill_start(container, KILL_CGROUP, SIGKILL, 0, NULL);
		container_deadline(container, now_ms() + FORGET_MS);
	} else {
		container_discard(container);
	}
}

void containers_deadlines(int64_t now)
{
	list_each(at, &shim->containers) {
		struct container *container = container_of(at, struct container, link);
		if (log_waits_for_clients(&container->log))
			sinks_deadlines(&container->log, now);
		if (container->deadline > now) {
			deadline_at(container->deadline);
			continue;
		}
		container->deadline = NEVER;
		if (container->forgotten) {
			/* What is left waits for a file system; the caller need not. */
			container_answer_gone(container);
			container_deadline(container, now + FORGET_MS);
			container_free_when_idle(container);
		} else if (container->oom.recheck) {
			oom_deadline(container, now);
		} else if (container->exit_step != EXIT_NONE) {
			exit_deadline(container);
		} else if (container->phase == PHASE_STARTING) {
			start_deadline(container);
		} else if (container->waiter_type == MSG_REOPEN_LOG) {
			container_answer(container, ETIMEDOUT, container->log_path);
		}
	}
}

void containers_client_gone(struct client *client)
{
	list_each(at, &shim->containers) {
		struct container *container = container_of(at, struct container, link);
		/* What was asked is carried out all the same. */
		if (container->waiter == client)
			container->waiter = NULL;
		if (container->init.client == client) {
			container->init.client = NULL;
			if (container_is_prepared(container))
				container_abandon(container);
		}
	}
}
