// Sharing independent pieces of work among the threads of Paddle's OpenMP pool (libiomp5).
#pragma once

#include <omp.h>

#include <atomic>
#include <cstdint>

namespace internvl {

// Below this many multiply-adds, waking a second thread costs more than it saves.
constexpr int64_t kWorthSharing = 4 << 20;

inline int threads_for(int64_t multiply_adds) { return multiply_adds < kWorthSharing ? 1 : omp_get_max_threads(); }

// Calls `piece(i)` once for every i below `count`. Pieces are handed out one by one, since they differ in size;
// which thread takes one changes nothing in its result.
template <class Piece>
void for_each_piece(int64_t count, int threads, const Piece& piece) {
  if (threads == 1 || count == 1) {
    for (int64_t i = 0; i < count; ++i) piece(i);
    return;
  }
  std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(threads)
  for (int64_t i = next++; i < count; i = next++) piece(i);
}

}  // namespace internvl
