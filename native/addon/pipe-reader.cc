#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>

#include "addon.h"
#include "poll.h"
#include "values.h"

namespace caisson {
namespace {

constexpr size_t chunkBytes = 64 << 10;

struct Reader {
	explicit Reader(Napi::Env env) : context(env, "caisson:pipe") {}

	void end()
	{
		if (poll == nullptr)
			return;
		std::exchange(poll, nullptr)->close();
		onData.Reset();
		onEnd.Reset();
	}

	Napi::AsyncContext context;
	Napi::FunctionReference onData;
	Napi::FunctionReference onEnd;
	Poll* poll = nullptr;
};

/* One chunk per wake-up: a writer that never stops must not keep the loop from everything else. */
void readOnce(Napi::Env env, Reader& reader)
{
	static thread_local std::array<uint8_t, chunkBytes> chunk;
	const ssize_t got = read(reader.poll->fd(), chunk.data(), chunk.size());
	const int err = got < 0 ? errno : 0;
	if (err == EAGAIN || err == EINTR)
		return;
	enterJavaScript(env, reader.context, [&] {
		if (got > 0) {
			reader.onData.Call({Napi::Buffer<uint8_t>::Copy(env, chunk.data(), static_cast<size_t>(got))});
			return;
		}
		const Napi::Function onEnd = reader.onEnd.Value();
		struct stat stat = {};
		fstat(reader.poll->fd(), &stat);
		reader.end();
		onEnd.Call({Napi::Number::New(env, err), Napi::Number::New(env, stat.st_mode & 07777)});
	});
}

} // namespace

Napi::Value readPipe(const Napi::CallbackInfo& info)
{
	Napi::Env env = info.Env();
	Fd fd(toInt(info[0], "fd must be a descriptor"));
	auto reader = std::make_shared<Reader>(env);
	reader->onData = Napi::Persistent(toFunction(info[1], "onData must be a function"));
	reader->onEnd = Napi::Persistent(toFunction(info[2], "onEnd must be a function"));
	reader->poll = Poll::open(env, std::move(fd), UV_READABLE, info[3].ToBoolean(), [env, reader](int, int) { readOnce(env, *reader); });

	Napi::Object handle = Napi::Object::New(env);
	handle.Set("close", Napi::Function::New(env, [reader](const Napi::CallbackInfo&) { reader->end(); }, "close"));
	const auto flow = [reader](int events) {
		if (reader->poll != nullptr)
			reader->poll->watch(events);
	};
	handle.Set("pause", Napi::Function::New(env, [flow](const Napi::CallbackInfo&) { flow(0); }, "pause"));
	handle.Set("resume", Napi::Function::New(env, [flow](const Napi::CallbackInfo&) { flow(UV_READABLE); }, "resume"));
	return handle;
}

} // namespace caisson
