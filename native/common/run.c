#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { EXIT_FAILED = 127, EXIT_ORPHAN = 126 };

static op_function *const ops[OP_MAX_CODE + 1] = {
	[OP_CLEAN_START] = op_clean_start,
	[OP_JOIN_NS] = op_join_ns,
	[OP_JOIN_PROCESS] = op_join_process,
	[OP_NEW_NS] = op_new_ns,
	[OP_NEW_USERNS] = op_new_userns,
	[OP_FORK] = op_fork,
	[OP_BARRIER] = op_barrier,
	[OP_CGROUP_ATTACH] = op_cgroup_attach,
	[OP_EXPORT] = op_export,
	[OP_PIN] = op_pin,
	[OP_OPEN_OWN_NS] = op_open_own_ns,
	[OP_BIND_OWN_NS] = op_bind_own_ns,
	[OP_PARENT_DEATH_SIGNAL] = op_parent_death_signal,
	[OP_REAPER] = op_reaper,
	[OP_OPEN_TREE] = op_open_tree,
	[OP_FSMOUNT] = op_fsmount,
	[OP_OVERLAY] = op_overlay,
	[OP_MOUNT_ATTR] = op_mount_attr,
	[OP_ROOT_PROPAGATION] = op_root_propagation,
	[OP_ATTACH_ROOT] = op_attach_root,
	[OP_USE_ROOT] = op_use_root,
	[OP_ATTACH] = op_attach,
	[OP_PIVOT] = op_pivot,
	[OP_UNMOUNT] = op_unmount,
	[OP_MKDIR] = op_mkdir,
	[OP_MKNOD] = op_mknod,
	[OP_SYMLINK] = op_symlink,
	[OP_MASK] = op_mask,
	[OP_READONLY] = op_readonly,
	[OP_REMOUNT_ATTR] = op_remount_attr,
	[OP_OPEN_IN_ROOT] = op_open_in_root,
	[OP_OPEN_HOST] = op_open_host,
	[OP_COPY_TREE] = op_copy_tree,
	[OP_ATTACH_HOST] = op_attach_host,
	[OP_CHOWN_SLOT] = op_chown_slot,
	[OP_HOSTNAME] = op_hostname,
	[OP_DOMAINNAME] = op_domainname,
	[OP_SYSCTL] = op_sysctl,
	[OP_LOOPBACK_UP] = op_loopback_up,
	[OP_RLIMIT] = op_rlimit,
	[OP_OOM_SCORE_ADJ] = op_oom_score_adj,
	[OP_NO_NEW_PRIVS] = op_no_new_privs,
	[OP_SECCOMP] = op_seccomp,
	[OP_USER] = op_user,
	[OP_BOUNDING_CAPS] = op_bounding_caps,
	[OP_CAPS] = op_caps,
	[OP_UMASK] = op_umask,
	[OP_CWD] = op_cwd,
	[OP_KEYRING] = op_keyring,
	[OP_STDIO] = op_stdio,
	[OP_CONSOLE] = op_console,
	[OP_PARK] = op_park,
	[OP_EXEC] = op_exec,
	[OP_CONNECT] = op_connect,
	[OP_APPARMOR] = op_apparmor,
	[OP_SELINUX] = op_selinux,
	[OP_SCHEDULER] = op_scheduler,
	[OP_IO_PRIORITY] = op_io_priority,
	[OP_CPU_AFFINITY] = op_cpu_affinity,
	[OP_PERSONALITY] = op_personality,
	[OP_MEMORY_POLICY] = op_memory_policy,
	[OP_HOOK] = op_hook,
	[OP_CONNECT_UNIX] = op_connect_unix,
	[OP_SEND_LISTENER] = op_send_listener,
	[OP_NET_DEVICE] = op_net_device,
	[OP_MOVE_ROOT] = op_move_root,
	[OP_EXEC_HOST] = op_exec_host,
	[OP_HOLD_FROZEN] = op_hold_frozen,
	[OP_EXPOSE] = op_expose,
	[OP_HOLD_NETWORK] = op_hold_network,
	[OP_OPEN_SYSV_LIST] = op_open_sysv_list,
	[OP_MAPPED_USERNS] = op_mapped_userns,
	[OP_KEEP] = op_keep,
	[OP_RELABEL] = op_relabel,
};

int say(struct run *run, int error, const char *a, const char *b, const char *c)
{
	const char *const parts[] = { a, b, c };
	size_t at = 0;
	for (size_t i = 0; i < 3; i++)
		for (const char *p = parts[i]; p && *p && at < sizeof run->detail - 1; p++)
			run->detail[at++] = *p;
	run->detail[at] = 0;
	return error;
}

int slot_fd(const struct run *run, uint32_t slot)
{
	int fd = -1;
	if (slot < PLAN_SLOTS)
		fd = run->env->slots[slot];
	else if (slot - PLAN_FIRST_PIN < PLAN_PINS)
		fd = run->env->pins[slot - PLAN_FIRST_PIN];
	return fd < 0 ? -EBADF : fd;
}

