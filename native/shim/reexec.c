/*
 * Re-exec: the same process becomes a newer binary. Everything that outlives it is written into a memfd: a u32 version, then records
 * (u32 kind, u32 length, fields as in the protocol). A record only ever grows at its end, and its version with it. Descriptors are
 * named by number and simply stay open.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shim.h"

#define STATE_VERSION 1
#define STATE_LIMIT (4u << 20)
#define QUIET_MS 3000
#define LOOK_MS 5

enum { RECORD_POD = 1, RECORD_CONTAINER = 2, RECORD_TASK = 3 };
#define POD_SIGNATURE "uuuL"
#define CONTAINER_SIGNATURE "ssssubuuuuuuuuUUUuuUULLL"
#define TASK_SIGNATURE "suuuuuuUssuU"

extern char **environ;

/* Descriptors that the new image gets, or (when it could not be executed) no child shall get after all. */
static int keeping;

static void put_fd(struct wire_writer *out, int fd)
{
	if (fd >= 0)
		fcntl(fd, F_SETFD, keeping ? 0 : FD_CLOEXEC);
	wire_put_u32(out, (uint32_t)fd);
}

static int get_fd(const struct wire_value *value)
{
	int fd = (int)value->u32;
	if (fd >= 0)
		fcntl(fd, F_SETFD, FD_CLOEXEC);
	return fd;
}

static size_t record_begin(struct wire_writer *out, uint32_t kind)
{
	wire_put_u32(out, kind);
	wire_put_u32(out, 0);
	return out->length;
}

static void record_end(struct wire_writer *out, size_t start)
{
	size_t end = out->length;
	if (out->overflow)
		return;
	out->length = start - 4;
	wire_put_u32(out, (uint32_t)(end - start));
	out->length = end;
}

static void put_pod(struct wire_writer *out)
{
	size_t start = record_begin(out, RECORD_POD);

	put_fd(out, shim->listen);
	put_fd(out, shim->reexec_client != NULL ? shim->reexec_client->watch.fd : -1);
	wire_put_u32(out, shim->reexec_request);
	wire_put_u32(out, PLAN_PINS);
	for (unsigned i = 0; i < PLAN_PINS; i++)
		put_fd(out, shim->pins[i]);
	record_end(out, start);
}

static void put_container(struct wire_writer *out, const struct container *container)
{
	const struct log *log = &container->log;
	size_t start = record_begin(out, RECORD_CONTAINER);

	wire_put_str(out, container->id);
	wire_put_str(out, container->cgroup);
	wire_put_str(out, container->log_path);
	wire_put_str(out, container->oom_path);
	wire_put_u32(out, container->kill_paths.count);
	wire_put_bytes(out, container->kill_paths.bytes, container->kill_paths.size);
	wire_put_u32(out, container->flags);
	wire_put_u32(out, container->phase);
	wire_put_u32(out, container->exit_step);
	wire_put_u32(out, container->acked);
	wire_put_u32(out, container->oom_killed);
	wire_put_u32(out, container->status);
	wire_put_u32(out, log->line_bytes);
	wire_put_u32(out, log->opened);
	wire_put_u64(out, container->start_ticks);
	wire_put_u64(out, container->started_ns);
	wire_put_u64(out, container->exited_ns);
	wire_put_u32(out, (uint32_t)container->init.pid);
	wire_put_u32(out, container->oom.version);
	wire_put_u64(out, container->oom.baseline);
	wire_put_u64(out, log_dropped(log));
	wire_put_u32(out, 12);
	put_fd(out, container->init.pidfd);
	put_fd(out, container->init.report.fd);
	put_fd(out, container->init.release);
	put_fd(out, container->stdin_fd);
	put_fd(out, container->console);
	put_fd(out, container->console_slave);
	put_fd(out, container->stdin_source.fd);
	put_fd(out, container->oom.watch.fd);
	put_fd(out, container->oom.control);
	put_fd(out, log->file);
	put_fd(out, log->stash);
	put_fd(out, container->record.file);
	wire_put_u32(out, 4);
	for (unsigned i = 0; i < 2; i++) {
		put_fd(out, log->stream[i].at_end ? -1 : log->stream[i].watch.fd);
		wire_put_u32(out, log->stream[i].partial);
	}
	wire_put_u32(out, 2 * SINK_LIMIT);
	for (unsigned i = 0; i < 2 * SINK_LIMIT; i++)
		put_fd(out, log->stream[i / SINK_LIMIT].sinks[i % SINK_LIMIT]);
	record_end(out, start);
}

