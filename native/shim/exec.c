/*
 * Exec: a process in a running container, in a session of its own. When its time is over or its client goes away, everything in that
 * session is killed.
 *
 *   setup --execve--> live --reaped--> exec-exit
 *     |                 +--time-out, client gone: session killed --> exec-exit
 *     +--fails: failed
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "shim.h"

/* How long a time-out waits for processes that SIGKILL does not end. */
#define UNKILLABLE_MS 9000

/* The line "0::/path" of /proc/PID/cgroup. */
COLD static int unified_cgroup_of(int pid, char *line, size_t room)
{
	char path[40];
	struct text text = text_in(path, sizeof path);
	text_str(&text, "/proc/");
	text_u64(&text, (uint64_t)pid);
	text_str(&text, "/cgroup");
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, line, room - 1);
	if (size <= 0)
		return -ENOENT;
	line[size] = '\0';
	char *unified = strncmp(line, "0::", 3) == 0 ? line : strstr(line, "\n0::");
	if (unified == NULL)
		return -ENOENT;
	unified += *unified == '\n' ? 4 : 3;
	size_t length = strcspn(unified, "\n");
	memmove(line, unified, length);
	line[length] = '\0';
	return 0;
}

/*
 * On v2 a container that has enabled controllers for cgroups of its own has moved its processes below its cgroup, and then nothing can be
 * put into that any more. Its init shows where. Only a place below the container's own cgroup is taken.
 */
COLD static int cgroup_of_init(const struct container *container, const char *cgroup, char *out, size_t room)
{
	char path[1024];

	if (unified_cgroup_of(container->init.pid, path, sizeof path) < 0 || strstr(path, "/..") != NULL)
		return -ENOENT;
	/* cgroup is mount point + path of the container: whichever tail of it is the beginning of init's path is that path. */
	for (const char *tail = cgroup; (tail = strchr(tail, '/')) != NULL; tail++) {
		size_t length = strlen(tail);
		if (length < 2 || strncmp(path, tail, length) != 0 || path[length] != '/')
			continue;
		struct text text = text_in(out, room);
		text_str(&text, cgroup);
		text_str(&text, path + length);
		return text.cut ? -ENAMETOOLONG : 0;
	}
	return -ENOENT;
}

/* Not inlined: its paths are seldom needed on the stack. */
COLD __attribute__((noinline)) static int exec_fork_below(struct task *task, const struct wire_value *value, const struct plan *plan, struct plan_env *env)
{
	char below[1024];

	text_aside_used();
	if (cgroup_of_init(task->container, value[MSG_EXEC_CGROUP].str, below, sizeof below) < 0)
		return -EBUSY;
	watch_close(&task->report);
	drop_fd(&task->release);
	return task_fork_plan(task, value[MSG_EXEC_CLONE_KINDS].u32, below, plan, env);
}

static int exec_fork(struct task *task, const struct wire_value *value, const struct plan *plan, struct plan_env *env)
{
	const char *cgroup = value[MSG_EXEC_CGROUP].str;

	int err = task_fork_plan(task, value[MSG_EXEC_CLONE_KINDS].u32, cgroup, plan, env);
	if (cgroup[0] != '\0' && (err == -EBUSY || err == -ENOENT))
		err = exec_fork_below(task, value, plan, env);
	return err;
}

void handle_exec(struct request *request)
{
	const struct wire_value *value = request->value;
	struct container *container = container_find(value[MSG_EXEC_ID].str);
	struct plan plan;
	struct plan_env env;
	struct plan_error error;

	if (container == NULL || container->phase != PHASE_RUNNING || container->exit_step != EXIT_NONE) {
		reply_failed(request->client, request->id, container == NULL ? ENOENT : 0, PLAN_NO_OP, "the container is not running");
		return;
	}
	int err = plan_decode(value[MSG_EXEC_PLAN].bytes, value[MSG_EXEC_PLAN].size, &plan, &error);
	if (err < 0) {
		reply_failed(request->client, request->id, -err, error.op, error.why);
		return;
	}
	if (value[MSG_EXEC_EXEC_ID].size >= EXEC_ID_LIMIT || request->fd_count > PLAN_SLOTS || !plan_has(&plan, OP_EXEC)) {
		reply_failed(request->client, request->id, 0, PLAN_NO_OP, "exec needs a short id, at most 64 descriptors and a plan that executes");
		return;
	}
	struct task *task = task_new(TASK_EXEC, &exec_ops);
	if (task == NULL) {
		reply_failed(request->client, request->id, ENOMEM, PLAN_NO_OP, "exec");
		return;
	}
	memcpy(task->exec_id, value[MSG_EXEC_EXEC_ID].str, value[MSG_EXEC_EXEC_ID].size + 1);
	task->container = container;
	task->client = request->client;
	task->request = request->id;
	plan_env_init(&env);
	memcpy(env.slots, request->fds, request->fd_count * sizeof *request->fds);
	err = exec_fork(task, value, &plan, &env);
	if (err < 0) {
		reply_failed(request->client, request->id, -err, PLAN_NO_OP, "fork");
		task_free(task);
		return;
	}
	if (value[MSG_EXEC_TIMEOUT_MS].u32 != 0)
		task_set_deadline(task, now_ms() + value[MSG_EXEC_TIMEOUT_MS].u32);
}

