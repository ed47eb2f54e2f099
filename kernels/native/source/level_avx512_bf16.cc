// Cooper Lake, Sapphire Rapids, Zen 4 and later: products of pairs of bfloat16 and of fours of int8 in one step.
#include <immintrin.h>

#include "levels.h"

#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,prefer-vector-width=512")

#define INTERNVL_WIDTH 16
#define INTERNVL_DOTS
#define INTERNVL_LEVEL avx512_bf16
#include "level.inc"
