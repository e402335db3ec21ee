/* What the parser of entries and the parser of sparse maps share. */
#ifndef CAISSON_UNPACK_TAR_H
#define CAISSON_UNPACK_TAR_H

#include "unpack.h"

enum { BLOCK = 512 };

/* POSIX ustar; GNU uses the tail of the prefix for a sparse map. */
struct header {
	uint8_t name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100], magic[6], version[2], uname[32],
		gname[32], major[8], minor[8], prefix[155], padding[12];
};
_Static_assert(sizeof(struct header) == BLOCK, "a tar header is one block");

struct tar {
	struct input *in;
	const struct limits *limits;
	uint64_t left;    /* data of the current entry that was not read yet */
	uint32_t padding; /* after it */
	char *extension, *long_name, *long_link;
	struct sparse_part *parts;
	struct pax pax;
};

static inline uint32_t padding_of(uint64_t size)
{
	return (uint32_t)(-size % BLOCK);
}

/* sparse.c: fill tar->parts and entry->part_count. */
/* GNU's own format: the map is in the header and in blocks after it. */
int sparse_from_header(struct tar *tar, const struct header *header, struct entry *entry);
/* PAX format 1.0: the map is at the start of the data. */
int sparse_from_data(struct tar *tar, struct entry *entry);
/* Refuses parts that overlap, leave the file or do not fit the data. */
int sparse_check(struct tar *tar, const struct entry *entry);
#endif
