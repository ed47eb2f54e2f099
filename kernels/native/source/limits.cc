// What this processor does at most with all threads of the pool, for Python, through ctypes.
#include "levels.h"
#include "parallel.h"

namespace internvl {
namespace {

constexpr int64_t kPiece = 4 << 20;

}  // namespace
}  // namespace internvl

// Reads `bytes` bytes once, in pieces, as a product reads its weights.
extern "C" int64_t internvl_read_all(const char* from, int64_t bytes) {
  const auto read_all = internvl::kernels().read_all;
  std::atomic<int64_t> total{0};
  internvl::for_each_piece(bytes / internvl::kPiece, omp_get_max_threads(),
                           [&](int64_t piece) { total += read_all(from + piece * internvl::kPiece, internvl::kPiece); });
  return total;
}

// Multiply-adds between registers alone, as products of this packing do them; how many there were.
extern "C" int64_t internvl_multiply_adds(int64_t packing, int64_t rounds) {
  const auto multiply_adds = internvl::kernels().multiply_adds;
  std::atomic<int64_t> total{0};
  internvl::for_each_piece(omp_get_max_threads(), omp_get_max_threads(), [&](int64_t) {
    total += multiply_adds(static_cast<internvl::Packing>(packing), rounds);
  });
  return total;
}
