#include "unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { RESULT = 1, ROOT = 3, PENDING = 4, LOWERS = 4, MAX_LOWERS = 512 };

static struct limits limits = {
	.entries = 1000000, .bytes = 64ULL << 30, .ratio = 1000, .ratio_floor = 1ULL << 30, .names = 256ULL << 20,
};

struct arguments {
	int (*run)(const struct arguments *arguments);
	bool bottom, sha512;
	uint64_t lowers;
};

static int parse_number(const char *text, uint64_t *value)
{
	char *end;
	errno = 0;
	*value = strtoull(text, &end, 10);
	return *text < '0' || *text > '9' || *end != '\0' || errno != 0 ? -1 : 0;
}

static int parse_argument(struct arguments *arguments, const char *text)
{
	const struct {
		const char *key;
		uint64_t *value;
	} numbers[] = {
		{ "entries=", &limits.entries },         { "bytes=", &limits.bytes }, { "ratio=", &limits.ratio },
		{ "ratio-floor=", &limits.ratio_floor }, { "names=", &limits.names }, { "lowers=", &arguments->lowers },
	};
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
		size_t length = strlen(numbers[i].key);
		if (strncmp(text, numbers[i].key, length) == 0)
			return parse_number(text + length, numbers[i].value);
	}
	if (strcmp(text, "bottom") == 0)
		arguments->bottom = true;
	else if (strcmp(text, "sha512") == 0)
		arguments->sha512 = true;
	else
		return -1;
	return 0;
}

/* The rename that commits the layer comes next: its files must not be lost to a power cut that the rename survives. */
static int flush_layer(void)
{
	autoclose int fd = openat(ROOT, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || syncfs(fd) < 0)
		return fail_errno(errno, "cannot flush the layer");
	return 0;
}

static int run_apply(const struct arguments *arguments)
{
	struct tree tree = { .root = ROOT, .limits = &limits, .cached_fd = -1 };
	struct applied applied = { 0 };
	struct input_totals totals;
	struct input *in = input_new(0, &limits, arguments->sha512);
	struct tar *tar = tar_new(in, &limits);
	if (in == NULL || tar == NULL)
		return fail(FAIL_SYSTEM, "out of memory");
	if (confine_root(ROOT, PENDING) < 0 || confine_privileges(false) < 0)
		return -1;
	if (apply_layer(&tree, tar, arguments->bottom, &applied) < 0 || input_finish(in, &totals) < 0)
		return -1;
	int64_t pending = pending_write(&tree, PENDING);
	if (pending < 0 || (pending == 0 && flush_layer() < 0))
		return -1;
	dprintf(RESULT,
		"{\"ok\":true,\"blobHex\":\"%s\",\"blobBytes\":%" PRIu64 ",\"tarHex\":\"%s\",\"tarBytes\":%" PRIu64 ",\"entries\":%" PRIu64
		",\"inodes\":%" PRIu64 ",\"diskBytes\":%" PRIu64 ",\"strippedXattrs\":%" PRIu64 ",\"pending\":%" PRId64 "}\n",
		totals.blob_hex, totals.blob_bytes, totals.tar_hex, totals.tar_bytes, applied.entries, tree.inodes, tree.disk_bytes,
		applied.stripped_xattrs, pending);
	return 0;
}

static int run_settle(const struct arguments *arguments)
{
	int lowers[MAX_LOWERS];
	struct settled settled = { 0 };
	for (uint64_t i = 0; i < arguments->lowers; i++)
		lowers[i] = LOWERS + (int)i;
	if (confine_root(ROOT, LOWERS - 1 + (int)arguments->lowers) < 0 || confine_privileges(true) < 0)
		return -1;
	if (pending_settle(0, ROOT, lowers, (size_t)arguments->lowers, &limits, &settled) < 0 || flush_layer() < 0)
		return -1;
	dprintf(RESULT, "{\"ok\":true,\"inodes\":%" PRId64 ",\"diskBytes\":%" PRIu64 "}\n", settled.inodes, settled.disk_bytes);
	return 0;
}

static int run_clear(const struct arguments *arguments)
{
	(void)arguments;
	struct tree tree = { .root = ROOT, .limits = &limits, .cached_fd = -1 };
	if (confine_root(ROOT, ROOT) < 0 || confine_privileges(false) < 0 || tree_clear(&tree) < 0)
		return -1;
	dprintf(RESULT, "{\"ok\":true}\n");
	return 0;
}

static int parse_arguments(int argc, char **argv, struct arguments *arguments)
{
	static const struct {
		const char *name;
		int (*run)(const struct arguments *arguments);
	} modes[] = { { "apply", run_apply }, { "settle", run_settle }, { "clear", run_clear } };
	for (size_t i = 0; argc > 1 && i < sizeof modes / sizeof *modes; i++) {
		if (strcmp(argv[1], modes[i].name) == 0)
			arguments->run = modes[i].run;
	}
	if (arguments->run == NULL)
		return fail(FAIL_SYSTEM, "usage: caisson-unpack apply|settle|clear KEY=VALUE...");
	for (int i = 2; i < argc; i++) {
		if (parse_argument(arguments, argv[i]) < 0)
			return fail(FAIL_SYSTEM, "bad argument %s", argv[i]);
	}
	return arguments->lowers > MAX_LOWERS || limits.ratio == 0 ? fail(FAIL_SYSTEM, "an argument is out of range") : 0;
}

static void print_failure(void)
{
	static const char *const kinds[] = {
		[FAIL_NONE] = "system", [FAIL_INVALID] = "invalid", [FAIL_LIMIT] = "limit", [FAIL_SPACE] = "space", [FAIL_SYSTEM] = "system",
	};
	static char text[8 * PATH_MAX];
	size_t n = 0;
	for (const unsigned char *p = (const unsigned char *)failed_text(); *p != '\0' && n + 8 < sizeof text; p++) {
		/* Names may hold any byte: what is not plain text is shown as \xNN, which cannot break the JSON. */
		if (*p < 0x20 || *p > 0x7e || *p == '"' || *p == '\\')
			n += (size_t)snprintf(text + n, sizeof text - n, "\\\\x%02x", *p);
		else
			text[n++] = (char)*p;
	}
	dprintf(RESULT, "{\"ok\":false,\"kind\":\"%s\",\"message\":\"%s\"}\n", kinds[failed_kind()], text);
}

/*
 * Decompression takes all the processor that it gets; calls and containers come first. Short slices (Linux 6.12 and newer, 0.1 ms is the
 * least) let them come soon: who wakes up waits for what is left of the running slice, and that is 3 ms otherwise.
 */
static void step_back(void)
{
	/* struct sched_attr of linux/sched/types.h, its first version. */
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} attributes = { .size = sizeof attributes, .nice = 10, .runtime = 100000 };
	if (syscall(SYS_sched_setattr, 0, &attributes, 0) < 0)
		setpriority(PRIO_PROCESS, 0, 10);
}

int main(int argc, char **argv)
{
	struct arguments arguments = { 0 };
	umask(0);
	step_back();
	int rc = parse_arguments(argc, argv, &arguments);
	if (rc == 0 && kernel_deny(getenv("CAISSON_DENY_SYSCALLS")) < 0)
		rc = fail(FAIL_SYSTEM, "CAISSON_DENY_SYSCALLS names a call that nobody knows");
	if (rc == 0)
		rc = arguments.run(&arguments);
	if (rc == 0)
		return 0;
	print_failure();
	return 1;
}
