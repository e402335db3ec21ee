#include <malloc.h>

#include "addon.h"

namespace caisson {

void trimMemory(const Napi::CallbackInfo&)
{
#ifdef __GLIBC__
	malloc_trim(0);
#endif
}

} // namespace caisson
