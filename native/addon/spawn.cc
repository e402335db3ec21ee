/*
 * Starts a program without copying the address space: a child that shares memory with Node (CLONE_VM) while Node's thread sleeps
 * (CLONE_VFORK), on a stack of its own, costs the same whatever the size of Node's heap.
 *
 *   Node's thread                         child (same memory, own stack, own descriptor table)
 *     | block all signals                   |
 *     | clone3 -------------------------->  | default dispositions, session, cgroup, limits
 *     |   (asleep)                          | descriptors 0..n-1, the rest close-on-exec
 *     |                                     | chdir, empty mask, execve: Node goes on
 *     | read Plan::err  <----------------   | or: err and stage in the plan, _exit
 *     | restore the mask                    |
 */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstddef>
#include <memory>

#include "addon.h"
#include "fallback.h"
#include "values.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif
#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

namespace caisson {
namespace {

constexpr size_t stackBytes = 64 << 10;
/* sizeof(sigset_t) of the kernel: glibc's functions would leave out its own two signals. */
constexpr size_t kernelMaskBytes = 8;
constexpr int lastSignal = 64;

struct KernelSigaction {
	void* handler;
	unsigned long flags;
	void* restorer;
	uint64_t mask;
};

/* Layout of struct clone_args up to the cgroup member (Linux 5.7). */
struct CloneArgs {
	uint64_t flags, pidfd, childTid, parentTid, exitSignal, stack, stackSize, tls, setTid, setTidSize, cgroup;
};
static_assert(sizeof(CloneArgs) == 88, "the kernel knows this size as CLONE_ARGS_SIZE_VER2");

/* Everything the child needs, laid out before it exists: it may neither allocate nor take a lock. */
struct Plan {
	const char* path;
	int imageFd;
	char* const* argv;
	char* const* env;
	const char* cwd;
	int* fds;
	int fdCount;
	int deathSignal;
	bool newSession;
	uint64_t softNofile;
	const char* const* taskFiles;
	int joinCgroupFd;
	pid_t parent;

