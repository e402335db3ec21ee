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
#include <sys/types.h>

#include "container.h"
#include "handlers.h"
#include "text.h"

/* All that the main thread knows. */
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
