/* Forking: clone3 where there is one, and what a child may keep. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shim.h"

#define CLONE_PIDFD_FLAG 0x1000u
#define CLONE_INTO_CGROUP_FLAG 0x200000000ull
#define NR_CLONE3 435

struct clone3_args {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

static struct rlimit given;

void nofile_raise(void)
{
	getrlimit(RLIMIT_NOFILE, &given);
	setrlimit(RLIMIT_NOFILE, &(struct rlimit){ given.rlim_max, given.rlim_max });
}

void nofile_restore(void)
{
	setrlimit(RLIMIT_NOFILE, &given);
}

static long clone3(uint32_t kinds, int cgroup, int *pidfd)
{
	struct clone3_args args = {
		.flags = kinds | CLONE_PIDFD_FLAG | (cgroup >= 0 ? CLONE_INTO_CGROUP_FLAG : 0),
		.pidfd = (uint64_t)(uintptr_t)pidfd,
		.exit_signal = SIGCHLD,
		.cgroup = cgroup >= 0 ? (uint64_t)cgroup : 0,
	};
	if (kernel_denied(KERNEL_CLONE3))
		return -ENOSYS;
	if (cgroup >= 0 && kernel_denied(KERNEL_INTO_CGROUP))
		return -E2BIG; /* what a kernel without the field answers */
	/* Stack pointer 0: the child goes on with a copy of ours, as after fork. */
	return k_result(syscall(NR_CLONE3, &args, sizeof args));
}

static long clone_old(uint32_t kinds, int *pidfd)
{
	/* The kind "time" shares its bit with the exit signal. */
	if ((kinds & K_CLONE_NEWTIME) != 0)
		return -ENOSYS;
	/* pidfd is the third argument on every architecture, those behind it are unused. */
	return k_result(syscall(SYS_clone, (unsigned long)(kinds | CLONE_PIDFD_FLAG | SIGCHLD), 0ul, pidfd, 0ul, 0ul));
}

/* Slower than CLONE_INTO_CGROUP: the kernel waits for a grace period. */
static int join_cgroup(int cgroup)
{
	autoclose int procs = openat(cgroup, "cgroup.procs", O_WRONLY | O_CLOEXEC);
	if (procs < 0 || write(procs, "0", 1) != 1)
		return -errno;
	return 0;
}

int fork_child(uint32_t kinds, const char *cgroup, int *pidfd)
{
	autoclose int directory = -1;

	*pidfd = -1;
	if (cgroup[0] != '\0') {
		directory = open(cgroup, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (directory < 0)
			return -errno;
	}
	long pid = clone3(kinds, directory, pidfd);
	if (pid == -ENOSYS || pid == -E2BIG) {
		pid = clone_old(kinds, pidfd);
		if (pid == 0 && directory >= 0 && join_cgroup(directory) < 0)
			_exit(125);
	}
	if (pid == 0)
		nofile_restore();
	return (int)pid;
}

void close_all_but(int *keep, unsigned count)
{
	unsigned next = 3;

	for (unsigned i = 1; i < count; i++)
		for (unsigned k = i; k > 0 && keep[k - 1] > keep[k]; k--) {
			int swap = keep[k];
			keep[k] = keep[k - 1];
			keep[k - 1] = swap;
		}
	for (unsigned i = 0; i < count; i++) {
		if (keep[i] < (int)next)
			continue;
		if (keep[i] > (int)next)
			k_close_range(next, (unsigned)keep[i] - 1);
		next = (unsigned)keep[i] + 1;
	}
	k_close_range(next, ~0u);
}

_Noreturn void plan_child(const struct plan *plan, struct plan_env *env)
{
	int keep[PLAN_SLOTS + PLAN_PINS + 4];
	unsigned count = 0;

	for (unsigned i = 0; i < PLAN_SLOTS; i++)
		keep[count++] = env->slots[i];
	for (unsigned i = 0; i < PLAN_PINS; i++)
		keep[count++] = env->pins[i];
	keep[count++] = env->report;
	keep[count++] = env->release;
	keep[count++] = env->image;
	keep[count++] = env->proc;
	close_all_but(keep, count);
	plan_run(plan, env);
}

uint8_t count_ops(const struct plan *plan, uint32_t code)
{
	unsigned count = 0;
	/* plan_decode has checked all lengths. */
	for (const uint8_t *at = plan->bytes + 12; at < plan->bytes + plan->size; at += 8 + wire_get_u32(at + 4))
		count += wire_get_u16(at) == code;
	return count > 200 ? 200 : (uint8_t)count;
}
