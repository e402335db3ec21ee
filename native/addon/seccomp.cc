#include <seccomp.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <mutex>

#include "addon.h"
#include "seccomp-enosys.h"
#include "values.h"

namespace caisson {
namespace {

struct Rule {
	uint32_t action;
	std::string syscall;
	std::vector<scmp_arg_cmp> args;
};

struct RuleSet {
	uint32_t defaultAction;
	std::vector<uint32_t> architectures;
	std::vector<Rule> rules;
	bool enosysForNewer;
};

struct Failure {
	int err;
	std::string what;
};

using Filter = std::unique_ptr<void, decltype(&seccomp_release)>;

void check(int rc, const std::string& what)
{
	/* libseccomp answers ECANCELED for a failed system call and keeps its errno. */
	if (rc < 0)
		throw Failure{rc == -ECANCELED && errno != 0 ? errno : -rc, what};
}

std::vector<uint32_t> allArchitectures(const RuleSet& set)
{
	std::vector<uint32_t> all{seccomp_arch_native()};
	for (const uint32_t architecture : set.architectures) {
		if (std::find(all.begin(), all.end(), architecture) == all.end())
			all.push_back(architecture);
	}
	return all;
}

bool repeatsAnIndex(const std::vector<scmp_arg_cmp>& args)
{
	for (size_t i = 0; i < args.size(); i++) {
		for (size_t j = i + 1; j < args.size(); j++) {
			if (args[i].arg == args[j].arg)
				return true;
		}
	}
	return false;
}

void addRule(void* filter, const RuleSet& set, const Rule& rule)
{
	const int number = seccomp_syscall_resolve_name(rule.syscall.c_str());
	/* Profiles name calls of every architecture and kernel; one that this library does not know cannot be filtered. */
	if (number == __NR_SCMP_ERROR || rule.action == set.defaultAction)
		return;
	const std::string what = "seccomp_rule_add(" + rule.syscall + ")";
	if (!repeatsAnIndex(rule.args)) {
		check(seccomp_rule_add_array(filter, rule.action, number, static_cast<unsigned>(rule.args.size()), rule.args.data()), what);
		return;
	}
	/* libseccomp takes one condition per argument: several of them are alternatives, as in every OCI runtime. */
	for (const scmp_arg_cmp& arg : rule.args)
		check(seccomp_rule_add_array(filter, rule.action, number, 1, &arg), what);
}

std::vector<LastSyscall> lastSyscalls(const RuleSet& set)
{
	std::vector<LastSyscall> all;
	for (const uint32_t architecture : allArchitectures(set)) {
		int last = -1;
		for (const Rule& rule : set.rules)
			last = std::max(last, seccomp_syscall_resolve_name_arch(architecture, rule.syscall.c_str()));
		if (last >= 0)
			all.push_back({architecture, static_cast<uint32_t>(last)});
	}
	return all;
}

std::vector<uint8_t> exportProgram(void* filter)
{
	Fd memfd(memfd_create("seccomp", MFD_CLOEXEC));
	if (!memfd.valid())
		throw Failure{errno, "memfd_create"};
	check(seccomp_export_bpf(filter, memfd.get()), "seccomp_export_bpf");
	struct stat status;
	if (fstat(memfd.get(), &status) < 0)
		throw Failure{errno, "fstat"};
	std::vector<uint8_t> program(static_cast<size_t>(status.st_size));
	if (pread(memfd.get(), program.data(), program.size(), 0) != static_cast<ssize_t>(program.size()))
		throw Failure{EIO, "pread"};
	return program;
}

std::vector<uint8_t> compile(const RuleSet& set)
{
	/* The library keeps tables of its own; nothing says that they bear two threads. */
	static std::mutex oneAtATime;
	const std::lock_guard lock(oneAtATime);

	Filter filter(seccomp_init(set.defaultAction), seccomp_release);
	if (filter == nullptr)
		throw Failure{EINVAL, "seccomp_init"};
	for (const uint32_t architecture : allArchitectures(set)) {
		const int rc = seccomp_arch_add(filter.get(), architecture);
		if (rc != -EEXIST)
			check(rc, "seccomp_arch_add");
	}
	/* no_new_privs is an operation of the plan, not a side effect of loading. */
	check(seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_NNP, 0), "seccomp_attr_set(NNP)");
	check(seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2), "seccomp_attr_set(OPTIMIZE)");
	for (const Rule& rule : set.rules)
		addRule(filter.get(), set, rule);

