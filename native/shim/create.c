/* Create: checks the request, makes the stdio, forks init, and answers when it is parked and its exit can be recorded. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "shim.h"

int container_id_valid(const char *id, uint32_t size)
{
	if (size == 0 || size > ID_LIMIT || id[0] == '.')
		return 0;
	for (; *id != '\0'; id++)
		if (!((*id >= '0' && *id <= '9') || ((*id | 32) >= 'a' && (*id | 32) <= 'z') || strchr("_.-", *id) != NULL))
			return 0;
	return 1;
}

int container_make_stdio(struct container *container, int *child)
{
	int ends[2];

	if ((container->flags & CREATE_STDIN) != 0) {
		if (pipe2(ends, O_CLOEXEC) < 0)
			return -errno;
		child[0] = ends[0];
		container->stdin_fd = ends[1];
		fcntl(ends[1], F_SETFL, O_NONBLOCK);
	} else {
		child[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	}
	for (unsigned i = 0; i < 2; i++) {
		if (pipe2(ends, O_CLOEXEC) < 0)
			return -errno;
		child[1 + i] = ends[1];
		fcntl(ends[0], F_SETFL, O_NONBLOCK);
		int err = log_watch(&container->log, i, ends[0]);
		if (err < 0)
			return err;
	}
	return 0;
}

static int create_start(struct container *container, struct request *request, const struct plan *plan)
{
	const struct wire_value *value = request->value;
	struct plan_env env;
	int stdio[3] = { -1, -1, -1 };
	int err = 0;

	plan_env_init(&env);
	if ((container->flags & CREATE_TERMINAL) == 0)
		err = container_make_stdio(container, stdio);
	memcpy(env.slots, stdio, sizeof stdio);
	memcpy(env.slots + 3, request->fds, request->fd_count * sizeof *request->fds);
	oom_open(&container->oom, container->oom_path);
	if (err == 0)
		err = task_fork_plan(&container->init, value[MSG_CREATE_CLONE_KINDS].u32, container->cgroup, plan, &env);
	for (int i = 0; i < 3; i++)
		close_fd(&stdio[i]);
	return err;
}

/* Says what is wrong with the request, or NULL. */
static const char *create_refusal(const struct request *request, const struct plan *plan)
{
	const struct wire_value *value = request->value;
	if (!container_id_valid(value[MSG_CREATE_ID].str, value[MSG_CREATE_ID].size))
		return "a container's id has 1 to 128 letters, digits, '_', '.' and '-'";
	if (value[MSG_CREATE_LOG_LINE_BYTES].u32 > LOG_LINE_LIMIT)
		return "log lines may have at most 65536 bytes";
	if (request->fd_count > PLAN_SLOTS - 3)
		return "too many descriptors";
	if (!plan_has(plan, OP_PARK) || !plan_has(plan, OP_EXEC))
		return "a container's plan must park and execute";
	return NULL;
}

void handle_create(struct request *request)
{
	const struct wire_value *value = request->value;
	struct plan plan;
	struct plan_error error;

	int err = plan_decode(value[MSG_CREATE_PLAN].bytes, value[MSG_CREATE_PLAN].size, &plan, &error);
	if (err < 0) {
		reply_failed(request->client, request->id, -err, error.op, error.why);
		return;
	}
	const char *refusal = create_refusal(request, &plan);
	if (refusal != NULL) {
		reply_failed(request->client, request->id, 0, PLAN_NO_OP, refusal);
		return;
	}
	if (container_find(value[MSG_CREATE_ID].str) != NULL) {
		reply_failed(request->client, request->id, EEXIST, PLAN_NO_OP, "the container exists already");
		return;
	}
	struct container *container = container_alloc(value[MSG_CREATE_ID].str, value[MSG_CREATE_CGROUP].str, value[MSG_CREATE_LOG_PATH].str,
						      value[MSG_CREATE_OOM_PATH].str, &value[MSG_CREATE_KILL_PATHS]);
	if (container == NULL) {
		reply_failed(request->client, request->id, ENOMEM, PLAN_NO_OP, "container");
		return;
	}
	container->flags = (uint8_t)value[MSG_CREATE_FLAGS].u32;
	if (value[MSG_CREATE_LOG_LINE_BYTES].u32 != 0)
		container->log.line_bytes = value[MSG_CREATE_LOG_LINE_BYTES].u32;
	container->init.client = request->client;
	container->init.request = request->id;
	err = create_start(container, request, &plan);
	if (err < 0) {
		container->init.client = NULL;
		reply_failed(request->client, request->id, -err, PLAN_NO_OP, "fork");
		container_discard(container);
		return;
	}
	if (value[MSG_CREATE_DEADLINE_MS].u32 != 0)
		task_set_deadline(&container->init, now_ms() + value[MSG_CREATE_DEADLINE_MS].u32);
	/* After the fork: the child sets itself up meanwhile. */
	work_post(&container->record.work, RECORD_RESERVE);
}

static void answer_created(struct container *container)
{
	struct reply reply;
	int fds[EXPORT_LIMIT];

	/* A parked init with space for its exit record: only both make a created container. */
	if (container->phase != PHASE_PARKED || !container->reserved || container->answered || container->init.doomed)
		return;
	container->answered = 1;
	container->init.deadline = NEVER;
	uint32_t count = task_take_exports(&container->init, fds);
	reply_begin(&reply);
	wire_put_u32(&reply.out, (uint32_t)container->init.pid);
	wire_put_u64(&reply.out, container->start_ticks);
	reply_send(container->init.client, MSG_CREATED, container->init.request, &reply, fds, count);
	container->init.client = NULL;
	while (count > 0)
		close(fds[--count]);
}

void init_parked(struct task *task)
{
	struct container *container = task->container;

	container->phase = PHASE_PARKED;
	container->start_ticks = start_ticks(task->pid);
	if (task->console >= 0) {
		container->console = steal_fd(&task->console);
		fcntl(container->console, F_SETFL, O_NONBLOCK);
		/* While we hold the other end open too, the master is quiet when no process of the container has it open for a moment. */
		container->console_slave = ioctl(container->console, K_TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
		int copy = fcntl(container->console, F_DUPFD_CLOEXEC, 5);
		if (copy < 0 || log_watch(&container->log, 0, copy) < 0)
			task_doom(task, EMFILE, "console");
	}
	answer_created(container);
}

void container_record_done(struct work *work, uint32_t bits)
{
	struct container *container = container_of(container_of(work, struct record, work), struct container, record);

	if ((bits & RECORD_RESERVE) != 0 && !container->forgotten) {
		if (container->record.error != 0 && container->exit_step == EXIT_NONE)
			task_doom(&container->init, container->record.error, "no space for the exit record");
		container->reserved = container->record.error == 0;
		answer_created(container);
	}
	if ((bits & RECORD_WRITE) != 0 && container->exit_step == EXIT_RECORDING)
		exit_continue(container);
	container_free_when_idle(container);
}
