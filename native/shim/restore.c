/*
 * Containers that are restored. The process is made by CRIU, a child of ours, as its sibling: so it is our child like any init. Log
 * and stdio have to be there before it; it is taken over, frozen, when it is complete.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim.h"

#define NR_PIDFD_OPEN 434

int container_is_prepared(const struct container *container)
{
	return container->phase == PHASE_CREATING && container->init.pid == 0 && !container->forgotten;
}

/* With whatever CRIU has made of it so far. */
void container_abandon(struct container *container)
{
	container->init.client = NULL;
	kill_start(container, KILL_CGROUP, SIGKILL, 0, NULL);
	container_discard(container);
}

static const char *prepare_refusal(const struct request *request)
{
	const struct wire_value *value = request->value;
	if (!container_id_valid(value[MSG_RESTORE_PREPARE_ID].str, value[MSG_RESTORE_PREPARE_ID].size))
		return "a container's id has 1 to 128 letters, digits, '_', '.' and '-'";
	if (value[MSG_RESTORE_PREPARE_LOG_LINE_BYTES].u32 > LOG_LINE_LIMIT)
		return "log lines may have at most 65536 bytes";
	if (container_find(value[MSG_RESTORE_PREPARE_ID].str) != NULL)
		return "the container exists already";
	return NULL;
}

void handle_restore_prepare(struct request *request)
{
	const struct wire_value *value = request->value;
	const char *refusal = prepare_refusal(request);
	struct reply reply;
	int stdio[3] = { -1, -1, -1 };
	int err = 0;

	text_aside_used();
	if (refusal != NULL) {
		reply_failed(request->client, request->id, 0, PLAN_NO_OP, refusal);
		return;
	}
	struct container *container =
		container_alloc(value[MSG_RESTORE_PREPARE_ID].str, value[MSG_RESTORE_PREPARE_CGROUP].str, value[MSG_RESTORE_PREPARE_LOG_PATH].str,
				value[MSG_RESTORE_PREPARE_OOM_PATH].str, &value[MSG_RESTORE_PREPARE_KILL_PATHS]);
	if (container == NULL) {
		reply_failed(request->client, request->id, ENOMEM, PLAN_NO_OP, "container");
		return;
	}
	container->flags = (uint8_t)value[MSG_RESTORE_PREPARE_FLAGS].u32 | CREATE_RESTORED;
	if (value[MSG_RESTORE_PREPARE_LOG_LINE_BYTES].u32 != 0)
		container->log.line_bytes = value[MSG_RESTORE_PREPARE_LOG_LINE_BYTES].u32;
	int terminal = (container->flags & CREATE_TERMINAL) != 0;
	if (!terminal)
		err = container_make_stdio(container, stdio);
	if (err < 0) {
		reply_failed(request->client, request->id, -err, PLAN_NO_OP, "stdio");
		container_discard(container);
	} else {
		container->init.client = request->client;
		oom_open(&container->oom, container->oom_path);
		work_post(&container->record.work, RECORD_RESERVE);
		reply_begin(&reply);
		wire_put_u64(&reply.out, 0);
		reply_send(request->client, MSG_OK, request->id, &reply, stdio, terminal ? 0 : 3);
	}
	for (int i = 0; i < 3; i++)
		close_fd(&stdio[i]);
}

void handle_restore_adopt(struct request *request)
{
	struct container *container = container_find(request->value[MSG_RESTORE_ADOPT_ID].str);
	int pid = (int)request->value[MSG_RESTORE_ADOPT_PID].u32;
	siginfo_t info = { 0 };

	text_aside_used();
	if (container == NULL || !container_is_prepared(container) || container->init.client != request->client) {
		reply_failed(request->client, request->id, container == NULL ? ENOENT : 0, PLAN_NO_OP, "the container is not being restored");
		return;
	}
	/* A child of ours that lives and that nothing else claims. */
	if (pid <= 0 || waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) < 0 || info.si_pid != 0 || task_find(pid) != NULL) {
		reply_failed(request->client, request->id, ESRCH, PLAN_NO_OP, "the restored process is no child of the shim, or has ended");
		return;
	}
	if (container->init.doomed) {
		container->init.request = request->id;
		task_reply_failure(&container->init, "the container cannot be recorded");
		return;
	}
	int pidfd = (int)syscall(NR_PIDFD_OPEN, pid, 0);
	if (pidfd < 0) {
		reply_failed(request->client, request->id, errno, PLAN_NO_OP, "pidfd");
		return;
	}
	container->init.request = request->id;
	container->init.pid = pid;
	if ((container->flags & CREATE_TERMINAL) != 0 && request->fd_count == 1)
		container->init.console = steal_fd(&request->fds[0]);
	task_restore(&container->init, pidfd, -1, -1, TASK_PARKED);
	init_parked(&container->init);
}
