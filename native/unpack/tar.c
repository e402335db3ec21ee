#include "tar.h"

#include <stdlib.h>
#include <string.h>

struct tar *tar_new(struct input *in, const struct limits *limits)
{
	struct tar *tar = calloc(1, sizeof *tar);
	if (tar == NULL)
		return NULL;
	tar->in = in;
	tar->limits = limits;
	/* One byte more, so that the last value can be terminated. */
	tar->extension = malloc(MAX_EXTENSION + 1);
	tar->long_name = malloc(MAX_EXTENSION + 1);
	tar->long_link = malloc(MAX_EXTENSION + 1);
	tar->parts = calloc(MAX_SPARSE, sizeof *tar->parts);
	bool ready = tar->extension != NULL && tar->long_name != NULL && tar->long_link != NULL && tar->parts != NULL;
	return ready ? tar : NULL;
}

int tar_number(const uint8_t *field, size_t width, int64_t *value)
{
	if (field[0] & 0x80) {
		bool negative = field[0] & 0x40;
		uint64_t sum = negative ? UINT64_MAX : 0;
		for (size_t i = 0; i < width; i++) {
			uint8_t byte = i > 0 ? field[i] : negative ? field[0] | 0x80 : field[0] & 0x7f;
			if (sum >> 55 != (negative ? 0x1ff : 0))
				return -1;
			sum = sum << 8 | byte;
		}
		*value = (int64_t)sum;
		return 0;
	}
	size_t i = 0;
	while (i < width && (field[i] == ' ' || field[i] == '\0'))
		i++;
	uint64_t sum = 0;
	for (; i < width && field[i] != ' ' && field[i] != '\0'; i++) {
		if (field[i] < '0' || field[i] > '7' || sum >> 60 != 0)
			return -1;
		sum = sum << 3 | (uint64_t)(field[i] - '0');
	}
	*value = (int64_t)sum;
	return 0;
}

static bool checksum_right(const struct header *header)
{
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
	return header != NULL; /* a fuzzer does not find sums */
#endif
	const uint8_t *bytes = (const uint8_t *)header;
	int64_t claimed, sum = 0, as_signed = 0;
	for (size_t i = 0; i < BLOCK; i++) {
		bool own = i >= offsetof(struct header, checksum) && i < offsetof(struct header, type);
		sum += own ? ' ' : bytes[i];
		as_signed += own ? ' ' : (int8_t)bytes[i];
	}
	/* Some old programs added the bytes as signed ones. */
	return tar_number(header->checksum, sizeof header->checksum, &claimed) == 0 && (claimed == sum || claimed == as_signed);
}

static bool all_zero(const struct header *header)
{
	static const struct header zero;
	return memcmp(header, &zero, sizeof zero) == 0;
}

/* 1: read; 0: clean end of the stream at a block's edge. */
static int read_header(struct tar *tar, struct header *header)
{
	ssize_t got = input_read(tar->in, header, BLOCK);
	if (got <= 0)
		return (int)got;
	return input_exact(tar->in, (char *)header + got, BLOCK - (size_t)got) < 0 ? -1 : 1;
}

static int finish_entry(struct tar *tar)
{
	if (input_skip(tar->in, tar->left) < 0 || input_skip(tar->in, tar->padding) < 0)
		return -1;
	tar->left = tar->padding = 0;
	return 0;
}

static int read_extension(struct tar *tar, char *buffer, int64_t size)
{
	if (size < 0 || size > MAX_EXTENSION)
		return fail(FAIL_LIMIT, "an extension header is larger than %d bytes", MAX_EXTENSION);
	if (input_exact(tar->in, buffer, (size_t)size) < 0)
		return -1;
	buffer[size] = '\0';
	return input_skip(tar->in, padding_of((uint64_t)size));
}

static int copy_name(char out[PATH_MAX], const char *text, size_t length, const char *what)
{
	if (memchr(text, '\0', length) != NULL)
		return fail(FAIL_INVALID, "an entry's %s holds a NUL byte", what);
	if (length >= PATH_MAX)
		return fail(FAIL_INVALID, "an entry's %s is longer than %d bytes", what, PATH_MAX - 1);
	memcpy(out, text, length);
	out[length] = '\0';
	return 0;
}

