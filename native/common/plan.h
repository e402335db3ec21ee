/*
 * Plans: decoded and checked whole in the shim, run op by op in a forked child (src/core/plan-schema.ts says what each op does).
 *
 *   shim                                     child (clone3, plain or with namespaces; signals blocked)
 *     | plan_decode(request)                   |
 *     | clone3 ------------------------------> | plan_run(plan, env)
 *     | <------------------- EXPORT, PIN (fd)  |
 *     | <-------------------------- BARRIER n  |  reads one byte from `release`
 *     | byte 1 on release -------------------> |
 *     | <------------------------ FORKED pid   |  twice: from the old process, which then exits 0, and from the new one
 *     | <-------------------- CONSOLE (master) |
 *     | <----------------------------- PARKED  |  reads one byte from `release`; holds 0, 1, 2, release, report
 *     | byte 1 on release -------------------> |
 *     | <---- FAILED op errno detail, exit 127 |  or end of file: execve happened
 *
 * What the shim has to do:
 *   - call plan_run from its main thread's child only (PDEATHSIG is tied to the thread that forked);
 *   - close its copies of the child's ends; give `report` and `release` O_CLOEXEC and numbers of 3 or more;
 *   - drain `report` before it believes that an exited pid was the last: FORKED may name a successor. The one that follows must
 *     be accepted once; a repeat with the same pid is the normal duplicate;
 *   - when a child goes away without FAILED, EXPORT... and with exit code 0, the plan came to its end (no exec in it);
 *   - after PARKED (and after FORKED in a shared pid namespace) believe nothing but FAILED: a container may trace a parked init and write here;
 *   - end of file on `release` makes the child exit;
 *   - zero and free the plan's bytes once the child runs: later children must not inherit other containers' environments.
 */
#ifndef CAISSON_PLAN_H
#define CAISSON_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "gen/plan_ops.h"

#define PLAN_MAX_OPS 4096
#define PLAN_MAX_BYTES (4u << 20)
#define PLAN_SLOTS 64
#define PLAN_HELD_CGROUPS 256u /* of one hold-frozen */
#define PLAN_FIRST_PIN 64
#define PLAN_PINS 32
#define PLAN_NO_SLOT 0xffffffffu
#define PLAN_NO_OP 0xffffffffu

/* A checked plan: a view of the caller's bytes, which must stay until the child has been forked. */
struct plan {
	const uint8_t *bytes;
	uint32_t size;
	uint32_t count;
};

/* Where decoding stopped; op is PLAN_NO_OP for the header. `why` is a constant sentence. */
struct plan_error {
	uint32_t op;
	const char *why;
};

/* Checks everything that can be checked without running: 0, or -EBADMSG, or -ENOSYS for an op code that this build does not know. */
int plan_decode(const void *bytes, size_t size, struct plan *out, struct plan_error *error);

/* 1 if the plan has that op. */
int plan_has(const struct plan *plan, uint32_t code);
/* Op codes that this build knows, for the hello. Returns the number; `codes` holds up to `room`. */
uint32_t plan_known_ops(uint32_t *codes, uint32_t room);
/* "mount-attr" and so on, for tests and tools; NULL if unknown. */
const char *plan_op_name(uint32_t code);
const char *plan_op_signature(uint32_t code);

/* Goes through the operations of a checked plan. */
struct plan_cursor {
	const uint8_t *next;
	uint32_t left;
	uint16_t code;
	uint32_t size;
	const uint8_t *fields;
};
void plan_cursor(const struct plan *plan, struct plan_cursor *cursor);
int plan_next(struct plan_cursor *cursor);

enum plan_report_type {
	PLAN_FAILED = 1,  /* op, err (positive errno), detail; the child exits 127 */
	PLAN_BARRIER = 2, /* number; waits for a byte on release */
	PLAN_EXPORT = 3,  /* descriptor attached; number: its place among the exports, from 0 */
	PLAN_PIN = 4,     /* descriptor attached; number: pin (64 to 95) */
	PLAN_FORKED = 5,  /* pid of the process that continues, as the shim sees it */
	PLAN_PARKED = 6,  /* waits for a byte on release */
	PLAN_CONSOLE = 7, /* descriptor attached: the pty master */
};

/* One packet on the report socket (SEQPACKET, child to shim), always this size; descriptors by SCM_RIGHTS. */
struct plan_report {
	uint32_t type;
	uint32_t op;
	int32_t err;
	uint32_t number;
	int32_t pid;
	char detail[236]; /* NUL-terminated, cut where too long */
};
_Static_assert(sizeof(struct plan_report) == 256, "shim and child must agree on the packet");

struct plan_env {
	int report;                /* SEQPACKET socket to the shim */
	int release;               /* pipe or socket: one byte lets a waiting child go on */
	int image;                 /* the shim's own executable, for `reaper`; -1: not available */
	int proc;                  /* private procfs, of proc_private; -1: the child makes one if it needs one */
	int slots[PLAN_SLOTS];     /* descriptors of the request from 0 on; -1: empty */
	int pins[PLAN_PINS];       /* pins[pin - PLAN_FIRST_PIN]; -1: not pinned */
};

/* All slots and pins empty, descriptors -1. */
void plan_env_init(struct plan_env *env);

/* A procfs that nothing can be mounted over, with processes only: -errno or its descriptor. For plan_env.proc of many children: the end
 * of the last descriptor takes a grace period of the kernel. */
int proc_private(void);

/*
 * Runs the plan in a forked child; does not return. Async-signal-safe: no malloc, no stdio, no locks. Exit codes: 0 the plan
 * came to its end, 127 FAILED was reported, 126 the shim went away.
 */
_Noreturn void plan_run(const struct plan *plan, struct plan_env *env);

/*
 * Newer system calls that shall answer ENOSYS, so that the fallbacks run: names separated by commas as in CAISSON_DENY_SYSCALLS
 * (kernel.h lists them). Call once at start, before any fork.
 * Returns -EINVAL for an unknown name.
 */
int kernel_deny(const char *names);
/* 1 if anything is denied: `features` bit 0 of the hello. */
int kernel_is_restricted(void);

/* The pod's reaper: main() calls it at once when argv[0] is this. Never returns but on failure. */
#define REAPER_NAME "caisson-reaper"
int reaper_main(void);

#endif
