/* What a process keeps over execve besides its ids: labels, scheduling, affinity, personality, memory policy. */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/syscall.h>
#include <unistd.h>

#define IOPRIO_WHO_PROCESS 1
#define IOPRIO_CLASS_SHIFT 13

/* struct sched_attr of linux/sched/types.h, its first version. */
struct sched_attributes {
	uint32_t size;
	uint32_t policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime;
	uint64_t deadline;
	uint64_t period;
};
_Static_assert(sizeof(struct sched_attributes) == 48, "the kernel goes by the size");

/*
 * Through the private procfs, and read back: a write that went to another file would leave the process unconfined without a word
 * (CVE-2019-16884, CVE-2025-52881).
 */
static int write_attribute(struct run *run, const char *path, const char *text)
{
	char back[4];
	autoclose int fd = proc_open_self(run, path, O_RDWR);
	if (fd < 0)
		return fd;
	int error = write_once(fd, text);
	if (error < 0)
		return error;
	ssize_t got = pread(fd, back, sizeof back, 0);
	if (got < 0)
		return -errno;
	return got == 0 || back[0] == '\n' || back[0] == 0 ? say(run, -EUCLEAN, path, " did not take the label", NULL) : 0;
}

int op_apparmor(struct run *run, const value *v)
{
	char text[PATH_MAX] = "exec ";
	uint32_t size = v[OP_APPARMOR_PROFILE].size;
	if (size >= sizeof text - 5)
		return -ENAMETOOLONG;
	memcpy(text + 5, v[OP_APPARMOR_PROFILE].str, size + 1);
	say(run, 0, "AppArmor profile ", v[OP_APPARMOR_PROFILE].str, NULL);
	int error = write_attribute(run, "attr/apparmor/exec", text);
	/* Before Linux 5.8 there is only the file that all security modules share. */
	return error == -ENOENT ? write_attribute(run, "attr/exec", text) : error;
}

int op_selinux(struct run *run, const value *v)
{
	const char *label = v[OP_SELINUX_LABEL].str;
	say(run, 0, "SELinux label ", label, NULL);
	return write_attribute(run, v[OP_SELINUX_KEYS].u32 ? "attr/keycreate" : "attr/exec", label);
}

int op_scheduler(struct run *run, const value *v)
{
	struct sched_attributes attributes = {
		.size = sizeof attributes,
		.policy = v[OP_SCHEDULER_POLICY].u32,
		.flags = v[OP_SCHEDULER_FLAGS].u64,
		.nice = (int32_t)v[OP_SCHEDULER_NICE].i64,
		.priority = v[OP_SCHEDULER_PRIORITY].u32,
		.runtime = v[OP_SCHEDULER_RUNTIME].u64,
		.deadline = v[OP_SCHEDULER_DEADLINE].u64,
		.period = v[OP_SCHEDULER_PERIOD].u64,
	};
	int error = (int)k_result(syscall(SYS_sched_setattr, 0, &attributes, 0));
	return error == -EPERM ? say(run, error, "the policy is not allowed here (CAP_SYS_NICE, cpuset, or cpu.rt_runtime_us of the cgroup)", NULL, NULL) : error;
}

int op_io_priority(struct run *run, const value *v)
{
	(void)run;
	uint32_t priority = v[OP_IO_PRIORITY_CLASS].u32 << IOPRIO_CLASS_SHIFT | v[OP_IO_PRIORITY_PRIORITY].u32;
	return (int)k_result(syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority));
}

int op_cpu_affinity(struct run *run, const value *v)
{
	(void)run;
	return (int)k_result(syscall(SYS_sched_setaffinity, 0, (long)v[OP_CPU_AFFINITY_MASK].size, v[OP_CPU_AFFINITY_MASK].bytes));
}

int op_personality(struct run *run, const value *v)
{
	(void)run;
	return personality(v[OP_PERSONALITY_DOMAIN].u32) < 0 ? -errno : 0;
}

int op_memory_policy(struct run *run, const value *v)
{
	(void)run;
	uint32_t size = v[OP_MEMORY_POLICY_NODES].size;
	/* The kernel reads one bit less than it is told. */
	long bits = size == 0 ? 0 : (long)size * 8 + 1;
	return (int)k_result(syscall(SYS_set_mempolicy, (long)(int32_t)v[OP_MEMORY_POLICY_MODE].u32, size == 0 ? NULL : v[OP_MEMORY_POLICY_NODES].bytes, bits));
}