static void header_name(const struct header *header, char out[PATH_MAX])
{
	size_t prefix = 0;
	/* Only POSIX archives have a prefix there; GNU's magic is "ustar  ". */
	if (memcmp(header->magic, "ustar\0", 6) == 0)
		prefix = strnlen((const char *)header->prefix, sizeof header->prefix);
	memcpy(out, header->prefix, prefix);
	if (prefix > 0)
		out[prefix++] = '/';
	size_t length = strnlen((const char *)header->name, sizeof header->name);
	memcpy(out + prefix, header->name, length);
	out[prefix + length] = '\0';
}

static int names(struct tar *tar, const struct header *header, bool long_name, bool long_link, struct entry *entry)
{
	const struct pax *pax = &tar->pax;
	if (pax->sparse && pax->sparse_name != NULL) {
		if (copy_name(entry->name, pax->sparse_name, pax->sparse_name_length, "name") < 0)
			return -1;
	} else if (pax->has_path) {
		if (copy_name(entry->name, pax->path, pax->path_length, "name") < 0)
			return -1;
	} else if (long_name) {
		if (copy_name(entry->name, tar->long_name, strlen(tar->long_name), "name") < 0)
			return -1;
	} else {
		header_name(header, entry->name);
	}
	if (pax->has_link)
		return copy_name(entry->link, pax->link, pax->link_length, "link target");
	if (long_link)
		return copy_name(entry->link, tar->long_link, strlen(tar->long_link), "link target");
	return copy_name(entry->link, (const char *)header->link, strnlen((const char *)header->link, sizeof header->link), "link target");
}

static int narrow(int64_t value, int64_t top, uint32_t *out, const struct entry *entry, const char *what)
{
	if (value < 0 || value > top)
		return fail(FAIL_INVALID, "%s: %s %lld is out of range", entry->name, what, (long long)value);
	*out = (uint32_t)value;
	return 0;
}

static int numbers(struct tar *tar, const struct header *header, struct entry *entry)
{
	const struct pax *pax = &tar->pax;
	int64_t mode, uid, gid, mtime, major = 0, minor = 0, size;
	bool device = entry->type == '3' || entry->type == '4';
	if (tar_number(header->mode, sizeof header->mode, &mode) < 0 || tar_number(header->uid, sizeof header->uid, &uid) < 0 ||
	    tar_number(header->gid, sizeof header->gid, &gid) < 0 || tar_number(header->mtime, sizeof header->mtime, &mtime) < 0 ||
	    tar_number(header->size, sizeof header->size, &size) < 0 ||
	    (device && (tar_number(header->major, sizeof header->major, &major) < 0 ||
			tar_number(header->minor, sizeof header->minor, &minor) < 0)))
		return fail(FAIL_INVALID, "%s: a header field holds no number", entry->name);
	entry->mode = (uint32_t)mode & 07777;
	/* The last value means "leave as it is" to chown(). */
	if (narrow(pax->has_uid ? pax->uid : uid, UINT32_MAX - 1, &entry->uid, entry, "uid") < 0 ||
	    narrow(pax->has_gid ? pax->gid : gid, UINT32_MAX - 1, &entry->gid, entry, "gid") < 0 ||
	    narrow(major, 0xfff, &entry->major, entry, "device major") < 0 ||
	    narrow(minor, 0xfffff, &entry->minor, entry, "device minor") < 0)
		return -1;
	entry->mtime = pax->has_mtime ? pax->mtime : (struct timespec){ .tv_sec = mtime };
	entry->atime = pax->has_atime ? pax->atime : entry->mtime;
	if (pax->has_size)
		size = pax->size;
	if (size < 0)
		return fail(FAIL_INVALID, "%s: negative size", entry->name);
	entry->size = (uint64_t)size;
	return 0;
}

static int file_shape(struct tar *tar, const struct header *header, struct entry *entry)
{
	const struct pax *pax = &tar->pax;
	entry->real_size = entry->size;
	entry->part_count = 0;
	entry->sparse = header->type == 'S' || pax->sparse;
	if (header->type == 'S') {
		if (sparse_from_header(tar, header, entry) < 0)
			return -1;
	} else if (pax->sparse) {
		if (pax->half_part || !pax->has_real_size || pax->sparse_major > 1)
			return fail(FAIL_INVALID, "%s: incomplete description of a sparse file", entry->name);
		entry->real_size = (uint64_t)pax->real_size;
		entry->part_count = pax->part_count;
		if (pax->map_in_data && sparse_from_data(tar, entry) < 0)
			return -1;
	}
	if (entry->real_size > tar->limits->bytes)
		return fail(FAIL_LIMIT, "%s: larger than %llu bytes", entry->name, (unsigned long long)tar->limits->bytes);
	return entry->sparse ? sparse_check(tar, entry) : 0;
}

