/*
 * CRI log files: `2026-11-23T14:00:00.123456789Z stdout F text`. One record is one append, so that rotation and readers never see
 * half of one; what a full disk cuts short is cut back. Runs in the writer threads, one at a time per container.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "shim.h"

#define PREFIX 40    /* time, stream, tag */
#define HEAD 64      /* room for the first record's prefix */
#define TURN_BYTES (64 << 10)
_Static_assert(HEAD + LOG_LINE_LIMIT + 2 <= WRITER_BUFFER, "a longest piece, its prefix and its newline fit");

static char *two_digits(char *at, unsigned value)
{
	at[0] = (char)('0' + value / 10);
	at[1] = (char)('0' + value % 10);
	return at + 2;
}

/* gmtime_r would pull in time zones. Days to civil date: years begin in March, so that the leap day is a year's last. */
static void format_time(char *at, const struct timespec *t)
{
	uint64_t days = (uint64_t)t->tv_sec / 86400 + 719468;
	unsigned second = (unsigned)((uint64_t)t->tv_sec % 86400);
	unsigned era = (unsigned)(days / 146097), day_of_era = (unsigned)(days % 146097);
	unsigned year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
	unsigned day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
	unsigned shifted = (5 * day_of_year + 2) / 153;
	unsigned month = shifted < 10 ? shifted + 3 : shifted - 9;
	unsigned year = year_of_era + era * 400 + (month <= 2);
	unsigned long nanos = (unsigned long)t->tv_nsec;

	at = two_digits(two_digits(at, year / 100), year % 100);
	*at++ = '-';
	at = two_digits(at, month);
	*at++ = '-';
	at = two_digits(at, day_of_year - (153 * shifted + 2) / 5 + 1);
	*at++ = 'T';
	at = two_digits(at, second / 3600);
	*at++ = ':';
	at = two_digits(at, second / 60 % 60);
	*at++ = ':';
	at = two_digits(at, second % 60);
	*at++ = '.';
	for (int i = 8; i >= 0; i--, nanos /= 10)
		at[i] = (char)('0' + nanos % 10);
	at[9] = 'Z';
}

/* Writes text[0..length) as one record. The PREFIX bytes before it and the byte behind it are free to be overwritten. */
static void write_record(struct log *log, unsigned index, char tag, uint8_t *text, uint32_t length)
{
	struct timespec now;
	char *start = (char *)text - PREFIX;
	size_t size = PREFIX + length + 1;

	if (log->path[0] == '\0')
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	format_time(start, &now);
	memcpy(start + 30, index == 0 ? " stdout " : " stderr ", 8);
	start[38] = tag;
	start[39] = ' ';
	text[length] = '\n';
	ssize_t written = log->file < 0 ? -1 : write(log->file, start, size);
	if (written == (ssize_t)size)
		return;
	if (written > 0) {
		off_t end = lseek(log->file, 0, SEEK_CUR);
		(void)!ftruncate(log->file, end - written);
	}
	__atomic_fetch_add(&log->dropped, length + (tag == 'F'), __ATOMIC_RELAXED);
}

/* Writes all records that are complete; returns how many bytes of an unfinished one are left, moved to the front. */
static uint32_t write_records(struct log *log, unsigned index, uint8_t *area, uint32_t have)
{
	uint32_t at = 0;

	for (;;) {
		uint32_t left = have - at, look = left > log->line_bytes ? log->line_bytes + 1 : left;
		uint8_t *newline = memchr(area + at, '\n', look);
		if (newline != NULL) {
			uint32_t length = (uint32_t)(newline - (area + at));
			write_record(log, index, 'F', area + at, length);
			at += length + 1;
		} else if (left > log->line_bytes) {
			uint8_t kept = area[at + log->line_bytes];
			write_record(log, index, 'P', area + at, log->line_bytes);
			at += log->line_bytes;
			area[at] = kept;
		} else {
			memmove(area, area + at, left);
			return left;
		}
	}
}

static off_t stash_offset(const struct stream *stream)
{
	return (off_t)stream->index * (LOG_LINE_LIMIT + 4096);
}

/* What clients have no room for lies behind the unfinished lines. */
static off_t chunk_offset(const struct stream *stream)
{
	return (off_t)(2 + stream->index) * (LOG_LINE_LIMIT + 4096);
}

