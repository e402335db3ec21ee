#include "unpack.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/*
 * Pending work is a list of NUL-terminated strings: kind, path, and for links the target.
 *   O path          mark the directory opaque
 *   W path          remove the whiteout unless the layers below have something there
 *   D path          copy the attributes of the directory that overlayfs would show there
 *   L path target   hard link to, or copy of, a file that this layer did not have when its link was read
 */

struct sink {
	int fd;
	size_t used;
	char buffer[64 * 1024];
};

static int flush(struct sink *sink)
{
	for (size_t done = 0; done < sink->used;) {
		ssize_t put = write(sink->fd, sink->buffer + done, sink->used - done);
		if (put < 0 && errno != EINTR)
			return fail_errno(errno, "cannot write the pending work");
		done += put > 0 ? (size_t)put : 0;
	}
	sink->used = 0;
	return 0;
}

static int put(struct sink *sink, const char *text)
{
	size_t size = strlen(text) + 1;
	if (sink->used + size > sizeof sink->buffer && flush(sink) < 0)
		return -1;
	memcpy(sink->buffer + sink->used, text, size);
	sink->used += size;
	return 0;
}

static int by_path(const void *a, const void *b)
{
	return strcmp(((const struct name_record *)a)->path, ((const struct name_record *)b)->path);
}

static void sort(struct name_list *list)
{
	if (list->count > 0)
		qsort(list->records, list->count, sizeof *list->records, by_path);
}

static int64_t put_sorted(struct sink *sink, const char *kind, struct name_list *list)
{
	int64_t items = 0;
	sort(list);
	for (size_t i = 0; i < list->count; i++) {
		if (i > 0 && strcmp(list->records[i].path, list->records[i - 1].path) == 0)
			continue;
		if (put(sink, kind) < 0 || put(sink, list->records[i].path) < 0)
			return -1;
		items++;
	}
	return items;
}

/* Those that the archive never carried itself, parents first. */
static int64_t put_implied(struct sink *sink, struct name_list *implied, struct name_list *explicit)
{
	int64_t items = 0;
	size_t other = 0;
	sort(implied);
	sort(explicit);
	for (size_t i = 0; i < implied->count; i++) {
		const char *path = implied->records[i].path;
		while (other < explicit->count && strcmp(explicit->records[other].path, path) < 0)
			other++;
		bool carried = other < explicit->count && strcmp(explicit->records[other].path, path) == 0;
		bool repeated = i > 0 && strcmp(implied->records[i - 1].path, path) == 0;
		if (carried || repeated)
			continue;
		if (put(sink, "D") < 0 || put(sink, path) < 0)
			return -1;
		items++;
	}
	return items;
}

int64_t pending_write(struct tree *tree, int fd)
{
	static struct sink sink;
	sink.fd = fd;
	/* Opaque marks first: they decide what of the layers below can be seen. */
	int64_t opaque = put_sorted(&sink, "O", &tree->opaque);
	int64_t whiteouts = opaque < 0 ? -1 : put_sorted(&sink, "W", &tree->whiteouts);
	int64_t implied = whiteouts < 0 ? -1 : put_implied(&sink, &tree->implied, &tree->directories);
	if (implied < 0)
		return -1;
	for (size_t i = 0; i < tree->links.count; i++) {
		const struct name_record *link = &tree->links.records[i];
		if (put(&sink, "L") < 0 || put(&sink, link->path) < 0 || put(&sink, link->target) < 0)
			return -1;
	}
	if (flush(&sink) < 0)
		return -1;
	return opaque + whiteouts + implied + (int64_t)tree->links.count;
}
