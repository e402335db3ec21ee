#pragma once

namespace caisson {

/** System calls that the addon can do without. */
enum class Newer { openat2, clone3, closeRange, cloneIntoCgroup };

/** Whether a test wants this one to be missing. */
bool isDenied(Newer call);

} // namespace caisson
