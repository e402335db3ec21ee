/*
 * caisson-shim: one process per pod; parent of the containers. It forks inits and exec processes, reaps them, writes their logs,
 * watches OOM kills and keeps exit records until the daemon has acknowledged them. It outlives the daemon.
 *
 *   main.c       start-up and event loop         task.c report.c reap.c   forked children
 *   conn.c       clients and packets             container.c create.c start.c exit.c   a container's life
 *   request.c    table of requests               exec.c run.c host.c   the other children
 *   fork.c       clone3 and descriptors          killer.c kill.c  forked killers of cgroups and sessions
 *   writer.c     writer threads and their queue  log.c       CRI log;  record.c  exit records
 *   restore.c    containers that CRIU restores     oom.c attach.c reexec.c memory.c text.c
 *
 * Everything the main thread owns lies in pages that a forked child does not get (MADV_DONTFORK): a container that traces a sibling
 * before execve finds nothing there that belongs to others.
 */
#ifndef CAISSON_SHIM_H
#define CAISSON_SHIM_H

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/types.h>

#include "../common/gen/shim_messages.h"
#include "../common/kernel.h"
#include "../common/plan.h"
#include "../common/wire.h"
#include "list.h"
#include "text.h"

#ifdef PROTOCOL_VERSION_OVERRIDE
#undef PROTOCOL_VERSION
#define PROTOCOL_VERSION PROTOCOL_VERSION_OVERRIDE
#endif
#ifdef MIN_PROTOCOL_VERSION_OVERRIDE
#undef MIN_PROTOCOL_VERSION
#define MIN_PROTOCOL_VERSION MIN_PROTOCOL_VERSION_OVERRIDE
#endif
/* build.c */
extern const char shim_build[];

/* Run at start or seldom: see layout.ld. */
#define COLD __attribute__((cold))

#define POD_DIR_FD 3
#define READY_FD 4
#define POD_ID_LENGTH 64
#define ID_LIMIT 128       /* container ids: they are file names */
#define EXEC_ID_LIMIT 72
#define CLIENT_LIMIT 16
#define REQUEST_FDS 64
#define EXPORT_LIMIT 32
#define SINK_LIMIT 16      /* attached clients of one stream */
#define LOG_LINE_DEFAULT 16384u
#define LOG_LINE_LIMIT 65536u
#define FLUSH_MS 2000      /* how long a log may come in after init's end */
#define LOG_OPEN_MS 8000   /* how long start and reopen-log wait for the log's file system */
#define STUCK_MS 1000      /* how long an exit report waits for a file system that does not answer */
#define STATUS_UNKNOWN 0xffffffffu
#define STATUS_NEVER_STARTED (128u << 8)
#define NEVER INT64_MAX

enum phase { PHASE_CREATING = 1, PHASE_PARKED = 2, PHASE_STARTING = 3, PHASE_RUNNING = 4, PHASE_EXITED = 5 };
enum { CREATE_STDIN = 1, CREATE_TERMINAL = 2, CREATE_KILL_REST = 4, CREATE_STDIN_ONCE = 8,
       CREATE_RESTORED = 16 /* our own: restored frozen, thawed by start */ };

/* ---- main.c ---- */

/* A descriptor in the event loop. At most one event is taken from the kernel at a time, so that a handler may free any other watch. */
struct watch {
	int fd;
	void (*ready)(struct watch *watch, uint32_t events);
};
int watch_add(struct watch *watch, uint32_t events);
void watch_set(struct watch *watch, uint32_t events);
/* Takes it out of the loop first: a forked child may still hold the open file, which would keep reporting events. */
void watch_close(struct watch *watch);

/* Code of layout.ld's other part has been run: its pages are dropped before the loop waits again. */
void text_aside_used(void);
static inline void drop_fd(int *fd)
{
	close_fd(fd);
	*fd = -1;
}

int64_t now_ms(void);  /* CLOCK_MONOTONIC */
uint64_t wall_ns(void);
/* The loop looks at every deadline (deadlines_run in each file) no later than this. */
void deadline_at(int64_t at_ms);
/* Field 22 of /proc/PID/stat, 0 if the process is gone. */
uint64_t start_ticks(int pid);

/* ---- memory.c ---- */

