#include "unpack.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

enum format { FORMAT_UNKNOWN, FORMAT_PLAIN, FORMAT_GZIP, FORMAT_ZSTD };

#define ZSTD_WINDOW_LOG 27 /* 128 MiB */

struct input {
	int fd;
	const struct limits *limits;
	enum format format;
	EVP_MD_CTX *blob_hash, *tar_hash;
	uint64_t blob_bytes, tar_bytes;
	size_t length, position; /* of raw */
	bool raw_end, member_open;
	z_stream gzip;
	ZSTD_DCtx *zstd;
	uint8_t raw[256 * 1024];
};

struct input *input_new(int fd, const struct limits *limits, bool sha512)
{
	/* No configuration file: it could name modules to load. */
	OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL);
	struct input *in = calloc(1, sizeof *in);
	if (in == NULL)
		return NULL;
	in->fd = fd;
	in->limits = limits;
	in->blob_hash = EVP_MD_CTX_new();
	in->tar_hash = EVP_MD_CTX_new();
	in->zstd = ZSTD_createDCtx();
	bool ready = in->blob_hash != NULL && in->tar_hash != NULL && in->zstd != NULL &&
		     EVP_DigestInit_ex(in->blob_hash, sha512 ? EVP_sha512() : EVP_sha256(), NULL) == 1 &&
		     EVP_DigestInit_ex(in->tar_hash, EVP_sha256(), NULL) == 1 &&
		     !ZSTD_isError(ZSTD_DCtx_setParameter(in->zstd, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG)) &&
		     inflateInit2(&in->gzip, 15 + 16) == Z_OK;
	return ready ? in : NULL;
}

/* Appends to raw; 0 at the end of the stream sets raw_end. */
static int fill(struct input *in)
{
	if (in->position > 0) {
		memmove(in->raw, in->raw + in->position, in->length - in->position);
		in->length -= in->position;
		in->position = 0;
	}
	ssize_t n;
	do
		n = read(in->fd, in->raw + in->length, sizeof in->raw - in->length);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return fail_errno(errno, "cannot read the layer");
	if (n == 0) {
		in->raw_end = true;
		return 0;
	}
	if (EVP_DigestUpdate(in->blob_hash, in->raw + in->length, (size_t)n) != 1)
		return fail(FAIL_SYSTEM, "hashing failed");
	in->blob_bytes += (uint64_t)n;
	in->length += (size_t)n;
	return 0;
}

static int detect(struct input *in)
{
	while (in->length - in->position < 6 && !in->raw_end) {
		if (fill(in) < 0)
			return -1;
	}
	const uint8_t *p = in->raw + in->position;
	size_t n = in->length - in->position;
	if (n >= 3 && p[0] == 0x1f && p[1] == 0x8b && p[2] == 8)
		in->format = FORMAT_GZIP;
	else if (n >= 4 && p[1] == 0xb5 && p[2] == 0x2f && p[3] == 0xfd && p[0] == 0x28)
		in->format = FORMAT_ZSTD;
	else if (n >= 4 && (p[0] & 0xf0) == 0x50 && p[1] == 0x2a && p[2] == 0x4d && p[3] == 0x18)
		in->format = FORMAT_ZSTD; /* a skippable frame first: zstd:chunked */
	else if (n >= 3 && memcmp(p, "BZh", 3) == 0)
		return fail(FAIL_INVALID, "the layer is compressed with bzip2, which images may not use");
	else if (n >= 6 && memcmp(p, "\xfd" "7zXZ", 6) == 0)
		return fail(FAIL_INVALID, "the layer is compressed with xz, which images may not use");
	else
		in->format = FORMAT_PLAIN;
	return 0;
}

static ssize_t read_plain(struct input *in, void *buffer, size_t n)
{
	if (in->position == in->length && !in->raw_end && fill(in) < 0)
		return -1;
	size_t have = in->length - in->position;
	size_t take = have < n ? have : n;
	memcpy(buffer, in->raw + in->position, take);
	in->position += take;
	return (ssize_t)take;
}

