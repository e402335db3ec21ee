/* The threads that write to disks. writer.c */
#ifndef CAISSON_SHIM_WRITER_H
#define CAISSON_SHIM_WRITER_H

#include <stdint.h>

#include "limits.h"

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

#endif
