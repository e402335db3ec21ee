/*
 * Hands the notification descriptor of a process's seccomp filter to whoever listens. Done from outside: the process itself may be
 * stopped in any system call by that very filter, and nobody can answer before the listener has the descriptor.
 */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MOST_DESCRIPTORS 1024
#define LOOK_AGAIN_NS 500000

int op_connect_unix(struct run *run, const value *v)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const value *path = &v[OP_CONNECT_UNIX_PATH];
	if (path->size >= sizeof address.sun_path)
		return -ENAMETOOLONG;
	memcpy(address.sun_path, path->str, path->size + 1);
	autoclose int fd = (int)k_result(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	if (fd < 0)
		return fd;
	if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
		return -errno;
	slot_set(run, v[OP_CONNECT_UNIX_OUT].u32, steal_fd(&fd));
	return 0;
}

/* Number of the notification descriptor among those of a process: -EAGAIN as long as there is none. */
static int find_listener(int directory)
{
	static const char wanted[] = "anon_inode:seccomp notify";
	char name[12], link[64];
	for (uint32_t fd = 3; fd < MOST_DESCRIPTORS; fd++) {
		ssize_t length = readlinkat(directory, decimal(name, fd), link, sizeof link);
		if (length == sizeof wanted - 1 && memcmp(link, wanted, sizeof wanted - 1) == 0)
			return (int)fd;
		if (length < 0 && errno == ESRCH)
			return -ESRCH;
	}
	return -EAGAIN;
}

static int take_listener(struct run *run, uint32_t pid)
{
	char path[24];
	int proc = proc_handle(run);
	if (proc < 0)
		return proc;
	autoclose int process = (int)k_result(syscall(SYS_pidfd_open, (long)pid, 0));
	if (process < 0)
		return process;
	strcat(decimal(path, pid), "/fd");
	for (;;) {
		/* Opened anew: a process that has ended shows no descriptors, and no error either. */
		autoclose int directory = proc_open(proc, path, O_PATH | O_DIRECTORY);
		if (directory < 0)
			return directory == -ENOENT ? -ESRCH : directory;
		int number = find_listener(directory);
		if (number >= 0)
			return (int)k_result(syscall(SYS_pidfd_getfd, process, number, 0));
		if (number != -EAGAIN || syscall(SYS_pidfd_send_signal, process, 0, NULL, 0) < 0)
			return -ESRCH;
		nanosleep(&(struct timespec){ .tv_nsec = LOOK_AGAIN_NS }, NULL);
	}
}

int op_send_listener(struct run *run, const value *v)
{
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	int socket = slot_fd(run, v[OP_SEND_LISTENER_SOCKET].u32);
	if (socket < 0)
		return socket;
	autoclose int listener = take_listener(run, v[OP_SEND_LISTENER_PID].u32);
	if (listener < 0)
		return say(run, listener, "the process that loads the filter", NULL, NULL);
	struct iovec data = { .iov_base = (void *)v[OP_SEND_LISTENER_MESSAGE].bytes, .iov_len = v[OP_SEND_LISTENER_MESSAGE].size };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes };
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof listener);
	memcpy(CMSG_DATA(head), &listener, sizeof listener);
	ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL);
	if (sent < 0)
		return -errno;
	/* The descriptor went with the first byte; a large state may need more turns. */
	for (size_t at = (size_t)sent; at < data.iov_len; at += (size_t)sent)
		if ((sent = send(socket, (const char *)data.iov_base + at, data.iov_len - at, MSG_NOSIGNAL)) < 0)
			return -errno;
	return 0;
}
