/*
 * Exit records: exits/ID in the pod's directory, until the daemon has acknowledged the exit. Their space is reserved at create, so
 * that a full disk does not lose one. Runs in the writer threads.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "shim.h"

#define RESERVED_BYTES 512

static void reserved_name(const struct record *record, char *name, size_t room)
{
	struct text text = text_in(name, room);
	text_str(&text, ".");
	text_str(&text, record->id);
	text_str(&text, ".reserved");
}

static int reserve(struct record *record)
{
	static const char zeros[RESERVED_BYTES];
	char name[ID_LIMIT + 16];

	reserved_name(record, name, sizeof name);
	autoclose int fd = openat(shim->exits_dir, name, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return errno;
	int err = posix_fallocate(fd, 0, RESERVED_BYTES);
	if (err == EOPNOTSUPP)
		err = pwrite(fd, zeros, sizeof zeros, 0) == (ssize_t)sizeof zeros ? 0 : ENOSPC;
	if (err != 0) {
		unlinkat(shim->exits_dir, name, 0);
		return err;
	}
	record->file = steal_fd(&fd);
	return 0;
}

static int write_out(struct record *record)
{
	char name[ID_LIMIT + 16];

	if (record->file < 0 && reserve(record) != 0)
		return ENOSPC;
	if (pwrite(record->file, record->text, record->length, 0) != (ssize_t)record->length ||
	    ftruncate(record->file, record->length) < 0 || fsync(record->file) < 0)
		return errno;
	reserved_name(record, name, sizeof name);
	if (renameat(shim->exits_dir, name, shim->exits_dir, record->id) < 0 || fsync(shim->exits_dir) < 0)
		return errno;
	return 0;
}

static void remove_all(struct record *record)
{
	char name[ID_LIMIT + 16];

	reserved_name(record, name, sizeof name);
	unlinkat(shim->exits_dir, name, 0);
	unlinkat(shim->exits_dir, record->id, 0);
	drop_fd(&record->file);
}

static int record_run(struct work *work, uint32_t bits, uint8_t *buffer)
{
	struct record *record = container_of(work, struct record, work);

	(void)buffer;
	if ((bits & RECORD_RESERVE) != 0)
		record->error = reserve(record);
	if ((bits & RECORD_WRITE) != 0)
		record->error = write_out(record);
	if ((bits & RECORD_REMOVE) != 0)
		remove_all(record);
	return 1;
}

void record_init(struct record *record, const char *id)
{
	record->work.run = record_run;
	record->work.done = container_record_done;
	record->file = -1;
	memcpy(record->id, id, strlen(id) + 1);
}
