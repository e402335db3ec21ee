#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "shim.h"

/* Linker script layout.ld. */
extern char text_aside_begin[] __attribute__((weak)), text_aside_end[] __attribute__((weak));

/* In .bss and not in pages of its own: children get it, but it holds nothing that is secret. */
static struct shim state;
struct shim *shim = &state;

int64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

uint64_t wall_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void deadline_at(int64_t at_ms)
{
	if (at_ms < shim->next_deadline)
		shim->next_deadline = at_ms;
}

int watch_add(struct watch *watch, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = watch };
	return epoll_ctl(shim->epoll, EPOLL_CTL_ADD, watch->fd, &event) < 0 ? -errno : 0;
}

void watch_set(struct watch *watch, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = watch };
	epoll_ctl(shim->epoll, EPOLL_CTL_MOD, watch->fd, &event);
}

void watch_close(struct watch *watch)
{
	if (watch->fd < 0)
		return;
	epoll_ctl(shim->epoll, EPOLL_CTL_DEL, watch->fd, NULL);
	close(watch->fd);
	watch->fd = -1;
}

uint64_t start_ticks(int pid)
{
	char path[40], stat[512];
	struct text text = text_in(path, sizeof path);
	text_str(&text, "/proc/");
	text_u64(&text, (uint64_t)pid);
	text_str(&text, "/stat");
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, stat, sizeof stat - 1);
	if (size <= 0)
		return 0;
	stat[size] = '\0';
	/* The name may hold blanks and parentheses: fields are counted from the last parenthesis on. */
	const char *at = strrchr(stat, ')');
	for (int field = 2; at != NULL && field < 22; field++) {
		at = strchr(at, ' ');
		if (at != NULL)
			at++;
	}
	return at == NULL ? 0 : (uint64_t)text_parse(at, NULL);
}

/* Tells the starter and gives up. */
COLD _Noreturn static void refuse(const char *what, int err)
{
	char buffer[160];
	struct text text = text_in(buffer, sizeof buffer);
	text_str(&text, "caisson-shim: ");
	text_str(&text, what);
	text_str(&text, ": ");
	text_str(&text, strerror(err));
	text_str(&text, "\n");
	(void)!write(READY_FD, buffer, text.length);
	_exit(1);
}

static void child_ended(struct watch *watch, uint32_t events)
{
	struct signalfd_siginfo info;
	(void)events;
	while (read(watch->fd, &info, sizeof info) > 0)
		;
	tasks_reap();
	if (shim->shutdown_deadline != 0)
		shutdown_continue(now_ms());
}

