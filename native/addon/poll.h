#pragma once

#include <napi.h>
#include <uv.h>

#include <functional>

#include "native-error.h"

namespace caisson {

/**
 * A descriptor watched by the event loop. Owns the descriptor: libuv refuses two watchers on one number and misbehaves when a
 * watched number is closed under it, so callers hand over one of their own (a dup where needed). Frees itself after close().
 *
 * The handler may call close(); it is not called again after that. An environment that ends (a worker thread) closes it too.
 */
class Poll {
public:
	using Handler = std::function<void(int status, int events)>;

	/** Starts watching `events` (UV_READABLE | UV_WRITABLE); `background` does not keep the process alive. */
	static Poll* open(Napi::Env env, Fd fd, int events, bool background, Handler handler);

	int fd() const { return fd_.get(); }
	void watch(int events);
	void close();

private:
	Poll(Napi::Env env, Fd fd, Handler handler);
	~Poll() = default;
	static void onEvent(uv_poll_t* handle, int status, int events);
	static void onClosed(uv_handle_t* handle);
	static void onEnvironmentEnd(napi_async_cleanup_hook_handle hook, void* self);

	napi_env env_;
	uv_poll_t handle_{};
	Fd fd_;
	Handler handler_;
	napi_async_cleanup_hook_handle hook_ = nullptr;
	bool closing_ = false;
};

/**
 * Runs JavaScript from an event: with a handle scope, with ticks and microtasks drained at the end, and with an exception that
 * nobody catches ending up where Node puts all of them.
 */
void enterJavaScript(Napi::Env env, napi_async_context context, const std::function<void()>& work);

} // namespace caisson