void slot_close(struct run *run, uint32_t slot)
{
	if (slot < PLAN_SLOTS && run->env->slots[slot] >= 0) {
		close(run->env->slots[slot]);
		run->env->slots[slot] = -1;
	}
}

void slot_set(struct run *run, uint32_t slot, int fd)
{
	slot_close(run, slot);
	run->env->slots[slot] = fd;
}

/* Closes everything from `from` on that is not in `keep`, which is sorted in place. */
static void close_except(unsigned from, int *keep, size_t count)
{
	for (size_t i = 1; i < count; i++)
		for (size_t j = i; j > 0 && keep[j - 1] > keep[j]; j--) {
			int swap = keep[j];
			keep[j] = keep[j - 1];
			keep[j - 1] = swap;
		}
	for (size_t i = 0; i < count; i++) {
		if (keep[i] < (int)from)
			continue;
		k_close_range(from, (unsigned)keep[i] - 1);
		from = (unsigned)keep[i] + 1;
	}
	k_close_range(from, ~0u);
}

void close_all_descriptors(struct run *run)
{
	int keep[] = { run->env->report, run->env->release, run->listener };
	close_except(3 + run->kept, keep, 3);
	run->root = run->proc = run->own_fds = run->null_device = run->mask_template = run->env->image = run->env->proc = -1;
	memset(run->env->slots, 0xff, sizeof run->env->slots);
	memset(run->env->pins, 0xff, sizeof run->env->pins);
}

void close_foreign_descriptors(struct run *run)
{
	int keep[PLAN_SLOTS + PLAN_PINS + 6];
	size_t count = 0;
	for (size_t i = 0; i < PLAN_SLOTS; i++)
		if (run->env->slots[i] >= 0)
			keep[count++] = run->env->slots[i];
	for (size_t i = 0; i < PLAN_PINS; i++)
		if (run->env->pins[i] >= 0)
			keep[count++] = run->env->pins[i];
	keep[count++] = run->env->report;
	keep[count++] = run->env->release;
	keep[count++] = run->env->image;
	keep[count++] = run->env->proc;
	keep[count++] = run->proc;
	keep[count++] = run->own_fds;
	close_except(3, keep, count);
}

static void send_packet(struct run *run, const struct plan_report *report, int fd)
{
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec data = { .iov_base = (void *)report, .iov_len = sizeof *report };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1 };
	ssize_t sent;
	if (fd >= 0) {
		message.msg_control = control.bytes;
		message.msg_controllen = sizeof control.bytes;
		struct cmsghdr *head = CMSG_FIRSTHDR(&message);
		head->cmsg_level = SOL_SOCKET;
		head->cmsg_type = SCM_RIGHTS;
		head->cmsg_len = CMSG_LEN(sizeof fd);
		memcpy(CMSG_DATA(head), &fd, sizeof fd);
	}
	do
		sent = sendmsg(run->env->report, &message, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	if (sent < 0)
		_exit(EXIT_ORPHAN);
}

void report_send(struct run *run, enum plan_report_type type, uint32_t number, int32_t pid, int fd)
{
	struct plan_report report = { .type = type, .op = run->index, .number = number, .pid = pid };
	send_packet(run, &report, fd);
}

void wait_for_release(struct run *run)
{
	char byte;
	ssize_t got;
	do
		got = read(run->env->release, &byte, 1);
	while (got < 0 && errno == EINTR);
	if (got != 1)
		_exit(EXIT_ORPHAN);
}

int restore_death_signal(struct run *run)
{
	if (run->death_signal == 0)
		return 0;
	return (int)k_result(prctl(PR_SET_PDEATHSIG, run->death_signal, 0, 0, 0));
}

_Noreturn static void fail(struct run *run, int error, const char *signature, const value *v)
{
	struct plan_report report = { .type = PLAN_FAILED, .op = run->index, .err = -error };
	if (run->detail[0] == 0)
		for (size_t i = 0; signature[i]; i++)
			if (signature[i] == 's') {
				say(run, 0, v[i].str, NULL, NULL);
				break;
			}
	memcpy(report.detail, run->detail, sizeof report.detail);
	send_packet(run, &report, -1);
	_exit(EXIT_FAILED);
}

_Noreturn void plan_run(const struct plan *plan, struct plan_env *env)
{
	struct run run = { .plan = plan, .env = env, .root = -1, .proc = -1, .own_fds = -1, .null_device = -1, .mask_template = -1, .listener = -1, .rootless = geteuid() != 0 };
	value values[OP_MAX_FIELDS];
	plan_cursor(plan, &run.cursor);
	while (plan_next(&run.cursor)) {
		uint16_t code = run.cursor.code;
		const char *signature = plan_op_signature(code);
		run.detail[0] = 0;
		int error = wire_decode(signature, run.cursor.fields, run.cursor.size, values);
		if (error == 0)
			error = ops[code](&run, values);
		if (error < 0)
			fail(&run, error, signature, values);
		run.index++;
	}
	_exit(0);
}
