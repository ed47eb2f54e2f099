// Cooper Lake, Sapphire Rapids, Zen 4 and later: products of pairs of bfloat16 and of fours of int8 in one step. All
// else is that of avx512.
#include <immintrin.h>

#include "levels.h"

#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,prefer-vector-width=512")

#define INTERNVL_WIDTH 16
#define INTERNVL_DOTS

namespace internvl::avx512_bf16 {
namespace {

constexpr int kWidth = INTERNVL_WIDTH;

#include "vector.h"
#include "pool.h"
#include "rows.h"
#include "packed.h"
#include "dots.h"
#include "product.h"
#include "limits.h"

}  // namespace

void take_products(Kernels& level) {
  level.row_bytes = row_bytes;
  level.prepare_row = prepare_row;
  level.product = product;
  level.multiply_adds = multiply_adds;
}

}  // namespace internvl::avx512_bf16