static ssize_t read_gzip(struct input *in, void *buffer, size_t n)
{
	in->gzip.next_out = buffer;
	in->gzip.avail_out = (uInt)n;
	while (in->gzip.avail_out == n) {
		if (in->position == in->length && !in->raw_end && fill(in) < 0)
			return -1;
		size_t have = in->length - in->position;
		if (have == 0) {
			if (in->member_open)
				return fail(FAIL_INVALID, "the gzip stream ends in the middle");
			return 0;
		}
		/* A new member, or garbage: inflate refuses what does not start with gzip's magic. */
		in->member_open = true;
		in->gzip.next_in = in->raw + in->position;
		in->gzip.avail_in = (uInt)have;
		int rc = inflate(&in->gzip, Z_NO_FLUSH);
		in->position += have - in->gzip.avail_in;
		if (rc == Z_STREAM_END) {
			in->member_open = false;
			if (inflateReset(&in->gzip) != Z_OK)
				return fail(FAIL_SYSTEM, "zlib cannot start a member");
		} else if (rc == Z_MEM_ERROR) {
			return fail(FAIL_SYSTEM, "out of memory");
		} else if (rc != Z_OK && rc != Z_BUF_ERROR) {
			return fail(FAIL_INVALID, "the gzip stream is damaged or followed by garbage: %s", in->gzip.msg ? in->gzip.msg : "?");
		}
	}
	return (ssize_t)(n - in->gzip.avail_out);
}

static ssize_t read_zstd(struct input *in, void *buffer, size_t n)
{
	ZSTD_outBuffer out = { .dst = buffer, .size = n };
	while (out.pos == 0) {
		if (in->position == in->length && !in->raw_end && fill(in) < 0)
			return -1;
		ZSTD_inBuffer raw = { .src = in->raw, .size = in->length, .pos = in->position };
		if (raw.pos == raw.size && in->raw_end && !in->member_open)
			return 0;
		size_t rc = ZSTD_decompressStream(in->zstd, &out, &raw);
		if (ZSTD_isError(rc))
			return fail(FAIL_INVALID, "the zstd stream is damaged or followed by garbage: %s", ZSTD_getErrorName(rc));
		bool stuck = raw.pos == in->position && out.pos == 0;
		in->position = raw.pos;
		in->member_open = rc != 0;
		if (stuck && in->raw_end && in->member_open)
			return fail(FAIL_INVALID, "the zstd stream ends in the middle");
	}
	return (ssize_t)out.pos;
}

ssize_t input_read(struct input *in, void *buffer, size_t n)
{
	if (in->format == FORMAT_UNKNOWN && detect(in) < 0)
		return -1;
	ssize_t got = in->format == FORMAT_GZIP   ? read_gzip(in, buffer, n)
		      : in->format == FORMAT_ZSTD ? read_zstd(in, buffer, n)
						  : read_plain(in, buffer, n);
	if (got <= 0)
		return got;
	in->tar_bytes += (uint64_t)got;
	if (in->tar_bytes > in->limits->bytes)
		return fail(FAIL_LIMIT, "the layer is larger than %llu bytes when decompressed", (unsigned long long)in->limits->bytes);
	if (in->tar_bytes > in->limits->ratio_floor && in->tar_bytes / in->limits->ratio > in->blob_bytes)
		return fail(FAIL_LIMIT, "the layer decompresses to more than %llu times its size", (unsigned long long)in->limits->ratio);
	if (EVP_DigestUpdate(in->tar_hash, buffer, (size_t)got) != 1)
		return fail(FAIL_SYSTEM, "hashing failed");
	return got;
}

int input_exact(struct input *in, void *buffer, size_t n)
{
	for (size_t done = 0; done < n;) {
		ssize_t got = input_read(in, (char *)buffer + done, n - done);
		if (got < 0)
			return -1;
		if (got == 0)
			return fail(FAIL_INVALID, "the archive ends in the middle of an entry");
		done += (size_t)got;
	}
	return 0;
}

int input_skip(struct input *in, uint64_t n)
{
	static uint8_t scrap[64 * 1024];
	while (n > 0) {
		size_t step = n < sizeof scrap ? (size_t)n : sizeof scrap;
		if (input_exact(in, scrap, step) < 0)
			return -1;
		n -= step;
	}
	return 0;
}

static int to_hex(EVP_MD_CTX *hash, char *out)
{
	uint8_t sum[EVP_MAX_MD_SIZE];
	unsigned length = 0;
	if (EVP_DigestFinal_ex(hash, sum, &length) != 1)
		return fail(FAIL_SYSTEM, "hashing failed");
	for (unsigned i = 0; i < length; i++)
		snprintf(out + 2 * (size_t)i, 3, "%02x", sum[i]);
	return 0;
}

int input_finish(struct input *in, struct input_totals *totals)
{
	static uint8_t scrap[64 * 1024];
	ssize_t got;
	do
		got = input_read(in, scrap, sizeof scrap);
	while (got > 0);
	if (got < 0)
		return -1;
	totals->blob_bytes = in->blob_bytes;
	totals->tar_bytes = in->tar_bytes;
	if (to_hex(in->blob_hash, totals->blob_hex) < 0)
		return -1;
	return to_hex(in->tar_hash, totals->tar_hex);
}
