/*
 * The writer. Normally one thread does all that may wait for a disk: log writes, opening and reopening logs, exit records. A file
 * system that does not answer (frozen, a dead NFS server) holds a thread in its system call, uninterruptibly; the other containers'
 * logs and exits must go on. So whenever work waits while every writer has been in one call for STALL_MS, one more thread is
 * started; it ends when there is nothing left to do. A work item is run by one thread at a time, so that there are never more threads
 * than stuck items plus one.
 *
 * The queue of a container is its pipe: while its writer is stuck the pipe is not read, and only its container waits. No log byte
 * is ever copied into memory of the shim that outlives the write.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shim.h"

#define WRITER_LIMIT 128
#define STALL_MS 100
#define STACK_BYTES (16 << 10)

static struct {
	pthread_mutex_t lock;
	pthread_cond_t more;
	struct work *first, **last;
	struct work *done_first, **done_last;
	unsigned threads, idle;
	int64_t busy_since[WRITER_LIMIT]; /* 0: free entry, NEVER: idle */
	struct watch wake;
} writers = { .lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER, .last = &writers.first, .done_last = &writers.done_first };

void writers_lock(void)
{
	pthread_mutex_lock(&writers.lock);
}

void writers_unlock(void)
{
	pthread_mutex_unlock(&writers.lock);
}

static void enqueue(struct work *work)
{
	work->queued = 1;
	work->next = NULL;
	*writers.last = work;
	writers.last = &work->next;
}

static struct work *dequeue(void)
{
	struct work *work = writers.first;
	if (work == NULL)
		return NULL;
	writers.first = work->next;
	if (writers.first == NULL)
		writers.last = &writers.first;
	work->queued = 0;
	return work;
}

/* Called with the lock held. */
static void finish(struct work *work, uint32_t bits, int tell)
{
	const uint64_t one = 1;

	work->busy = 0;
	work->finished |= bits;
	if (work->pending != 0)
		enqueue(work);
	if (!tell || work->announced)
		return;
	work->announced = 1;
	work->next_done = NULL;
	*writers.done_last = work;
	writers.done_last = &work->next_done;
	(void)!write(writers.wake.fd, &one, sizeof one);
}

/* Waits for work; NULL: this thread is one too many. */
static struct work *next_work(unsigned slot, uint8_t *buffer)
{
	struct work *work;

	writers.busy_since[slot] = NEVER;
	while ((work = dequeue()) == NULL) {
		if (writers.threads > 1)
			return NULL;
		/* Idle memory is not kept; the zeroed page that comes next time costs less than a disk write. */
		madvise(buffer, WRITER_BUFFER, MADV_DONTNEED);
		/* The start of this thread has brought that part back. */
		text_aside_used();
		writers.idle++;
		pthread_cond_wait(&writers.more, &writers.lock);
		writers.idle--;
	}
	writers.busy_since[slot] = now_ms();
	return work;
}

static void *writer_main(void *argument)
{
	unsigned slot = (unsigned)(uintptr_t)argument;
	uint8_t *buffer = pages_alloc(WRITER_BUFFER);
	struct work *work;

	writers_lock();
	while (buffer != NULL && (work = next_work(slot, buffer)) != NULL) {
		uint32_t bits = work->pending;
		work->pending = 0;
		work->busy = 1;
		writers_unlock();
		int tell = work->run(work, bits, buffer);
		writers_lock();
		finish(work, bits, tell);
	}
	writers.threads--;
	writers.busy_since[slot] = 0;
	writers_unlock();
	if (buffer != NULL)
		pages_free(buffer, WRITER_BUFFER);
	return NULL;
}

/* Called with the lock held. */
static int writer_start(void)
{
	pthread_attr_t attributes;
	pthread_t thread;
	unsigned slot = 0;

	while (slot < WRITER_LIMIT && writers.busy_since[slot] != 0)
		slot++;
	if (slot == WRITER_LIMIT)
		return -EAGAIN;
	writers.busy_since[slot] = now_ms();
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	text_aside_used();
	int err = pthread_create(&thread, &attributes, writer_main, (void *)(uintptr_t)slot);
	if (err != 0) {
		writers.busy_since[slot] = 0;
		return -err;
	}
	writers.threads++;
	return 0;
}

static void work_done(struct watch *watch, uint32_t events)
{
	uint64_t count;
	(void)events;
	(void)!read(watch->fd, &count, sizeof count);
	for (;;) {
		writers_lock();
		struct work *work = writers.done_first;
		if (work == NULL) {
			writers_unlock();
			break;
		}
		writers.done_first = work->next_done;
		if (writers.done_first == NULL)
			writers.done_last = &writers.done_first;
		uint32_t bits = work->finished;
		work->finished = 0;
		work->announced = 0;
		writers_unlock();
		work->done(work, bits); /* may free it */
	}
}

COLD int writers_start(void)
{
	writers.wake = (struct watch){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = work_done };
	if (writers.wake.fd < 0)
		return -errno;
	int err = watch_add(&writers.wake, EPOLLIN);
	if (err < 0)
		return err;
	writers_lock();
	err = writer_start();
	writers_unlock();
	return err;
}

/* 1 if every writer has been in its current call for STALL_MS. */
static int all_stuck(int64_t now)
{
	if (writers.idle > 0)
		return 0;
	for (unsigned i = 0; i < WRITER_LIMIT; i++)
		if (writers.busy_since[i] != 0 && (writers.busy_since[i] == NEVER || now - writers.busy_since[i] < STALL_MS))
			return 0;
	return 1;
}

/* Called with the lock held, as long as work waits. */
static void watch_queue(void)
{
	int64_t now = now_ms();

	if (writers.first == NULL)
		return;
	if (all_stuck(now))
		writer_start();
	deadline_at(now + STALL_MS);
}

void work_post(struct work *work, uint32_t bits)
{
	writers_lock();
	work->pending |= bits;
	if (!work->queued && !work->busy)
		enqueue(work);
	if (writers.idle > 0)
		pthread_cond_signal(&writers.more);
	/* An idle writer takes the first item at once; whatever else waits may come to wait for ever. */
	if (writers.idle == 0 || writers.first != work)
		watch_queue();
	writers_unlock();
}

void writers_deadlines(int64_t now)
{
	(void)now;
	writers_lock();
	watch_queue();
	writers_unlock();
}

int work_is_idle(struct work *work)
{
	writers_lock();
	int idle = !work->queued && !work->busy && !work->announced;
	writers_unlock();
	return idle;
}

int writers_idle(void)
{
	writers_lock();
	int idle = writers.first == NULL && writers.done_first == NULL && writers.idle == writers.threads;
	writers_unlock();
	return idle;
}
