#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>

#include "addon.h"
#include "values.h"

namespace caisson {
namespace {

struct Address {
	sockaddr_un unix{};
	socklen_t length;

	const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&unix); }
};

Address addressOf(Napi::Env env, const std::string& path)
{
	Address address;
	address.unix.sun_family = AF_UNIX;
	/* An abstract name is as long as the address says; a file name wants its NUL. */
	const bool abstract = path.starts_with("@");
	if (path.empty() || path.size() + (abstract ? 0 : 1) > sizeof address.unix.sun_path)
		throw nativeError(env, ENAMETOOLONG, "connect");
	memcpy(address.unix.sun_path, path.data(), path.size());
	if (abstract)
		address.unix.sun_path[0] = '\0';
	address.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + (abstract ? 0 : 1));
	return address;
}

Fd datagramSocket(Napi::Env env)
{
	Fd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
	if (!socket.valid())
		throw nativeError(env, errno, "socket");
	return socket;
}

} // namespace

void sendDatagram(const Napi::CallbackInfo& info)
{
	Address address = addressOf(info.Env(), toText(info[0], "path must be a string without NUL"));
	const auto data = toBytes(info[1], "data must be a Uint8Array");
	const Fd socket = datagramSocket(info.Env());
	iovec bytes{const_cast<uint8_t*>(data.data()), data.size()};
	msghdr message{};
	message.msg_name = &address.unix;
	message.msg_namelen = address.length;
	message.msg_iov = &bytes;
	message.msg_iovlen = 1;
	alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
	if (!info[2].IsUndefined()) {
		const int fd = toInt(info[2], "fd must be a descriptor");
		message.msg_control = control;
		message.msg_controllen = sizeof control;
		cmsghdr* head = CMSG_FIRSTHDR(&message);
		head->cmsg_level = SOL_SOCKET;
		head->cmsg_type = SCM_RIGHTS;
		head->cmsg_len = CMSG_LEN(sizeof fd);
		memcpy(CMSG_DATA(head), &fd, sizeof fd);
	}
	if (sendmsg(socket.get(), &message, MSG_NOSIGNAL) < 0)
		throw nativeError(info.Env(), errno, "sendto");
}

Napi::Value bindDatagram(const Napi::CallbackInfo& info)
{
	const int dir = toInt(info[0], "dirFd must be a descriptor");
	const std::string name = toText(info[1], "name must be a string without NUL");
	const Address address = addressOf(info.Env(), "/proc/self/fd/" + std::to_string(dir) + "/" + name);
	Fd socket = datagramSocket(info.Env());
	if (bind(socket.get(), address.get(), address.length) < 0)
		throw nativeError(info.Env(), errno, "bind");
	return Napi::Number::New(info.Env(), socket.release());
}

} // namespace caisson
