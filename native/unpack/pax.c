#include "unpack.h"

#include <stdlib.h>
#include <string.h>

int decimal(const char *text, size_t length, int64_t *value)
{
	bool negative = length > 0 && text[0] == '-';
	size_t i = negative ? 1 : 0;
	if (i == length)
		return -1;
	int64_t sum = 0;
	for (; i < length; i++) {
		if (text[i] < '0' || text[i] > '9' || __builtin_mul_overflow(sum, 10, &sum) ||
		    __builtin_add_overflow(sum, text[i] - '0', &sum))
			return -1;
	}
	*value = negative ? -sum : sum;
	return 0;
}

/* "-12.345": seconds with a fraction, of which nanoseconds count. */
static int timestamp(const char *text, size_t length, struct timespec *time)
{
	const char *dot = memchr(text, '.', length);
	size_t whole = dot == NULL ? length : (size_t)(dot - text);
	int64_t seconds;
	if (decimal(text, whole, &seconds) < 0)
		return -1;
	long nanoseconds = 0;
	if (dot != NULL) {
		long unit = 100000000;
		for (size_t i = whole + 1; i < length; i++, unit /= 10) {
			if (text[i] < '0' || text[i] > '9')
				return -1;
			nanoseconds += unit * (text[i] - '0');
		}
	}
	/* timespec counts nanoseconds forwards, also before 1970. */
	bool negative = text[0] == '-';
	if (negative && nanoseconds > 0) {
		seconds--;
		nanoseconds = 1000000000 - nanoseconds;
	}
	*time = (struct timespec){ .tv_sec = seconds, .tv_nsec = nanoseconds };
	return 0;
}

static int base64_value(char c)
{
	static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *at = c == '\0' ? NULL : strchr(alphabet, c);
	return at == NULL ? -1 : (int)(at - alphabet);
}

/* In place; returns the length or -1. */
static ssize_t base64_decode(char *text, size_t length)
{
	size_t out = 0;
	uint32_t bits = 0;
	int have = 0;
	while (length > 0 && text[length - 1] == '=')
		length--;
	for (size_t i = 0; i < length; i++) {
		int value = base64_value(text[i]);
		if (value < 0)
			return -1;
		bits = bits << 6 | (uint32_t)value;
		have += 6;
		if (have >= 8) {
			have -= 8;
			text[out++] = (char)(bits >> have);
		}
	}
	return (ssize_t)out;
}

/* libarchive escapes names as URLs do; in place. */
static void percent_decode(char *text)
{
	char *out = text;
	for (char *in = text; *in != '\0'; in++) {
		char digits[3] = { in[0] == '%' ? in[1] : '\0', in[0] == '%' && in[1] != '\0' ? in[2] : '\0', '\0' };
		char *end = digits;
		long value = digits[0] == '\0' || digits[1] == '\0' ? 0 : strtol(digits, &end, 16);
		if (value > 0 && end == digits + 2) {
			*out++ = (char)value;
			in += 2;
		} else {
			*out++ = *in;
		}
	}
	*out = '\0';
}

static int add_xattr(struct pax *pax, char *name, char *value, size_t length, bool libarchive)
{
	if (libarchive) {
		percent_decode(name);
		ssize_t decoded = base64_decode(value, length);
		if (decoded < 0)
			return fail(FAIL_INVALID, "an extended attribute is not base64");
		length = (size_t)decoded;
	}
	if (*name == '\0' || strlen(name) > MAX_NAME || length > 65536)
		return fail(FAIL_INVALID, "an extended attribute has a bad name or size");
	for (size_t i = 0; i < pax->xattr_count; i++) {
		if (strcmp(pax->xattrs[i].name, name) != 0)
			continue;
		pax->xattrs[i] = (struct xattr){ .name = name, .value = value, .length = length };
		return 0;
	}
	if (pax->xattr_count == MAX_XATTRS)
		return fail(FAIL_LIMIT, "an entry has more than %d extended attributes", MAX_XATTRS);
	pax->xattrs[pax->xattr_count++] = (struct xattr){ .name = name, .value = value, .length = length };
	return 0;
}

/* Format 0.0 gives offset and length in two records, one pair per part; 0.1 gives all in one, separated by commas. */
static int sparse_number(struct pax *pax, const char *text, size_t length)
{
	int64_t value;
	if (decimal(text, length, &value) < 0 || value < 0)
		return fail(FAIL_INVALID, "a sparse map holds something that is no number");
	if (!pax->half_part) {
		if (pax->part_count == MAX_SPARSE)
			return fail(FAIL_LIMIT, "a sparse file has more than %d parts", MAX_SPARSE);
		pax->parts[pax->part_count].offset = (uint64_t)value;
	} else {
		pax->parts[pax->part_count++].length = (uint64_t)value;
	}
	pax->half_part = !pax->half_part;
	return 0;
}

