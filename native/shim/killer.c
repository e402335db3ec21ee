/* The shim's side of killers: forks them, and tells who waits when they have ended. */
#define _GNU_SOURCE
#include <string.h>
#include <unistd.h>

#include "shim.h"

static void kill_ended(struct task *task)
{
	struct container *container = task->container;

	if (task->killed != NULL)
		task->killed(task);
	task_free(task);
	/* It may have been the last that a forgotten container waited for. */
	if (container != NULL)
		container_free_when_idle(container);
}

static void kill_nothing(struct task *task)
{
	(void)task;
}

static const struct task_ops kill_ops = {
	.ended = kill_ended, .deadline = kill_nothing, .client_gone = kill_nothing, .report_closed = kill_nothing, .parked = kill_nothing,
};

struct task *kill_start(struct container *container, enum kill_mode mode, int signal, int sid, void (*on_end)(struct task *))
{
	struct wire_value paths = { .bytes = NULL };
	uint8_t *copy = NULL;
	struct task *task = task_new(TASK_KILL, &kill_ops);
	int shim_pid = getpid();

	if (task == NULL)
		return NULL;
	if (container != NULL && container->kill_paths.size > 0) {
		copy = child_pages_alloc(container->kill_paths.size);
		if (copy == NULL) {
			cell_free(task);
			return NULL;
		}
		paths = container->kill_paths;
		memcpy(copy, paths.bytes, paths.size);
		paths.bytes = copy;
	}
	task->container = container;
	task->killed = on_end;
	int pid = fork_child(0, "", &task->pidfd);
	if (pid == 0) {
		close_all_but(NULL, 0);
		kill_child(mode, signal, sid, &paths, shim_pid);
	}
	if (copy != NULL)
		pages_free(copy, paths.size);
	if (pid < 0) {
		cell_free(task);
		return NULL;
	}
	task->pid = pid;
	task->state = TASK_LIVE;
	list_append(&shim->tasks, &task->link);
	return task;
}
