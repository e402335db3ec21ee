#include <fcntl.h>
#include <sys/xattr.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>

#include "addon.h"
#include "values.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

namespace caisson {
namespace {

/* A system call that may wait for the disk or for a grace period: in a thread of the pool. */
class BlockingCall final : public Napi::AsyncWorker {
public:
	BlockingCall(Napi::Env env, const char* name, std::function<int()> work)
		: AsyncWorker(env, name), deferred_(Napi::Promise::Deferred::New(env)), name_(name), work_(std::move(work))
	{
	}
	/* The worker deletes itself. */
	Napi::Value start()
	{
		const Napi::Promise promise = deferred_.Promise();
		Queue();
		return promise;
	}

protected:
	void Execute() override { err_ = work_() < 0 ? errno : 0; }
	void OnOK() override
	{
		if (err_ != 0)
			deferred_.Reject(nativeError(Env(), err_, name_).Value());
		else
			deferred_.Resolve(Env().Undefined());
	}

private:
	Napi::Promise::Deferred deferred_;
	const char* name_;
	std::function<int()> work_;
	int err_ = 0;
};

/* Kernels before 6.3 refuse the two flags with EINVAL. */
int createMemfd(const char* name, bool executable)
{
	const unsigned base = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	int fd = memfd_create(name, base | (executable ? MFD_EXEC : MFD_NOEXEC_SEAL));
	if (fd < 0 && errno == EINVAL)
		fd = memfd_create(name, base);
	return fd;
}

} // namespace

Napi::Value pipe(const Napi::CallbackInfo& info)
{
	const int size = toInt(info[0], "sizeBytes must be a number");
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		throw nativeError(info.Env(), errno, "pipe2");
	Fd readEnd(ends[0]);
	Fd writeEnd(ends[1]);
	if (size > 0 && fcntl(writeEnd.get(), F_SETPIPE_SZ, size) < 0)
		throw nativeError(info.Env(), errno, "fcntl(F_SETPIPE_SZ)");
	Napi::Array result = Napi::Array::New(info.Env(), 2);
	result.Set(0U, Napi::Number::New(info.Env(), readEnd.release()));
	result.Set(1U, Napi::Number::New(info.Env(), writeEnd.release()));
	return result;
}

Napi::Value streamPair(const Napi::CallbackInfo& info)
{
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		throw nativeError(info.Env(), errno, "socketpair");
	Napi::Array result = Napi::Array::New(info.Env(), 2);
	result.Set(0U, Napi::Number::New(info.Env(), ends[0]));
	result.Set(1U, Napi::Number::New(info.Env(), ends[1]));
	return result;
}

Napi::Value duplicate(const Napi::CallbackInfo& info)
{
	const int copy = fcntl(toInt(info[0], "fd must be a descriptor"), F_DUPFD_CLOEXEC, 3);
	if (copy < 0)
		throw nativeError(info.Env(), errno, "fcntl(F_DUPFD_CLOEXEC)");
	return Napi::Number::New(info.Env(), copy);
}

Napi::Value eventfd(const Napi::CallbackInfo& info)
{
	const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		throw nativeError(info.Env(), errno, "eventfd");
	return Napi::Number::New(info.Env(), fd);
}

void resizeTerminal(const Napi::CallbackInfo& info)
{
	winsize size{};
	size.ws_row = static_cast<unsigned short>(toInt(info[1], "rows must be a number"));
	size.ws_col = static_cast<unsigned short>(toInt(info[2], "cols must be a number"));
	if (ioctl(toInt(info[0], "fd must be a descriptor"), TIOCSWINSZ, &size) < 0)
		throw nativeError(info.Env(), errno, "ioctl(TIOCSWINSZ)");
}

Napi::Value sealedMemfd(const Napi::CallbackInfo& info)
{
	Napi::Env env = info.Env();
	const std::string name = toText(info[0], "name must be a string without NUL");
	const auto content = toBytes(info[1], "content must be a Uint8Array");
	Fd memfd(createMemfd(name.c_str(), info[2].ToBoolean()));
	if (!memfd.valid())
		throw nativeError(env, errno, "memfd_create");
	for (size_t at = 0; at < content.size();) {
		const ssize_t wrote = write(memfd.get(), content.data() + at, content.size() - at);
		if (wrote < 0 && errno != EINTR)
			throw nativeError(env, errno, "write");
		at += wrote > 0 ? static_cast<size_t>(wrote) : 0;
	}
	if (fcntl(memfd.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
		throw nativeError(env, errno, "fcntl(F_ADD_SEALS)");
	/* The sealed descriptor still counts as a writer: executing it would be ETXTBSY. */
	char path[32];
	snprintf(path, sizeof path, "/proc/self/fd/%d", memfd.get());
	const int readOnly = open(path, O_RDONLY | O_CLOEXEC);
	if (readOnly < 0)
		throw nativeError(env, errno, "open");
	return Napi::Number::New(env, readOnly);
}

void close(const Napi::CallbackInfo& info)
{
	const int fd = toInt(info[0], "fd must be a descriptor");
	/* EINTR: Linux has closed it all the same. */
	if (::close(fd) < 0 && errno != EINTR)
		throw nativeError(info.Env(), errno, "close");
}

Napi::Value umount2(const Napi::CallbackInfo& info)
{
	const std::string path = toText(info[0], "path must be a string without NUL");
	const int flags = toInt(info[1], "flags must be a number");
	return (new BlockingCall(info.Env(), "umount2", [path, flags] { return ::umount2(path.c_str(), flags); }))->start();
}

Napi::Value fsTypeOf(const Napi::CallbackInfo& info)
{
	struct statfs fs;
	if (fstatfs(toInt(info[0], "fd must be a descriptor"), &fs) < 0)
		throw nativeError(info.Env(), errno, "fstatfs");
	return Napi::BigInt::New(info.Env(), static_cast<uint64_t>(fs.f_type));
}

Napi::Value extendedAttribute(const Napi::CallbackInfo& info)
{
	char value[256];
	const std::string path = toText(info[0], "path must be a string without NUL");
	const std::string name = toText(info[1], "name must be a string without NUL");
	const ssize_t size = lgetxattr(path.c_str(), name.c_str(), value, sizeof value);
	if (size >= 0)
		return Napi::String::New(info.Env(), value, static_cast<size_t>(size));
	if (errno == ENODATA || errno == EOPNOTSUPP)
		return info.Env().Null();
	throw nativeError(info.Env(), errno, "lgetxattr");
}

Napi::Value tryLock(const Napi::CallbackInfo& info)
{
	if (flock(toInt(info[0], "fd must be a descriptor"), LOCK_EX | LOCK_NB) == 0)
		return Napi::Boolean::New(info.Env(), true);
	if (errno != EWOULDBLOCK)
		throw nativeError(info.Env(), errno, "flock");
	return Napi::Boolean::New(info.Env(), false);
}

void unlock(const Napi::CallbackInfo& info)
{
	if (flock(toInt(info[0], "fd must be a descriptor"), LOCK_UN) != 0)
		throw nativeError(info.Env(), errno, "flock");
}

void fallocate(const Napi::CallbackInfo& info)
{
	const int fd = toInt(info[0], "fd must be a descriptor");
	const uint64_t size = toUint64(info[1], "sizeBytes must be a bigint");
	int rc;
	do
		rc = ::fallocate(fd, 0, 0, static_cast<off_t>(size));
	while (rc < 0 && errno == EINTR);
	if (rc < 0)
		throw nativeError(info.Env(), errno, "fallocate");
}

Napi::Value syncfs(const Napi::CallbackInfo& info)
{
	auto own = std::make_shared<Fd>(fcntl(toInt(info[0], "fd must be a descriptor"), F_DUPFD_CLOEXEC, 0));
	if (!own->valid())
		throw nativeError(info.Env(), errno, "fcntl");
	return (new BlockingCall(info.Env(), "syncfs", [own] { return ::syncfs(own->get()); }))->start();
}

} // namespace caisson
