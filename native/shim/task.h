/* Forked children: fork.c; task.c, report.c, reap.c; killer.c, kill.c */
#ifndef CAISSON_SHIM_TASK_H
#define CAISSON_SHIM_TASK_H

#include <stdint.h>

#include "../common/plan.h"
#include "conn.h"
#include "list.h"
#include "memory.h"

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

#endif