static void exec_started(struct task *task)
{
	struct reply reply;
	int fds[EXPORT_LIMIT];

	/* Of a dead one too, until it is reaped; then the number alone serves. */
	task->sid = getsid(task->pid);
	if (task->sid <= 0 || task->sid == getsid(0))
		task->sid = task->pid;
	uint32_t count = task_take_exports(task, fds);
	reply_begin(&reply);
	wire_put_u32(&reply.out, (uint32_t)task->pid);
	wire_put_u64(&reply.out, task->at_ns);
	reply_send(task->client, MSG_EXEC_STARTED, task->request, &reply, fds, count);
	while (count > 0)
		close(fds[--count]);
}

static void exec_report_closed(struct task *task)
{
	if (task->failure != NULL || task->doomed)
		return;
	task->state = TASK_LIVE;
	task->at_ns = wall_ns();
	exec_started(task);
}

static void exec_report_exit(struct task *task)
{
	struct reply reply;

	reply_begin(&reply);
	wire_put_str(&reply.out, task->container->id);
	wire_put_str(&reply.out, task->exec_id);
	wire_put_u32(&reply.out, task->state == TASK_ENDED ? task->status : STATUS_UNKNOWN);
	wire_put_u32(&reply.out, task->timed_out);
	wire_put_u64(&reply.out, task->state == TASK_ENDED ? task->at_ns : wall_ns());
	/* After a re-exec of the shim nobody knows any more which client asked. */
	if (task->adopted)
		broadcast(MSG_EXEC_EXIT, &reply);
	else
		reply_send(task->client, MSG_EXEC_EXIT, 0, &reply, NULL, 0);
	task->client = NULL;
	task->adopted = 0;
}

static void exec_finish(struct task *task)
{
	struct container *container = task->container;

	if (task->failure != NULL)
		task_reply_failure(task, "exec");
	else
		exec_report_exit(task);
	task_free(task);
	container_free_when_idle(container);
}

static void exec_ended(struct task *task)
{
	/*
	 * Behind a fork the process that went before holds the channel too, and in a throttled cgroup it may take any time to leave. The
	 * command has not complained, so it got as far as execve; or it was killed on its way, which its status tells.
	 */
	if (task->sid == 0 && task->failure == NULL)
		exec_started(task);
	if (task->waits_for == NULL)
		exec_finish(task);
}

static void session_killed(struct task *killer)
{
	list_each(at, &shim->tasks) {
		struct task *task = container_of(at, struct task, link);
		if (task->waits_for != killer)
			continue;
		task->waits_for = NULL;
		if (task->state == TASK_ENDED)
			exec_finish(task);
		return;
	}
}

static void exec_kill_session(struct task *task)
{
	if (task->sid == 0) {
		task_doom(task, task->timed_out ? ETIMEDOUT : ECANCELED, task->timed_out ? "timed out before the process was executed" : "the client has gone");
		return;
	}
	task_signal(task, SIGKILL);
	if (task->waits_for == NULL)
		task->waits_for = kill_start(task->container, KILL_SESSION, SIGKILL, task->sid, session_killed);
	task_set_deadline(task, now_ms() + UNKILLABLE_MS);
}

static void exec_deadline(struct task *task)
{
	if (task->doomed) {
		task_reply_failure(task, "the process does not end");
	} else if (task->timed_out) {
		exec_report_exit(task); /* whatever does not die is reaped silently when it does */
	} else if (task->client != NULL || task->adopted) {
		task->timed_out = 1;
		exec_kill_session(task);
	}
}

static void exec_client_gone(struct task *task)
{
	exec_kill_session(task);
}

const struct task_ops exec_ops = {
	.report_closed = exec_report_closed,
	.ended = exec_ended,
	.deadline = exec_deadline,
	.client_gone = exec_client_gone,
};

static struct task *exec_find(const char *id, const char *exec_id)
{
	list_each(at, &shim->tasks) {
		struct task *task = container_of(at, struct task, link);
		if (task->kind == TASK_EXEC && strcmp(task->exec_id, exec_id) == 0 && strcmp(task->container->id, id) == 0)
			return task;
	}
	return NULL;
}

void handle_exec_kill(struct request *request)
{
	const struct wire_value *value = request->value;
	struct task *task = exec_find(value[MSG_EXEC_KILL_ID].str, value[MSG_EXEC_KILL_EXEC_ID].str);
	uint32_t signal = value[MSG_EXEC_KILL_SIGNAL].u32;

	if (task == NULL || signal == 0 || signal > 64) {
		reply_failed(request->client, request->id, task == NULL ? ESRCH : EINVAL, PLAN_NO_OP, "no such exec or signal");
		return;
	}
	if (signal == SIGKILL)
		exec_kill_session(task);
	else
		task_signal(task, (int)signal);
	reply_ok(request->client, request->id, 0);
}

void handle_exec_adopt(struct request *request)
{
	const struct wire_value *value = request->value;
	struct task *task = exec_find(value[MSG_EXEC_ADOPT_ID].str, value[MSG_EXEC_ADOPT_EXEC_ID].str);

	if (task == NULL || task->sid == 0 || task->timed_out) {
		reply_failed(request->client, request->id, ESRCH, PLAN_NO_OP, "no such exec is running");
		return;
	}
	task->client = NULL;
	task->adopted = 1;
	reply_ok(request->client, request->id, 0);
}

int exec_console(const char *id, const char *exec_id)
{
	struct task *task = exec_find(id, exec_id);
	return task == NULL ? -1 : task->console;
}
