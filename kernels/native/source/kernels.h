// The kernels as the operators call them: plain structs in, no Paddle, one table of functions for each instruction
// set (see levels.h).
#pragma once

#include <cstdint>

namespace internvl {

// How keys and values are stored; the numbers are those of `NativePool` in Python.
enum class Stored : int64_t { kFloat32 = 0, kBfloat16 = 1, kInt8 = 2 };

// Largest head, in numbers: bounds the scratch on the stack.
constexpr int kMaxHeadSize = 256;

// One layer of one step. Rows are tokens; sequence i owns the rows starts[i] to starts[i + 1] - 1, which follow
// pasts[i] tokens that lie in the pool already.
struct PagedAttention {
  const float* qkv;  // [rows, (heads + 2 kv_heads) size]
  float* out;        // [rows, heads size]
  const float* cos;  // [rows, size / 2]
  const float* sin;
  char* pool;  // see pool.h
  const int32_t* starts;
  const int32_t* pasts;
  const int32_t* tables;  // [sequences, table_width]
  int64_t table_width;
  int heads;
  int kv_heads;
  int size;  // of a head
  int block_size;
  Stored stored;
};

// What each instruction set implements.
struct Kernels {
  const char* name;

  // Everything of one layer that belongs to `heads` key heads of one sequence; such pieces share no output.
  void (*paged_attention)(const PagedAttention& work, int sequence, int kv_head, int heads);

  // One row of `size` numbers; of the gate's, twice as many come in.
  void (*rms_norm)(const float* from, const float* weight, float eps, int64_t size, float* to);
  void (*swiglu)(const float* gate_up, int64_t size, float* to);
};

}  // namespace internvl
