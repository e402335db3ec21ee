/* Clients, their requests, and answers. conn.c, request.c */
#ifndef CAISSON_SHIM_CONN_H
#define CAISSON_SHIM_CONN_H

#include <stddef.h>
#include <stdint.h>

#include "../common/wire.h"
#include "limits.h"
#include "loop.h"

struct client {
	struct watch watch; /* fd -1: unused entry */
	uint8_t greeted;
	uint8_t broken;     /* closed as soon as the current request is done */
};

struct request {
	struct client *client;
	uint32_t id;
	uint32_t type;
	struct wire_value value[MSG_MAX_FIELDS];
	int fds[REQUEST_FDS]; /* whoever takes one sets it to -1; the rest is closed */
	uint32_t fd_count;
};

int listen_start(int inherited);
void clients_sweep(void);
/* A message under construction. Payload begins behind the header. */
struct reply {
	struct wire_writer out;
	uint8_t bytes[1024];
};
void reply_begin(struct reply *reply);
/* NULL clients are ignored. A client that does not read loses its connection: the shim never waits for one. */
void reply_send(struct client *client, uint32_t type, uint32_t request, struct reply *reply, const int *fds, uint32_t fd_count);
void reply_ok(struct client *client, uint32_t request, uint64_t value);
void reply_failed(struct client *client, uint32_t request, int err, uint32_t op, const char *detail);
void broadcast(uint32_t type, struct reply *reply);

/* 0, or -EBADMSG: malformed, the client has been told. */
int request_handle(struct client *client, const uint8_t *payload, size_t size, uint32_t type, uint32_t id, int *fds, uint32_t fd_count);
const char *message_signature(uint32_t type);

#endif
