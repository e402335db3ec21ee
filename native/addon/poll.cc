#include "poll.h"

namespace caisson {

Poll::Poll(Napi::Env env, Fd fd, Handler handler) : env_(env), fd_(std::move(fd)), handler_(std::move(handler)) {}

Poll* Poll::open(Napi::Env env, Fd fd, int events, bool background, Handler handler)
{
	uv_loop_t* loop = nullptr;
	if (napi_get_uv_event_loop(env, &loop) != napi_ok)
		throw Napi::Error::New(env, "no event loop");
	Poll* poll = new Poll(env, std::move(fd), std::move(handler));
	if (int rc = uv_poll_init(loop, &poll->handle_, poll->fd_.get()); rc < 0) {
		delete poll;
		throw nativeError(env, -rc, "uv_poll_init");
	}
	poll->handle_.data = poll;
	if (background)
		uv_unref(reinterpret_cast<uv_handle_t*>(&poll->handle_));
	napi_add_async_cleanup_hook(env, onEnvironmentEnd, poll, &poll->hook_);
	poll->watch(events);
	return poll;
}

void Poll::watch(int events)
{
	if (!closing_)
		uv_poll_start(&handle_, events, onEvent);
}

void Poll::close()
{
	if (std::exchange(closing_, true))
		return;
	uv_close(reinterpret_cast<uv_handle_t*>(&handle_), onClosed);
	/* libuv allows this right after uv_close(); its own callback comes a turn of the loop later. */
	fd_.reset(-1);
}

void Poll::onEvent(uv_poll_t* handle, int status, int events)
{
	Poll* poll = static_cast<Poll*>(handle->data);
	if (!poll->closing_)
		poll->handler_(status, events);
}

void Poll::onClosed(uv_handle_t* handle)
{
	Poll* poll = static_cast<Poll*>(handle->data);
	if (poll->hook_ != nullptr)
		napi_remove_async_cleanup_hook(poll->hook_);
	delete poll;
}

void Poll::onEnvironmentEnd(napi_async_cleanup_hook_handle, void* self)
{
	static_cast<Poll*>(self)->close();
}

void enterJavaScript(Napi::Env env, napi_async_context context, const std::function<void()>& work)
{
	Napi::HandleScope handles(env);
	try {
		Napi::CallbackScope scope(env, context);
		work();
	} catch (const Napi::Error& error) {
		napi_fatal_exception(env, error.Value());
	}
}

} // namespace caisson
