/* Clients: SEQPACKET connections of uid 0, or of the user whose shim this is, one request per packet. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "shim.h"

#define HEADER 12
#define FLAG_MEMFD 1
#define SEND_BUFFER (1 << 20)
#define PACKET_LIMIT (HEADER + INLINE_LIMIT)
#define PAYLOAD_LIMIT (PLAN_MAX_BYTES + 65536)
#define ALL_SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)

/*
 * Children run their plan from here, so it is inherited; it is emptied right after each request, before any other child is
 * forked. One byte more than allowed shows a packet that is too long.
 */
static uint8_t *inbox;
static int spare;

static void inbox_empty(void)
{
	/* Cheaper than overwriting: a page that a child still reads need not be copied first. */
	madvise(inbox, PACKET_LIMIT + 4096, MADV_DONTNEED);
}

void reply_begin(struct reply *reply)
{
	reply->out = (struct wire_writer){ .buffer = reply->bytes, .capacity = sizeof reply->bytes };
	wire_put_u32(&reply->out, 0);
	wire_put_u32(&reply->out, 0);
	wire_put_u32(&reply->out, 0);
}

void reply_send(struct client *client, uint32_t type, uint32_t request, struct reply *reply, const int *fds, uint32_t fd_count)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(EXPORT_LIMIT * sizeof(int))];
	} control;
	size_t length = reply->out.length;

	if (client == NULL || client->watch.fd < 0 || client->broken)
		return;
	if (reply->out.overflow) {
		client->broken = 1;
		return;
	}
	reply->out.length = 0;
	wire_put_u16(&reply->out, (uint16_t)type);
	wire_put_u16(&reply->out, 0);
	wire_put_u32(&reply->out, request);
	wire_put_u32(&reply->out, (uint32_t)(length - HEADER));
	reply->out.length = length;

	struct iovec data = { reply->bytes, length };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1 };
	if (fd_count > 0) {
		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		control.align = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(fd_count * sizeof(int)) };
		memcpy(CMSG_DATA(&control.align), fds, fd_count * sizeof(int));
	}
	if (sendmsg(client->watch.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		client->broken = 1;
}

void reply_ok(struct client *client, uint32_t request, uint64_t value)
{
	struct reply reply;
	reply_begin(&reply);
	wire_put_u64(&reply.out, value);
	reply_send(client, MSG_OK, request, &reply, NULL, 0);
}

void reply_failed(struct client *client, uint32_t request, int err, uint32_t op, const char *detail)
{
	struct reply reply;
	reply_begin(&reply);
	wire_put_u32(&reply.out, (uint32_t)err);
	wire_put_u32(&reply.out, op);
	wire_put_str(&reply.out, detail);
	reply_send(client, MSG_FAILED, request, &reply, NULL, 0);
}

void broadcast(uint32_t type, struct reply *reply)
{
	for (size_t i = 0; i < CLIENT_LIMIT; i++)
		if (shim->clients[i].watch.fd >= 0 && shim->clients[i].greeted)
			reply_send(&shim->clients[i], type, 0, reply, NULL, 0);
}

static void client_close(struct client *client)
{
	watch_close(&client->watch);
	client->greeted = client->broken = 0;
	tasks_client_gone(client);
	containers_client_gone(client);
	if (shim->shutdown_client == client)
		shim->shutdown_client = NULL;
	if (shim->reexec_client == client)
		shim->reexec_client = NULL;
}

void clients_sweep(void)
{
	for (size_t i = 0; i < CLIENT_LIMIT; i++)
		if (shim->clients[i].watch.fd >= 0 && shim->clients[i].broken)
			client_close(&shim->clients[i]);
}

/* Maps a payload that came as a memfd. Nobody can change or shrink it under us once it has these seals. */
static int payload_map(int fd, size_t size, const uint8_t **payload)
{
	struct stat stat;
	int seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (seals & ALL_SEALS) != ALL_SEALS || fstat(fd, &stat) < 0)
		return -EBADMSG;
	if (size == 0 || size > PAYLOAD_LIMIT || (uint64_t)stat.st_size != size)
		return -EBADMSG;
	void *map = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	*payload = map;
	return 0;
}

