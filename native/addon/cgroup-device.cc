#include <linux/bpf.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstring>

#include "addon.h"
#include "values.h"

namespace caisson {
namespace {

constexpr char programName[] = "caisson_device";
static_assert(sizeof programName <= BPF_OBJ_NAME_LEN, "the kernel refuses longer names");
constexpr size_t instructionBytes = 8;
constexpr uint32_t mostAttached = 64;

int bpf(bpf_cmd command, bpf_attr& attr)
{
	return static_cast<int>(syscall(SYS_bpf, command, &attr, sizeof attr));
}

Fd load(Napi::Env env, std::span<const uint8_t> instructions)
{
	bpf_attr attr{};
	attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
	attr.insn_cnt = static_cast<uint32_t>(instructions.size() / instructionBytes);
	attr.insns = reinterpret_cast<uint64_t>(instructions.data());
	attr.license = reinterpret_cast<uint64_t>("Apache-2.0");
	memcpy(attr.prog_name, programName, sizeof programName);
	Fd program(bpf(BPF_PROG_LOAD, attr));
	if (!program.valid())
		throw nativeError(env, errno, "bpf(BPF_PROG_LOAD)");
	return program;
}

bool isOurs(int program)
{
	bpf_prog_info details{};
	bpf_attr attr{};
	attr.info.bpf_fd = static_cast<uint32_t>(program);
	attr.info.info_len = sizeof details;
	attr.info.info = reinterpret_cast<uint64_t>(&details);
	return bpf(BPF_OBJ_GET_INFO_BY_FD, attr) == 0 && strncmp(details.name, programName, sizeof details.name) == 0;
}

/* Programs that Caisson attached before; those of others (systemd) stay and are and-ed by the kernel. */
std::vector<Fd> attachedBefore(Napi::Env env, int cgroup)
{
	uint32_t ids[mostAttached] = {};
	bpf_attr attr{};
	attr.query.target_fd = static_cast<uint32_t>(cgroup);
	attr.query.attach_type = BPF_CGROUP_DEVICE;
	attr.query.prog_ids = reinterpret_cast<uint64_t>(ids);
	attr.query.prog_cnt = mostAttached;
	if (bpf(BPF_PROG_QUERY, attr) < 0)
		throw nativeError(env, errno, "bpf(BPF_PROG_QUERY)");
	std::vector<Fd> ours;
	for (uint32_t i = 0; i < attr.query.prog_cnt; i++) {
		bpf_attr byId{};
		byId.prog_id = ids[i];
		Fd program(bpf(BPF_PROG_GET_FD_BY_ID, byId));
		if (program.valid() && isOurs(program.get()))
			ours.push_back(std::move(program));
	}
	return ours;
}

} // namespace

void attachDeviceProgram(const Napi::CallbackInfo& info)
{
	Napi::Env env = info.Env();
	const int cgroup = toInt(info[0], "cgroupFd must be a descriptor");
	const auto instructions = toBytes(info[1], "instructions must be a Uint8Array");
	if (instructions.empty() || instructions.size() % instructionBytes != 0)
		throw badArgument(env, "instructions must be whole BPF instructions");

	const Fd program = load(env, instructions);
	const std::vector<Fd> older = attachedBefore(env, cgroup);

	bpf_attr attr{};
	attr.target_fd = static_cast<uint32_t>(cgroup);
	attr.attach_bpf_fd = static_cast<uint32_t>(program.get());
	attr.attach_type = BPF_CGROUP_DEVICE;
	attr.attach_flags = BPF_F_ALLOW_MULTI;
	if (!older.empty()) {
		attr.attach_flags |= BPF_F_REPLACE;
		attr.replace_bpf_fd = static_cast<uint32_t>(older.front().get());
	}
	if (bpf(BPF_PROG_ATTACH, attr) < 0)
		throw nativeError(env, errno, "bpf(BPF_PROG_ATTACH)");

	/* More than one of ours is left by a crash of a version that could not replace. */
	for (size_t i = 1; i < older.size(); i++) {
		bpf_attr detach{};
		detach.target_fd = static_cast<uint32_t>(cgroup);
		detach.attach_bpf_fd = static_cast<uint32_t>(older[i].get());
		detach.attach_type = BPF_CGROUP_DEVICE;
		if (bpf(BPF_PROG_DETACH, detach) < 0)
			throw nativeError(env, errno, "bpf(BPF_PROG_DETACH)");
	}
}

} // namespace caisson
