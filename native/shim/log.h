/* A container's output: its log, and who is attached to it. log.c, sinks.c */
#ifndef CAISSON_SHIM_LOG_H
#define CAISSON_SHIM_LOG_H

#include <stdint.h>

#include "loop.h"
#include "writer.h"

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

#endif
