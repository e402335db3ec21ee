/*
 * Connections on which nothing arrives, so that both ends are saved as of one moment, and none is answered by a reset before its other
 * end is back. An nftables table that its socket owns: the kernel takes it away with this process. Only these connections, not all of
 * the network: CRIU makes some of its own to find out what the kernel can do.
 */
#define _GNU_SOURCE
#include "run.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NETLINK_FAMILY 16 /* AF_NETLINK */
#define NETFILTER_BUS 12  /* NETLINK_NETFILTER */

enum { F_REQUEST = 1, F_ACK = 4, F_EXCL = 0x200, F_CREATE = 0x400, NESTED = 0x8000 };
enum { MSG_ERROR_TYPE = 2, BATCH_BEGIN = 16, BATCH_END = 17, SUBSYSTEM = 10 };
enum { NEW_TABLE = SUBSYSTEM << 8, NEW_CHAIN = NEW_TABLE | 3, NEW_RULE = NEW_TABLE | 6, NEW_SET = NEW_TABLE | 9, NEW_ELEMENTS = NEW_TABLE | 12 };
enum { TABLE_NAME = 1, TABLE_FLAGS = 2, TABLE_OWNED = 2 };
enum { CHAIN_TABLE = 1, CHAIN_NAME = 3, CHAIN_HOOK = 4, CHAIN_TYPE = 7, HOOK_NUMBER = 1, HOOK_PRIORITY = 2 };
enum { SET_TABLE = 1, SET_NAME = 2, SET_FLAGS = 3, SET_KEY_TYPE = 4, SET_KEY_SIZE = 5, SET_ID = 10 };
enum { ELEMENTS_TABLE = 1, ELEMENTS_SET = 2, ELEMENTS_LIST = 3, ITEM = 1, ELEMENT_KEY = 1, DATA_VALUE = 1, DATA_VERDICT = 2, VERDICT_CODE = 1 };
enum { RULE_TABLE = 1, RULE_CHAIN = 2, RULE_EXPRESSIONS = 4, EXPRESSION_NAME = 1, EXPRESSION_DATA = 2 };
enum { PAYLOAD_TO = 1, PAYLOAD_BASE = 2, PAYLOAD_OFFSET = 3, PAYLOAD_SIZE = 4, LOOKUP_SET = 1, LOOKUP_FROM = 2, IMMEDIATE_TO = 1, IMMEDIATE_DATA = 2 };
enum { FAMILY_INET = 1, LOCAL_IN = 1, BEFORE_EVERYBODY = -450, DROP = 0, TRANSPORT_HEADER = 2, REGISTER = 1, VERDICT_REGISTER = 0 };
/* Source and destination port, as they lie in the header. */
enum { PAIR_BYTES = 4, PAIRS_AT_ONCE = 1000 };

struct header {
	uint32_t size;
	uint16_t type, flags;
	uint32_t sequence, port;
	uint8_t family, version;
	uint16_t resource;
};
struct attribute {
	uint16_t size, type;
};
struct netlink_address {
	uint16_t family, pad;
	uint32_t port, groups;
};
struct batch {
	uint32_t size, message, asked; /* asked: for how many acknowledgements */
	uint8_t room[32768];
};

/* Everything here is of a known size: the room is enough. */
static void put(struct batch *batch, const void *data, uint32_t size)
{
	memcpy(batch->room + batch->size, data, size);
	batch->size += (size + 3) & ~3u;
}

static void message(struct batch *batch, uint16_t type, uint8_t family, uint16_t resource)
{
	struct header head = { .type = type, .flags = F_REQUEST, .family = family, .resource = htons(resource) };
	if (resource == 0) {
		head.flags |= F_ACK | F_CREATE;
		batch->asked++;
	}
	batch->message = batch->size;
	put(batch, &head, sizeof head);
}

static void end_message(struct batch *batch)
{
	uint32_t size = batch->size - batch->message;
	memcpy(batch->room + batch->message, &size, sizeof size);
}

static void begin(struct batch *batch)
{
	batch->size = batch->asked = 0;
	message(batch, BATCH_BEGIN, 0, SUBSYSTEM);
	end_message(batch);
}

static void attribute(struct batch *batch, uint16_t type, const void *data, uint32_t size)
{
	struct attribute head = { (uint16_t)(sizeof head + size), type };
	put(batch, &head, sizeof head);
	put(batch, data, size);
}

static void number(struct batch *batch, uint16_t type, uint32_t value)
{
	uint32_t wire = htonl(value);
	attribute(batch, type, &wire, sizeof wire);
}

static void text(struct batch *batch, uint16_t type, const char *value)
{
	attribute(batch, type, value, (uint32_t)strlen(value) + 1);
}

static uint32_t nest(struct batch *batch, uint16_t type)
{
	struct attribute head = { 0, type | NESTED };
	uint32_t at = batch->size;
	put(batch, &head, sizeof head);
	return at;
}

static void end_nest(struct batch *batch, uint32_t at)
{
	uint16_t size = (uint16_t)(batch->size - at);
	memcpy(batch->room + at, &size, sizeof size);
}

