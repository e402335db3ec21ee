#pragma once

#include <linux/filter.h>

#include <cstdint>
#include <vector>

namespace caisson {

/** The largest system call number that a profile mentions for one architecture (SCMP_ARCH_* token). */
struct LastSyscall {
	uint32_t architecture;
	uint32_t number;
};

/**
 * Instructions that go in front of a filter: a system call newer than everything the profile knows answers ENOSYS, so that a libc
 * which tries a new call first falls back to the old one; the default action (EPERM) would make it give up.
 */
std::vector<sock_filter> enosysPrologue(const std::vector<LastSyscall>& known);

} // namespace caisson