	volatile int err;
	const char* volatile stage;
};

[[noreturn]] void fail(Plan& plan, const char* stage, int err)
{
	plan.err = err;
	plan.stage = stage;
	_exit(127);
}

void defaultSignals()
{
	KernelSigaction action{};
	for (int signal = 1; signal <= lastSignal; signal++)
		syscall(SYS_rt_sigaction, signal, &action, nullptr, kernelMaskBytes);
}

/* Writing "0" moves the writer; writing a pid would make the kernel wait for a grace period of 10 ms and more. */
void joinTasks(Plan& plan, int dir, const char* path)
{
	int fd = openat(dir, path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		fail(plan, "open of a cgroup's tasks", errno);
	if (write(fd, "0", 1) != 1)
		fail(plan, "write to a cgroup's tasks", errno);
	::close(fd);
}

/* Kernels before 5.11 and seccomp filters of an outer container lack close_range(CLOEXEC). */
void closeOnExecByListing(Plan& plan, int from)
{
	struct Entry {
		uint64_t inode;
		int64_t offset;
		uint16_t length;
		uint8_t type;
		char name[];
	};
	int dir = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		fail(plan, "open of /proc/self/fd", errno);
	alignas(8) char buffer[2048];
	long got;
	while ((got = syscall(SYS_getdents64, dir, buffer, sizeof buffer)) > 0) {
		for (long at = 0; at < got;) {
			const Entry* entry = reinterpret_cast<const Entry*>(buffer + at);
			at += entry->length;
			int fd = 0;
			for (const char* digit = entry->name; *digit >= '0' && *digit <= '9'; digit++)
				fd = fd * 10 + (*digit - '0');
			if (fd >= from && entry->name[0] != '.')
				fcntl(fd, F_SETFD, FD_CLOEXEC);
		}
	}
	if (got < 0)
		fail(plan, "getdents64 of /proc/self/fd", errno);
	::close(dir);
}

/* Sources that lie among the targets are first moved above them, so that no dup2 overwrites one that is still needed. */
void placeDescriptors(Plan& plan)
{
	const int count = plan.fdCount;
	for (int i = 0; i < count; i++) {
		if (plan.fds[i] < 0) {
			int null = open("/dev/null", O_RDWR | O_CLOEXEC);
			if (null < 0)
				fail(plan, "open of /dev/null", errno);
			plan.fds[i] = fcntl(null, F_DUPFD_CLOEXEC, count);
			::close(null);
		} else if (plan.fds[i] < count) {
			plan.fds[i] = fcntl(plan.fds[i], F_DUPFD_CLOEXEC, count);
		}
		if (plan.fds[i] < 0)
			fail(plan, "dup of a descriptor", errno);
	}
	if (plan.imageFd >= 0) {
		/* A copy in any case: the original may lack close-on-exec, and the program must not get it. */
		plan.imageFd = fcntl(plan.imageFd, F_DUPFD_CLOEXEC, count);
		if (plan.imageFd < 0)
			fail(plan, "dup of the image", errno);
	}
	for (int i = 0; i < count; i++) {
		if (dup2(plan.fds[i], i) < 0)
			fail(plan, "dup2", errno);
	}
	if (isDenied(Newer::closeRange) || syscall(SYS_close_range, count, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
		closeOnExecByListing(plan, count);
}

int childMain(void* arg)
{
	Plan& plan = *static_cast<Plan*>(arg);
	defaultSignals();
	if (plan.deathSignal != 0) {
		if (prctl(PR_SET_PDEATHSIG, plan.deathSignal) < 0)
			fail(plan, "prctl(PR_SET_PDEATHSIG)", errno);
		/* Died before the line above: nobody will send it any more. */
		if (getppid() != plan.parent)
			_exit(127);
	}
	if (plan.newSession && setsid() < 0)
		fail(plan, "setsid", errno);
	if (plan.joinCgroupFd >= 0)
		joinTasks(plan, plan.joinCgroupFd, "cgroup.procs");
	for (const char* const* file = plan.taskFiles; *file != nullptr; file++)
		joinTasks(plan, AT_FDCWD, *file);
	/* Node raises its own soft limit to the hard one; a program that meets select() must not inherit that. */
	rlimit nofile;
	if (getrlimit(RLIMIT_NOFILE, &nofile) < 0)
		fail(plan, "getrlimit", errno);
	nofile.rlim_cur = plan.softNofile < nofile.rlim_max ? plan.softNofile : nofile.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &nofile) < 0)
		fail(plan, "setrlimit", errno);
	umask(022);
	placeDescriptors(plan);
	if (chdir(plan.cwd) < 0)
		fail(plan, "chdir", errno);
	const uint64_t noSignals = 0;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &noSignals, nullptr, kernelMaskBytes);
	if (plan.imageFd >= 0)
		syscall(SYS_execveat, plan.imageFd, "", plan.argv, plan.env, AT_EMPTY_PATH);
	else
		execve(plan.path, plan.argv, plan.env);
	fail(plan, "execve", errno);
}

/*
 * The raw call, because glibc has no clone3: in the child it must not return into a frame that the parent still uses, so the
 * child goes straight to `function` on the stack that the kernel gave it.
 */
long rawClone3(CloneArgs* args, int (*function)(void*), void* arg)
{
#if defined(__x86_64__)
	long rc = SYS_clone3;
	asm volatile("syscall\n\t"
		     "test %%rax, %%rax\n\t"
		     "jnz 1f\n\t"
		     "mov %[arg], %%rdi\n\t"
		     "call *%[function]\n\t"
		     "ud2\n"
		     "1:"
		     : "+a"(rc)
		     : "D"(args), "S"(sizeof *args), [function] "r"(function), [arg] "r"(arg)
		     : "rcx", "r11", "memory", "cc");
	return rc;
#elif defined(__aarch64__)
	register long x0 asm("x0") = reinterpret_cast<long>(args);
	register long x1 asm("x1") = sizeof *args;
	register long x8 asm("x8") = SYS_clone3;
	asm volatile("svc #0\n\t"
		     "cbnz x0, 1f\n\t"
		     "mov x0, %[arg]\n\t"
		     "blr %[function]\n\t"
		     "brk #0\n"
		     "1:"
		     : "+r"(x0)
		     : "r"(x1), "r"(x8), [function] "r"(function), [arg] "r"(arg)
		     : "x30", "memory", "cc");
	return x0;
#else
#error "this architecture is not supported"
#endif
}

class ChildStack {
public:
	ChildStack()
	    : base_(mmap(nullptr, stackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0))
	{
	}
	~ChildStack()
	{
		if (valid())
			munmap(base_, stackBytes);
	}
	ChildStack(const ChildStack&) = delete;
	ChildStack& operator=(const ChildStack&) = delete;
	bool valid() const { return base_ != MAP_FAILED; }
	uint64_t base() const { return reinterpret_cast<uint64_t>(base_); }
	void* top() const { return static_cast<char*>(base_) + stackBytes; }

private:
	void* base_;
};

/* Returns the pid or -errno. */
long cloneChild(Plan& plan, int cgroupFd, const ChildStack& stack, int* pidfd)
{
	uint64_t flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD;
	CloneArgs args{};
	const bool into = cgroupFd >= 0 && !isDenied(Newer::cloneIntoCgroup);
	plan.joinCgroupFd = into ? -1 : cgroupFd;
	args.flags = into ? flags | CLONE_INTO_CGROUP : flags;
	args.pidfd = reinterpret_cast<uint64_t>(pidfd);
	args.exitSignal = SIGCHLD;
	args.stack = stack.base();
	args.stackSize = stackBytes;
	args.cgroup = into ? static_cast<uint64_t>(cgroupFd) : 0;
	long pid = isDenied(Newer::clone3) ? -ENOSYS : rawClone3(&args, childMain, &plan);
	if (pid != -ENOSYS)
		return pid;
	/* A seccomp filter of an outer container may hide clone3, whose flags it cannot see. */
	plan.joinCgroupFd = cgroupFd;
	pid = clone(childMain, stack.top(), static_cast<int>(flags | SIGCHLD), &plan, pidfd);
	return pid < 0 ? -errno : pid;
}

std::vector<char*> pointers(std::vector<std::string>& texts)
{
	std::vector<char*> list;
	list.reserve(texts.size() + 1);
	for (std::string& text : texts)
		list.push_back(text.data());
	list.push_back(nullptr);
	return list;
}

std::vector<int> toFds(const Napi::Value& value)
{
	if (!value.IsArray())
		throw badArgument(value.Env(), "fds must be an array");
	const Napi::Array array = value.As<Napi::Array>();
	std::vector<int> fds;
	for (uint32_t i = 0; i < array.Length(); i++) {
		const Napi::Value item = array.Get(i);
		fds.push_back(item.IsNull() ? -1 : toInt(item, "fds must hold descriptors or null"));
	}
	return fds;
}

int orNone(const Napi::Value& value, const char* what)
{
	return value.IsNull() ? -1 : toInt(value, what);
}

} // namespace

Napi::Value spawn(const Napi::CallbackInfo& info)
{
	Napi::Env env = info.Env();
	if (!info[0].IsObject())
		throw badArgument(env, "spawn takes one object");
	const Napi::Object request = info[0].As<Napi::Object>();

	std::string path = toText(request.Get("path"), "path must be a string without NUL");
	std::vector<std::string> argv = toTexts(request.Get("argv"), "argv must be strings without NUL");
	std::vector<std::string> variables = toTexts(request.Get("env"), "env must be strings without NUL");
	std::vector<std::string> taskFiles = toTexts(request.Get("taskFiles"), "taskFiles must be strings without NUL");
	std::string cwd = request.Get("cwd").IsNull() ? "/" : toText(request.Get("cwd"), "cwd must be a string without NUL");
	std::vector<int> fds = toFds(request.Get("fds"));
	const int cgroupFd = orNone(request.Get("cgroupFd"), "cgroupFd must be a descriptor or null");
	std::vector<char*> argvList = pointers(argv);
	std::vector<char*> envList = pointers(variables);
	std::vector<char*> taskList = pointers(taskFiles);

	Plan plan{};
	plan.path = path.c_str();
	plan.imageFd = orNone(request.Get("imageFd"), "imageFd must be a descriptor or null");
	plan.argv = argvList.data();
	plan.env = envList.data();
	plan.cwd = cwd.c_str();
	plan.fds = fds.data();
	plan.fdCount = static_cast<int>(fds.size());
	plan.deathSignal = toInt(request.Get("parentDeathSignal"), "parentDeathSignal must be a number");
	plan.newSession = request.Get("newSession").ToBoolean();
	plan.softNofile = toUint(request.Get("softNofile"), "softNofile must be a number");
	plan.taskFiles = taskList.data();
	plan.joinCgroupFd = -1;
	plan.parent = getpid();

	ChildStack stack;
	if (!stack.valid())
		throw nativeError(env, errno, "mmap");

	/* A handler of ours that ran in the child would run in Node's memory. */
	const uint64_t allSignals = ~0ULL;
	uint64_t before = 0;
	int pidfd = -1;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &allSignals, &before, kernelMaskBytes);
	const long pid = cloneChild(plan, cgroupFd, stack, &pidfd);
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, nullptr, kernelMaskBytes);
	if (pid < 0)
		throw nativeError(env, static_cast<int>(-pid), "clone");

	Fd owned(pidfd);
	if (plan.err != 0) {
		siginfo_t ignored;
		while (waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(owned.get()), &ignored, WEXITED) < 0 && errno == EINTR) {
		}
		throw nativeError(env, plan.err, plan.stage);
	}
	Napi::Object spawned = Napi::Object::New(env);
	spawned.Set("pid", Napi::Number::New(env, static_cast<double>(pid)));
	spawned.Set("pidfd", Napi::Number::New(env, owned.release()));
	return spawned;
}

} // namespace caisson
