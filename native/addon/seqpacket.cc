#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "addon.h"
#include "poll.h"
#include "values.h"

namespace caisson {
namespace {

/* SCM_MAX_FD of the kernel. */
constexpr size_t mostFds = 253;
/* Twice what the protocol sends inline; a longer packet is reported as EMSGSIZE. */
constexpr size_t packetBytes = 64 << 10;
/* Packets handled in one turn of the loop, so that a chatty peer does not starve the other connections. */
constexpr int packetsPerTurn = 32;

class Connection {
public:
	explicit Connection(Napi::Env env) : env_(env), context_(env, "caisson:seqpacket") {}

	void start(Fd socket, Napi::Function onPacket, Napi::Function onClose, bool background, const std::shared_ptr<Connection>& self)
	{
		onPacket_ = Napi::Persistent(onPacket);
		onClose_ = Napi::Persistent(onClose);
		poll_ = Poll::open(env_, std::move(socket), UV_READABLE, background, [self](int, int events) { self->onEvents(events); });
	}
	void send(std::span<const uint8_t> packet, const std::vector<int>& fds);
	void onWritable(Napi::Function callback);
	Napi::Value peer();
	void close();

private:
	void onEvents(int events);
	bool receive();
	void deliver(std::span<const uint8_t> packet, std::vector<Fd>& fds);
	void lost(int err);

