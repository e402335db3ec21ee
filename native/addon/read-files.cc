#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "addon.h"
#include "values.h"

namespace caisson {
namespace {

constexpr size_t chunkBytes = 64 << 10;
constexpr size_t mostBytes = 1 << 20;
/* seq_file hands out whole records, a page at a time, none of ours near as long as this: less is the end of the file. A second read
 * would make the kernel gather its numbers again. */
constexpr size_t surelyLast = 2048;

struct FileText {
	int err = 0;
	std::string text;
};

FileText readWhole(const std::string& path)
{
	static thread_local std::array<char, chunkBytes> chunk;
	FileText file;
	Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
	if (!fd.valid()) {
		file.err = errno;
		return file;
	}
	for (;;) {
		const ssize_t got = read(fd.get(), chunk.data(), chunk.size());
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 || file.text.size() + static_cast<size_t>(got) > mostBytes) {
			file.err = got < 0 ? errno : EFBIG;
			return file;
		}
		file.text.append(chunk.data(), static_cast<size_t>(got));
		if (static_cast<size_t>(got) < surelyLast)
			return file;
	}
}

class ReadFiles final : public Napi::AsyncWorker {
public:
	ReadFiles(Napi::Env env, std::vector<std::string> paths)
		: AsyncWorker(env, "caisson:readFiles"), deferred_(Napi::Promise::Deferred::New(env)), paths_(std::move(paths))
	{
	}
	Napi::Promise promise() const { return deferred_.Promise(); }

protected:
	void Execute() override
	{
		files_.reserve(paths_.size());
		for (const std::string& path : paths_)
			files_.push_back(readWhole(path));
	}
	void OnOK() override
	{
		Napi::Array result = Napi::Array::New(Env(), files_.size());
		for (uint32_t i = 0; i < files_.size(); i++) {
			if (files_[i].err != 0)
				result.Set(i, Napi::Number::New(Env(), files_[i].err));
			else
				result.Set(i, Napi::String::New(Env(), files_[i].text));
		}
		deferred_.Resolve(result);
	}

private:
	Napi::Promise::Deferred deferred_;
	std::vector<std::string> paths_;
	std::vector<FileText> files_;
};

struct CloseDir {
	void operator()(DIR* dir) const { closedir(dir); }
};

class CountDescriptors final : public Napi::AsyncWorker {
public:
	CountDescriptors(Napi::Env env, std::vector<int> pids)
		: AsyncWorker(env, "caisson:countDescriptors"), deferred_(Napi::Promise::Deferred::New(env)), pids_(std::move(pids))
	{
	}
	Napi::Promise promise() const { return deferred_.Promise(); }

protected:
	void Execute() override
	{
		for (const int pid : pids_)
			count(pid);
	}
	void OnOK() override
	{
		Napi::Object result = Napi::Object::New(Env());
		result.Set("descriptors", Napi::Number::New(Env(), static_cast<double>(descriptors_)));
		result.Set("sockets", Napi::Number::New(Env(), static_cast<double>(sockets_)));
		deferred_.Resolve(result);
	}

private:
	/* A process that ends meanwhile has none. */
	void count(int pid)
	{
		const std::string path = "/proc/" + std::to_string(pid) + "/fd";
		const std::unique_ptr<DIR, CloseDir> dir(opendir(path.c_str()));
		if (dir == nullptr)
			return;
		constexpr char socket[] = "socket:";
		for (const dirent* entry = readdir(dir.get()); entry != nullptr; entry = readdir(dir.get())) {
			if (entry->d_name[0] == '.')
				continue;
			descriptors_++;
			char target[sizeof socket - 1];
			const ssize_t length = readlinkat(dirfd(dir.get()), entry->d_name, target, sizeof target);
			if (length == sizeof target && memcmp(target, socket, sizeof target) == 0)
				sockets_++;
		}
	}

	Napi::Promise::Deferred deferred_;
	std::vector<int> pids_;
	uint64_t descriptors_ = 0;
	uint64_t sockets_ = 0;
};

} // namespace

Napi::Value readFiles(const Napi::CallbackInfo& info)
{
	auto* worker = new ReadFiles(info.Env(), toTexts(info[0], "paths must be strings without NUL"));
	const Napi::Promise promise = worker->promise();
	worker->Queue();
	return promise;
}

Napi::Value countDescriptors(const Napi::CallbackInfo& info)
{
	if (!info[0].IsArray())
		throw badArgument(info.Env(), "pids must be numbers");
	const Napi::Array array = info[0].As<Napi::Array>();
	std::vector<int> pids;
	for (uint32_t i = 0; i < array.Length(); i++)
		pids.push_back(toInt(array.Get(i), "pids must be numbers"));
	auto* worker = new CountDescriptors(info.Env(), std::move(pids));
	const Napi::Promise promise = worker->promise();
	worker->Queue();
	return promise;
}

} // namespace caisson