static void put_task(struct wire_writer *out, const struct task *task)
{
	size_t start = record_begin(out, RECORD_TASK);

	wire_put_str(out, task->container != NULL ? task->container->id : "");
	wire_put_u32(out, task->kind);
	wire_put_u32(out, (uint32_t)task->pid);
	put_fd(out, task->pidfd);
	put_fd(out, task->console);
	wire_put_u32(out, (uint32_t)task->sid);
	wire_put_u32(out, task->timed_out);
	wire_put_u64(out, (uint64_t)task->deadline);
	wire_put_str(out, task->exec_id);
	wire_put_str(out, "");
	wire_put_u32(out, task->makes_reaper);
	wire_put_u64(out, task->at_ns);
	record_end(out, start);
}

static void put_all(struct wire_writer *out)
{
	wire_put_u32(out, STATE_VERSION);
	put_pod(out);
	list_each(at, &shim->containers) {
		struct container *container = container_of(at, struct container, link);
		/* What a full client lacks does not come along. */
		for (unsigned i = 0; i < 2; i++)
			sinks_cut_off(&container->log.stream[i]);
		put_container(out, container);
	}
	list_each(at, &shim->tasks) {
		const struct task *task = container_of(at, struct task, link);
		if (task->kind != TASK_INIT)
			put_task(out, task);
	}
}

/* Nothing may be half-way: what is in flight ends in milliseconds. */
static int all_quiet(void)
{
	list_each(at, &shim->containers) {
		const struct container *container = container_of(at, struct container, link);
		int settled = container->answered && !container->forgotten && container->waiter_type == 0 && container->phase != PHASE_STARTING;
		if (!settled || (container->exit_step != EXIT_NONE && container->exit_step != EXIT_REPORTED))
			return 0;
	}
	list_each(at, &shim->tasks) {
		const struct task *task = container_of(at, struct task, link);
		if (task->kind == TASK_KILL || task->waits_for != NULL || task->doomed || (task->kind != TASK_INIT && task->state != TASK_LIVE))
			return 0;
	}
	return writers_idle();
}

static int state_write(int fd)
{
	uint8_t *buffer = child_pages_alloc(STATE_LIMIT);
	struct wire_writer out = { .buffer = buffer, .capacity = STATE_LIMIT };

	if (buffer == NULL)
		return -ENOMEM;
	put_all(&out);
	int err = out.overflow || write(fd, buffer, out.length) != (ssize_t)out.length ? -E2BIG : 0;
	pages_free(buffer, STATE_LIMIT);
	return err;
}

static int become(int image)
{
	char number[16];
	struct text text = text_in(number, sizeof number);
	/* Inherited on purpose: it is how the new image knows. */
	autoclose int state = memfd_create("caisson-state", 0);
	if (state < 0)
		return -errno;
	text_u64(&text, (uint64_t)state);
	keeping = 1;
	int err = state_write(state);
	if (err == 0) {
		char *argv[] = { "caisson-shim", "--pod", shim->pod_id, "--state", number, NULL };
		fcntl(POD_DIR_FD, F_SETFD, 0);
		nofile_restore();
		syscall(SYS_execveat, image, "", argv, environ, K_AT_EMPTY_PATH);
		err = -errno;
		nofile_raise();
		fcntl(POD_DIR_FD, F_SETFD, FD_CLOEXEC);
	}
	keeping = 0;
	state_write(state);
	return err;
}

