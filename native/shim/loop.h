/* The event loop: watched descriptors, deadlines, clocks. main.c */
#ifndef CAISSON_SHIM_LOOP_H
#define CAISSON_SHIM_LOOP_H

#include <stdint.h>
#include <sys/epoll.h>

#include "../common/kernel.h"

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

#endif
