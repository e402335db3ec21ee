/* New filesystems. */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* The kernel says in words why it refused; each message is one read, "e overlay: ..." for errors. */
int fs_say_log(struct run *run, int error, int fs, const char *what)
{
	char message[160], last[160] = "";
	ssize_t length;
	while ((length = read(fs, message, sizeof message - 1)) > 0) {
		message[length] = 0;
		while (length > 0 && message[length - 1] == '\n')
			message[--length] = 0;
		if (message[0] == 'e' && message[1] == ' ')
			memcpy(last, message + 2, (size_t)length - 1);
	}
	return say(run, error, what, last[0] ? ": " : NULL, last);
}

int fs_set_option(int fs, const char *option, uint32_t size)
{
	char key[256];
	const char *equals = memchr(option, '=', size);
	if (!equals)
		return k_fsconfig(fs, K_FSCONFIG_SET_FLAG, option, NULL, 0);
	size_t length = (size_t)(equals - option);
	if (length >= sizeof key)
		return -ENAMETOOLONG;
	memcpy(key, option, length);
	key[length] = 0;
	return k_fsconfig(fs, K_FSCONFIG_SET_STRING, key, equals + 1, 0);
}

/* A procfs shows the pid namespace of the process that makes it, not the joined one; other processes than its own children may
 * not help out, since containers of that namespace could trace them. */
static int choose_pid_namespace(struct run *run, int fs)
{
	autoclose int ns = proc_open_link(run, "ns", "pid_for_children", O_RDONLY);
	if (ns < 0)
		return say(run, ns, "procfs: the new pid namespace has no process yet", NULL, NULL);
	int error = kernel_denied(KERNEL_PROC_PIDNS) ? -EINVAL : k_fsconfig(fs, K_FSCONFIG_SET_FD, "pidns", NULL, ns);
	return error == -EINVAL ? say(run, -EOPNOTSUPP, "procfs of a joined pid namespace needs Linux 6.17", NULL, NULL) : error;
}

int op_fsmount(struct run *run, const value *v)
{
	const char *type = v[OP_FSMOUNT_TYPE].str, *option;
	uint32_t size;
	autoclose int fs = k_fsopen(type);
	if (fs < 0)
		return say(run, fs, type, NULL, NULL);
	if (v[OP_FSMOUNT_SOURCE].size != 0) {
		int error = k_fsconfig(fs, K_FSCONFIG_SET_STRING, "source", v[OP_FSMOUNT_SOURCE].str, 0);
		if (error < 0)
			return fs_say_log(run, error, fs, type);
	}
	if (run->pid_for_children && strcmp(type, "proc") == 0) {
		int error = choose_pid_namespace(run, fs);
		if (error < 0)
			return error;
	}
	struct wire_items options = wire_items(&v[OP_FSMOUNT_OPTIONS]);
	while ((option = wire_next_str(&options, &size))) {
		/* Already set, by a descriptor instead of a path. */
		if (run->pid_for_children && strncmp(option, "pidns=", 6) == 0)
			continue;
		int error = fs_set_option(fs, option, size);
		if (error < 0)
			return fs_say_log(run, error, fs, option);
	}
	int error = k_fsconfig(fs, K_FSCONFIG_CMD_CREATE, NULL, NULL, 0);
	if (error < 0)
		return fs_say_log(run, error, fs, type);
	int fd = k_fsmount(fs, v[OP_FSMOUNT_ATTRS].u32);
	if (fd < 0)
		return fs_say_log(run, fd, fs, type);
	slot_set(run, v[OP_FSMOUNT_OUT].u32, fd);
	return 0;
}
