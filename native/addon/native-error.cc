#include "native-error.h"

#include <cstring>
#include <string>

namespace caisson {

Napi::Error nativeError(Napi::Env env, int err, const char* syscall)
{
	char text[128];
	Napi::Error error = Napi::Error::New(env, std::string(syscall) + ": " + strerror_r(err, text, sizeof text));
	error.Value().Set("errno", Napi::Number::New(env, err));
	error.Value().Set("syscall", Napi::String::New(env, syscall));
	return error;
}

Napi::Error badArgument(Napi::Env env, const char* what)
{
	return Napi::TypeError::New(env, what);
}

} // namespace caisson
