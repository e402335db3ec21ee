#pragma once

#include <napi.h>
#include <unistd.h>

#include <utility>

namespace caisson {

/** A descriptor with one owner. */
class Fd {
public:
	Fd() = default;
	explicit Fd(int fd) : fd_(fd) {}
	Fd(Fd&& other) noexcept : fd_(other.release()) {}
	Fd& operator=(Fd&& other) noexcept
	{
		if (this != &other)
			reset(other.release());
		return *this;
	}
	Fd(const Fd&) = delete;
	Fd& operator=(const Fd&) = delete;
	~Fd() { reset(-1); }

	int get() const { return fd_; }
	bool valid() const { return fd_ >= 0; }
	int release() { return std::exchange(fd_, -1); }
	void reset(int fd)
	{
		if (fd_ >= 0)
			::close(fd_);
		fd_ = fd;
	}

private:
	int fd_ = -1;
};

/** The Error that every failing function throws: `errno` is the kernel's number, `syscall` names what failed. */
Napi::Error nativeError(Napi::Env env, int err, const char* syscall);

/** A TypeError for an argument of the wrong shape: always a fault of the wrapper, never of the system. */
Napi::Error badArgument(Napi::Env env, const char* what);

} // namespace caisson
