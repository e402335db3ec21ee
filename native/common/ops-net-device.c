/*
 * Moves a network device of the host into a container's network namespace, with its addresses (runtime-spec "Network Devices").
 * The kernel takes addresses away on such a move, so they are read before and set again inside. Rtnetlink by hand: musl has no headers for it.
 */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define NETLINK_FAMILY 16 /* AF_NETLINK */
#define MOST_ADDRESSES 64

enum { MSG_ERROR_TYPE = 2, MSG_DONE_TYPE = 3, NEW_LINK = 16, NEW_ADDRESS = 20, GET_ADDRESS = 22 };
enum { F_REQUEST = 1, F_ACK = 4, F_EXCL = 0x200, F_DUMP = 0x300, F_CREATE = 0x400 };
enum { LINK_NAME = 3, LINK_NETNS_FD = 28 };
enum { ADDRESS = 1, LOCAL = 2, BROADCAST = 4, ADDRESS_FLAGS = 8, FLAG_PERMANENT = 0x80 };

struct header {
	uint32_t size;
	uint16_t type;
	uint16_t flags;
	uint32_t sequence;
	uint32_t port;
};
struct link_message {
	uint8_t family, pad;
	uint16_t type;
	int32_t index;
	uint32_t flags, change;
};
struct address_message {
	uint8_t family, prefix, flags, scope;
	uint32_t index;
};
struct attribute {
	uint16_t size, type;
};
struct netlink_address {
	uint16_t family, pad;
	uint32_t port, groups;
};

struct request {
	struct header head;
	union {
		struct link_message link;
		struct address_message address;
	} body;
	uint8_t room[256];
};

/* One address as the kernel told it, with those attributes that make it what it is. */
struct kept_address {
	struct address_message message;
	uint32_t size;
	uint8_t attributes[96];
};
struct addresses {
	uint32_t count;
	struct kept_address list[MOST_ADDRESSES];
};

static uint32_t aligned(uint32_t size)
{
	return (size + 3) & ~3u;
}

static void begin(struct request *request, uint16_t type, uint16_t flags, uint32_t body)
{
	memset(request, 0, sizeof *request);
	request->head = (struct header){ .size = (uint32_t)sizeof(struct header) + body, .type = type, .flags = flags };
}

static int add(struct request *request, uint16_t type, const void *data, uint32_t size)
{
	struct attribute attribute = { (uint16_t)(sizeof attribute + size), type };
	uint32_t at = aligned(request->head.size);
	if (at + sizeof attribute + size > sizeof *request)
		return -ENOBUFS;
	memcpy((uint8_t *)request + at, &attribute, sizeof attribute);
	memcpy((uint8_t *)request + at + sizeof attribute, data, size);
	request->head.size = at + (uint32_t)sizeof attribute + size;
	return 0;
}

static int open_netlink(void)
{
	struct netlink_address self = { .family = NETLINK_FAMILY };
	autoclose int fd = (int)k_result(socket(NETLINK_FAMILY, SOCK_RAW | SOCK_CLOEXEC, 0));
	if (fd < 0)
		return fd;
	if (bind(fd, (struct sockaddr *)&self, sizeof self) < 0)
		return -errno;
	return steal_fd(&fd);
}

static int acknowledge(int fd, const struct request *request)
{
	struct {
		struct header head;
		int32_t error;
		uint8_t rest[1024];
	} reply;
	if (send(fd, request, request->head.size, 0) < 0)
		return -errno;
	ssize_t got = recv(fd, &reply, sizeof reply, 0);
	if (got < 0)
		return -errno;
	return (size_t)got < sizeof reply.head + sizeof reply.error || reply.head.type != MSG_ERROR_TYPE ? -EPROTO : reply.error;
}

static void keep_address(struct addresses *found, const uint8_t *at, uint32_t size)
{
	struct kept_address *kept = &found->list[found->count];
	memcpy(&kept->message, at, sizeof kept->message);
	uint32_t flags = kept->message.flags;
	kept->size = 0;
	for (uint32_t from = sizeof kept->message; from + sizeof(struct attribute) <= size;) {
		struct attribute attribute;
		memcpy(&attribute, at + from, sizeof attribute);
		if (attribute.size < sizeof attribute || attribute.size > size - from)
			return;
		int wanted = attribute.type == ADDRESS || attribute.type == LOCAL || attribute.type == BROADCAST;
		if (attribute.type == ADDRESS_FLAGS && attribute.size == sizeof attribute + sizeof flags)
			memcpy(&flags, at + from + sizeof attribute, sizeof flags);
		if (wanted && kept->size + aligned(attribute.size) <= sizeof kept->attributes) {
			memcpy(kept->attributes + kept->size, at + from, attribute.size);
			kept->size += aligned(attribute.size);
		}
		from += aligned(attribute.size);
	}
	/* Others come by themselves: link-local ones with the link, leased ones by who leases them. */
	if (kept->message.scope == 0 && (flags & FLAG_PERMANENT) && found->count < MOST_ADDRESSES - 1)
		found->count++;
}

