// The instruction sets the kernels are compiled for, and the choice among them.
#pragma once

#include <vector>

#include "kernels.h"

namespace internvl {

namespace baseline {
extern const Kernels kKernels;
}
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}
namespace avx512_bf16 {
void take_products(Kernels& level);
}

// What this processor runs, the best first.
std::vector<const Kernels*> usable_levels();

// The one in use: the best, unless `internvl_use_level` chose another.
const Kernels& kernels();

}  // namespace internvl

// For Python, through ctypes: the level in use, and a choice of another, which is refused with `false` if this
// processor lacks it.
extern "C" const char* internvl_level();
extern "C" bool internvl_use_level(const char* name);
