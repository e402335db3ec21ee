/* Host programs: hooks, CRIU, CNI plugins, in a session of their own that is killed as a whole when their time is over. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim.h"

#define ARGUMENT_LIMIT 1024

struct program {
	const char *argv[ARGUMENT_LIMIT + 1];
	const char *env[ARGUMENT_LIMIT + 1];
	const char *cwd;
	int stdio[3];
	int report;
};

_Noreturn static void program_fail(struct program *program, const char *what)
{
	struct plan_report report = { .type = PLAN_FAILED, .op = PLAN_NO_OP, .err = errno };
	struct text text = text_in(report.detail, sizeof report.detail);
	text_str(&text, what);
	(void)!write(program->report, &report, sizeof report);
	_exit(127);
}

_Noreturn static void program_child(struct program *program)
{
	int keep[4] = { program->stdio[0], program->stdio[1], program->stdio[2], program->report };

	close_all_but(keep, 4);
	setsid();
	umask(022);
	/* Only the shim itself is protected. */
	int oom = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	(void)!write(oom, "0", 1);
	for (int signal = 1; signal <= 64; signal++)
		k_signal(signal, 0);
	k_signal_mask(0);
	/* Those not given stay /dev/null. keep has been sorted, stdio has not; received descriptors lie above 2. */
	for (int i = 0; i < 3; i++)
		if (program->stdio[i] >= 0 && dup2(program->stdio[i], i) < 0)
			program_fail(program, "descriptors");
	if (program->cwd[0] != '\0' && chdir(program->cwd) < 0)
		program_fail(program, program->cwd);
	execve(program->argv[0], (char *const *)program->argv, (char *const *)program->env);
	program_fail(program, program->argv[0]);
}

static int list_strings(const struct wire_value *list, const char **out)
{
	struct wire_items items = wire_items(list);
	if (list->count > ARGUMENT_LIMIT)
		return -E2BIG;
	while ((*out = wire_next_str(&items, NULL)) != NULL)
		out++;
	return 0;
}

static void host_report_closed(struct task *task)
{
	text_aside_used();
	if (task->failure != NULL || task->doomed)
		return;
	task->state = TASK_LIVE;
	task->sid = task->pid;
	reply_ok(task->client, task->request, (uint64_t)task->pid);
}

static void host_ended(struct task *task)
{
	struct reply reply;

	text_aside_used();
	if (task->failure != NULL) {
		task_reply_failure(task, "spawn-host");
	} else {
		reply_begin(&reply);
		wire_put_u32(&reply.out, (uint32_t)task->pid);
		wire_put_u32(&reply.out, task->status);
		wire_put_u32(&reply.out, task->timed_out);
		if (task->adopted)
			broadcast(MSG_SPAWN_EXIT, &reply);
		else
			reply_send(task->client, MSG_SPAWN_EXIT, 0, &reply, NULL, 0);
	}
	task_free(task);
}

static void host_kill(struct task *task)
{
	text_aside_used();
	if (task->sid == 0) {
		task_doom(task, ECANCELED, "cancelled before the program was executed");
		return;
	}
	kill(-task->sid, SIGKILL);
	task_signal(task, SIGKILL);
	kill_start(NULL, KILL_SESSION, SIGKILL, task->sid, NULL);
}

static void host_deadline(struct task *task)
{
	if (task->doomed) {
		task_reply_failure(task, "the program does not end");
		return;
	}
	task->timed_out = 1;
	host_kill(task);
}

const struct task_ops host_ops = {
	.report_closed = host_report_closed,
	.ended = host_ended,
	.deadline = host_deadline,
	.client_gone = host_kill,
};

void handle_spawn_host(struct request *request)
{
	const struct wire_value *value = request->value;
	struct child_ends ends;
	struct program *program = child_pages_alloc(sizeof *program);
	struct task *task = task_new(TASK_HOST, &host_ops);
	int err = program == NULL || task == NULL ? -ENOMEM : 0;

	text_aside_used();
	if (err == 0)
		err = list_strings(&value[MSG_SPAWN_HOST_ARGV], program->argv);
	if (err == 0)
		err = list_strings(&value[MSG_SPAWN_HOST_ENV], program->env);
	if (err == 0 && (value[MSG_SPAWN_HOST_ARGV].count == 0 || program->argv[0][0] != '/' || request->fd_count > 3))
		err = -EINVAL;
	if (err == 0) {
		program->cwd = value[MSG_SPAWN_HOST_CWD].str;
		for (unsigned i = 0; i < 3; i++)
			program->stdio[i] = i < request->fd_count ? request->fds[i] : -1;
		task->client = request->client;
		task->request = request->id;
		err = task_fork(task, 0, "", &ends);
		if (err == 0) {
			program->report = ends.report;
			program_child(program);
		}
	}
	if (err < 0) {
		reply_failed(request->client, request->id, -err, PLAN_NO_OP, "a program needs an absolute path, at most 1024 arguments and 3 descriptors");
		if (task != NULL)
			task_free(task);
	} else if (value[MSG_SPAWN_HOST_DEADLINE_MS].u32 != 0) {
		task_set_deadline(task, now_ms() + value[MSG_SPAWN_HOST_DEADLINE_MS].u32);
	}
	if (program != NULL)
		pages_free(program, sizeof *program);
}
