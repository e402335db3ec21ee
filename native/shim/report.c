/* What forked children say on their report channel, and how much of it is believed. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim.h"

#define NR_PIDFD_OPEN 434

static void report_forked(struct task *task, int pid)
{
	siginfo_t info;
	if (pid == task->pid || pid <= 0 || task->forks_left == 0)
		return;
	/* Only a child of ours that nothing else claims: a traced process could name anybody. */
	if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) < 0 || task_find(pid) != NULL)
		return;
	int pidfd = (int)syscall(NR_PIDFD_OPEN, pid, 0);
	if (pidfd < 0)
		return;
	task->forks_left--;
	drop_fd(&task->pidfd);
	task->pid = pid;
	task->pidfd = pidfd;
	if (task->doomed)
		task_signal(task, SIGKILL);
}

static void report_descriptor(struct task *task, uint32_t pin, int *fd)
{
	struct winsize size;

	if (task->exports == NULL)
		task->exports = cell_alloc();
	if (task->exports == NULL || task->export_count == EXPORT_LIMIT) {
		task_doom(task, EMFILE, "the plan exports too many descriptors");
		return;
	}
	/* Somebody must be able to resize an exec's terminal; its user gets the master itself. */
	if (pin == 0 && task->kind == TASK_EXEC && task->console < 0 && ioctl(*fd, TIOCGWINSZ, &size) == 0)
		task->console = fcntl(*fd, F_DUPFD_CLOEXEC, 3);
	task->exports[task->export_count++] = (struct task_export){ steal_fd(fd), pin };
}

static void report_barrier(struct task *task, uint32_t number)
{
	struct reply reply;

	if (task->client == NULL) {
		task_doom(task, ECANCELED, "the client has gone");
		return;
	}
	task->barrier = number;
	task->barrier_waits = 1;
	reply_begin(&reply);
	wire_put_u32(&reply.out, (uint32_t)task->pid);
	wire_put_u32(&reply.out, number);
	reply_send(task->client, MSG_BARRIER, task->request, &reply, NULL, 0);
}

static void report_handle(struct task *task, struct plan_report *report, int *fd)
{
	report->detail[sizeof report->detail - 1] = '\0';
	if (report->type == PLAN_FAILED) {
		task_fail(task, report->err, report->op, report->detail);
		/* It ends by itself, if it was the one who said so. */
		task_signal(task, SIGKILL);
		return;
	}
	/* A parked process may be traced by its neighbours: from then on nothing else is believed. */
	if (task->state != TASK_SETUP)
		return;
	switch (report->type) {
	case PLAN_BARRIER:
		report_barrier(task, report->number);
		break;
	case PLAN_EXPORT:
		if (*fd >= 0 && task->exports_left > 0) {
			task->exports_left--;
			report_descriptor(task, 0, fd);
		}
		break;
	case PLAN_PIN:
		if (*fd >= 0 && task->pins_left > 0 && report->number >= PLAN_FIRST_PIN && report->number < PLAN_FIRST_PIN + PLAN_PINS) {
			task->pins_left--;
			report_descriptor(task, report->number, fd);
		}
		break;
	case PLAN_FORKED:
		report_forked(task, report->pid);
		break;
	case PLAN_CONSOLE:
		if (task->console < 0 && task->makes_console)
			task->console = steal_fd(fd);
		break;
	case PLAN_PARKED:
		if (task->kind == TASK_INIT && !task->doomed && task->failure == NULL) {
			task->state = TASK_PARKED;
			task->ops->parked(task);
		}
		break;
	}
}

/* Takes one report. 1: there may be more; 0: nothing now, or the channel is closed. */
int report_take(struct task *task)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct plan_report report;
	struct iovec data = { &report, sizeof report };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes };
	autoclose int fd = -1;

	if (task->report.fd < 0)
		return 0;
	ssize_t size = recvmsg(task->report.fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (size < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (size <= 0) {
		watch_close(&task->report);
		task->ops->report_closed(task);
		return 0;
	}
	struct cmsghdr *c = CMSG_FIRSTHDR(&message);
	if (c != NULL && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(c), sizeof fd);
	if (size == sizeof report)
		report_handle(task, &report, &fd);
	return 1;
}

void report_ready(struct watch *watch, uint32_t events)
{
	(void)events;
	/* One at a time: the handler may free the task. */
	report_take(container_of(watch, struct task, report));
}