static int packet_handle(struct client *client, size_t size, int *fds, uint32_t fd_count)
{
	if (size < HEADER)
		return -EBADMSG;
	uint32_t type = wire_get_u16(inbox), flags = wire_get_u16(inbox + 2);
	uint32_t id = wire_get_u32(inbox + 4), length = wire_get_u32(inbox + 8);
	if (flags == 0 && length == size - HEADER)
		return request_handle(client, inbox + HEADER, length, type, id, fds, fd_count);
	if (flags != FLAG_MEMFD || size != HEADER || fd_count == 0)
		return -EBADMSG;
	const uint8_t *payload = NULL;
	int err = payload_map(fds[0], length, &payload);
	if (err < 0)
		return err;
	err = request_handle(client, payload, length, type, id, fds + 1, fd_count - 1);
	munmap((void *)payload, length);
	return err;
}

static uint32_t take_fds(struct msghdr *message, int *fds)
{
	uint32_t count = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		uint32_t more = (uint32_t)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds + count, CMSG_DATA(c), more * sizeof(int));
		count += more;
	}
	return count;
}

static void client_ready(struct watch *watch, uint32_t events)
{
	struct client *client = container_of(watch, struct client, watch);
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE((REQUEST_FDS + 1) * sizeof(int))];
	} control;
	int fds[REQUEST_FDS + 2];
	struct iovec data = { inbox, PACKET_LIMIT + 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes };

	(void)events;
	ssize_t size = recvmsg(watch->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (size < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (size <= 0) {
		client->broken = 1;
		return;
	}
	uint32_t count = take_fds(&message, fds);
	int err = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || size > (ssize_t)PACKET_LIMIT
			  ? -EBADMSG
			  : packet_handle(client, (size_t)size, fds, count);
	for (uint32_t i = 0; i < count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	if (err < 0 && !client->broken) {
		uint32_t id = size >= 8 ? wire_get_u32(inbox + 4) : 0;
		reply_failed(client, id, -err, PLAN_NO_OP, "malformed message");
		client->broken = 1;
	}
	inbox_empty();
}

static void client_arrived(struct watch *watch, uint32_t events)
{
	struct ucred peer = { .uid = ~0u };
	socklen_t size = sizeof peer;
	int buffer = SEND_BUFFER;

	(void)events;
	autoclose int fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0 && (errno == EMFILE || errno == ENFILE)) {
		/* A client that is never accepted would wake the loop for ever: it is turned away by the descriptor kept for that. */
		close(spare);
		close(accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC));
		spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
		return;
	}
	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || (peer.uid != 0 && peer.uid != geteuid()))
		return;
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer) < 0)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
	for (size_t i = 0; i < CLIENT_LIMIT; i++) {
		struct client *client = &shim->clients[i];
		if (client->watch.fd >= 0)
			continue;
		*client = (struct client){ .watch = { .fd = fd, .ready = client_ready } };
		if (watch_add(&client->watch, EPOLLIN) < 0)
			client->watch.fd = -1;
		else
			steal_fd(&fd);
		return;
	}
}

COLD int listen_start(int inherited)
{
	static struct watch watch;
	/* Through /proc: a run directory's path may be longer than a socket address. */
	struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "/proc/self/fd/3/shim.sock" };

	inbox = child_pages_alloc(PACKET_LIMIT + 4096);
	if (inbox == NULL)
		return -ENOMEM;
	spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
	watch = (struct watch){ .fd = inherited, .ready = client_arrived };
	if (inherited < 0) {
		watch.fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (watch.fd < 0)
			return -errno;
		unlinkat(POD_DIR_FD, "shim.sock", 0);
		mode_t mask = umask(0177);
		int bound = bind(watch.fd, (struct sockaddr *)&address, sizeof address);
		umask(mask);
		if (bound < 0 || listen(watch.fd, CLIENT_LIMIT) < 0)
			return -errno;
	}
	shim->listen = watch.fd;
	return watch_add(&watch, EPOLLIN);
}
