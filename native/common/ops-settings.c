/* Settings of namespaces and limits of the process. */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int op_hostname(struct run *run, const value *v)
{
	(void)run;
	return (int)k_result(sethostname(v[OP_HOSTNAME_NAME].str, v[OP_HOSTNAME_NAME].size));
}

int op_domainname(struct run *run, const value *v)
{
	(void)run;
	return (int)k_result(setdomainname(v[OP_DOMAINNAME_NAME].str, v[OP_DOMAINNAME_NAME].size));
}

int op_sysctl(struct run *run, const value *v)
{
	char path[PATH_MAX] = "sys/";
	uint32_t size = v[OP_SYSCTL_KEY].size;
	say(run, 0, v[OP_SYSCTL_KEY].str, " = ", v[OP_SYSCTL_VALUE].str);
	if (size >= sizeof path - 4)
		return -ENAMETOOLONG;
	memcpy(path + 4, v[OP_SYSCTL_KEY].str, size + 1);
	/* A handle that shows /proc/sys lives for this one write only. */
	autoclose int proc = proc_unmasked();
	if (proc < 0)
		return proc;
	autoclose int fd = proc_open(proc, path, O_WRONLY);
	return fd < 0 ? fd : write_once(fd, v[OP_SYSCTL_VALUE].str);
}

int op_open_sysv_list(struct run *run, const value *v)
{
	char path[32] = "sysvipc/";
	if (v[OP_OPEN_SYSV_LIST_NAME].size >= sizeof path - strlen(path))
		return -ENAMETOOLONG;
	memcpy(path + strlen(path), v[OP_OPEN_SYSV_LIST_NAME].str, v[OP_OPEN_SYSV_LIST_NAME].size + 1);
	autoclose int proc = proc_unmasked();
	if (proc < 0)
		return proc;
	int fd = proc_open(proc, path, O_RDONLY);
	if (fd < 0)
		return fd;
	slot_set(run, v[OP_OPEN_SYSV_LIST_OUT].u32, fd);
	return 0;
}

int op_loopback_up(struct run *run, const value *v)
{
	(void)v;
	struct ifreq lo = { .ifr_name = "lo" };
	say(run, 0, "lo", NULL, NULL);
	autoclose int fd = (int)k_result(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	/* The call is the interface's, not the family's: any socket will do. */
	if (fd == -EAFNOSUPPORT)
		fd = (int)k_result(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	if (fd < 0)
		return fd;
	if (ioctl(fd, SIOCGIFFLAGS, &lo) < 0)
		return -errno;
	lo.ifr_flags |= IFF_UP;
	return (int)k_result(ioctl(fd, SIOCSIFFLAGS, &lo));
}

int op_rlimit(struct run *run, const value *v)
{
	char number[12];
	uint64_t limit[2] = { v[OP_RLIMIT_SOFT].u64, v[OP_RLIMIT_HARD].u64 };
	int error = (int)k_result(syscall(SYS_prlimit64, 0, v[OP_RLIMIT_RESOURCE].u32, limit, NULL));
	return error < 0 ? say(run, error, "resource ", decimal(number, v[OP_RLIMIT_RESOURCE].u32), NULL) : 0;
}

int op_oom_score_adj(struct run *run, const value *v)
{
	char text[16];
	int64_t score = v[OP_OOM_SCORE_ADJ_VALUE].i64;
	if (score < -1000 || score > 1000)
		return -EINVAL;
	text[0] = '-';
	decimal(text + (score < 0), (uint32_t)(score < 0 ? -score : score));
	say(run, 0, "oom_score_adj ", text, NULL);
	autoclose int fd = proc_open_self(run, "oom_score_adj", O_WRONLY);
	return fd < 0 ? fd : write_once(fd, text);
}

int op_umask(struct run *run, const value *v)
{
	(void)run;
	umask(v[OP_UMASK_MASK].u32 & 0777);
	return 0;
}

#define KEYCTL_JOIN_SESSION_KEYRING 1
#define KEYCTL_SETPERM 5
#define KEYCTL_DESCRIBE 6
#define KEY_OWNER_SEARCH 0x00080000u

/* "keyring;UID;GID;PERM;NAME", permissions in hex. */
static int permissions_of(const char *description, uint32_t *permissions)
{
	for (int fields = 0; fields < 3; fields++) {
		description = strchr(description, ';');
		if (!description)
			return 0;
		description++;
	}
	*permissions = 0;
	for (; *description && *description != ';'; description++) {
		char c = *description;
		*permissions = *permissions << 4 | (uint32_t)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
	}
	return 1;
}

int op_keyring(struct run *run, const value *v)
{
	char description[320];
	uint32_t permissions;
	(void)run;
	long key = k_result(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, v[OP_KEYRING_NAME].str, 0, 0, 0));
	if (key == -ENOSYS)
		return 0;
	if (key < 0)
		return (int)key;
	/* The container's user may find its own keys through it. */
	long size = k_result(syscall(SYS_keyctl, KEYCTL_DESCRIBE, key, description, sizeof description, 0));
	if (size <= 0 || (size_t)size > sizeof description || !permissions_of(description, &permissions))
		return size < 0 ? (int)size : -EIO;
	return (int)k_result(syscall(SYS_keyctl, KEYCTL_SETPERM, key, permissions | KEY_OWNER_SEARCH, 0, 0));
}
