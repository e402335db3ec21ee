#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "addon.h"
#include "values.h"

namespace caisson {
namespace {

/* Whoever listens and does not accept may hold us for so long. */
constexpr time_t patienceSeconds = 5;

Fd connectStream(Napi::Env env, int dir, const std::string& name)
{
	Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	if (!socket.valid())
		throw nativeError(env, errno, "socket");
	const timeval patience{patienceSeconds, 0};
	setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	sockaddr_un address{};
	address.sun_family = AF_UNIX;
	const int length = snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", dir, name.c_str());
	if (length >= static_cast<int>(sizeof address.sun_path))
		throw nativeError(env, ENAMETOOLONG, "connect");
	if (connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0)
		throw nativeError(env, errno, "connect");
	return socket;
}

} // namespace

void sendDescriptor(const Napi::CallbackInfo& info)
{
	const int dir = toInt(info[0], "dirFd must be a descriptor");
	const std::string name = toText(info[1], "name must be a string without NUL");
	std::string data = toText(info[2], "data must be a string without NUL");
	const int fd = toInt(info[3], "fd must be a descriptor");
	const Fd socket = connectStream(info.Env(), dir, name);
	alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
	iovec bytes{data.data(), data.size()};
	msghdr message{};
	message.msg_iov = &bytes;
	message.msg_iovlen = 1;
	message.msg_control = control;
	message.msg_controllen = sizeof control;
	cmsghdr* head = CMSG_FIRSTHDR(&message);
	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(head), &fd, sizeof fd);
	if (sendmsg(socket.get(), &message, MSG_NOSIGNAL) < 0)
		throw nativeError(info.Env(), errno, "sendmsg");
}

} // namespace caisson
