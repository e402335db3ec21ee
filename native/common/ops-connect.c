/* A connection made inside a network namespace; the socket stays in it, wherever its descriptor goes. */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

static int connect_to(const struct sockaddr *address, socklen_t size)
{
	autoclose int fd = (int)k_result(socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
	if (fd < 0)
		return fd;
	/* Blocks when the listener's queue is full: the deadline of the run ends that. */
	return connect(fd, address, size) < 0 ? -errno : steal_fd(&fd);
}

int op_connect(struct run *run, const value *v)
{
	char number[12];
	in_port_t port = htons((uint16_t)v[OP_CONNECT_PORT].u32);
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = port, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = port, .sin6_addr = IN6ADDR_LOOPBACK_INIT };

	say(run, 0, "localhost:", decimal(number, v[OP_CONNECT_PORT].u32), NULL);
	int fd = connect_to((struct sockaddr *)&v4, sizeof v4);
	int second = fd < 0 ? connect_to((struct sockaddr *)&v6, sizeof v6) : fd;
	/* A kernel or namespace without IPv6 says nothing about the port. */
	if (second < 0)
		return fd;
	slot_set(run, v[OP_CONNECT_OUT].u32, second);
	return 0;
}
