/* Attach: a client's descriptors joined to a container's stdio, and terminals' sizes. Nothing is copied through memory of the shim. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "shim.h"

#define ATTACH_STDIN 1
#define ATTACH_STDOUT 2
#define ATTACH_STDERR 4
#define PUMP_BYTES (64 << 10)

static int container_input(const struct container *container)
{
	return container->console >= 0 ? container->console : container->stdin_fd;
}

static void source_ended(struct container *container)
{
	watch_close(&container->stdin_source);
	watch_close(&container->stdin_wait);
	/* A terminal has no end of file of its own. */
	if ((container->flags & CREATE_STDIN_ONCE) != 0 && container->stdin_fd >= 0) {
		drop_fd(&container->stdin_fd);
	}
}

static void pump(struct container *container)
{
	ssize_t size = splice(container->stdin_source.fd, NULL, container->stdin_wait.fd, NULL, PUMP_BYTES, SPLICE_F_NONBLOCK);

	if (size > 0) {
		watch_set(&container->stdin_source, EPOLLIN | EPOLLONESHOT);
		return;
	}
	if (size == 0 || (errno != EAGAIN && errno != EINTR)) {
		source_ended(container);
		return;
	}
	/* Either there is nothing to read, or no room: wait for the one that is missing. */
	struct pollfd room = { .fd = container->stdin_wait.fd, .events = POLLOUT };
	if (poll(&room, 1, 0) == 1)
		watch_set(&container->stdin_source, EPOLLIN | EPOLLONESHOT);
	else
		watch_set(&container->stdin_wait, EPOLLOUT | EPOLLONESHOT);
}

static void source_ready(struct watch *watch, uint32_t events)
{
	(void)events;
	pump(container_of(watch, struct container, stdin_source));
}

static void room_ready(struct watch *watch, uint32_t events)
{
	(void)events;
	pump(container_of(watch, struct container, stdin_wait));
}

int stdin_pump_start(struct container *container, int source)
{
	int input = fcntl(container_input(container), F_DUPFD_CLOEXEC, 5);

	container->stdin_source = (struct watch){ .fd = source, .ready = source_ready };
	container->stdin_wait = (struct watch){ .fd = input, .ready = room_ready };
	if (input < 0 || watch_add(&container->stdin_source, EPOLLIN | EPOLLONESHOT) < 0 || watch_add(&container->stdin_wait, EPOLLONESHOT) < 0) {
		int err = errno;
		watch_close(&container->stdin_source);
		watch_close(&container->stdin_wait);
		return -err;
	}
	return 0;
}

/* splice needs a pipe on one side: a terminal's is none. */
static int is_pipe(int fd)
{
	return fcntl(fd, F_GETPIPE_SZ) > 0;
}

static int attach(struct container *container, struct request *request, uint32_t flags)
{
	int *fd = request->fds;
	int err = 0;

	if ((flags & ATTACH_STDIN) != 0) {
		if (container_input(container) < 0)
			return -EPIPE;
		if (container->stdin_source.fd >= 0)
			return -EBUSY;
		if (!is_pipe(*fd))
			return -EINVAL;
	}
	int *source = (flags & ATTACH_STDIN) != 0 ? fd++ : NULL;
	if ((flags & ATTACH_STDOUT) != 0)
		err = sink_add(&container->log.stream[0], fd++);
	if (err == 0 && (flags & ATTACH_STDERR) != 0)
		err = sink_add(&container->log.stream[1], fd++);
	if (err == 0 && source != NULL)
		err = stdin_pump_start(container, steal_fd(source));
	return err;
}

void handle_attach(struct request *request)
{
	struct container *container = container_find(request->value[MSG_ATTACH_ID].str);
	uint32_t flags = request->value[MSG_ATTACH_FLAGS].u32;

	if (container == NULL || container->phase == PHASE_CREATING || container->phase == PHASE_EXITED || container->exit_step != EXIT_NONE) {
		reply_failed(request->client, request->id, container == NULL ? ENOENT : 0, PLAN_NO_OP, "the container is not running");
		return;
	}
	if (flags == 0 || flags > 7 || (uint32_t)__builtin_popcount(flags) != request->fd_count) {
		reply_failed(request->client, request->id, EINVAL, PLAN_NO_OP, "one descriptor for each flag");
		return;
	}
	text_aside_used();
	int err = attach(container, request, flags);
	if (err < 0)
		reply_failed(request->client, request->id, -err, PLAN_NO_OP, "attach");
	else
		reply_ok(request->client, request->id, 0);
}

void handle_resize(struct request *request)
{
	const struct wire_value *value = request->value;
	struct container *container = container_find(value[MSG_RESIZE_ID].str);
	struct winsize size = { .ws_row = (unsigned short)value[MSG_RESIZE_ROWS].u32, .ws_col = (unsigned short)value[MSG_RESIZE_COLS].u32 };
	int console = -1;

	if (container != NULL)
		console = value[MSG_RESIZE_EXEC_ID].size > 0 ? exec_console(value[MSG_RESIZE_ID].str, value[MSG_RESIZE_EXEC_ID].str) : container->console;
	if (console < 0 || ioctl(console, TIOCSWINSZ, &size) < 0)
		reply_failed(request->client, request->id, console < 0 ? ENOTTY : errno, PLAN_NO_OP, "no terminal to resize");
	else
		reply_ok(request->client, request->id, 0);
}