COLD static void signals_start(void)
{
	static const int ignored[] = { SIGHUP, SIGINT, SIGTERM, SIGPIPE, SIGQUIT, SIGUSR1, SIGUSR2, SIGTSTP, SIGTTIN, SIGTTOU, SIGXFSZ };
	static struct watch watch;
	sigset_t all, child;

	/* Blocked before SIGCHLD can be missed; forked children inherit the mask and reset it in their plan. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
		signal(ignored[i], SIG_IGN);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	watch = (struct watch){ .fd = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK), .ready = child_ended };
	if (watch.fd < 0 || watch_add(&watch, EPOLLIN) < 0)
		refuse("signalfd", errno);
}

COLD static void read_line(const char *path, char *buffer, size_t room)
{
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? 0 : read(fd, buffer, room - 1);
	buffer[size > 0 ? size : 0] = '\0';
	buffer[strcspn(buffer, "\n")] = '\0';
}

/* Renamed into place: the daemon never reads half of it. */
COLD static void describe_self(void)
{
	char boot[48], json[512];
	struct text text = text_in(json, sizeof json);

	read_line("/proc/sys/kernel/random/boot_id", boot, sizeof boot);
	text_str(&text, "{\"pid\":");
	text_u64(&text, (uint64_t)getpid());
	text_str(&text, ",\"startTicks\":");
	text_u64(&text, shim->own_ticks);
	text_str(&text, ",\"bootId\":\"");
	text_str(&text, boot);
	text_str(&text, "\",\"build\":\"");
	text_str(&text, shim_build);
	text_str(&text, "\",\"protocol\":");
	text_u64(&text, PROTOCOL_VERSION);
	text_str(&text, "}\n");
	autoclose int fd = openat(POD_DIR_FD, ".shim.json.partial", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		refuse("shim.json", errno);
	errno = ENOSPC;
	if (write(fd, json, text.length) != (ssize_t)text.length ||
	    renameat(POD_DIR_FD, ".shim.json.partial", POD_DIR_FD, "shim.json") < 0)
		refuse("shim.json", errno);
}

COLD static void leave_starter(void)
{
	/* Both fail harmlessly: after a re-exec, and without CAP_SYS_RESOURCE. */
	setsid();
	autoclose int oom = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	(void)!write(oom, "-999", 4);

	if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
		refuse("child subreaper", errno);
	prctl(PR_SET_NAME, "caisson-shim", 0, 0, 0);
	umask(022);
	if (chdir("/") < 0)
		refuse("chdir", errno);
}

COLD static void state_start(const char *pod_id)
{
	memcpy(shim->pod_id, pod_id, POD_ID_LENGTH);
	list_init(&shim->tasks);
	list_init(&shim->containers);
	for (size_t i = 0; i < PLAN_PINS; i++)
		shim->pins[i] = -1;
	for (size_t i = 0; i < CLIENT_LIMIT; i++)
		shim->clients[i].watch.fd = -1;
	shim->next_deadline = NEVER;
	shim->reexec_image = -1;
	shim->own_ticks = start_ticks(getpid());
	shim->epoll = epoll_create1(EPOLL_CLOEXEC);
	/* Containers' /proc/self/exe is never this file: it is sealed, and only re-executed by the shim and its reaper. */
	shim->image = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	shim->proc = proc_private();
	if (shim->epoll < 0 || shim->image < 0)
		refuse("epoll or /proc/self/exe", errno);
	(void)(mkdirat(POD_DIR_FD, "exits", 0700) < 0 && errno != EEXIST);
	shim->exits_dir = openat(POD_DIR_FD, "exits", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (shim->exits_dir < 0)
		refuse("exits", errno);
}

void text_aside_used(void)
{
	shim->aside_used = 1;
}

static void text_aside_drop(void)
{
	shim->aside_used = 0;
	madvise(text_aside_begin, (size_t)(text_aside_end - text_aside_begin), MADV_DONTNEED);
}

static void run_deadlines(void)
{
	int64_t now = now_ms();
	if (now < shim->next_deadline)
		return;
	/* Whoever still waits puts its deadline in again. */
	shim->next_deadline = NEVER;
	tasks_deadlines(now);
	containers_deadlines(now);
	writers_deadlines(now);
	if (shim->shutdown_deadline != 0)
		shutdown_continue(now);
	if (shim->reexec_deadline != 0)
		reexec_continue(now);
}

/* Not inlined into main, which lies aside. */
__attribute__((noinline)) _Noreturn static void loop(void)
{
	/* Any advice makes it a mapping of its own, so that faults on its neighbours do not bring it back. */
	madvise(text_aside_begin, (size_t)(text_aside_end - text_aside_begin), MADV_RANDOM);
	text_aside_used();
	for (;;) {
		int timeout = -1;
		if (shim->aside_used)
			text_aside_drop();
		if (shim->next_deadline != NEVER) {
			int64_t left = shim->next_deadline - now_ms();
			timeout = left < 0 ? 0 : left > 60000 ? 60000 : (int)left;
		}
		struct epoll_event event;
		if (epoll_wait(shim->epoll, &event, 1, timeout) == 1) {
			struct watch *watch = event.data.ptr;
			watch->ready(watch, event.events);
			clients_sweep();
		}
		if (shim->next_deadline != NEVER)
			run_deadlines();
	}
}

COLD static int valid_pod_id(const char *id)
{
	return id != NULL && strlen(id) == POD_ID_LENGTH && strspn(id, "0123456789abcdef") == POD_ID_LENGTH;
}

COLD int main(int argc, char **argv)
{
	const char *pod_id = NULL;
	int state = -1;

	if (argc > 0 && strcmp(argv[0], REAPER_NAME) == 0)
		return reaper_main();
	for (int i = 1; i + 1 < argc; i += 2) {
		if (strcmp(argv[i], "--pod") == 0)
			pod_id = argv[i + 1];
		else if (strcmp(argv[i], "--state") == 0)
			state = (int)text_parse(argv[i + 1], NULL);
	}
	if (!valid_pod_id(pod_id))
		refuse("--pod", EINVAL);
	if (kernel_deny(getenv("CAISSON_DENY_SYSCALLS")) < 0)
		refuse("CAISSON_DENY_SYSCALLS", EINVAL);
	fcntl(POD_DIR_FD, F_SETFD, FD_CLOEXEC);
	leave_starter();
	if (state < 0)
		k_close_range(READY_FD + 1, ~0u);
	nofile_raise();
	state_start(pod_id);
	signals_start();
	if (writers_start() < 0)
		refuse("writer thread", EAGAIN);
	if (state >= 0) {
		int err = reexec_restore(state);
		if (err < 0)
			_exit(1);
	} else {
		int err = listen_start(-1);
		if (err < 0)
			refuse("shim.sock", -err);
	}
	describe_self();
	if (state < 0) {
		(void)!write(READY_FD, "R", 1);
		close(READY_FD);
	}
	/* What ended before SIGCHLD was watched. */
	tasks_reap();
	loop();
}