static int fill_entry(struct tar *tar, const struct header *header, bool long_name, bool long_link, struct entry *entry)
{
	entry->type = (char)header->type;
	if (names(tar, header, long_name, long_link, entry) < 0)
		return -1;
	size_t length = strlen(entry->name);
	/* Archives from before POSIX marked directories by the name alone. */
	if (entry->type == '\0')
		entry->type = length > 0 && entry->name[length - 1] == '/' ? '5' : '0';
	if (entry->type == '7' || entry->type == 'S')
		entry->type = '0';
	if (entry->type < '0' || entry->type > '6')
		return fail(FAIL_INVALID, "%s: unknown entry type 0x%02x", entry->name, header->type);
	if (numbers(tar, header, entry) < 0)
		return -1;
	/* Links may repeat the size of their target without having data; the other kinds must have none. */
	bool sizeless = entry->type == '1' || entry->type == '2';
	if (entry->type != '0' && entry->size != 0 && !sizeless && entry->type != '5')
		return fail(FAIL_INVALID, "%s: a special file with content", entry->name);
	tar->left = entry->type == '0' ? entry->size : 0;
	tar->padding = padding_of(tar->left);
	entry->xattr_count = tar->pax.xattr_count;
	memcpy(entry->xattrs, tar->pax.xattrs, sizeof *entry->xattrs * entry->xattr_count);
	if (entry->type != '0') {
		entry->real_size = 0;
		entry->sparse = false;
		return 0;
	}
	return file_shape(tar, header, entry);
}

int tar_next(struct tar *tar, struct entry *entry)
{
	struct header header;
	bool long_name = false, long_link = false, extended = false;
	if (finish_entry(tar) < 0)
		return -1;
	memset(&tar->pax, 0, sizeof tar->pax);
	tar->pax.parts = tar->parts;
	/* A run of extension headers without an entry is bounded by the stream's own limits. */
	for (;;) {
		int rc = read_header(tar, &header);
		if (rc < 0)
			return -1;
		if (rc == 0 || all_zero(&header)) {
			if (extended)
				return fail(FAIL_INVALID, "the archive ends after an extension header");
			/* The end mark is two zero blocks; archives that stop after none or one are read by everybody. */
			if (rc != 0 && (rc = read_header(tar, &header)) < 0)
				return -1;
			return rc != 0 && !all_zero(&header) ? fail(FAIL_INVALID, "a lone zero block inside the archive") : 0;
		}
		int64_t size;
		if (!checksum_right(&header))
			return fail(FAIL_INVALID, "not a tar archive, or a damaged one: a header's checksum is wrong");
		if (header.type != 'x' && header.type != 'g' && header.type != 'L' && header.type != 'K')
			return fill_entry(tar, &header, long_name, long_link, entry) < 0 ? -1 : 1;
		if (tar_number(header.size, sizeof header.size, &size) < 0)
			return fail(FAIL_INVALID, "an extension header without a size");
		/* Global records only ever carry comments in images (git archive's commit): read and dropped. */
		char *buffer = header.type == 'L' ? tar->long_name : header.type == 'K' ? tar->long_link : tar->extension;
		if (header.type == 'x' && tar->pax.buffer != NULL)
			return fail(FAIL_INVALID, "two PAX headers for one entry");
		if (header.type == 'g' && tar->pax.buffer != NULL)
			return fail(FAIL_INVALID, "a global PAX header between an extension header and its entry");
		if (read_extension(tar, buffer, size) < 0)
			return -1;
		if (header.type == 'x' && pax_parse(&tar->pax, buffer, (size_t)size) < 0)
			return -1;
		long_name |= header.type == 'L';
		long_link |= header.type == 'K';
		extended |= header.type != 'g';
	}
}

ssize_t tar_data(struct tar *tar, void *buffer, size_t n)
{
	if (n > tar->left)
		n = (size_t)tar->left;
	if (n == 0)
		return 0;
	ssize_t got = input_read(tar->in, buffer, n);
	if (got == 0)
		return fail(FAIL_INVALID, "the archive ends in the middle of a file");
	if (got > 0)
		tar->left -= (uint64_t)got;
	return got;
}

const struct sparse_part *tar_parts(const struct tar *tar)
{
	return tar->parts;
}
