/*
 * openat2 and, where a kernel or an outer seccomp filter lacks it, a walk in user space with the same promises: one component at a
 * time by O_PATH|O_NOFOLLOW, links spliced into what is left of the path, ".." answered from the descriptors already walked and
 * never by the kernel, the result compared with where it should be.
 */
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>

#include "addon.h"
#include "fallback.h"
#include "values.h"

namespace caisson {
namespace {

constexpr int mostRetries = 128;
constexpr int mostLinks = 255;
constexpr size_t longestRest = 64 << 10;
constexpr long procMagic = 0x9fa0;

long callOpenat2(int dir, const char* path, const open_how& how)
{
	long fd = -1;
	for (int i = 0; i < mostRetries; i++) {
		fd = syscall(SYS_openat2, dir, path, &how, sizeof how);
		/* EAGAIN: a rename or mount elsewhere crossed the walk of a ".."; the kernel asks to try again. */
		if (fd >= 0 || (errno != EAGAIN && errno != EINTR))
			break;
	}
	return fd;
}

/* Asked once on a path that cannot fail: an EPERM there comes from a filter and not from the file. */
bool haveOpenat2()
{
	static const bool have = [] {
		open_how how{};
		how.flags = O_PATH | O_CLOEXEC;
		Fd fd(static_cast<int>(callOpenat2(AT_FDCWD, "/", how)));
		return fd.valid();
	}();
	return have && !isDenied(Newer::openat2);
}

std::string pathOf(int fd)
{
	char link[32];
	char target[PATH_MAX];
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	const ssize_t length = readlink(link, target, sizeof target);
	return length < 0 ? std::string() : std::string(target, static_cast<size_t>(length));
}

/* Throws the errno as an int; the caller turns it into a NativeError. */
class Walk {
public:
	Walk(int dir, const std::string& path, const open_how& how) : how_(how), rest_(path)
	{
		const bool absolute = path.starts_with("/");
		if (path.empty())
			throw ENOENT;
		if (absolute && has(RESOLVE_BENEATH))
			throw EXDEV;
		scoped_ = has(RESOLVE_IN_ROOT) || has(RESOLVE_BENEATH);
		push(absolute && !scoped_ ? openat(AT_FDCWD, "/", O_PATH | O_DIRECTORY | O_CLOEXEC) : openat(dir, ".", O_PATH | O_DIRECTORY | O_CLOEXEC), "");
		mountId_ = mountOf(here());
	}

	Fd run()
	{
		std::string name;
		while (next(name)) {
			if (name == ".")
				continue;
			if (name == "..") {
				up();
				continue;
			}
			if (Fd last = step(name); last.valid())
				return last;
		}
		/* The path ended in a directory already walked: "/", "..", a trailing slash. */
		Fd last(openat(here(), ".", static_cast<int>(how_.flags & ~static_cast<uint64_t>(O_CREAT | O_EXCL)) | O_CLOEXEC));
		if (!last.valid())
			throw errno;
		return last;
	}

	/* The path that the kernel gives for the result must be the one that was walked, else somebody moved a part of it meanwhile. */
	void verify(const Fd& last, const std::string& lastName) const
	{
		std::string expected = pathOf(stack_.front().fd.get());
		for (size_t i = 1; i < stack_.size(); i++)
			append(expected, stack_[i].name);
		if (!lastName.empty())
			append(expected, lastName);
		if (pathOf(last.get()) != expected)
			throw EXDEV;
	}

	const std::string& lastName() const { return lastName_; }

private:
	struct Level {
		Fd fd;
		std::string name;
	};

	bool has(uint64_t flag) const { return (how_.resolve & flag) != 0; }
	int here() const { return stack_.back().fd.get(); }

	static void append(std::string& path, const std::string& name)
	{
		if (!path.ends_with("/"))
			path += '/';
		path += name;
	}

	void push(int fd, const std::string& name)
	{
		if (fd < 0)
			throw errno;
		stack_.push_back({Fd(fd), name});
	}

	bool next(std::string& name)
	{
		const size_t start = rest_.find_first_not_of('/');
		if (start == std::string::npos)
			return false;
		const size_t end = rest_.find('/', start);
		name = rest_.substr(start, end - start);
		rest_ = end == std::string::npos ? "" : rest_.substr(end);
		return true;
	}

	void up()
	{
		if (stack_.size() > 1) {
			stack_.pop_back();
			return;
		}
		if (has(RESOLVE_BENEATH))
			throw EXDEV;
		if (!scoped_)
			push(openat(here(), "..", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), "..");
	}

