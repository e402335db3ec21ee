#include "seccomp-enosys.h"

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <seccomp.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

namespace caisson {
namespace {

constexpr uint32_t x32Bit = 0x4000'0000;

sock_filter statement(uint16_t code, uint32_t k)
{
	return {code, 0, 0, k};
}

sock_filter jump(uint16_t code, uint32_t k, uint8_t yes, uint8_t no)
{
	return {code, yes, no, k};
}

const LastSyscall* find(const std::vector<LastSyscall>& known, uint32_t architecture)
{
	const auto at = std::find_if(known.begin(), known.end(), [=](const LastSyscall& item) { return item.architecture == architecture; });
	return at == known.end() ? nullptr : &*at;
}

/*
 * The checks of one audit architecture, with the architecture in the accumulator:
 *
 *       jeq arch, else over this block
 *       ld nr
 *       jge x32Bit  -> the x32 check if the profile has x32, else the filter: it refuses x32, and passes -1, a tracer's "skip"
 *       jgt last    -> ENOSYS, else the filter
 *     [ jgt lastX32 -> ENOSYS, else the filter ]
 *       ret ENOSYS
 *       ja  filter (patched by the caller)
 */
std::vector<sock_filter> block(uint32_t auditArch, const LastSyscall* plain, const LastSyscall* x32)
{
	/* Without a known number of its own, no number of that kind is newer. */
	const uint32_t last = plain == nullptr ? UINT32_MAX : plain->number;
	const uint32_t lastX32 = x32 == nullptr ? UINT32_MAX : x32->number;
	return {
	    jump(BPF_JMP | BPF_JEQ | BPF_K, auditArch, 0, 6),
	    statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
	    jump(BPF_JMP | BPF_JGE | BPF_K, x32Bit, 1, 0),
	    jump(BPF_JMP | BPF_JGT | BPF_K, last, 1, 2),
	    jump(BPF_JMP | BPF_JGT | BPF_K, lastX32, 0, 1),
	    statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
	    statement(BPF_JMP | BPF_JA, 0),
	};
}

} // namespace

std::vector<sock_filter> enosysPrologue(const std::vector<LastSyscall>& known)
{
	std::vector<sock_filter> program;
	std::vector<size_t> toFilter;
	const auto add = [&](uint32_t auditArch, const LastSyscall* plain, const LastSyscall* x32) {
		const std::vector<sock_filter> checks = block(auditArch, plain, x32);
		program.insert(program.end(), checks.begin(), checks.end());
		toFilter.push_back(program.size() - 1);
	};
	if (known.empty())
		return program;
	program.push_back(statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)));
	/* x32 shares the audit architecture of x86-64 and differs by a bit in the number. Tokens of libseccomp are audit values otherwise. */
	const LastSyscall* x64 = find(known, SCMP_ARCH_X86_64);
	const LastSyscall* x32 = find(known, SCMP_ARCH_X32);
	if (x64 != nullptr || x32 != nullptr)
		add(AUDIT_ARCH_X86_64, x64, x32);
	for (const LastSyscall& item : known) {
		if (item.architecture != SCMP_ARCH_X86_64 && item.architecture != SCMP_ARCH_X32)
			add(item.architecture, &item, nullptr);
	}
	for (const size_t at : toFilter)
		program[at].k = static_cast<uint32_t>(program.size() - at - 1);
	return program;
}

} // namespace caisson