/* Zeroed pages that children do not get; NULL when there is no memory. */
void *pages_alloc(size_t size);
void pages_free(void *pages, size_t size);
/* Zeroed pages that the next child gets. */
void *child_pages_alloc(size_t size);
/* Small zeroed blocks of CELL_BYTES. A page goes back to the kernel with its last cell. */
#define CELL_BYTES 448
void *cell_alloc(void);
void cell_free(void *cell);

/* ---- conn.c ---- */

struct client {
	struct watch watch; /* fd -1: unused entry */
	uint8_t greeted;
	uint8_t broken;     /* closed as soon as the current request is done */
};

struct request {
	struct client *client;
	uint32_t id;
	uint32_t type;
	struct wire_value value[MSG_MAX_FIELDS];
	int fds[REQUEST_FDS]; /* whoever takes one sets it to -1; the rest is closed */
	uint32_t fd_count;
};

int listen_start(int inherited);
void clients_sweep(void);
/* A message under construction. Payload begins behind the header. */
struct reply {
	struct wire_writer out;
	uint8_t bytes[1024];
};
void reply_begin(struct reply *reply);
/* NULL clients are ignored. A client that does not read loses its connection: the shim never waits for one. */
void reply_send(struct client *client, uint32_t type, uint32_t request, struct reply *reply, const int *fds, uint32_t fd_count);
void reply_ok(struct client *client, uint32_t request, uint64_t value);
void reply_failed(struct client *client, uint32_t request, int err, uint32_t op, const char *detail);
void broadcast(uint32_t type, struct reply *reply);

/* ---- request.c ---- */

/* 0, or -EBADMSG: malformed, the client has been told. */
int request_handle(struct client *client, const uint8_t *payload, size_t size, uint32_t type, uint32_t id, int *fds, uint32_t fd_count);
const char *message_signature(uint32_t type);

/* ---- fork.c ---- */

/* Forks. Returns 0 in the child, the pid, or -errno. kinds: CLONE_NEW*; cgroup: a v2 directory or empty. */
int fork_child(uint32_t kinds, const char *cgroup, int *pidfd);
/* The shim needs more descriptors than its children are to be given: raised here, and put back in each child and before a re-exec. */
void nofile_raise(void);
void nofile_restore(void);
/* In a child: closes all descriptors but 0 to 2 and these; -1 is skipped. Sorts the array. */
void close_all_but(int *keep, unsigned count);
_Noreturn void plan_child(const struct plan *plan, struct plan_env *env);
/* How often the plan has that op, 200 at most. */
uint8_t count_ops(const struct plan *plan, uint32_t code);

/* ---- task.c, report.c, reap.c ---- */

struct task;
struct container;

enum task_kind { TASK_RUN = 1, TASK_INIT, TASK_EXEC, TASK_HOST, TASK_KILL };
enum task_state {
	TASK_SETUP,   /* the plan runs */
	TASK_PARKED,  /* an init that waits for `start` */
	TASK_LIVE,    /* execve happened, or the child needs no supervision */
	TASK_ENDED,   /* reaped */
};

struct task_ops {
	void (*parked)(struct task *);
	void (*report_closed)(struct task *); /* execve, or death: the caller has to find out */
	void (*ended)(struct task *);         /* reaped; status is valid. May free the task */
	void (*deadline)(struct task *);
	void (*client_gone)(struct task *);
};

struct failure {
	int err;
	uint32_t op;
	char detail[240];
};

struct task_export {
	int fd;
	uint32_t pin; /* 0: goes back with the reply */
};

struct task {
	struct list link;
	const struct task_ops *ops;
	struct watch report;
	int release;
	int pid, pidfd;
	int console;             /* pty master of an exec, -1 */
	uint8_t kind, state, forks_left;
	uint8_t pins_left, exports_left, makes_console;
	uint8_t doomed;          /* killed by us before its plan was through; successors die too */
	uint8_t timed_out, barrier_waits, makes_reaper;
	uint8_t was_live;        /* when it ended */
	uint8_t adopted;         /* of no client, or taken over at a re-exec: every client hears of its end */
	uint32_t barrier, request, status;
	struct client *client;   /* who waits; NULL once answered or gone */
	struct container *container;
	struct failure *failure; /* what the child reported first */
	struct task_export *exports; /* a cell */
	uint32_t export_count;
	int64_t deadline;        /* NEVER: none */
	uint64_t at_ns;          /* execve, then end */
	int sid;
	struct task *waits_for;  /* killer that has to end first */
	void (*killed)(struct task *killer); /* TASK_KILL: on_end */
	char exec_id[EXEC_ID_LIMIT];
};
_Static_assert(sizeof(struct task) <= CELL_BYTES, "a task is a cell");
_Static_assert(EXPORT_LIMIT * sizeof(struct task_export) <= CELL_BYTES, "exports are a cell");
_Static_assert(sizeof(struct failure) <= CELL_BYTES, "a failure is a cell");

