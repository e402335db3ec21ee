/*
 * libFuzzer target over everything in caisson-unpack that reads the layer's bytes before a name reaches the filesystem:
 * decompression, tar, PAX, sparse maps, name cleaning. The sources are included, so that a run can be undone between inputs.
 */
#include "../../native/common/kernel.c"
#include "../../native/unpack/failure.c"
#include "../../native/unpack/input.c"
#include "../../native/unpack/pax.c"
#define record tar_record
#include "../../native/unpack/tar.c"
#undef record
#include "../../native/unpack/sparse.c"
#include "../../native/unpack/tree.c"

#include <sys/mman.h>

static void drop(struct input *in, struct tar *tar)
{
	free(tar->extension);
	free(tar->long_name);
	free(tar->long_link);
	free(tar->parts);
	free(tar);
	inflateEnd(&in->gzip);
	ZSTD_freeDCtx(in->zstd);
	EVP_MD_CTX_free(in->blob_hash);
	EVP_MD_CTX_free(in->tar_hash);
	free(in);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int fd = -1;
	static struct entry entry;
	static char buffer[8192], clean[PATH_MAX], parent[PATH_MAX];
	const struct limits limits = { .entries = 1000, .bytes = 1 << 22, .ratio = 1000, .ratio_floor = 1 << 20, .names = 1 << 20 };
	if (fd < 0)
		fd = memfd_create("caisson-fuzz", MFD_CLOEXEC);
	first_kind = FAIL_NONE;
	if (ftruncate(fd, (off_t)size) < 0 || pwrite(fd, data, size, 0) != (ssize_t)size || lseek(fd, 0, SEEK_SET) < 0)
		abort();
	struct input *in = input_new(fd, &limits, false);
	struct tar *tar = tar_new(in, &limits);
	int rc = -1;
	while ((rc = tar_next(tar, &entry)) > 0) {
		if (path_clean(entry.name, clean) == 0 && clean[0] != '\0' && path_split(clean, parent)[0] == '\0')
			abort();
		if (strstr(clean, "..") == clean && (clean[2] == '/' || clean[2] == '\0'))
			abort();
		uint64_t left = entry.size;
		ssize_t got = 0;
		while (entry.type == '0' && (got = tar_data(tar, buffer, sizeof buffer)) > 0)
			left -= (uint64_t)got;
		if (entry.type == '0' && got == 0 && !entry.sparse && left != 0)
			abort();
	}
	struct input_totals totals;
	if (rc == 0)
		input_finish(in, &totals);
	drop(in, tar);
	return 0;
}