	/* One component. A valid result is the end of the path. */
	Fd step(const std::string& name)
	{
		const bool last = rest_.find_first_not_of('/') == std::string::npos;
		Fd found(openat(here(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
		if (!found.valid() && !(last && errno == ENOENT && (how_.flags & O_CREAT) != 0))
			throw errno;
		struct stat status{};
		if (found.valid() && fstat(found.get(), &status) < 0)
			throw errno;
		const bool exclusive = (how_.flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL);
		const bool keepLink = last && rest_.empty() && ((how_.flags & O_NOFOLLOW) != 0 || exclusive);
		if (found.valid() && S_ISLNK(status.st_mode) && !keepLink) {
			splice(found);
			return Fd();
		}
		if (found.valid() && has(RESOLVE_NO_XDEV) && mountOf(found.get()) != mountId_)
			throw EXDEV;
		if (!last || !rest_.empty()) {
			if (!S_ISDIR(status.st_mode))
				throw found.valid() ? ENOTDIR : EISDIR;
			push(found.release(), name);
			return Fd();
		}
		/* Re-opened by name: a link that took its place meanwhile is ELOOP and starts over, at most mostLinks times. */
		Fd opened(openat(here(), name.c_str(), static_cast<int>(how_.flags) | O_NOFOLLOW | O_CLOEXEC, static_cast<mode_t>(how_.mode)));
		if (!opened.valid()) {
			if (errno != ELOOP || keepLink || ++links_ > mostLinks)
				throw errno;
			rest_ = name;
			return Fd();
		}
		lastName_ = name;
		return opened;
	}

	void splice(const Fd& link)
	{
		if (has(RESOLVE_NO_SYMLINKS) || ++links_ > mostLinks)
			throw ELOOP;
		char target[PATH_MAX];
		const ssize_t length = readlinkat(link.get(), "", target, sizeof target);
		if (length < 0)
			throw errno;
		const std::string text(target, static_cast<size_t>(length));
		/* Procfs's ordinary links (self, net, mounts) are relative; absolute ones and "type:inode" are magic. */
		struct statfs fs;
		if (fstatfs(link.get(), &fs) == 0 && fs.f_type == procMagic && (text.starts_with("/") || text.find(':') != std::string::npos))
			throw ELOOP;
		if (text.starts_with("/")) {
			if (has(RESOLVE_BENEATH))
				throw EXDEV;
			if (scoped_)
				stack_.resize(1);
			else
				restart();
		}
		rest_ = text + rest_;
		if (rest_.size() > longestRest)
			throw ENAMETOOLONG;
	}

	void restart()
	{
		stack_.clear();
		push(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), "");
	}

	static uint64_t mountOf(int fd)
	{
		struct statx status;
		if (statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &status) < 0)
			throw errno;
		if ((status.stx_mask & STATX_MNT_ID) == 0)
			return (static_cast<uint64_t>(status.stx_dev_major) << 32) | status.stx_dev_minor;
		return status.stx_mnt_id;
	}

	const open_how how_;
	std::string rest_;
	std::string lastName_;
	std::vector<Level> stack_;
	uint64_t mountId_ = 0;
	int links_ = 0;
	bool scoped_ = false;
};

Fd walk(Napi::Env env, int dir, const std::string& path, const open_how& how)
{
	try {
		Walk walk(dir, path, how);
		Fd last = walk.run();
		if ((how.resolve & (RESOLVE_IN_ROOT | RESOLVE_BENEATH)) != 0)
			walk.verify(last, walk.lastName());
		return last;
	} catch (int err) {
		throw nativeError(env, err, "openat2");
	}
}

} // namespace

Napi::Value openat2(const Napi::CallbackInfo& info)
{
	Napi::Env env = info.Env();
	const int dir = toInt(info[0], "dirFd must be a descriptor");
	const std::string path = toText(info[1], "path must be a string without NUL");
	open_how how{};
	how.flags = toUint(info[2], "flags must be a number") | O_CLOEXEC;
	how.mode = toUint(info[3], "mode must be a number");
	how.resolve = toUint(info[4], "resolve must be a number");
	if (!haveOpenat2())
		return Napi::Number::New(env, walk(env, dir, path, how).release());
	const long fd = callOpenat2(dir, path.c_str(), how);
	if (fd < 0)
		throw nativeError(env, errno, "openat2");
	return Napi::Number::New(env, static_cast<double>(fd));
}

} // namespace caisson
