#pragma once

#include <napi.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "native-error.h"

namespace caisson {

/* Readers of arguments. They throw a TypeError instead of guessing: a silent NaN would become descriptor 0. */

inline int32_t toInt(const Napi::Value& value, const char* what)
{
	if (!value.IsNumber())
		throw badArgument(value.Env(), what);
	const double number = value.As<Napi::Number>().DoubleValue();
	if (!(number >= INT32_MIN && number <= INT32_MAX) || number != static_cast<double>(static_cast<int32_t>(number)))
		throw badArgument(value.Env(), what);
	return static_cast<int32_t>(number);
}

inline uint32_t toUint(const Napi::Value& value, const char* what)
{
	if (!value.IsNumber())
		throw badArgument(value.Env(), what);
	const double number = value.As<Napi::Number>().DoubleValue();
	if (!(number >= 0 && number <= UINT32_MAX) || number != static_cast<double>(static_cast<uint32_t>(number)))
		throw badArgument(value.Env(), what);
	return static_cast<uint32_t>(number);
}

inline uint64_t toUint64(const Napi::Value& value, const char* what)
{
	bool lossless = false;
	if (!value.IsBigInt())
		throw badArgument(value.Env(), what);
	const uint64_t number = value.As<Napi::BigInt>().Uint64Value(&lossless);
	if (!lossless)
		throw badArgument(value.Env(), what);
	return number;
}

/** A string without NUL: one that the kernel reads whole. */
inline std::string toText(const Napi::Value& value, const char* what)
{
	if (!value.IsString())
		throw badArgument(value.Env(), what);
	std::string text = value.As<Napi::String>().Utf8Value();
	if (text.find('\0') != std::string::npos)
		throw badArgument(value.Env(), what);
	return text;
}

inline std::vector<std::string> toTexts(const Napi::Value& value, const char* what)
{
	if (!value.IsArray())
		throw badArgument(value.Env(), what);
	const Napi::Array array = value.As<Napi::Array>();
	std::vector<std::string> texts;
	texts.reserve(array.Length());
	for (uint32_t i = 0; i < array.Length(); i++)
		texts.push_back(toText(array.Get(i), what));
	return texts;
}

/** The bytes of a Uint8Array; valid as long as the caller's handle. */
inline std::span<const uint8_t> toBytes(const Napi::Value& value, const char* what)
{
	if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
		throw badArgument(value.Env(), what);
	const Napi::Uint8Array array = value.As<Napi::Uint8Array>();
	return {array.Data(), array.ByteLength()};
}

inline Napi::Function toFunction(const Napi::Value& value, const char* what)
{
	if (!value.IsFunction())
		throw badArgument(value.Env(), what);
	return value.As<Napi::Function>();
}

} // namespace caisson
