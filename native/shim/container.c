/*
 * A container: created, parked, started, forgotten.
 *
 *   creating --PARKED--> parked --start--> starting --execve--> running --reaped--> exited (exit.c) --forget--> gone
 *      |                   |                  |
 *      +--dies: failed     +--dies: exited    +--fails: failed, then exited; never started
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim.h"

#define LOG_OPEN_MS 8000
#define FORGET_MS 2000
#define EXECVE_CHECK_MS 1000
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

static int container_expect(struct container *container, struct request *request)
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

static void container_discard(struct container *container)
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

/* ---- create ---- */

static int valid_id(const char *id, uint32_t size)
{
	if (size == 0 || size > ID_LIMIT || id[0] == '.')
		return 0;
	for (; *id != '\0'; id++)
		if (!((*id >= '0' && *id <= '9') || ((*id | 32) >= 'a' && (*id | 32) <= 'z') || strchr("_.-", *id) != NULL))
			return 0;
	return 1;
}

/* Ends of the container's stdio: `child` goes into slots 0 to 2, the others stay with the container. */
static int make_stdio(struct container *container, int *child)
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
		err = make_stdio(container, stdio);
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
	if (!valid_id(value[MSG_CREATE_ID].str, value[MSG_CREATE_ID].size))
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

static void init_parked(struct task *task)
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

/* ---- start ---- */

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

static void log_opened(struct container *container)
{
	if (container->phase != PHASE_STARTING || container->log.opened)
		return;
	if (container->log.open_error != 0) {
		start_fail(container, container->log.open_error, container->log_path);
		return;
	}
	container->log.opened = 1;
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
	close_fd(&container->init.release);
	container->init.release = -1;
	if (container->waiter_type == MSG_START) {
		reply_begin(&reply);
		wire_put_u64(&reply.out, container->started_ns);
		reply_send(container->waiter, MSG_STARTED, container->waiter_request, &reply, NULL, 0);
		container->waiter = NULL;
		container->waiter_type = 0;
	}
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

static void start_deadline(struct container *container)
{
	if (!container->log.opened) {
		start_fail(container, ETIMEDOUT, container->log_path);
	} else if (has_executed(container->init.pid)) {
		watch_close(&container->init.report);
		init_report_closed(&container->init);
	} else {
		container_deadline(container, now_ms() + EXECVE_CHECK_MS);
	}
}

/* ---- end of init ---- */

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

/* ---- log and forget ---- */

void container_log_done(struct work *work, uint32_t bits)
{
	struct container *container = container_of(container_of(work, struct log, work), struct container, log);

	if ((bits & LOG_OPEN) != 0)
		log_opened(container);
	if ((bits & LOG_REOPEN) != 0 && container->waiter_type == MSG_REOPEN_LOG)
		container_answer(container, container->log.open_error != 0 ? container->log.open_error : -1, container->log_path);
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
		if (container->init.client == client)
			container->init.client = NULL;
	}
}