static void make_table(struct batch *batch, const char *table)
{
	message(batch, NEW_TABLE, FAMILY_INET, 0);
	text(batch, TABLE_NAME, table);
	number(batch, TABLE_FLAGS, TABLE_OWNED);
	end_message(batch);
	message(batch, NEW_SET, FAMILY_INET, 0);
	text(batch, SET_TABLE, table);
	text(batch, SET_NAME, "held");
	number(batch, SET_FLAGS, 0);
	number(batch, SET_KEY_TYPE, 0);
	number(batch, SET_KEY_SIZE, PAIR_BYTES);
	number(batch, SET_ID, 1);
	end_message(batch);
	message(batch, NEW_CHAIN, FAMILY_INET, 0);
	text(batch, CHAIN_TABLE, table);
	text(batch, CHAIN_NAME, "input");
	uint32_t hook = nest(batch, CHAIN_HOOK);
	number(batch, HOOK_NUMBER, LOCAL_IN);
	number(batch, HOOK_PRIORITY, (uint32_t)BEFORE_EVERYBODY);
	end_nest(batch, hook);
	text(batch, CHAIN_TYPE, "filter");
	end_message(batch);
}

static uint32_t expression(struct batch *batch, const char *name, uint32_t *item)
{
	*item = nest(batch, ITEM);
	text(batch, EXPRESSION_NAME, name);
	return nest(batch, EXPRESSION_DATA);
}

static void end_expression(struct batch *batch, uint32_t item, uint32_t data)
{
	end_nest(batch, data);
	end_nest(batch, item);
}

/* What comes with a pair of ports that is in the set is dropped. */
static void make_rule(struct batch *batch, const char *table)
{
	uint32_t item, data;
	message(batch, NEW_RULE, FAMILY_INET, 0);
	text(batch, RULE_TABLE, table);
	text(batch, RULE_CHAIN, "input");
	uint32_t list = nest(batch, RULE_EXPRESSIONS);
	data = expression(batch, "payload", &item);
	number(batch, PAYLOAD_TO, REGISTER);
	number(batch, PAYLOAD_BASE, TRANSPORT_HEADER);
	number(batch, PAYLOAD_OFFSET, 0);
	number(batch, PAYLOAD_SIZE, PAIR_BYTES);
	end_expression(batch, item, data);
	data = expression(batch, "lookup", &item);
	text(batch, LOOKUP_SET, "held");
	number(batch, LOOKUP_FROM, REGISTER);
	end_expression(batch, item, data);
	data = expression(batch, "immediate", &item);
	number(batch, IMMEDIATE_TO, VERDICT_REGISTER);
	uint32_t value = nest(batch, IMMEDIATE_DATA), verdict = nest(batch, DATA_VERDICT);
	number(batch, VERDICT_CODE, DROP);
	end_nest(batch, verdict);
	end_nest(batch, value);
	end_expression(batch, item, data);
	end_nest(batch, list);
	end_message(batch);
}

static void add_pairs(struct batch *batch, const char *table, const uint8_t *pairs, uint32_t count)
{
	message(batch, NEW_ELEMENTS, FAMILY_INET, 0);
	text(batch, ELEMENTS_TABLE, table);
	text(batch, ELEMENTS_SET, "held");
	uint32_t list = nest(batch, ELEMENTS_LIST);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t item = nest(batch, ITEM), key = nest(batch, ELEMENT_KEY);
		attribute(batch, DATA_VALUE, pairs + (size_t)i * PAIR_BYTES, PAIR_BYTES);
		end_nest(batch, key);
		end_nest(batch, item);
	}
	end_nest(batch, list);
	end_message(batch);
}

/* Reads until every message that asked for it was acknowledged, or one was refused. */
static int acknowledge(int fd, uint32_t left)
{
	uint8_t reply[4096];
	while (left > 0) {
		ssize_t got = recv(fd, reply, sizeof reply, 0);
		if (got < 0)
			return -errno;
		for (size_t at = 0; at + 20 <= (size_t)got;) {
			uint32_t size;
			uint16_t type;
			int32_t error;
			memcpy(&size, reply + at, sizeof size);
			memcpy(&type, reply + at + 4, sizeof type);
			memcpy(&error, reply + at + 16, sizeof error);
			if (type != MSG_ERROR_TYPE || size < 20)
				return -EPROTO;
			if (error != 0)
				return error;
			left--;
			at += (size + 3) & ~3u;
		}
	}
	return 0;
}

static int carry_out(int fd, struct batch *batch)
{
	message(batch, BATCH_END, 0, SUBSYSTEM);
	end_message(batch);
	if (send(fd, batch->room, batch->size, 0) < 0)
		return -errno;
	return acknowledge(fd, batch->asked);
}

int op_hold_network(struct run *run, const value *v)
{
	static struct batch batch;
	struct netlink_address self = { .family = NETLINK_FAMILY };
	const value *pairs = &v[OP_HOLD_NETWORK_PORTS];
	char table[32] = "caisson-";
	autoclose int fd = (int)k_result(socket(NETLINK_FAMILY, SOCK_RAW | SOCK_CLOEXEC, NETFILTER_BUS));
	if (fd < 0)
		return say(run, fd, "nftables, which holds connections still", NULL, NULL);
	if (bind(fd, (struct sockaddr *)&self, sizeof self) < 0)
		return -errno;
	/* Several at once, of containers of one pod, must not meet; whoever wants to be in the way is in the pod. */
	decimal(table + strlen(table), (uint32_t)getpid());
	begin(&batch);
	make_table(&batch, table);
	make_rule(&batch, table);
	int error = carry_out(fd, &batch);
	uint32_t count = pairs->size / PAIR_BYTES;
	for (uint32_t at = 0; error == 0 && at < count; at += PAIRS_AT_ONCE) {
		uint32_t left = count - at;
		begin(&batch);
		add_pairs(&batch, table, pairs->bytes + (size_t)at * PAIR_BYTES, left < PAIRS_AT_ONCE ? left : PAIRS_AT_ONCE);
		error = carry_out(fd, &batch);
	}
	if (error < 0)
		return say(run, error, "nftables, which holds connections still", NULL, NULL);
	/* Until this process ends. */
	steal_fd(&fd);
	return 0;
}
