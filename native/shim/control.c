/* Signals, lists, acknowledgements, the end. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim.h"

#define SCOPE_INIT 0
#define SCOPE_ALL 1
#define SHUTDOWN_MS 9000
#define SHUTDOWN_LOOK_MS 20

static void all_signalled(struct task *killer)
{
	if (killer->status == 0)
		reply_ok(killer->client, killer->request, 0);
	else
		reply_failed(killer->client, killer->request, killer->status == 256 ? EBUSY : ESRCH, PLAN_NO_OP,
			     "not every process of the container could be signalled");
}

void handle_signal(struct request *request)
{
	const struct wire_value *value = request->value;
	struct container *container = container_find(value[MSG_SIGNAL_ID].str);
	uint32_t signal = value[MSG_SIGNAL_SIGNAL].u32, scope = value[MSG_SIGNAL_SCOPE].u32;

	if (container == NULL || signal == 0 || signal > 64 || scope > SCOPE_ALL) {
		reply_failed(request->client, request->id, container == NULL ? ENOENT : EINVAL, PLAN_NO_OP, "no such container, signal or scope");
		return;
	}
	int alive = container->init.pidfd >= 0 && container->init.state != TASK_ENDED;
	if (scope == SCOPE_INIT) {
		if (!alive) {
			reply_failed(request->client, request->id, ESRCH, PLAN_NO_OP, "the container's init has ended");
			return;
		}
		task_signal(&container->init, (int)signal);
		if (signal == SIGKILL && container->kill_paths.count > 0)
			kill_start(container, KILL_THAW, 0, 0, NULL);
		reply_ok(request->client, request->id, 0);
		return;
	}
	struct task *killer = kill_start(container, KILL_CGROUP, (int)signal, 0, all_signalled);
	if (killer == NULL) {
		reply_failed(request->client, request->id, EAGAIN, PLAN_NO_OP, "fork");
		return;
	}
	killer->client = request->client;
	killer->request = request->id;
	/* A privileged container may have moved its init out of every cgroup of its own: the kill must end it all the same. */
	if (alive && signal == SIGKILL)
		task_signal(&container->init, SIGKILL);
}

static void state_send(struct container *container, struct request *request)
{
	struct reply reply;

	reply_begin(&reply);
	wire_put_str(&reply.out, container->id);
	wire_put_u32(&reply.out, container->phase);
	wire_put_u32(&reply.out, (uint32_t)container->init.pid);
	wire_put_u64(&reply.out, container->start_ticks);
	wire_put_u64(&reply.out, container->started_ns);
	wire_put_u32(&reply.out, container->phase == PHASE_EXITED ? container->status : 0);
	wire_put_u64(&reply.out, container->phase == PHASE_EXITED ? container->exited_ns : 0);
	wire_put_u32(&reply.out, container->oom_killed);
	wire_put_u64(&reply.out, log_dropped(&container->log));
	reply_send(request->client, MSG_CONTAINER_STATE, request->id, &reply, NULL, 0);
}

void handle_list(struct request *request)
{
	uint64_t count = 0;

	list_each(at, &shim->containers) {
		struct container *container = container_of(at, struct container, link);
		if (container->forgotten)
			continue;
		state_send(container, request);
		count++;
	}
	reply_ok(request->client, request->id, count);
}

void handle_ack_exit(struct request *request)
{
	struct container *container = container_find(request->value[MSG_ACK_EXIT_ID].str);

	if (container == NULL || container->exit_step != EXIT_REPORTED) {
		reply_failed(request->client, request->id, container == NULL ? ENOENT : 0, PLAN_NO_OP, "the container has no exit to acknowledge");
		return;
	}
	/* Twice is fine: two clients may hear of it. */
	if (!container->acked)
		work_post(&container->record.work, RECORD_REMOVE);
	container->acked = 1;
	reply_ok(request->client, request->id, 0);
}

void handle_shutdown(struct request *request)
{
	shim->shutdown_client = request->client;
	shim->shutdown_request = request->id;
	if (shim->shutdown_deadline != 0)
		return;
	shim->shutdown_deadline = now_ms() + SHUTDOWN_MS;
	list_each(at, &shim->containers) {
		struct container *container = container_of(at, struct container, link);
		task_signal(&container->init, SIGKILL);
		if (container->kill_paths.count > 0)
			kill_start(container, KILL_CGROUP, SIGKILL, 0, NULL);
	}
	/* Killers end by themselves, and may have frozen what they have to thaw. */
	list_each(at, &shim->tasks) {
		struct task *task = container_of(at, struct task, link);
		if (task->kind == TASK_HOST && task->sid > 0)
			kill(-task->sid, SIGKILL);
		if (task->kind != TASK_KILL)
			task_signal(task, SIGKILL);
	}
	shutdown_continue(now_ms());
}

static int all_ended(void)
{
	siginfo_t info;

	if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) == 0 || errno != ECHILD)
		return 0;
	list_each(at, &shim->containers) {
		struct container *container = container_of(at, struct container, link);
		if (container->exit_step != EXIT_NONE && container->exit_step != EXIT_REPORTED)
			return 0;
	}
	return 1;
}

/* What containers without a PID namespace of their own left behind has become our child. Nobody reaps it but us: its pid is safe. */
static void kill_orphans(void)
{
	char path[64], pids[2048];
	struct text text = text_in(path, sizeof path);
	text_str(&text, "/proc/self/task/");
	text_u64(&text, (uint64_t)getpid());
	text_str(&text, "/children");
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? 0 : read(fd, pids, sizeof pids - 1);

	pids[size > 0 ? size : 0] = '\0';
	for (const char *at = pids; *at != '\0';) {
		const char *end;
		int64_t pid = text_parse(at, &end);
		/* Followed by a blank: not cut by the end of the buffer. */
		if (pid > 0 && *end == ' ' && !task_known((int)pid))
			kill((pid_t)pid, SIGKILL);
		at = end + (*end != '\0');
	}
}

void shutdown_continue(int64_t now)
{
	if (shim->shutdown_deadline == 0)
		return;
	if (!all_ended() && now < shim->shutdown_deadline) {
		kill_orphans();
		/* Orphans of the containers become our children late: there is no event to wait for. */
		deadline_at(now + SHUTDOWN_LOOK_MS);
		return;
	}
	unlinkat(POD_DIR_FD, "shim.sock", 0);
	if (all_ended())
		reply_ok(shim->shutdown_client, shim->shutdown_request, 0);
	else
		reply_failed(shim->shutdown_client, shim->shutdown_request, EBUSY, PLAN_NO_OP, "some processes do not end");
	_exit(0);
}
