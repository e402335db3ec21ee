#include "tar.h"

enum { GNU_SPARSE_AT = 386, GNU_SPARSE_PARTS = 4, GNU_EXTENDED_AT = 482, GNU_REAL_SIZE_AT = 483, GNU_MORE_PARTS = 21, GNU_MORE_AT = 504 };

static int gnu_part(struct tar *tar, struct entry *entry, const uint8_t *field)
{
	int64_t offset, length;
	if (field[0] == '\0')
		return 0;
	if (tar_number(field, 12, &offset) < 0 || tar_number(field + 12, 12, &length) < 0 || offset < 0 || length < 0)
		return fail(FAIL_INVALID, "%s: a sparse map holds something that is no number", entry->name);
	if (entry->part_count == MAX_SPARSE)
		return fail(FAIL_LIMIT, "%s: a sparse file has more than %d parts", entry->name, MAX_SPARSE);
	tar->parts[entry->part_count++] = (struct sparse_part){ .offset = (uint64_t)offset, .length = (uint64_t)length };
	return 0;
}

int sparse_from_header(struct tar *tar, const struct header *header, struct entry *entry)
{
	const uint8_t *bytes = (const uint8_t *)header;
	int64_t real;
	if (tar_number(bytes + GNU_REAL_SIZE_AT, 12, &real) < 0 || real < 0)
		return fail(FAIL_INVALID, "%s: bad size of a sparse file", entry->name);
	entry->real_size = (uint64_t)real;
	for (int i = 0; i < GNU_SPARSE_PARTS; i++) {
		if (gnu_part(tar, entry, bytes + GNU_SPARSE_AT + 24 * i) < 0)
			return -1;
	}
	uint8_t more[BLOCK];
	for (bool extended = bytes[GNU_EXTENDED_AT] != 0; extended; extended = more[GNU_MORE_AT] != 0) {
		if (input_exact(tar->in, more, BLOCK) < 0)
			return -1;
		size_t before = entry->part_count;
		for (int i = 0; i < GNU_MORE_PARTS; i++) {
			if (gnu_part(tar, entry, more + 24 * i) < 0)
				return -1;
		}
		/* Empty blocks would make the map endless without ever reaching its limit. */
		if (entry->part_count == before)
			return fail(FAIL_INVALID, "%s: an empty block in a sparse map", entry->name);
	}
	return 0;
}

/* Format 1.0: the map is text at the start of the data, one number a line, padded to a block. */
static int sparse_line(struct tar *tar, uint64_t *used, int64_t *value)
{
	char line[24];
	size_t n = 0;
	for (;;) {
		if (n == sizeof line || tar->left == 0)
			return fail(FAIL_INVALID, "a sparse map is malformed");
		if (input_exact(tar->in, line + n, 1) < 0)
			return -1;
		tar->left--;
		++*used;
		if (line[n] == '\n')
			break;
		n++;
	}
	if (decimal(line, n, value) < 0 || *value < 0)
		return fail(FAIL_INVALID, "a sparse map holds something that is no number");
	return 0;
}

int sparse_from_data(struct tar *tar, struct entry *entry)
{
	uint64_t used = 0;
	int64_t count;
	if (sparse_line(tar, &used, &count) < 0)
		return -1;
	if (count > MAX_SPARSE)
		return fail(FAIL_LIMIT, "%s: a sparse file has more than %d parts", entry->name, MAX_SPARSE);
	for (int64_t i = 0; i < count; i++) {
		int64_t offset, length;
		if (sparse_line(tar, &used, &offset) < 0 || sparse_line(tar, &used, &length) < 0)
			return -1;
		tar->parts[i] = (struct sparse_part){ .offset = (uint64_t)offset, .length = (uint64_t)length };
	}
	entry->part_count = (size_t)count;
	uint32_t rest = padding_of(used);
	if (rest > tar->left)
		return fail(FAIL_INVALID, "%s: a sparse map is malformed", entry->name);
	tar->left -= rest;
	return input_skip(tar->in, rest);
}

int sparse_check(struct tar *tar, const struct entry *entry)
{
	uint64_t end = 0, sum = 0;
	for (size_t i = 0; i < entry->part_count; i++) {
		const struct sparse_part *part = &tar->parts[i];
		uint64_t stop;
		if (part->offset < end || __builtin_add_overflow(part->offset, part->length, &stop) || stop > entry->real_size)
			return fail(FAIL_INVALID, "%s: a sparse map overlaps or leaves the file", entry->name);
		end = stop;
		sum += part->length;
	}
	if (sum != tar->left)
		return fail(FAIL_INVALID, "%s: a sparse map does not fit its data", entry->name);
	return 0;
}