static int sparse_record(struct pax *pax, const char *key, char *value, size_t length)
{
	pax->sparse = true;
	if (strcmp(key, "major") == 0) {
		if (decimal(value, length, &pax->sparse_major) < 0)
			return fail(FAIL_INVALID, "bad sparse version");
		pax->map_in_data = pax->sparse_major == 1;
		return 0;
	}
	if (strcmp(key, "name") == 0) {
		pax->sparse_name = value;
		pax->sparse_name_length = length;
		return 0;
	}
	if (strcmp(key, "realsize") == 0 || strcmp(key, "size") == 0) {
		pax->has_real_size = true;
		if (decimal(value, length, &pax->real_size) < 0 || pax->real_size < 0)
			return fail(FAIL_INVALID, "bad size of a sparse file");
		return 0;
	}
	if (strcmp(key, "offset") == 0 || strcmp(key, "numbytes") == 0) {
		if ((key[0] == 'o') == pax->half_part)
			return fail(FAIL_INVALID, "a sparse map has offsets and lengths out of order");
		return sparse_number(pax, value, length);
	}
	if (strcmp(key, "map") == 0) {
		for (char *item = value; length > 0;) {
			char *comma = memchr(item, ',', (size_t)(value + length - item));
			size_t span = comma == NULL ? (size_t)(value + length - item) : (size_t)(comma - item);
			if (sparse_number(pax, item, span) < 0)
				return -1;
			if (comma == NULL)
				break;
			item = comma + 1;
		}
	}
	return 0; /* minor, numblocks: nothing that we need */
}

static int number_record(const char *what, const char *value, size_t length, bool *has, int64_t *number)
{
	*has = length > 0;
	if (*has && decimal(value, length, number) < 0)
		return fail(FAIL_INVALID, "PAX record %s holds no number", what);
	return 0;
}

static int time_record(const char *what, const char *value, size_t length, bool *has, struct timespec *time)
{
	*has = length > 0;
	if (*has && timestamp(value, length, time) < 0)
		return fail(FAIL_INVALID, "PAX record %s holds no time", what);
	return 0;
}

static int record(struct pax *pax, char *key, char *value, size_t length)
{
	static const char schily[] = "SCHILY.xattr.", libarchive[] = "LIBARCHIVE.xattr.", sparse[] = "GNU.sparse.";
	if (strcmp(key, "path") == 0) {
		pax->has_path = length > 0;
		pax->path = value;
		pax->path_length = length;
	} else if (strcmp(key, "linkpath") == 0) {
		pax->has_link = length > 0;
		pax->link = value;
		pax->link_length = length;
	} else if (strcmp(key, "size") == 0) {
		return number_record(key, value, length, &pax->has_size, &pax->size);
	} else if (strcmp(key, "uid") == 0) {
		return number_record(key, value, length, &pax->has_uid, &pax->uid);
	} else if (strcmp(key, "gid") == 0) {
		return number_record(key, value, length, &pax->has_gid, &pax->gid);
	} else if (strcmp(key, "mtime") == 0) {
		return time_record(key, value, length, &pax->has_mtime, &pax->mtime);
	} else if (strcmp(key, "atime") == 0) {
		return time_record(key, value, length, &pax->has_atime, &pax->atime);
	} else if (strncmp(key, schily, sizeof schily - 1) == 0) {
		return add_xattr(pax, key + sizeof schily - 1, value, length, false);
	} else if (strncmp(key, libarchive, sizeof libarchive - 1) == 0) {
		return add_xattr(pax, key + sizeof libarchive - 1, value, length, true);
	} else if (strncmp(key, sparse, sizeof sparse - 1) == 0) {
		return sparse_record(pax, key + sizeof sparse - 1, value, length);
	}
	return 0;
}

int pax_parse(struct pax *pax, char *buffer, size_t length)
{
	pax->buffer = buffer;
	for (char *at = buffer, *end = buffer + length; at < end;) {
		char *space = memchr(at, ' ', (size_t)(end - at));
		int64_t span;
		if (space == NULL || space - at > 10 || decimal(at, (size_t)(space - at), &span) < 0 || span <= space - at + 1 ||
		    span > end - at || at[span - 1] != '\n')
			return fail(FAIL_INVALID, "a PAX header is malformed");
		char *key = space + 1, *stop = at + span - 1;
		char *equals = memchr(key, '=', (size_t)(stop - key));
		if (equals == NULL || equals == key || memchr(key, '\0', (size_t)(equals - key)) != NULL)
			return fail(FAIL_INVALID, "a PAX record is malformed");
		*equals = '\0';
		*stop = '\0';
		if (record(pax, key, equals + 1, (size_t)(stop - equals - 1)) < 0)
			return -1;
		at += span;
	}
	return 0;
}