static int read_addresses(int fd, uint32_t index, struct addresses *found)
{
	static uint8_t buffer[32768];
	struct request request;
	begin(&request, GET_ADDRESS, F_REQUEST | F_DUMP, sizeof request.body.address);
	if (send(fd, &request, request.head.size, 0) < 0)
		return -errno;
	for (;;) {
		ssize_t got = recv(fd, buffer, sizeof buffer, 0);
		if (got < 0)
			return -errno;
		for (uint32_t at = 0; at + sizeof(struct header) <= (size_t)got;) {
			struct header head;
			struct address_message message;
			memcpy(&head, buffer + at, sizeof head);
			if (head.size < sizeof head || head.size > (size_t)got - at || head.type == MSG_ERROR_TYPE)
				return -EPROTO;
			if (head.type == MSG_DONE_TYPE)
				return 0;
			if (head.type == NEW_ADDRESS && head.size >= sizeof head + sizeof message) {
				memcpy(&message, buffer + at + sizeof head, sizeof message);
				if (message.index == index)
					keep_address(found, buffer + at + sizeof head, head.size - (uint32_t)sizeof head);
			}
			at += aligned(head.size);
		}
	}
}

static int set_up(int fd, uint32_t index, int up)
{
	struct request request;
	begin(&request, NEW_LINK, F_REQUEST | F_ACK, sizeof request.body.link);
	request.body.link.index = (int32_t)index;
	request.body.link.flags = up ? IFF_UP : 0;
	request.body.link.change = IFF_UP;
	return acknowledge(fd, &request);
}

/* In one step: between a move and a later new name the old one could clash inside. */
static int move_device(int fd, uint32_t index, int netns, const value *name)
{
	struct request request;
	begin(&request, NEW_LINK, F_REQUEST | F_ACK, sizeof request.body.link);
	request.body.link.index = (int32_t)index;
	int error = add(&request, LINK_NETNS_FD, &netns, sizeof netns);
	if (error == 0)
		error = add(&request, LINK_NAME, name->str, name->size + 1);
	return error < 0 ? error : acknowledge(fd, &request);
}

static int give_addresses(int fd, uint32_t index, const struct addresses *kept)
{
	for (uint32_t i = 0; i < kept->count; i++) {
		struct request request;
		begin(&request, NEW_ADDRESS, F_REQUEST | F_ACK | F_CREATE | F_EXCL, sizeof request.body.address);
		request.body.address = kept->list[i].message;
		request.body.address.index = index;
		memcpy((uint8_t *)&request + request.head.size, kept->list[i].attributes, kept->list[i].size);
		request.head.size += kept->list[i].size;
		int error = acknowledge(fd, &request);
		if (error < 0 && error != -EEXIST)
			return error;
	}
	return 0;
}

static int index_of(const char *name, uint32_t *index)
{
	struct ifreq request = { 0 };
	autoclose int fd = (int)k_result(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	if (fd < 0)
		return fd;
	if (strlen(name) >= sizeof request.ifr_name)
		return -ENAMETOOLONG;
	strcpy(request.ifr_name, name);
	if (ioctl(fd, SIOCGIFINDEX, &request) < 0)
		return -errno;
	*index = (uint32_t)request.ifr_ifindex;
	return 0;
}

/* The kernel would move the device first and refuse the name then: it would be gone with the container. */
static int refuse_taken_name(struct run *run, int netns, const char *name)
{
	uint32_t index;
	autoclose int own = proc_open_link(run, "ns", "net", O_RDONLY);
	if (own < 0)
		return own;
	if (setns(netns, CLONE_NEWNET) < 0)
		return -errno;
	int found = index_of(name, &index);
	if (setns(own, CLONE_NEWNET) < 0)
		return -errno;
	return found == 0 ? -EEXIST : found == -ENODEV ? 0 : found;
}

int op_net_device(struct run *run, const value *v)
{
	static struct addresses addresses;
	const value *name = &v[OP_NET_DEVICE_NAME], *inside = &v[OP_NET_DEVICE_INSIDE];
	uint32_t index;
	int netns = slot_fd(run, v[OP_NET_DEVICE_NETNS].u32);
	if (netns < 0)
		return netns;
	int error = index_of(name->str, &index);
	if (error < 0)
		return say(run, error, name->str, NULL, NULL);
	if ((error = refuse_taken_name(run, netns, inside->str)) < 0)
		return say(run, error, name->str, " cannot be moved as ", inside->str);
	autoclose int outer = open_netlink();
	if (outer < 0)
		return outer;
	addresses.count = 0;
	if ((error = read_addresses(outer, index, &addresses)) < 0)
		return say(run, error, name->str, ": addresses", NULL);
	if ((error = set_up(outer, index, 0)) < 0)
		return say(run, error, name->str, ": set down", NULL);
	if ((error = move_device(outer, index, netns, inside)) < 0)
		return say(run, error, name->str, " cannot be moved as ", inside->str);
	if (setns(netns, CLONE_NEWNET) < 0)
		return say(run, -errno, "network namespace", NULL, NULL);
	/* It may have got another number. */
	if ((error = index_of(inside->str, &index)) < 0)
		return say(run, error, inside->str, NULL, NULL);
	autoclose int inner = open_netlink();
	if (inner < 0)
		return inner;
	if ((error = give_addresses(inner, index, &addresses)) < 0)
		return say(run, error, inside->str, ": addresses", NULL);
	error = set_up(inner, index, 1);
	return error < 0 ? say(run, error, inside->str, ": set up", NULL) : 0;
}