void reexec_continue(int64_t now)
{
	text_aside_used();
	int quiet = all_quiet();
	if (!quiet && now < shim->reexec_deadline) {
		deadline_at(now + LOOK_MS);
		return;
	}
	int err = quiet ? become(shim->reexec_image) : -EBUSY;
	/* Still here: the old image goes on. */
	close(shim->reexec_image);
	shim->reexec_image = -1;
	reply_failed(shim->reexec_client, shim->reexec_request, -err, PLAN_NO_OP, "the new image could not be executed");
	shim->reexec_deadline = 0;
	shim->reexec_client = NULL;
}

void handle_reexec(struct request *request)
{
	text_aside_used();
	if (request->fd_count != 1 || shim->reexec_deadline != 0 || shim->shutdown_deadline != 0) {
		reply_failed(request->client, request->id, EINVAL, PLAN_NO_OP, "re-exec needs one image, and nothing else going on");
		return;
	}
	shim->reexec_image = request->fds[0];
	request->fds[0] = -1;
	shim->reexec_client = request->client;
	shim->reexec_request = request->id;
	shim->reexec_deadline = now_ms() + QUIET_MS;
	deadline_at(now_ms());
}

/* ---- the new image ---- */

struct restored {
	struct client client;
	uint32_t request;
};

static int get_pod(const uint8_t *bytes, size_t size, struct restored *restored)
{
	struct wire_value value[4];
	int pin;

	if (wire_decode(POD_SIGNATURE, bytes, size, value) < 0 || value[3].count != PLAN_PINS)
		return -EBADMSG;
	restored->client.watch.fd = get_fd(&value[1]);
	restored->request = value[2].u32;
	struct wire_items items = wire_items(&value[3]);
	for (unsigned i = 0; wire_next_u32(&items, (uint32_t *)&pin); i++)
		shim->pins[i] = get_fd(&(struct wire_value){ .u32 = (uint32_t)pin });
	return listen_start(get_fd(&value[0]));
}

static void get_fds(const struct wire_value *list, int *fds, unsigned room)
{
	struct wire_items items = wire_items(list);
	uint32_t fd;

	for (unsigned i = 0; i < room; i++)
		fds[i] = wire_next_u32(&items, &fd) ? get_fd(&(struct wire_value){ .u32 = fd }) : -1;
}

static void get_streams(struct log *log, const struct wire_value *streams, const struct wire_value *sinks)
{
	struct wire_items items = wire_items(streams);
	uint32_t fd, partial;
	int all[2 * SINK_LIMIT];

	/* The older image may have had room for less. */
	unsigned each = sinks->count / 2 < SINK_LIMIT ? sinks->count / 2 : SINK_LIMIT;

	get_fds(sinks, all, 2 * each);
	for (unsigned i = 0; i < 2 && wire_next_u32(&items, &fd) && wire_next_u32(&items, &partial); i++) {
		memcpy(log->stream[i].sinks, all + i * each, each * sizeof *log->stream[i].sinks);
		log->stream[i].attached = 1;
		log->stream[i].partial = partial;
		if ((int)fd >= 0)
			log_watch(log, i, get_fd(&(struct wire_value){ .u32 = fd }));
	}
}

