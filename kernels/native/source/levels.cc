#include "levels.h"

#include <cstring>

namespace internvl {
namespace {

const Kernels*& chosen() {
  static const Kernels* kernels = usable_levels().front();
  return kernels;
}

#ifdef __x86_64__
const Kernels& with_dots() {
  static const Kernels level = [] {
    Kernels level = avx512::kKernels;
    level.name = "avx512_bf16";
    avx512_bf16::take_products(level);
    return level;
  }();
  return level;
}
#endif

}  // namespace

std::vector<const Kernels*> usable_levels() {
  std::vector<const Kernels*> levels;
#ifdef __x86_64__
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool has_dots = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
  if (has_avx2 && has_avx512 && has_dots) levels.push_back(&with_dots());
  if (has_avx2 && has_avx512) levels.push_back(&avx512::kKernels);
  if (has_avx2) levels.push_back(&avx2::kKernels);
#endif
  levels.push_back(&baseline::kKernels);
  return levels;
}

const Kernels& kernels() { return *chosen(); }

}  // namespace internvl

const char* internvl_level() { return internvl::kernels().name; }

bool internvl_use_level(const char* name) {
  for (const internvl::Kernels* level : internvl::usable_levels())
    if (std::strcmp(name, level->name) == 0) {
      internvl::chosen() = level;
      return true;
    }
  return false;
}