static int open_stash(struct log *log)
{
	if (log->stash < 0)
		log->stash = memfd_create("caisson-log", MFD_CLOEXEC);
	return log->stash;
}

/*
 * An unfinished line waits in a memfd: in private memory two streams with long lines would cost each container twice the
 * longest piece.
 */
static void stash_save(struct log *log, struct stream *stream, const uint8_t *area, uint32_t have)
{
	stream->partial = have;
	if (have == 0)
		return;
	if (pwrite(open_stash(log), area, have, stash_offset(stream)) == (ssize_t)have)
		return;
	__atomic_fetch_add(&log->dropped, have, __ATOMIC_RELAXED);
	stream->partial = 0;
}

static uint32_t stash_load(struct log *log, struct stream *stream, uint8_t *area)
{
	if (stream->partial == 0 || pread(log->stash, area, stream->partial, stash_offset(stream)) != (ssize_t)stream->partial)
		return 0;
	return stream->partial;
}

/* Attached clients get the bytes as they are. 1: one of them has no room for all of it. */
static int tee_to_sinks(struct log *log, struct stream *stream, const uint8_t *bytes, uint32_t size)
{
	if (!__atomic_load_n(&stream->attached, __ATOMIC_RELAXED) || !sinks_give(stream, bytes, size))
		return 0;
	stream->chunk = stream->finishing ? 0 : size;
	if (!stream->finishing && pwrite(open_stash(log), bytes, size, chunk_offset(stream)) == (ssize_t)size)
		return 1;
	sinks_cut_off(stream);
	stream->chunk = 0;
	return 0;
}

/* Goes on with what clients had no room for. 1: they still have not. */
static int chunk_goes_on(struct log *log, struct stream *stream, uint8_t *buffer)
{
	if (stream->chunk == 0)
		return 0;
	if (pread(log->stash, buffer, stream->chunk, chunk_offset(stream)) != (ssize_t)stream->chunk)
		sinks_cut_off(stream);
	else if (sinks_catch_up(stream, buffer + stream->chunk))
		return 1;
	stream->chunk = 0;
	return 0;
}

/* Reads up to `budget` bytes. 1: there may be more; 0: nothing now, or a client has to take some first; -1: end of file. */
static int stream_read(struct log *log, struct stream *stream, uint8_t *buffer, int budget)
{
	uint8_t *area = buffer + HEAD;
	uint32_t have = stash_load(log, stream, area);
	int result = 1;

	while (budget > 0) {
		uint32_t room = log->line_bytes + 1 - have;
		ssize_t size = read(stream->watch.fd, area + have, room < (uint32_t)budget ? room : (uint32_t)budget);
		if (size <= 0) {
			/* A pty's master answers EIO once nobody has its slave open. */
			result = size < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
			break;
		}
		budget -= (int)size;
		if (tee_to_sinks(log, stream, area + have, (uint32_t)size))
			budget = result = 0;
		have = write_records(log, stream->index, area, have + (uint32_t)size);
	}
	if (result < 0 && have > 0) {
		write_record(log, stream->index, 'P', area, have);
		have = 0;
	}
	stash_save(log, stream, area, have);
	return result;
}

static void stream_turn(struct log *log, struct stream *stream, uint8_t *buffer)
{
	if (stream->watch.fd < 0 || stream->at_end)
		return;
	if (chunk_goes_on(log, stream, buffer))
		return;
	if (stream_read(log, stream, buffer, TURN_BYTES) < 0)
		stream->at_end = 1;
	else if (stream->chunk == 0)
		watch_set(&stream->watch, EPOLLIN | EPOLLONESHOT);
}

/* What lies in the pipe at this moment, and not what somebody who still holds it goes on to write. Clients that are behind now stay so. */
static void stream_finish(struct log *log, struct stream *stream, uint8_t *buffer)
{
	int left = 0;

	if (stream->watch.fd < 0 || stream->at_end)
		return;
	if (chunk_goes_on(log, stream, buffer))
		sinks_cut_off(stream);
	stream->chunk = 0;
	stream->finishing = 1;
	ioctl(stream->watch.fd, FIONREAD, &left);
	if (stream_read(log, stream, buffer, left + 1) >= 0 && stream->partial > 0) {
		uint32_t have = stash_load(log, stream, buffer + HEAD);
		write_record(log, stream->index, 'P', buffer + HEAD, have);
		stream->partial = 0;
	}
	stream->at_end = 1;
}

