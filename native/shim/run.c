/* Run: a plan in a child of its own, for its effects and the descriptors that it exports. The pod's reaper is made like this too. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim.h"

static void run_succeed(struct task *task, uint32_t value)
{
	struct reply reply;
	int fds[EXPORT_LIMIT];
	uint32_t count = task_take_exports(task, fds);

	reply_begin(&reply);
	wire_put_u64(&reply.out, value);
	reply_send(task->client, MSG_OK, task->request, &reply, fds, count);
	task->client = NULL;
	task->deadline = NEVER;
	while (count > 0)
		close(fds[--count]);
}

static void run_report_closed(struct task *task)
{
	/* Only a reaper lives on behind its plan; the others are at their end. */
	if (!task->makes_reaper || task->failure != NULL || task->doomed || task_is_dead(task))
		return;
	task->state = TASK_LIVE;
	run_succeed(task, 0);
}

static void run_ended(struct task *task)
{
	/* A reaper that dies takes its PID namespace along: the containers' own ends tell. */
	if (!task->was_live) {
		int normal = WIFEXITED((int)task->status) && !task->makes_reaper && !task->doomed && task->failure == NULL;
		if (normal)
			run_succeed(task, (uint32_t)WEXITSTATUS((int)task->status));
		else
			task_reply_failure(task, "the child was killed before its plan was through");
	}
	task_free(task);
}

static void run_deadline(struct task *task)
{
	if (task->doomed)
		task_reply_failure(task, "the child does not end");
	else if (task->state == TASK_SETUP)
		task_doom(task, ETIMEDOUT, "the plan was not through in time");
}

static void run_client_gone(struct task *task)
{
	task_doom(task, ECANCELED, "the client has gone");
}

const struct task_ops run_ops = {
	.report_closed = run_report_closed,
	.ended = run_ended,
	.deadline = run_deadline,
	.client_gone = run_client_gone,
};

void handle_run(struct request *request)
{
	const struct wire_value *value = request->value;
	struct plan plan;
	struct plan_env env;
	struct plan_error error;

	int err = plan_decode(value[MSG_RUN_PLAN].bytes, value[MSG_RUN_PLAN].size, &plan, &error);
	if (err < 0) {
		reply_failed(request->client, request->id, -err, error.op, error.why);
		return;
	}
	if (request->fd_count > PLAN_SLOTS || plan_has(&plan, OP_PARK) || plan_has(&plan, OP_EXEC)) {
		reply_failed(request->client, request->id, 0, PLAN_NO_OP, "a plan that is only run neither parks nor executes");
		return;
	}
	struct task *task = task_new(TASK_RUN, &run_ops);
	if (task == NULL) {
		reply_failed(request->client, request->id, ENOMEM, PLAN_NO_OP, "run");
		return;
	}
	task->client = request->client;
	task->request = request->id;
	task->makes_reaper = (uint8_t)plan_has(&plan, OP_REAPER);
	plan_env_init(&env);
	memcpy(env.slots, request->fds, request->fd_count * sizeof *request->fds);
	err = task_fork_plan(task, value[MSG_RUN_CLONE_KINDS].u32, "", &plan, &env);
	if (err < 0) {
		reply_failed(request->client, request->id, -err, PLAN_NO_OP, "fork");
		task_free(task);
		return;
	}
	if (value[MSG_RUN_DEADLINE_MS].u32 != 0)
		task_set_deadline(task, now_ms() + value[MSG_RUN_DEADLINE_MS].u32);
}
