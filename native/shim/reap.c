/* The end of forked children, their deadlines, and those of clients that have gone. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim.h"

/* Reads what a task that may just have died has still to say. */
static void drain(struct task *task)
{
	for (int i = 0; i < 64 && task->report.fd >= 0; i++)
		if (report_take(task) == 0)
			break;
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
		int status;
		/* Orphans of the containers come here too: we are their subreaper. */
		if (waitpid(info.si_pid, &status, WNOHANG | __WALL) != info.si_pid || task == NULL)
			continue;
		watch_close(&task->report);
		task->was_live = task->state == TASK_LIVE;
		task->state = TASK_ENDED;
		task->status = (uint32_t)status;
		task->at_ns = wall_ns();
		drop_fd(&task->pidfd);
		drop_fd(&task->release);
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
		/* Its cgroup may have been made while it waited. */
		if (task->kind == TASK_INIT && task->container->oom.watch.fd < 0)
			oom_open(&task->container->oom, task->container->oom_path);
		task_release(task);
		return;
	}
	/* Nobody waits any more: the answer to the request itself has said why. */
}
