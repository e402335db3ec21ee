/* Namespaces: joined, made, pinned. */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* In the order in which they can be joined: user first gives the rights to the others, mnt last keeps the host's paths for as long as possible. */
static const struct kind {
	uint32_t flag;
	const char *name;
	const char *for_children;
} kinds[] = {
	{ CLONE_NEWUSER, "user", "user" },
	{ CLONE_NEWNET, "net", "net" },
	{ CLONE_NEWIPC, "ipc", "ipc" },
	{ CLONE_NEWUTS, "uts", "uts" },
	{ CLONE_NEWCGROUP, "cgroup", "cgroup" },
	{ CLONE_NEWPID, "pid", "pid_for_children" },
	{ K_CLONE_NEWTIME, "time", "time_for_children" },
	{ CLONE_NEWNS, "mnt", "mnt" },
};
#define KINDS (sizeof kinds / sizeof *kinds)

/* Raw calls: libc's would signal the threads of the shim that it believes to have. */
int set_groups(struct run *run, const uint32_t *groups, uint32_t count)
{
	if (syscall(SYS_setgroups, (long)count, groups) == 0)
		return 0;
	/* An ordinary user maps its own group only where groups can no longer be dropped: they might be what keeps it out of a file. */
	if (errno == EPERM && run->rootless && count == 0)
		return 0;
	return say(run, -errno, "setgroups", NULL, NULL);
}

int become_namespace_root(struct run *run)
{
	int error = set_groups(run, NULL, 0);
	if (error < 0)
		return error;
	if (syscall(SYS_setresgid, 0, 0, 0) < 0)
		return say(run, -errno, "setresgid", NULL, NULL);
	if (syscall(SYS_setresuid, 0, 0, 0) < 0)
		return say(run, -errno, "setresuid", NULL, NULL);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	return restore_death_signal(run);
}

static int joined(struct run *run, uint32_t flags)
{
	if (flags & CLONE_NEWNS) {
		run->in_container = 1;
		run->tree_is_slave = 0;
		close_fd(&run->root);
		close_fd(&run->null_device);
		close_fd(&run->mask_template);
		run->root = run->null_device = run->mask_template = -1;
	}
	if (flags & CLONE_NEWPID)
		run->pid_for_children = 1;
	return flags & CLONE_NEWUSER ? become_namespace_root(run) : 0;
}

/* A procfs of our own pid namespace can be had neither inside a user namespace nor from a container's tree: have it before. Where it
 * is not needed later a failure does not matter. */
static void prepare_to_join(struct run *run, uint32_t flags)
{
	if (flags & (CLONE_NEWUSER | CLONE_NEWNS))
		proc_handle(run);
}

int op_join_ns(struct run *run, const value *v)
{
	uint32_t flag = v[OP_JOIN_NS_KIND].u32;
	int fd = slot_fd(run, v[OP_JOIN_NS_SLOT].u32);
	if (fd < 0)
		return fd;
	prepare_to_join(run, flag);
	if (setns(fd, (int)flag) < 0)
		return -errno;
	return joined(run, flag);
}

/* "Pid:" of a pidfd, as its fdinfo gives it. */
static int pid_of(struct run *run, int pidfd, char out[12])
{
	char path[24] = "fdinfo/", text[512];
	decimal(path + 7, (uint32_t)pidfd);
	autoclose int info = proc_open_self(run, path, O_RDONLY);
	if (info < 0)
		return info;
	ssize_t length = read(info, text, sizeof text - 1);
	if (length < 0)
		return -errno;
	text[length] = 0;
	char *at = strstr(text, "\nPid:\t");
	if (!at || at[6] == '-')
		return -ESRCH;
	size_t size = strspn(at + 6, "0123456789");
	if (size == 0 || size > 10)
		return -ESRCH;
	memcpy(out, at + 6, size);
	out[size] = 0;
	return 0;
}

/* Older kernels: the namespaces of the process that the pidfd names, opened one by one and then joined. */
static int join_one_by_one(struct run *run, int pidfd, uint32_t flags)
{
	char path[24];
	int fds[KINDS];
	int error = pid_of(run, pidfd, path);
	if (error < 0)
		return error;
	memcpy(path + strlen(path), "/ns", 4);
	int proc = proc_handle(run);
	if (proc < 0)
		return proc;
	autoclose int directory = proc_open(proc, path, O_PATH | O_DIRECTORY);
	if (directory < 0)
		return directory;
	for (size_t i = 0; i < KINDS; i++) {
		fds[i] = flags & kinds[i].flag ? (int)k_result(openat(directory, kinds[i].name, O_RDONLY | O_CLOEXEC)) : -1;
		if (flags & kinds[i].flag && fds[i] < 0)
			error = fds[i];
	}
	/* While the process still lives its number was not given to another. */
	if (error == 0 && syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) < 0)
		error = -errno;
	for (size_t i = 0; i < KINDS; i++) {
		if (error == 0 && fds[i] >= 0 && setns(fds[i], (int)kinds[i].flag) < 0)
			error = say(run, -errno, kinds[i].name, " namespace", NULL);
		close_fd(&fds[i]);
	}
	return error;
}

