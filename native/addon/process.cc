#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstdint>
#include <memory>

#include "addon.h"
#include "poll.h"
#include "values.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

namespace caisson {
namespace {

struct Waiter {
	explicit Waiter(Napi::Env env) : deferred(Napi::Promise::Deferred::New(env)), context(env, "caisson:pidfd") {}
	Napi::Promise::Deferred deferred;
	Napi::AsyncContext context;
	Poll* poll = nullptr;
};

/* Settles the waiter's promise from the event loop with what `settle` makes of the ended process. */
Napi::Value whenReadable(Napi::Env env, const Napi::CallbackInfo& info, std::function<void(Waiter&)> settle)
{
	const int pidfd = toInt(info[0], "pidfd must be a descriptor");
	const bool background = info[1].IsBoolean() && info[1].As<Napi::Boolean>().Value();
	Fd own(fcntl(pidfd, F_DUPFD_CLOEXEC, 0));
	if (!own.valid())
		throw nativeError(env, errno, "fcntl");
	auto waiter = std::make_shared<Waiter>(env);
	waiter->poll = Poll::open(env, std::move(own), UV_READABLE, background, [env, waiter, settle](int, int) {
		enterJavaScript(env, waiter->context, [&] { settle(*waiter); });
	});
	return waiter->deferred.Promise();
}

void settleChild(Waiter& waiter)
{
	Napi::Env env = waiter.deferred.Env();
	siginfo_t child{};
	int rc;
	do
		rc = waitid(static_cast<idtype_t>(P_PIDFD), waiter.poll->fd(), &child, WEXITED | WNOHANG);
	while (rc < 0 && errno == EINTR);
	if (rc == 0 && child.si_pid == 0)
		return;
	const int err = errno;
	waiter.poll->close();
	if (rc < 0) {
		waiter.deferred.Reject(nativeError(env, err, "waitid").Value());
		return;
	}
	Napi::Object exit = Napi::Object::New(env);
	const bool exited = child.si_code == CLD_EXITED;
	exit.Set("code", Napi::Number::New(env, exited ? child.si_status : -1));
	exit.Set("signal", Napi::Number::New(env, exited ? 0 : child.si_status));
	waiter.deferred.Resolve(exit);
}

void settleGone(Waiter& waiter)
{
	waiter.poll->close();
	waiter.deferred.Resolve(waiter.deferred.Env().Undefined());
}

} // namespace

Napi::Value waitChild(const Napi::CallbackInfo& info)
{
	return whenReadable(info.Env(), info, settleChild);
}

Napi::Value waitGone(const Napi::CallbackInfo& info)
{
	return whenReadable(info.Env(), info, settleGone);
}

Napi::Value pidfdOpen(const Napi::CallbackInfo& info)
{
	const int fd = static_cast<int>(syscall(SYS_pidfd_open, toInt(info[0], "pid must be a number"), 0));
	if (fd < 0)
		throw nativeError(info.Env(), errno, "pidfd_open");
	return Napi::Number::New(info.Env(), fd);
}

void pidfdSignal(const Napi::CallbackInfo& info)
{
	const int pidfd = toInt(info[0], "pidfd must be a descriptor");
	const int signal = toInt(info[1], "signal must be a number");
	if (syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0) < 0)
		throw nativeError(info.Env(), errno, "pidfd_send_signal");
}

void killGroup(const Napi::CallbackInfo& info)
{
	const int pgid = toInt(info[0], "pgid must be a number");
	/* 0 and 1 would be our own group and, as -1, every process of the machine. */
	if (pgid <= 1)
		throw badArgument(info.Env(), "pgid must be above 1");
	if (kill(-pgid, toInt(info[1], "signal must be a number")) < 0)
		throw nativeError(info.Env(), errno, "kill");
}

void setSlices(const Napi::CallbackInfo& info)
{
	/* struct sched_attr of linux/sched/types.h, its first version. */
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} attributes{};
	constexpr uint64_t resetOnFork = 1;
	attributes.size = sizeof attributes;
	attributes.flags = resetOnFork;
	attributes.runtime = static_cast<uint64_t>(toInt(info[0], "microseconds must be a number")) * 1000;
	attributes.nice = toInt(info[1], "nice must be a number");
	if (syscall(SYS_sched_setattr, 0, &attributes, 0) < 0)
		throw nativeError(info.Env(), errno, "sched_setattr");
}

} // namespace caisson