/* mkdir -p of everything above the file. */
static int make_parents(const char *path)
{
	char name[256];
	autoclose int directory = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);

	while (directory >= 0) {
		path += strspn(path, "/");
		size_t length = strcspn(path, "/");
		if (path[length] == '\0')
			return 0;
		if (length >= sizeof name)
			return -ENAMETOOLONG;
		memcpy(name, path, length);
		name[length] = '\0';
		if (mkdirat(directory, name, 0755) < 0 && errno != EEXIST)
			return -errno;
		int below = openat(directory, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (below < 0)
			return -errno;
		close(directory);
		directory = below;
		path += length;
	}
	return -errno;
}

int log_file_open(const char *path)
{
	struct stat stat;

	if (path[0] != '/')
		return -EINVAL;
	/* O_NONBLOCK: a fifo put here must not hold the thread. O_NOFOLLOW: CVE-2017-1002102. */
	int flags = O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
	autoclose int fd = open(path, flags, 0640);
	if (fd < 0 && errno == ENOENT) {
		int err = make_parents(path);
		if (err < 0)
			return err;
		fd = open(path, flags, 0640);
	}
	if (fd < 0)
		return -errno;
	if (fstat(fd, &stat) < 0)
		return -errno;
	return S_ISREG(stat.st_mode) ? steal_fd(&fd) : -EINVAL;
}

static void open_file(struct log *log)
{
	int fd = log->path[0] == '\0' ? 0 : log_file_open(log->path);

	log->open_error = fd < 0 ? -fd : 0;
	if (fd <= 0)
		return;
	close_fd(&log->file);
	log->file = fd;
}

static int log_run(struct work *work, uint32_t bits, uint8_t *buffer)
{
	struct log *log = container_of(work, struct log, work);
	int ended = log->stream[0].at_end + log->stream[1].at_end;

	if ((bits & (LOG_OPEN | LOG_REOPEN)) != 0)
		open_file(log);
	for (unsigned i = 0; i < 2; i++) {
		if ((bits & (LOG_STDOUT << i)) != 0)
			stream_turn(log, &log->stream[i], buffer);
		if ((bits & LOG_FINISH) != 0)
			stream_finish(log, &log->stream[i], buffer);
	}
	/* Lines that have simply been written are nobody else's business. */
	return log_waits_for_clients(log) || (bits & ~(uint32_t)(LOG_STDOUT | LOG_STDERR)) != 0 || log->stream[0].at_end + log->stream[1].at_end != ended;
}

static void stream_ready(struct watch *watch, uint32_t events)
{
	struct stream *stream = container_of(watch, struct stream, watch);
	struct log *log = container_of(stream - stream->index, struct log, stream[0]);
	(void)events;
	work_post(&log->work, LOG_STDOUT << stream->index);
}

void log_init(struct log *log, const char *path, uint32_t line_bytes)
{
	log->work.run = log_run;
	log->work.done = container_log_done;
	log->file = log->stash = -1;
	log->path = path;
	log->line_bytes = line_bytes;
	for (unsigned i = 0; i < 2; i++) {
		log->stream[i].watch = (struct watch){ .fd = -1, .ready = stream_ready };
		log->stream[i].room.fd = -1;
		log->stream[i].index = (uint8_t)i;
		for (unsigned k = 0; k < SINK_LIMIT; k++)
			log->stream[i].sinks[k] = -1;
	}
}

int log_watch(struct log *log, unsigned index, int fd)
{
	log->stream[index].watch.fd = fd;
	return watch_add(&log->stream[index].watch, EPOLLIN | EPOLLONESHOT);
}

int log_waits_for_clients(const struct log *log)
{
	return log->stream[0].chunk + log->stream[1].chunk > 0;
}

int log_at_end(const struct log *log)
{
	for (unsigned i = 0; i < 2; i++)
		if (log->stream[i].watch.fd >= 0 && !log->stream[i].at_end)
			return 0;
	return 1;
}

uint64_t log_dropped(const struct log *log)
{
	return __atomic_load_n(&log->dropped, __ATOMIC_RELAXED);
}

/* Only while no writer works on it. */
void log_close(struct log *log)
{
	for (unsigned i = 0; i < 2; i++) {
		watch_close(&log->stream[i].watch);
		if (log->stream[i].attached)
			sinks_close(&log->stream[i]);
	}
	drop_fd(&log->file);
	drop_fd(&log->stash);
}
