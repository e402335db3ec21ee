/* Who the process is and what it may do. */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CAPABILITY_VERSION_3 0x20080522u
#define MAX_GROUPS 65536
#define SECCOMP_SET_MODE_FILTER 1
#define SECCOMP_FILTER_FLAG_NEW_LISTENER 8u

struct cap_header {
	uint32_t version;
	int32_t pid;
};
/* Two halves of 32 bits. */
struct cap_sets {
	uint32_t effective;
	uint32_t permitted;
	uint32_t inheritable;
};

int op_no_new_privs(struct run *run, const value *v)
{
	(void)run;
	(void)v;
	return (int)k_result(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

int op_seccomp(struct run *run, const value *v)
{
	struct {
		uint16_t count;
		const void *program;
	} filter = { (uint16_t)(v[OP_SECCOMP_PROGRAM].size / 8), v[OP_SECCOMP_PROGRAM].bytes };
	uint32_t flags = v[OP_SECCOMP_FLAGS].u32;
	int result = (int)k_result(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter));
	if (result >= 0 && (flags & SECCOMP_FILTER_FLAG_NEW_LISTENER)) {
		/* The kernel makes it close-on-exec. */
		run->listener = result;
		return 0;
	}
	return result;
}

/* A process that owns no right to its own stdout cannot reopen /dev/stdout. The null device belongs to everybody. */
static int give_stdio(uint32_t uid)
{
	for (int fd = 0; fd < 3; fd++) {
		struct stat st;
		if (fstat(fd, &st) < 0) {
			if (errno == EBADF)
				continue;
			return -errno;
		}
		if (st.st_uid == uid || is_device(fd, S_IFCHR, 1, 3))
			continue;
		/* Not ours to give, as a pipe of the host is in a user namespace, or not possible at all. */
		if (fchown(fd, uid, (gid_t)-1) < 0 && errno != EPERM && errno != EINVAL && errno != EROFS)
			return -errno;
	}
	return 0;
}

/* Keeping capabilities over setuid keeps the permitted ones only. */
static int raise_effective(void)
{
	struct cap_header header = { CAPABILITY_VERSION_3, 0 };
	struct cap_sets sets[2];
	if (syscall(SYS_capget, &header, sets) < 0)
		return -errno;
	sets[0].effective = sets[0].permitted;
	sets[1].effective = sets[1].permitted;
	return (int)k_result(syscall(SYS_capset, &header, sets));
}

/* Raw calls throughout: libc's versions would signal the threads that the shim had. */
int op_user(struct run *run, const value *v)
{
	static uint32_t groups[MAX_GROUPS];
	uint32_t uid = v[OP_USER_UID].u32, gid = v[OP_USER_GID].u32, count = 0, group;
	struct wire_items list = wire_items(&v[OP_USER_GROUPS]);
	if (v[OP_USER_GROUPS].count > MAX_GROUPS)
		return say(run, -EINVAL, "too many groups", NULL, NULL);
	while (wire_next_u32(&list, &group))
		groups[count++] = group;
	find_home(run);
	int error = give_stdio(uid);
	if (error < 0)
		return say(run, error, "owner of stdio", NULL, NULL);
	if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
		return say(run, -errno, "keepcaps", NULL, NULL);
	if ((error = set_groups(run, groups, count)) < 0)
		return error;
	if (syscall(SYS_setresgid, (long)gid, (long)gid, (long)gid) < 0)
		return say(run, -errno, "setresgid", NULL, NULL);
	if (syscall(SYS_setresuid, (long)uid, (long)uid, (long)uid) < 0)
		return say(run, -errno, "setresuid", NULL, NULL);
	if ((error = raise_effective()) < 0)
		return say(run, error, "capabilities", NULL, NULL);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	return restore_death_signal(run);
}

int op_bounding_caps(struct run *run, const value *v)
{
	uint64_t wanted = v[OP_BOUNDING_CAPS_SET].u64;
	for (int cap = 0; cap <= K_CAP_LAST; cap++) {
		int present = prctl(PR_CAPBSET_READ, cap, 0, 0, 0);
		if (present < 0)
			break;
		if (present && !(wanted >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return say(run, -errno, "bounding set", NULL, NULL);
	}
	return 0;
}

int op_caps(struct run *run, const value *v)
{
	uint64_t permitted = v[OP_CAPS_PERMITTED].u64, effective = v[OP_CAPS_EFFECTIVE].u64, inheritable = v[OP_CAPS_INHERITABLE].u64;
	struct cap_header header = { CAPABILITY_VERSION_3, 0 };
	struct cap_sets sets[2] = {
		{ (uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable },
		{ (uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), (uint32_t)(inheritable >> 32) },
	};
	if (syscall(SYS_capset, &header, sets) < 0)
		return say(run, -errno, "capset", NULL, NULL);
	prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return say(run, -errno, "ambient set", NULL, NULL);
	for (int cap = 0; cap <= K_CAP_LAST; cap++)
		if (v[OP_CAPS_AMBIENT].u64 >> cap & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0)
			return say(run, -errno, "ambient set", NULL, NULL);
	return restore_death_signal(run);
}