void task_init(struct task *task, enum task_kind kind, const struct task_ops *ops);
struct task *task_new(enum task_kind kind, const struct task_ops *ops);
struct child_ends {
	int report, release;
};
/* Forks with report and release channels and adds the task to the list. Returns 0 in the child, 1 in the parent, or -errno. */
int task_fork(struct task *task, uint32_t kinds, const char *cgroup, struct child_ends *ends);
/* The same for a child that runs a plan. 0 or -errno. */
int task_fork_plan(struct task *task, uint32_t kinds, const char *cgroup, const struct plan *plan, struct plan_env *env);
void task_release(struct task *task);
void task_signal(struct task *task, int signal);
/* Kills a child whose plan is not through, and remembers why. */
void task_doom(struct task *task, int err, const char *detail);
void task_fail(struct task *task, int err, uint32_t op, const char *detail);
/* Answers the waiting client with the failure, else with this sentence. */
void task_reply_failure(struct task *task, const char *otherwise);
/* Moves staged pins to the pod; returns the number of descriptors to send back. */
uint32_t task_take_exports(struct task *task, int *fds);
void task_free(struct task *task);
void task_set_deadline(struct task *task, int64_t at_ms);
int task_is_dead(struct task *task);
/* 1 if a task has this pid: other children of ours are orphans of the containers. */
int task_known(int pid);
struct task *task_find(int pid);
/* Takes one report. 1: there may be more; 0: nothing now, or the channel is closed. */
int report_take(struct task *task);
void report_ready(struct watch *watch, uint32_t events);
/* Takes over a child of the image before a re-exec. */
void task_restore(struct task *task, int pidfd, int report, int release, enum task_state state);
void tasks_reap(void);
void tasks_deadlines(int64_t now);
void tasks_client_gone(struct client *client);

/* ---- killer.c, kill.c ---- */

/*
 * Forks a killer; `on_end` runs when it has ended (task->status 0: nothing is left). container may be NULL. The killer is bounded in
 * time. Returns NULL when it cannot be forked.
 */
enum kill_mode {
	KILL_CGROUP,  /* every process in the container's cgroups */
	KILL_SESSION, /* every process of that session */
	KILL_THAW,    /* only thaws: a frozen v1 cgroup does not even let SIGKILL through; and a restored container is born frozen */
};
struct task *kill_start(struct container *container, enum kill_mode mode, int signal, int sid, void (*on_end)(struct task *));
_Noreturn void kill_child(enum kill_mode mode, int signal, int sid, const struct wire_value *paths, int shim_pid);

/* ---- writer.c ---- */

/*
 * Work for the writer threads: bits posted by the main thread, run by one thread at a time, so that the files of one work item need no
 * lock. `done` is called in the main thread with the bits that have been run.
 */
struct work {
	struct work *next, *next_done;
	/* 1: the main thread has to hear of it. */
	int (*run)(struct work *work, uint32_t bits, uint8_t *buffer);
	void (*done)(struct work *work, uint32_t bits);
	uint32_t pending, finished;
	uint8_t queued, busy, announced;
};
#define WRITER_BUFFER (LOG_LINE_LIMIT + 4096)
int writers_start(void);
void work_post(struct work *work, uint32_t bits);
int work_is_idle(struct work *work);
/* 1 if nothing is queued or being written anywhere. */
int writers_idle(void);
void writers_deadlines(int64_t now);
void writers_lock(void);
void writers_unlock(void);

/* ---- log.c ---- */

