/* OOM kills: counted by the kernel in memory.events (v2) or memory.oom_control (v1), watched while the container lives. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim.h"

/* v1 tells when memory has run out, which is a moment before the kill is counted. */
#define RECHECK_MS 100

static uint64_t read_counter(int fd)
{
	char text[1024];
	ssize_t size = pread(fd, text, sizeof text - 1, 0);

	if (size <= 0)
		return 0;
	text[size] = '\0';
	for (const char *at = text; at != NULL; at = strchr(at, '\n'), at = at == NULL ? NULL : at + 1)
		if (strncmp(at, "oom_kill ", 9) == 0) {
			int64_t count = text_parse(at + 9, NULL);
			return count < 0 ? 0 : (uint64_t)count;
		}
	return 0;
}

uint64_t oom_read(struct oom *oom)
{
	int fd = oom->version == 2 ? oom->watch.fd : oom->control;
	/* Once the cgroup is gone the last number known is what counts. */
	uint64_t count = fd < 0 ? 0 : read_counter(fd);
	return count > oom->count ? count : oom->count;
}

void oom_baseline(struct oom *oom)
{
	oom->baseline = oom->count = oom_read(oom);
}

void oom_tell(struct container *container)
{
	struct oom *oom = &container->oom;
	struct reply reply;
	uint64_t count = oom_read(oom);

	if (count <= oom->count)
		return;
	oom->count = count;
	oom->recheck = 0;
	reply_begin(&reply);
	wire_put_str(&reply.out, container->id);
	wire_put_u64(&reply.out, count - oom->baseline);
	broadcast(MSG_OOM, &reply);
}

static void oom_ready(struct watch *watch, uint32_t events)
{
	struct oom *oom = container_of(watch, struct oom, watch);
	struct container *container = container_of(oom, struct container, oom);
	uint64_t ignored;

	if (oom->version == 1) {
		(void)!read(watch->fd, &ignored, sizeof ignored);
		if (container->exit_step == EXIT_NONE) {
			oom->recheck = 1;
			container_deadline(container, now_ms() + RECHECK_MS);
		}
	}
	oom_tell(container);
	/* A removed cgroup reports an error for ever. */
	char byte;
	if (oom->version == 2 && (events & EPOLLERR) != 0 && pread(watch->fd, &byte, 1, 0) < 0)
		oom_close(oom);
}

void oom_deadline(struct container *container, int64_t now)
{
	container->oom.recheck = 0;
	oom_tell(container);
	/* The one deadline of a container may have been meant for this, too. */
	if (container->waiter_type != 0 || container->exit_step != EXIT_NONE || container->phase == PHASE_STARTING)
		container_deadline(container, now + STUCK_MS);
}

static int open_v1(struct oom *oom, int directory)
{
	char line[48];
	struct text text = text_in(line, sizeof line);
	autoclose int control = openat(directory, "memory.oom_control", O_RDONLY | O_CLOEXEC);
	autoclose int event_control = openat(directory, "cgroup.event_control", O_WRONLY | O_CLOEXEC);
	autoclose int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	if (control < 0 || event_control < 0 || event < 0)
		return -errno;
	text_u64(&text, (uint64_t)event);
	text_str(&text, " ");
	text_u64(&text, (uint64_t)control);
	if (write(event_control, line, text.length) < 0)
		return -errno;
	oom->version = 1;
	oom->control = steal_fd(&control);
	oom->watch.fd = steal_fd(&event);
	return 0;
}

/* Without it the container runs all the same: kills are then reported as plain SIGKILL. */
void oom_open(struct oom *oom, const char *path)
{
	struct stat stat;

	oom->watch.ready = oom_ready;
	if (path[0] == '\0')
		return;
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &stat) < 0)
		return;
	if (S_ISDIR(stat.st_mode)) {
		if (open_v1(oom, fd) < 0)
			return;
	} else {
		oom->version = 2;
		oom->watch.fd = steal_fd(&fd);
	}
	oom_baseline(oom);
	oom_watch(oom);
}

void oom_watch(struct oom *oom)
{
	oom->watch.ready = oom_ready;
	if (oom->watch.fd >= 0)
		watch_add(&oom->watch, oom->version == 1 ? EPOLLIN : EPOLLPRI);
}

void oom_close(struct oom *oom)
{
	oom->count = oom_read(oom);
	watch_close(&oom->watch);
	drop_fd(&oom->control);
}
