#include "fallback.h"

#include <array>
#include <string>

#include "addon.h"
#include "values.h"

namespace caisson {
namespace {

constexpr std::array<const char*, 4> names{"openat2", "clone3", "close_range", "clone_into_cgroup"};
unsigned denied = 0;

} // namespace

bool isDenied(Newer call)
{
	return (denied & (1U << static_cast<unsigned>(call))) != 0;
}

/* Names that the addon does not use are left to the shim, which reads the same list. */
void denySyscalls(const Napi::CallbackInfo& info)
{
	denied = 0;
	for (const std::string& name : toTexts(info[0], "names must be strings")) {
		for (size_t i = 0; i < names.size(); i++) {
			if (name == names[i])
				denied |= 1U << i;
		}
	}
}

} // namespace caisson