enum {
	LOG_STDOUT = 1,
	LOG_STDERR = 2,
	LOG_OPEN = 4,
	LOG_REOPEN = 8,
	LOG_FINISH = 16, /* what the pipes hold now, then the end */
};
struct stream {
	struct watch watch;  /* one-shot: armed by the writer when it has written everything */
	uint32_t partial;    /* bytes of an unfinished line in the stash */
	uint8_t index, at_end, finishing;
	uint8_t attached;      /* there has been a client */
	uint8_t slow;          /* the client that `room` is about */
	struct watch room;     /* of a full client's pipe: the stream waits for it, and is not read */
	int64_t patience_ends;
	uint32_t chunk;        /* bytes in the stash that some client has not got whole */
	int sinks[SINK_LIMIT]; /* attached clients; changed under the writers' lock, as is what they lack of the chunk */
	uint32_t behind[SINK_LIMIT];
};
struct log {
	struct work work;
	struct stream stream[2];
	int file, stash;
	uint32_t line_bytes;
	uint64_t dropped;    /* atomic: read by the main thread */
	int open_error;
	uint8_t opened;
	const char *path;
};
void log_init(struct log *log, const char *path, uint32_t line_bytes);
int log_watch(struct log *log, unsigned index, int fd);
int log_at_end(const struct log *log);
int log_waits_for_clients(const struct log *log);
void log_close(struct log *log);
uint64_t log_dropped(const struct log *log);
/* mkdir -p of the parent, open without following a link, regular files only. A descriptor or -errno. Writer thread. */
int log_file_open(const char *path);

/* ---- sinks.c ---- */

/* Takes the descriptor, or -errno. */
int sink_add(struct stream *stream, int *fd);
/* Writer thread. 1: some client has no room for all of it, and has to be given the rest before anything else. */
int sinks_give(struct stream *stream, const uint8_t *bytes, uint32_t size);
/* Writer thread. Goes on with the chunk, of which this is the end; 1: not all have it yet. */
int sinks_catch_up(struct stream *stream, const uint8_t *end);
/* All that are behind. */
void sinks_cut_off(struct stream *stream);
/* Main thread: lets streams go on when their clients have room, or are cut off. */
void sinks_wait(struct log *log);
void sinks_deadlines(struct log *log, int64_t now);
void sinks_close(struct stream *stream);

/* ---- record.c ---- */

enum { RECORD_RESERVE = 1, RECORD_WRITE = 2, RECORD_REMOVE = 4 };
struct record {
	struct work work;
	int file, error;
	uint32_t length;
	char id[ID_LIMIT + 1];
	char text[256];
};

/* ---- container.c, create.c, start.c, exit.c, oom.c ---- */

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

/* ---- attach.c ---- */

void stdin_close(struct container *container);
/* Takes the descriptor in any case. 0 or -errno. */
int stdin_pump_start(struct container *container, int source);

/* ---- handlers (request.c's table) ---- */

void handle_run(struct request *request);
void handle_create(struct request *request);
void handle_continue(struct request *request);
void handle_start(struct request *request);
void handle_exec(struct request *request);
void handle_exec_kill(struct request *request);
void handle_exec_adopt(struct request *request);
void handle_signal(struct request *request);
void handle_reopen_log(struct request *request);
void handle_list(struct request *request);
void handle_ack_exit(struct request *request);
void handle_forget(struct request *request);
void handle_shutdown(struct request *request);
void handle_reexec(struct request *request);
void handle_spawn_host(struct request *request);
void handle_resize(struct request *request);
void handle_attach(struct request *request);
void handle_restore_prepare(struct request *request);
void handle_restore_adopt(struct request *request);

void shutdown_continue(int64_t now);

/* ---- reexec.c ---- */

/* Waits until nothing is in flight, then becomes the new image. */
void reexec_continue(int64_t now);
/* In the new image: takes over what the old one left. 0 or -errno. */
int reexec_restore(int state_fd);
/* The terminal of an exec, -1 if it has none. */
int exec_console(const char *id, const char *exec_id);

/* ---- state ---- */

struct shim {
	int epoll, image, proc, exits_dir, listen;
	char pod_id[POD_ID_LENGTH + 1];
	struct client clients[CLIENT_LIMIT];
	struct list tasks, containers;
	int pins[PLAN_PINS];
	int64_t next_deadline;
	uint64_t own_ticks;
	struct client *shutdown_client, *reexec_client;
	uint32_t shutdown_request, reexec_request;
	int64_t shutdown_deadline, reexec_deadline; /* 0: not asked */
	int reexec_image;
	uint8_t aside_used;
};
extern struct shim *shim;

#endif