	std::vector<uint8_t> program;
	if (set.enosysForNewer) {
		const std::vector<sock_filter> prologue = enosysPrologue(lastSyscalls(set));
		const uint8_t* bytes = reinterpret_cast<const uint8_t*>(prologue.data());
		program.assign(bytes, bytes + prologue.size() * sizeof(sock_filter));
	}
	const std::vector<uint8_t> body = exportProgram(filter.get());
	program.insert(program.end(), body.begin(), body.end());
	return program;
}

class Compile final : public Napi::AsyncWorker {
public:
	Compile(Napi::Env env, RuleSet set)
	    : AsyncWorker(env, "caisson:seccomp"), deferred_(Napi::Promise::Deferred::New(env)), set_(std::move(set))
	{
	}
	Napi::Promise promise() const { return deferred_.Promise(); }

protected:
	void Execute() override
	{
		try {
			program_ = compile(set_);
		} catch (const Failure& failure) {
			failure_ = failure;
		}
	}
	void OnOK() override
	{
		if (failure_)
			deferred_.Reject(nativeError(Env(), failure_->err, failure_->what.c_str()).Value());
		else
			deferred_.Resolve(Napi::Buffer<uint8_t>::Copy(Env(), program_.data(), program_.size()));
	}

private:
	Napi::Promise::Deferred deferred_;
	RuleSet set_;
	std::vector<uint8_t> program_;
	std::optional<Failure> failure_;
};

scmp_arg_cmp toCondition(const Napi::Object& arg)
{
	scmp_arg_cmp condition{};
	condition.arg = toUint(arg.Get("index"), "index must be a number");
	condition.op = static_cast<scmp_compare>(toUint(arg.Get("op"), "op must be a number"));
	condition.datum_a = toUint64(arg.Get("value"), "value must be an unsigned bigint");
	condition.datum_b = toUint64(arg.Get("valueTwo"), "valueTwo must be an unsigned bigint");
	return condition;
}

Napi::Array toArray(const Napi::Value& value, const char* what)
{
	if (!value.IsArray())
		throw badArgument(value.Env(), what);
	return value.As<Napi::Array>();
}

RuleSet toRuleSet(const Napi::Object& object)
{
	RuleSet set{};
	set.defaultAction = toUint(object.Get("defaultAction"), "defaultAction must be a number");
	set.enosysForNewer = object.Get("enosysForNewer").ToBoolean();
	const Napi::Array architectures = toArray(object.Get("architectures"), "architectures must be an array");
	for (uint32_t i = 0; i < architectures.Length(); i++)
		set.architectures.push_back(toUint(architectures.Get(i), "architectures must hold numbers"));
	const Napi::Array rules = toArray(object.Get("rules"), "rules must be an array");
	for (uint32_t i = 0; i < rules.Length(); i++) {
		const Napi::Object item = rules.Get(i).ToObject();
		Rule rule{toUint(item.Get("action"), "action must be a number"), toText(item.Get("syscall"), "syscall must be a string"), {}};
		const Napi::Array args = toArray(item.Get("args"), "args must be an array");
		for (uint32_t j = 0; j < args.Length(); j++)
			rule.args.push_back(toCondition(args.Get(j).ToObject()));
		set.rules.push_back(std::move(rule));
	}
	return set;
}

} // namespace

Napi::Value seccompCompile(const Napi::CallbackInfo& info)
{
	if (!info[0].IsObject())
		throw badArgument(info.Env(), "seccompCompile takes one object");
	auto* worker = new Compile(info.Env(), toRuleSet(info[0].As<Napi::Object>()));
	const Napi::Promise promise = worker->promise();
	worker->Queue();
	return promise;
}

Napi::Value seccompSyscallNumber(const Napi::CallbackInfo& info)
{
	const int number = seccomp_syscall_resolve_name(toText(info[0], "name must be a string without NUL").c_str());
	return Napi::Number::New(info.Env(), number < 0 ? -1 : number);
}

} // namespace caisson
