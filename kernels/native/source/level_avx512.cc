// Skylake-X, Zen 4 and later.
#include "levels.h"

#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")

#include <immintrin.h>

#define INTERNVL_WIDTH 16
#define INTERNVL_LEVEL avx512
#include "level.inc"
