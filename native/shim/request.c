/* The table of requests. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "shim.h"

#ifdef ASSUME_MESSAGE_LIMIT
#define LAST_MESSAGE ASSUME_MESSAGE_LIMIT
#else
#define LAST_MESSAGE MSG_MAX_CODE
#endif

const char *message_signature(uint32_t type)
{
	switch (type) {
#define X(code, name, signature) \
	case code: \
		return signature;
		MSG_TABLE(X)
#undef X
	}
	return NULL;
}

/* Not inlined: its buffers would lie below every other request on the stack. */
__attribute__((noinline)) static void handle_hello(struct request *request)
{
	struct reply reply;
	uint32_t codes[OP_MAX_CODE + 1], count = 0;
	uint32_t low = request->value[MSG_HELLO_MIN_PROTOCOL].u32, high = request->value[MSG_HELLO_MAX_PROTOCOL].u32;
	uint32_t protocol = high < PROTOCOL_VERSION ? high : PROTOCOL_VERSION;

	if (low > high || protocol < low || protocol < MIN_PROTOCOL_VERSION) {
		char detail[120];
		struct text text = text_in(detail, sizeof detail);
		text_str(&text, "no protocol in common: this shim speaks ");
		text_u64(&text, MIN_PROTOCOL_VERSION);
		text_str(&text, " to ");
		text_u64(&text, PROTOCOL_VERSION);
		reply_failed(request->client, request->id, 0, PLAN_NO_OP, detail);
		request->client->broken = 1;
		return;
	}
	reply_begin(&reply);
	wire_put_u32(&reply.out, protocol);
	wire_put_u32(&reply.out, MIN_PROTOCOL_VERSION);
	wire_put_u32(&reply.out, PROTOCOL_VERSION);
	wire_put_str(&reply.out, shim_build);
	wire_put_str(&reply.out, shim->pod_id);
	wire_put_u32(&reply.out, (uint32_t)getpid());
	wire_put_u64(&reply.out, shim->own_ticks);
	wire_put_u32(&reply.out, kernel_is_restricted() ? 1 : 0);
	wire_put_u32s(&reply.out, codes, plan_known_ops(codes, OP_MAX_CODE + 1));
	for (uint32_t type = 1; type <= LAST_MESSAGE; type++)
		if (message_signature(type) != NULL)
			codes[count++] = type;
	wire_put_u32s(&reply.out, codes, count);
	reply_send(request->client, MSG_HELLO_REPLY, request->id, &reply, NULL, 0);
	if (request->client->greeted)
		return;
	request->client->greeted = 1;
	list_each(at, &shim->containers) {
		struct container *container = container_of(at, struct container, link);
		if (container->exit_step == EXIT_REPORTED && !container->acked)
			exit_send(container, request->client);
	}
}

static const struct {
	uint32_t type;
	void (*handle)(struct request *);
} handlers[] = {
	{ MSG_RUN, handle_run },
	{ MSG_CREATE, handle_create },
	{ MSG_CONTINUE, handle_continue },
	{ MSG_START, handle_start },
	{ MSG_EXEC, handle_exec },
	{ MSG_EXEC_KILL, handle_exec_kill },
	{ MSG_EXEC_ADOPT, handle_exec_adopt },
	{ MSG_SIGNAL, handle_signal },
	{ MSG_REOPEN_LOG, handle_reopen_log },
	{ MSG_LIST, handle_list },
	{ MSG_ACK_EXIT, handle_ack_exit },
	{ MSG_FORGET, handle_forget },
	{ MSG_SHUTDOWN, handle_shutdown },
	{ MSG_REEXEC, handle_reexec },
	{ MSG_SPAWN_HOST, handle_spawn_host },
	{ MSG_RESIZE, handle_resize },
	{ MSG_ATTACH, handle_attach },
	{ MSG_RESTORE_PREPARE, handle_restore_prepare },
	{ MSG_RESTORE_ADOPT, handle_restore_adopt },
};

int request_handle(struct client *client, const uint8_t *payload, size_t size, uint32_t type, uint32_t id, int *fds, uint32_t fd_count)
{
	struct request request = { .client = client, .id = id, .type = type, .fd_count = fd_count };
	const char *signature = message_signature(type);

	if (signature == NULL || type > LAST_MESSAGE) {
		reply_failed(client, id, ENOSYS, PLAN_NO_OP, "this shim does not know the request");
		return 0;
	}
	if (fd_count > REQUEST_FDS)
		return -EBADMSG;
	if (wire_decode(signature, payload, size, request.value) < 0)
		return -EBADMSG;
	if (type == MSG_HELLO) {
		handle_hello(&request);
		return 0;
	}
	if (!client->greeted)
		return -EBADMSG;
	for (size_t i = 0; i < sizeof handlers / sizeof *handlers; i++) {
		if (handlers[i].type != type)
			continue;
		memcpy(request.fds, fds, fd_count * sizeof *fds);
		handlers[i].handle(&request);
		for (uint32_t k = 0; k < fd_count; k++)
			fds[k] = request.fds[k]; /* those taken are -1 now: the caller closes the others */
		return 0;
	}
	return -EBADMSG; /* a message that only a shim sends */
}