int op_join_process(struct run *run, const value *v)
{
	uint32_t flags = v[OP_JOIN_PROCESS_KINDS].u32;
	int pidfd = slot_fd(run, v[OP_JOIN_PROCESS_SLOT].u32);
	if (pidfd < 0)
		return pidfd;
	prepare_to_join(run, flags);
	int error = kernel_denied(KERNEL_SETNS_PIDFD) ? -EINVAL : (int)k_result(setns(pidfd, (int)flags));
	/* Before 5.8 a pidfd is not a namespace: EINVAL. */
	if (error == -EINVAL)
		error = join_one_by_one(run, pidfd, flags);
	return error < 0 ? error : joined(run, flags);
}

int op_new_ns(struct run *run, const value *v)
{
	uint32_t flags = v[OP_NEW_NS_KINDS].u32;
	if (flags & CLONE_NEWUSER)
		return say(run, -EINVAL, "a user namespace needs maps", NULL, NULL);
	/* Flags below 0x100 do not fit clone(), but unshare takes them. */
	if (syscall(SYS_unshare, (unsigned long)flags) < 0)
		return -errno;
	if (flags & CLONE_NEWNS) {
		/* Descriptors of the old tree are of no use for binds in the new one. */
		close_fd(&run->null_device);
		close_fd(&run->mask_template);
		run->null_device = run->mask_template = -1;
		run->tree_is_slave = 0;
	}
	if (flags & CLONE_NEWPID)
		run->pid_for_children = 1;
	return 0;
}

static int write_map(int directory, const char *name, const char *text)
{
	autoclose int fd = (int)k_result(openat(directory, name, O_WRONLY | O_NOFOLLOW | O_CLOEXEC));
	return fd < 0 ? fd : write_once(fd, text);
}

/* Stays in the parent namespace, where alone such maps may be written; its exit code is the errno. */
_Noreturn static void map_writer(int directory, int go, const value *v)
{
	char byte;
	if (read(go, &byte, 1) != 1)
		_exit(ECANCELED);
	/* See user_namespaces(7): without it nobody but root may write a map of groups. */
	int error = geteuid() == 0 ? 0 : write_map(directory, "setgroups", "deny");
	if (error == 0)
		error = write_map(directory, "uid_map", v[OP_NEW_USERNS_UID_MAP].str);
	if (error == 0)
		error = write_map(directory, "gid_map", v[OP_NEW_USERNS_GID_MAP].str);
	_exit(-error);
}

int op_new_userns(struct run *run, const value *v)
{
	int ends[2], status = 0;
	/* Of this process, for the helper: "self" would be the helper. */
	autoclose int directory = proc_open_self(run, ".", O_PATH | O_DIRECTORY);
	if (directory < 0)
		return directory;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	autoclose int wait_end = ends[0];
	autoclose int go_end = ends[1];
	pid_t helper = k_fork(SIGCHLD);
	if (helper == 0) {
		close(go_end);
		map_writer(directory, wait_end, v);
	}
	if (helper < 0)
		return helper;
	int error = (int)k_result(syscall(SYS_unshare, (unsigned long)CLONE_NEWUSER));
	if (error == 0 && write(go_end, "", 1) != 1)
		error = -errno;
	close(steal_fd(&go_end));
	while (waitpid(helper, &status, 0) < 0 && errno == EINTR)
		;
	if (error < 0)
		return say(run, error, "unshare", NULL, NULL);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return say(run, WIFEXITED(status) ? -WEXITSTATUS(status) : -ECHILD, "id maps", NULL, NULL);
	return become_namespace_root(run);
}

int op_mapped_userns(struct run *run, const value *v)
{
	if (syscall(SYS_unshare, (unsigned long)CLONE_NEWUSER) < 0)
		return say(run, -errno, "unshare", NULL, NULL);
	report_send(run, PLAN_BARRIER, v[OP_MAPPED_USERNS_NUMBER].u32, 0, -1);
	wait_for_release(run);
	return become_namespace_root(run);
}

static int open_own(struct run *run, uint32_t flag)
{
	for (size_t i = 0; i < KINDS; i++)
		if (kinds[i].flag == flag)
			return proc_open_link(run, "ns", kinds[i].for_children, O_RDONLY);
	return -EINVAL;
}

int op_open_own_ns(struct run *run, const value *v)
{
	int fd = open_own(run, v[OP_OPEN_OWN_NS_KIND].u32);
	if (fd < 0)
		return fd;
	slot_set(run, v[OP_OPEN_OWN_NS_OUT].u32, fd);
	return 0;
}

int op_bind_own_ns(struct run *run, const value *v)
{
	const char *path = v[OP_BIND_OWN_NS_PATH].str;
	autoclose int ns = open_own(run, v[OP_BIND_OWN_NS_KIND].u32);
	if (ns < 0)
		return ns;
	autoclose int mount = k_open_tree(ns, "", K_OPEN_TREE_CLONE | K_AT_EMPTY_PATH);
	if (mount < 0)
		return mount;
	autoclose int file = (int)k_result(open(path, O_RDONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0444));
	if (file < 0)
		return file;
	return k_move_mount(mount, "", file, "", K_MOVE_MOUNT_F_EMPTY_PATH | K_MOVE_MOUNT_T_EMPTY_PATH);
}
