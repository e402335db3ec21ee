/*
 * From a dead init to a reported exit:
 *
 *   reaped -> (rest of the cgroup killed) -> log flushed -> exit record written -> reported to every client, until acknowledged
 *
 * Each step has a bound: a file system that does not answer delays the report, it never prevents it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim.h"

/* A little more than a killer's own bound. */
#define KILL_MS 9000

static int was_oom_killed(struct container *container)
{
	int status = (int)container->status;
	int killed = (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) || (WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGKILL);
	return killed && oom_read(&container->oom) > container->oom.baseline;
}

static void exit_report(struct container *container)
{
	container->exit_step = EXIT_REPORTED;
	container->phase = PHASE_EXITED;
	container->deadline = NEVER;
	exit_send(container, NULL);
	if (work_is_idle(&container->log.work))
		log_close(&container->log);
	if (container->waiter_type != 0)
		container_answer(container, ECHILD, "the container has exited");
	if (shim->shutdown_deadline != 0)
		shutdown_continue(now_ms());
}

static void record_line(struct text *text, const char *key, uint64_t value)
{
	text_str(text, key);
	text_str(text, " ");
	text_u64(text, value);
	text_str(text, "\n");
}

/* What nobody will read any more. */
static void count_unread(struct log *log)
{
	for (unsigned i = 0; i < 2; i++) {
		int left = 0;
		if (log->stream[i].watch.fd >= 0 && !log->stream[i].at_end && ioctl(log->stream[i].watch.fd, FIONREAD, &left) == 0)
			__atomic_fetch_add(&log->dropped, (uint64_t)left, __ATOMIC_RELAXED);
	}
}

static void exit_record(struct container *container)
{
	struct text text = text_in(container->record.text, sizeof container->record.text);

	container->exit_step = EXIT_RECORDING;
	count_unread(&container->log);
	record_line(&text, "pid", (uint64_t)container->init.pid);
	record_line(&text, "status", container->status);
	record_line(&text, "atNs", container->exited_ns);
	record_line(&text, "startedAtNs", container->started_ns);
	record_line(&text, "oomKilled", container->oom_killed);
	record_line(&text, "logDroppedBytes", log_dropped(&container->log));
	container->record.length = (uint32_t)text.length;
	container_deadline(container, now_ms() + STUCK_MS);
	work_post(&container->record.work, RECORD_WRITE);
}

static void exit_flush(struct container *container)
{
	container->exit_step = EXIT_FLUSHING;
	container->oom.recheck = 0;
	/* A session leader's end hangs its terminal up; our own end must not keep the master from saying so. */
	drop_fd(&container->console_slave);
	container_deadline(container, now_ms() + FLUSH_MS);
	exit_continue(container);
}

static void rest_killed(struct task *killer)
{
	if (killer->container != NULL && killer->container->exit_step == EXIT_KILLING)
		exit_flush(killer->container);
}

void exit_begin(struct container *container, uint32_t status)
{
	container->status = status;
	oom_tell(container);
	container->oom_killed = (uint8_t)was_oom_killed(container);
	stdin_close(container);
	container->exit_step = EXIT_KILLING;
	/* With a PID namespace of its own the kernel has killed everybody else already. */
	if ((container->flags & CREATE_KILL_REST) != 0 && kill_start(container, KILL_CGROUP, SIGKILL, 0, rest_killed) != NULL)
		container_deadline(container, now_ms() + KILL_MS);
	else
		exit_flush(container);
}

/* A writer has done something. */
void exit_continue(struct container *container)
{
	if (container->exit_step == EXIT_FLUSHING && log_at_end(&container->log))
		exit_record(container);
	else if (container->exit_step == EXIT_RECORDING && work_is_idle(&container->record.work))
		exit_report(container);
}

void exit_deadline(struct container *container)
{
	switch (container->exit_step) {
	case EXIT_KILLING:
		exit_flush(container);
		break;
	case EXIT_FLUSHING:
		if (!container->flush_overdue) {
			/* Somebody still holds the pipes: what they hold now is the last that is taken. */
			container->flush_overdue = 1;
			container_deadline(container, now_ms() + STUCK_MS);
			work_post(&container->log.work, LOG_FINISH);
		} else {
			exit_record(container);
		}
		break;
	case EXIT_RECORDING:
		exit_report(container);
		break;
	}
}

/* To one client, or to all (NULL). */
void exit_send(struct container *container, struct client *client)
{
	struct reply reply;

	reply_begin(&reply);
	wire_put_str(&reply.out, container->id);
	wire_put_u32(&reply.out, (uint32_t)container->init.pid);
	wire_put_u32(&reply.out, container->status);
	wire_put_u64(&reply.out, container->exited_ns);
	wire_put_u64(&reply.out, container->started_ns);
	wire_put_u32(&reply.out, container->oom_killed);
	wire_put_u64(&reply.out, log_dropped(&container->log));
	if (client != NULL)
		reply_send(client, MSG_EXIT, 0, &reply, NULL, 0);
	else
		broadcast(MSG_EXIT, &reply);
}