	Napi::Env env_;
	Napi::AsyncContext context_;
	Napi::FunctionReference onPacket_;
	Napi::FunctionReference onClose_;
	Napi::FunctionReference onWritable_;
	/* Null once closed. */
	Poll* poll_ = nullptr;
};

void Connection::send(std::span<const uint8_t> packet, const std::vector<int>& fds)
{
	if (poll_ == nullptr)
		throw nativeError(env_, ENOTCONN, "sendmsg");
	if (fds.size() > mostFds)
		throw nativeError(env_, ETOOMANYREFS, "sendmsg");
	alignas(cmsghdr) char control[CMSG_SPACE(mostFds * sizeof(int))];
	iovec data{const_cast<uint8_t*>(packet.data()), packet.size()};
	msghdr message{};
	message.msg_iov = &data;
	message.msg_iovlen = 1;
	if (!fds.empty()) {
		const size_t size = fds.size() * sizeof(int);
		message.msg_control = control;
		message.msg_controllen = CMSG_SPACE(size);
		cmsghdr* header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(size);
		memcpy(CMSG_DATA(header), fds.data(), size);
	}
	ssize_t sent;
	do
		sent = sendmsg(poll_->fd(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (sent < 0 && errno == EINTR);
	if (sent < 0)
		throw nativeError(env_, errno, "sendmsg");
}

void Connection::onWritable(Napi::Function callback)
{
	if (poll_ == nullptr)
		throw nativeError(env_, ENOTCONN, "poll");
	onWritable_ = Napi::Persistent(callback);
	poll_->watch(UV_READABLE | UV_WRITABLE);
}

Napi::Value Connection::peer()
{
	if (poll_ == nullptr)
		throw nativeError(env_, ENOTCONN, "getsockopt");
	ucred credentials{};
	socklen_t size = sizeof credentials;
	if (getsockopt(poll_->fd(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) < 0)
		throw nativeError(env_, errno, "getsockopt");
	Napi::Object result = Napi::Object::New(env_);
	result.Set("pid", Napi::Number::New(env_, credentials.pid));
	result.Set("uid", Napi::Number::New(env_, credentials.uid));
	return result;
}

void Connection::close()
{
	if (poll_ == nullptr)
		return;
	std::exchange(poll_, nullptr)->close();
	onPacket_.Reset();
	onClose_.Reset();
	onWritable_.Reset();
}

/* Callbacks may close the connection at any point: poll_ says whether it is still ours after each. */
void Connection::onEvents(int events)
{
	if ((events & UV_WRITABLE) != 0 && !onWritable_.IsEmpty()) {
		poll_->watch(UV_READABLE);
		enterJavaScript(env_, context_, [&] {
			const Napi::Function callback = onWritable_.Value();
			onWritable_.Reset();
			callback.Call({});
		});
	}
	/* Errors come as neither: reading tells which one. */
	if ((events & UV_READABLE) == 0 && (events & UV_WRITABLE) != 0)
		return;
	for (int i = 0; i < packetsPerTurn && poll_ != nullptr && receive(); i++) {
	}
}

/* False: nothing more to read now, or closed. */
bool Connection::receive()
{
	static thread_local std::array<uint8_t, packetBytes> buffer;
	alignas(cmsghdr) char control[CMSG_SPACE(mostFds * sizeof(int))];
	iovec data{buffer.data(), buffer.size()};
	msghdr message{};
	message.msg_iov = &data;
	message.msg_iovlen = 1;
	message.msg_control = control;
	message.msg_controllen = sizeof control;
	const ssize_t got = recvmsg(poll_->fd(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (got < 0) {
		if (errno == EINTR)
			return true;
		if (errno != EAGAIN)
			lost(errno);
		return false;
	}

	std::vector<Fd> fds;
	for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
			fds.emplace_back(fd);
		}
	}
	/* Descriptors that did not fit this process's limit are gone: what they belong to cannot be carried out. */
	if ((message.msg_flags & MSG_CTRUNC) != 0) {
		lost(EMFILE);
		return false;
	}
	if ((message.msg_flags & MSG_TRUNC) != 0) {
		lost(EMSGSIZE);
		return false;
	}
	if (got == 0) {
		lost(0);
		return false;
	}
	deliver({buffer.data(), static_cast<size_t>(got)}, fds);
	return true;
}

void Connection::deliver(std::span<const uint8_t> packet, std::vector<Fd>& fds)
{
	enterJavaScript(env_, context_, [&] {
		const Napi::Buffer<uint8_t> bytes = Napi::Buffer<uint8_t>::Copy(env_, packet.data(), packet.size());
		Napi::Array numbers = Napi::Array::New(env_, fds.size());
		for (uint32_t i = 0; i < fds.size(); i++)
			numbers.Set(i, Napi::Number::New(env_, fds[i].get()));
		/* From here on the callback owns them, also if it throws. */
		for (Fd& fd : fds)
			fd.release();
		onPacket_.Call({bytes, numbers});
	});
}

void Connection::lost(int err)
{
	enterJavaScript(env_, context_, [&] {
		const Napi::Function onClose = onClose_.Value();
		close();
		onClose.Call({Napi::Number::New(env_, err)});
	});
}

Fd connectTo(Napi::Env env, int dir, const std::string& name)
{
	Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
	if (!socket.valid())
		throw nativeError(env, errno, "socket");
	sockaddr_un address{};
	address.sun_family = AF_UNIX;
	const int length = snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", dir, name.c_str());
	if (length >= static_cast<int>(sizeof address.sun_path))
		throw nativeError(env, ENAMETOOLONG, "connect");
	if (connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0)
		throw nativeError(env, errno, "connect");
	return socket;
}

std::vector<int> toFdList(const Napi::Value& value)
{
	if (!value.IsArray())
		throw badArgument(value.Env(), "fds must be an array");
	const Napi::Array array = value.As<Napi::Array>();
	std::vector<int> fds;
	for (uint32_t i = 0; i < array.Length(); i++)
		fds.push_back(toInt(array.Get(i), "fds must hold descriptors"));
	return fds;
}

Napi::Object handleOf(Napi::Env env, const std::shared_ptr<Connection>& connection)
{
	Napi::Object handle = Napi::Object::New(env);
	handle.Set("send", Napi::Function::New(env, [connection](const Napi::CallbackInfo& call) {
		connection->send(toBytes(call[0], "packet must be a Uint8Array"), toFdList(call[1]));
	}, "send"));
	handle.Set("onWritable", Napi::Function::New(env, [connection](const Napi::CallbackInfo& call) {
		connection->onWritable(toFunction(call[0], "callback must be a function"));
	}, "onWritable"));
	handle.Set("peer", Napi::Function::New(env, [connection](const Napi::CallbackInfo&) { return connection->peer(); }, "peer"));
	handle.Set("close", Napi::Function::New(env, [connection](const Napi::CallbackInfo&) { connection->close(); }, "close"));
	return handle;
}

} // namespace

Napi::Value seqpacketPair(const Napi::CallbackInfo& info)
{
	Napi::Env env = info.Env();
	const Napi::Function onPacket = toFunction(info[0], "onPacket must be a function");
	const Napi::Function onClose = toFunction(info[1], "onClose must be a function");
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		throw nativeError(env, errno, "socketpair");
	Fd ours(ends[0]);
	Fd theirs(ends[1]);
	auto connection = std::make_shared<Connection>(env);
	connection->start(std::move(ours), onPacket, onClose, false, connection);
	Napi::Object handle = handleOf(env, connection);
	handle.Set("otherEnd", Napi::Number::New(env, theirs.release()));
	return handle;
}

Napi::Value seqpacketConnect(const Napi::CallbackInfo& info)
{
	Napi::Env env = info.Env();
	const int dir = toInt(info[0], "dirFd must be a descriptor");
	const std::string name = toText(info[1], "name must be a string without NUL");
	const Napi::Function onPacket = toFunction(info[2], "onPacket must be a function");
	const Napi::Function onClose = toFunction(info[3], "onClose must be a function");
	auto connection = std::make_shared<Connection>(env);
	connection->start(connectTo(env, dir, name), onPacket, onClose, info[4].ToBoolean(), connection);
	return handleOf(env, connection);
}

} // namespace caisson
