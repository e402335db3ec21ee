/* A container's life. container.c, create.c, start.c, exit.c, restore.c; record.c, oom.c, attach.c */
#ifndef CAISSON_SHIM_CONTAINER_H
#define CAISSON_SHIM_CONTAINER_H

#include <stdint.h>

#include "log.h"
#include "task.h"

enum { RECORD_RESERVE = 1, RECORD_WRITE = 2, RECORD_REMOVE = 4 };
struct record {
	struct work work;
	int file, error;
	uint32_t length;
	char id[ID_LIMIT + 1];
	char text[256];
};

enum exit_step { EXIT_NONE, EXIT_KILLING, EXIT_FLUSHING, EXIT_RECORDING, EXIT_REPORTED };

struct oom {
	struct watch watch;
	int control;      /* v1: memory.oom_control; v2: memory.events is the watch itself */
	uint8_t version;
	uint8_t recheck;
	uint64_t baseline, count;
};

struct container {
	struct list link;
	size_t pages;            /* bytes of this mapping */
	struct task init;
	struct log log;
	struct record record;
	struct oom oom;
	uint8_t phase, flags, exit_step, acked, reserved, oom_killed;
	uint8_t forgotten;       /* no longer listed; freed when its writers are idle */
	uint8_t answered;        /* `created` has been sent */
	uint8_t flush_overdue;
	int stdin_fd, console, console_slave;
	struct watch stdin_source; /* attached client's input */
	struct watch stdin_wait;   /* the same container stdin, watched for room */
	uint64_t start_ticks, started_ns, exited_ns;
	uint32_t status;
	int64_t deadline;
	struct client *waiter;   /* of start, reopen-log or forget */
	uint32_t waiter_request, waiter_type;
	struct wire_value kill_paths;
	const char *id, *cgroup, *log_path, *oom_path;
};

struct container *container_find(const char *id);
/* Allocates one with these strings; NULL: no memory. */
struct container *container_alloc(const char *id, const char *cgroup, const char *log_path, const char *oom_path,
				  const struct wire_value *kill_paths);
void container_answer(struct container *container, int err, const char *detail);
/* Notes who waits for an answer; 0 if somebody else does already, and the request has been refused. */
int container_expect(struct container *container, struct request *request);
/* Out of the list, its execs killed, its exit record removed; freed when nothing refers to it any more. */
void container_discard(struct container *container);
void container_free_when_idle(struct container *container);
void init_parked(struct task *task);
int container_id_valid(const char *id, uint32_t size);
/* Ends of the container's stdio: `child` is the process's, the others stay with the container. */
int container_make_stdio(struct container *container, int *child);
/* restore.c: 1 if it has no init yet. */
int container_is_prepared(const struct container *container);
void container_abandon(struct container *container);
void start_log_opened(struct container *container);
void start_deadline(struct container *container);
void containers_deadlines(int64_t now);
void containers_client_gone(struct client *client);
void container_deadline(struct container *container, int64_t at_ms);

void exit_begin(struct container *container, uint32_t status);
void exit_continue(struct container *container);
void exit_deadline(struct container *container);
void exit_send(struct container *container, struct client *client);

void oom_open(struct oom *oom, const char *path);
void oom_watch(struct oom *oom);
void oom_close(struct oom *oom);
void oom_baseline(struct oom *oom);
uint64_t oom_read(struct oom *oom);
/* Tells the clients of kills that they have not heard of. */
void oom_tell(struct container *container);
void oom_deadline(struct container *container, int64_t now);

void record_init(struct record *record, const char *id);
void container_record_done(struct work *work, uint32_t bits);
void container_log_done(struct work *work, uint32_t bits);
extern const struct task_ops init_ops, exec_ops, host_ops, run_ops;

void stdin_close(struct container *container);
/* Takes the descriptor in any case. 0 or -errno. */
int stdin_pump_start(struct container *container, int source);

#endif
