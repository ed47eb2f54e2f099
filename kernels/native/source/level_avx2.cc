// Haswell, Zen and later.
#include <immintrin.h>

#include "levels.h"

#pragma GCC target("avx2,fma,f16c")

#define INTERNVL_WIDTH 8
#define INTERNVL_LEVEL avx2
#include "level.inc"