static int get_container(const uint8_t *bytes, size_t size)
{
	struct wire_value v[24];
	int fds[12];

	if (wire_decode(CONTAINER_SIGNATURE, bytes, size, v) < 0)
		return -EBADMSG;
	v[5].count = v[4].u32;
	struct container *container = container_alloc(v[0].str, v[1].str, v[2].str, v[3].str, &v[5]);
	if (container == NULL)
		return -ENOMEM;
	container->answered = container->reserved = 1;
	container->flags = (uint8_t)v[6].u32;
	container->phase = (uint8_t)v[7].u32;
	container->exit_step = (uint8_t)v[8].u32;
	container->acked = (uint8_t)v[9].u32;
	container->oom_killed = (uint8_t)v[10].u32;
	container->status = v[11].u32;
	container->log.line_bytes = v[12].u32;
	container->log.opened = (uint8_t)v[13].u32;
	container->start_ticks = v[14].u64;
	container->started_ns = v[15].u64;
	container->exited_ns = v[16].u64;
	container->init.pid = (int)v[17].u32;
	container->oom.version = (uint8_t)v[18].u32;
	container->oom.baseline = container->oom.count = v[19].u64;
	container->log.dropped = v[20].u64;
	get_fds(&v[21], fds, 12);
	container->stdin_fd = fds[3];
	container->console = fds[4];
	container->console_slave = fds[5];
	container->oom.watch.fd = fds[7];
	container->oom.control = fds[8];
	container->log.file = fds[9];
	container->log.stash = fds[10];
	container->record.file = fds[11];
	get_streams(&container->log, &v[22], &v[23]);
	if (fds[6] >= 0)
		stdin_pump_start(container, fds[6]);
	oom_watch(&container->oom);
	if (container->exit_step == EXIT_NONE)
		task_restore(&container->init, fds[0], fds[1], fds[2], container->phase == PHASE_PARKED ? TASK_PARKED : TASK_LIVE);
	return 0;
}

static int get_task(const uint8_t *bytes, size_t size)
{
	struct wire_value v[12];

	if (wire_decode(TASK_SIGNATURE, bytes, size, v) < 0 || v[8].size >= EXEC_ID_LIMIT)
		return -EBADMSG;
	const struct task_ops *ops = v[1].u32 == TASK_EXEC ? &exec_ops : v[1].u32 == TASK_HOST ? &host_ops : &run_ops;
	struct task *task = task_new((enum task_kind)v[1].u32, ops);
	if (task == NULL)
		return -ENOMEM;
	task->container = container_find(v[0].str);
	task->pid = (int)v[2].u32;
	task->console = get_fd(&v[4]);
	task->sid = (int)v[5].u32;
	task->timed_out = (uint8_t)v[6].u32;
	memcpy(task->exec_id, v[8].str, v[8].size + 1);
	task->makes_reaper = (uint8_t)v[10].u32;
	task->at_ns = v[11].u64;
	task->adopted = 1;
	task_set_deadline(task, (int64_t)v[7].u64);
	task_restore(task, get_fd(&v[3]), -1, -1, TASK_LIVE);
	return 0;
}

static int get_record(uint32_t kind, const uint8_t *bytes, size_t size, struct restored *restored)
{
	switch (kind) {
	case RECORD_POD:
		return get_pod(bytes, size, restored);
	case RECORD_CONTAINER:
		return get_container(bytes, size);
	case RECORD_TASK:
		return get_task(bytes, size);
	}
	return -EBADMSG;
}

int reexec_restore(int state_fd)
{
	struct restored restored = { .client = { .watch = { .fd = -1 } } };
	struct stat stat;

	if (fstat(state_fd, &stat) < 0 || stat.st_size < 4)
		return -EBADMSG;
	size_t size = (size_t)stat.st_size;
	const uint8_t *state = mmap(NULL, size, PROT_READ, MAP_PRIVATE, state_fd, 0);
	close(state_fd);
	if (state == MAP_FAILED || wire_get_u32(state) != STATE_VERSION)
		return -EBADMSG;
	for (size_t at = 4; at < size;) {
		if (size - at < 8 || wire_get_u32(state + at + 4) > size - at - 8)
			return -EBADMSG;
		uint32_t length = wire_get_u32(state + at + 4);
		int err = get_record(wire_get_u32(state + at), state + at + 8, length, &restored);
		if (err < 0)
			return err;
		at += 8 + length;
	}
	munmap((void *)state, size);
	/* Told by the new image, because only it knows that it is there. */
	reply_ok(&restored.client, restored.request, 0);
	close_fd(&restored.client.watch.fd);
	return 0;
}
