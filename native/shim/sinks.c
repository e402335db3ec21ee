/*
 * Attached clients of a container's output: pipes of which the shim has the write ends. One that is full holds up its container, as any
 * reader of a pipe does, so that nobody who reads loses anything; but no longer than PATIENCE_MS without taking a byte: then it is cut off.
 *
 *   all have it --one has no room--> behind --it has taken some--> behind or all have it
 *                                      +--PATIENCE_MS, or the container's end: cut off
 *
 * What such a client lacks waits in the log's memfd. The log gets everything before that.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim.h"

/* Room for what a client has not read yet. Kernel memory, and only while it is full. */
#define SINK_BYTES (1 << 20)
#define PATIENCE_MS 2000

/* Nobody reads it any more: of a container that writes nothing this would not be noticed otherwise. */
static int is_abandoned(int sink)
{
	struct pollfd reader = { .fd = sink };
	return poll(&reader, 1, 0) == 1 && (reader.revents & POLLERR) != 0;
}

int sink_add(struct stream *stream, int *fd)
{
	int added = 0;

	if (fcntl(*fd, F_SETFL, O_NONBLOCK | (fcntl(*fd, F_GETFL) & O_ACCMODE)) < 0)
		return -errno;
	fcntl(*fd, F_SETPIPE_SZ, SINK_BYTES);
	writers_lock();
	for (int i = 0; i < SINK_LIMIT && !added; i++) {
		if (stream->sinks[i] >= 0 && !is_abandoned(stream->sinks[i]))
			continue;
		close_fd(&stream->sinks[i]);
		stream->sinks[i] = steal_fd(fd);
		stream->behind[i] = 0;
		__atomic_store_n(&stream->attached, 1, __ATOMIC_RELAXED);
		added = 1;
	}
	writers_unlock();
	return added ? 0 : -EUSERS;
}

static void sink_drop(struct stream *stream, int i)
{
	drop_fd(&stream->sinks[i]);
	stream->behind[i] = 0;
}

/* Called with the lock held. The mode of its pipe tells the other side that this is not the container's end. */
static void sink_cut_off(struct stream *stream, int i)
{
	fchmod(stream->sinks[i], 0);
	sink_drop(stream, i);
}

/* The last `left` bytes before `end`. */
static void sink_give(struct stream *stream, int i, const uint8_t *end, uint32_t left)
{
	ssize_t put = write(stream->sinks[i], end - left, left);

	if (put < 0 && errno != EAGAIN && errno != EINTR)
		sink_drop(stream, i);
	else
		stream->behind[i] = left - (uint32_t)(put > 0 ? put : 0);
}

int sinks_give(struct stream *stream, const uint8_t *bytes, uint32_t size)
{
	int behind = 0;

	writers_lock();
	for (int i = 0; i < SINK_LIMIT; i++) {
		if (stream->sinks[i] < 0)
			continue;
		sink_give(stream, i, bytes + size, size);
		behind |= stream->behind[i] > 0;
	}
	writers_unlock();
	return behind;
}

int sinks_catch_up(struct stream *stream, const uint8_t *end)
{
	int behind = 0;

	writers_lock();
	for (int i = 0; i < SINK_LIMIT; i++) {
		if (stream->behind[i] == 0)
			continue;
		sink_give(stream, i, end, stream->behind[i]);
		behind |= stream->behind[i] > 0;
	}
	writers_unlock();
	return behind;
}

void sinks_cut_off(struct stream *stream)
{
	writers_lock();
	for (int i = 0; i < SINK_LIMIT; i++)
		if (stream->behind[i] > 0)
			sink_cut_off(stream, i);
	writers_unlock();
}

static void stream_goes_on(struct stream *stream)
{
	struct log *log = container_of(stream - stream->index, struct log, stream[0]);

	watch_close(&stream->room);
	work_post(&log->work, LOG_STDOUT << stream->index);
}

static void room_ready(struct watch *watch, uint32_t events)
{
	(void)events;
	stream_goes_on(container_of(watch, struct stream, room));
}

/* A descriptor of its own: the writer may drop the client's meanwhile. */
static int watch_room(struct stream *stream)
{
	int fd = -1;

	writers_lock();
	for (uint8_t i = 0; i < SINK_LIMIT && fd < 0; i++) {
		if (stream->behind[i] == 0)
			continue;
		stream->slow = i;
		fd = fcntl(stream->sinks[i], F_DUPFD_CLOEXEC, 5);
	}
	writers_unlock();
	stream->room = (struct watch){ .fd = fd, .ready = room_ready };
	if (fd >= 0 && watch_add(&stream->room, EPOLLOUT | EPOLLONESHOT) == 0)
		return 0;
	watch_close(&stream->room);
	return -EMFILE;
}

void sinks_wait(struct log *log)
{
	for (unsigned i = 0; i < 2; i++) {
		struct stream *stream = &log->stream[i];
		if (stream->chunk == 0 || stream->at_end || stream->room.fd >= 0)
			continue;
		if (watch_room(stream) < 0) {
			sinks_cut_off(stream);
			stream_goes_on(stream);
			continue;
		}
		stream->patience_ends = now_ms() + PATIENCE_MS;
		deadline_at(stream->patience_ends);
	}
}

void sinks_deadlines(struct log *log, int64_t now)
{
	for (unsigned i = 0; i < 2; i++) {
		struct stream *stream = &log->stream[i];
		if (stream->room.fd < 0)
			continue;
		if (stream->patience_ends > now) {
			deadline_at(stream->patience_ends);
			continue;
		}
		writers_lock();
		if (stream->behind[stream->slow] > 0)
			sink_cut_off(stream, stream->slow);
		writers_unlock();
		stream_goes_on(stream);
	}
}

void sinks_close(struct stream *stream)
{
	watch_close(&stream->room);
	for (int i = 0; i < SINK_LIMIT; i++)
		drop_fd(&stream->sinks[i]);
}
