#include <unistd.h>

#include <cerrno>
#include <memory>

#include "addon.h"
#include "poll.h"
#include "values.h"

namespace caisson {
namespace {

struct Writer {
	explicit Writer(Napi::Env env) : context(env, "caisson:pipe") {}

	void end()
	{
		if (poll == nullptr)
			return;
		std::exchange(poll, nullptr)->close();
		onRoom.Reset();
	}

	Napi::AsyncContext context;
	Napi::FunctionReference onRoom;
	Poll* poll = nullptr;
};

/* Also when nobody reads any more: the next write says so. */
void roomAgain(Napi::Env env, Writer& writer)
{
	if (writer.onRoom.IsEmpty())
		return;
	writer.poll->watch(0);
	enterJavaScript(env, writer.context, [&] {
		const Napi::Function callback = writer.onRoom.Value();
		writer.onRoom.Reset();
		callback.Call({});
	});
}

Napi::Value writeNow(const Napi::CallbackInfo& info, Writer& writer)
{
	Napi::Env env = info.Env();
	const std::span<const uint8_t> bytes = toBytes(info[0], "bytes must be a Uint8Array");
	if (writer.poll == nullptr)
		throw nativeError(env, EBADF, "write");
	ssize_t put;
	do
		put = write(writer.poll->fd(), bytes.data(), bytes.size());
	while (put < 0 && errno == EINTR);
	if (put < 0 && errno != EAGAIN)
		throw nativeError(env, errno, "write");
	return Napi::Number::New(env, put < 0 ? 0 : static_cast<double>(put));
}

} // namespace

Napi::Value writePipe(const Napi::CallbackInfo& info)
{
	Napi::Env env = info.Env();
	Fd fd(toInt(info[0], "fd must be a descriptor"));
	auto writer = std::make_shared<Writer>(env);
	writer->poll = Poll::open(env, std::move(fd), 0, false, [env, writer](int, int) { roomAgain(env, *writer); });

	Napi::Object handle = Napi::Object::New(env);
	handle.Set("write", Napi::Function::New(env, [writer](const Napi::CallbackInfo& call) { return writeNow(call, *writer); }, "write"));
	handle.Set("onRoom", Napi::Function::New(
				     env,
				     [writer](const Napi::CallbackInfo& call) {
					     writer->onRoom = Napi::Persistent(toFunction(call[0], "callback must be a function"));
					     if (writer->poll != nullptr)
						     writer->poll->watch(UV_WRITABLE);
				     },
				     "onRoom"));
	handle.Set("close", Napi::Function::New(env, [writer](const Napi::CallbackInfo&) { writer->end(); }, "close"));
	return handle;
}

} // namespace caisson
