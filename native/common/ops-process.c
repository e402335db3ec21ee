/* The process itself: a clean start, forks, waiting, reports. */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#ifdef PREDECESSOR_LINGERS_MS
#include <poll.h>
#endif
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CGROUP_ROOT "/sys/fs/cgroup/"
#define IOPRIO_WHO_PROCESS 1
#define DEFAULT_TIMER_SLACK_NS 50000

int op_clean_start(struct run *run, const value *v)
{
	(void)v;
	uint8_t all_cpus[1024];
	struct sched_param no_priority = { 0 };
	/* A process that has not executed yet may not be looked into by others of its user (CVE-2016-9962). */
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	for (int signal = 1; signal <= 64; signal++)
		k_signal(signal, 0);
	k_signal_mask(0);
	if (setsid() < 0 && errno != EPERM)
		return -errno;
	memset(all_cpus, 0xff, sizeof all_cpus);
	syscall(SYS_sched_setaffinity, 0, sizeof all_cpus, all_cpus);
	/* musl's sched_setscheduler is a stub that fails. */
	if (syscall(SYS_sched_setscheduler, 0, 0 /* SCHED_OTHER */, &no_priority) < 0)
		return say(run, -errno, "scheduling policy", NULL, NULL);
	if (setpriority(PRIO_PROCESS, 0, 0) < 0 && errno != EACCES)
		return say(run, -errno, "nice value", NULL, NULL);
	syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, 0);
	prctl(PR_SET_TIMERSLACK, DEFAULT_TIMER_SLACK_NS, 0, 0, 0);
	personality(PER_LINUX);
	umask(022);
	close_foreign_descriptors(run);
	return 0;
}

int op_parent_death_signal(struct run *run, const value *v)
{
	run->death_signal = (int)v[OP_PARENT_DEATH_SIGNAL_SIGNAL].u32;
	return (int)k_result(prctl(PR_SET_PDEATHSIG, run->death_signal, 0, 0, 0));
}

int rest_needs_descriptors(const struct run *run)
{
	struct plan_cursor rest = run->cursor;
	while (plan_next(&rest))
		switch (rest.code) {
		case OP_PARENT_DEATH_SIGNAL:
		case OP_BARRIER:
		case OP_NO_NEW_PRIVS:
		case OP_SECCOMP:
		case OP_BOUNDING_CAPS:
		case OP_CAPS:
		case OP_USER:
		case OP_FORK:
		case OP_RLIMIT:
		case OP_KEYRING:
		case OP_UMASK:
		case OP_PARK:
		case OP_HOOK:
		case OP_EXEC:
			break;
		default:
			return 1;
		}
	return 0;
}

int plan_forks_later(const struct run *run)
{
	struct plan_cursor rest = run->cursor;
	while (plan_next(&rest))
		if (rest.code == OP_FORK)
			return 1;
	return 0;
}

/*
 * In a shared pid namespace the new process is seen by containers which may trace it, so it must own nothing by then. Profiles
 * may answer clone3 with ENOSYS, and the shim must stay the parent: clone with CLONE_PARENT. The pid, as the shim sees it, is put
 * into shared memory before the new process runs, so both report it and no report can overtake it.
 */
int op_fork(struct run *run, const value *v)
{
	(void)v;
	if (run->forked)
		return say(run, -EINVAL, "a plan forks once", NULL, NULL);
	pid_t *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return -errno;
	if (!rest_needs_descriptors(run))
		close_all_descriptors(run);
	close_fd(&run->own_fds); /* They are this process's, not the new one's. */
	run->own_fds = -1;
	long pid = k_result(syscall(SYS_clone, CLONE_PARENT | CLONE_PARENT_SETTID | SIGCHLD, 0, shared, 0, 0));
	if (pid < 0)
		return (int)pid;
	report_send(run, PLAN_FORKED, 0, *shared, -1);
	if (pid > 0) {
#ifdef PREDECESSOR_LINGERS_MS
		poll(NULL, 0, PREDECESSOR_LINGERS_MS); /* for a test: as on a busy machine */
#endif
		_exit(0);
	}
	munmap(shared, sizeof *shared);
	run->forked = 1;
	run->pid_for_children = 0;
	/* The old process led the session; without a leader in the new one there is no job control and nobody to hang up. */
	if (setsid() < 0)
		return -errno;
	if (run->terminal_waits && ioctl(0, TIOCSCTTY, 0) < 0)
		return say(run, -errno, "controlling terminal", NULL, NULL);
	return restore_death_signal(run);
}

int op_barrier(struct run *run, const value *v)
{
	report_send(run, PLAN_BARRIER, v[OP_BARRIER_NUMBER].u32, 0, -1);
	wait_for_release(run);
	return 0;
}

int op_park(struct run *run, const value *v)
{
	(void)v;
	close_all_descriptors(run);
	report_send(run, PLAN_PARKED, 0, 0, -1);
	wait_for_release(run);
	return 0;
}

/* Beneath the hierarchy and without crossing a mount where the kernel can say so (v1: co-mounted controllers are links). */
static int open_cgroup_file(const char *path)
{
	size_t prefix = sizeof CGROUP_ROOT - 1;
	if (strncmp(path, CGROUP_ROOT, prefix) == 0) {
		autoclose int root = open(CGROUP_ROOT, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (root >= 0) {
			int fd = k_openat2(root, path + prefix, O_WRONLY | O_CLOEXEC, 0, K_RESOLVE_BENEATH | K_RESOLVE_NO_MAGICLINKS);
			if (fd != -ENOSYS && fd != -EPERM)
				return fd;
		}
	}
	return (int)k_result(open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW));
}

int op_cgroup_attach(struct run *run, const value *v)
{
	(void)run;
	autoclose int fd = open_cgroup_file(v[OP_CGROUP_ATTACH_PATH].str);
	if (fd < 0)
		return fd;
	uint64_t magic = k_fs_magic(fd);
	if (magic != K_CGROUP_MAGIC && magic != K_CGROUP2_MAGIC)
		return say(run, -EXDEV, v[OP_CGROUP_ATTACH_PATH].str, " is not on a cgroup filesystem", NULL);
	return write_once(fd, "0");
}

int op_export(struct run *run, const value *v)
{
	int fd = slot_fd(run, v[OP_EXPORT_SLOT].u32);
	if (fd < 0)
		return fd;
	report_send(run, PLAN_EXPORT, run->exported++, 0, fd);
	return 0;
}

int op_pin(struct run *run, const value *v)
{
	int fd = slot_fd(run, v[OP_PIN_SLOT].u32);
	if (fd < 0)
		return fd;
	report_send(run, PLAN_PIN, v[OP_PIN_PIN].u32, 0, fd);
	return 0;
}
