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

// Every token of a tile attends to all of them.
struct FullAttention {
  const float* queries;  // [tiles, tokens, heads, size], as are keys and values
  const float* keys;
  const float* values;
  int64_t stride;  // from one token's to the next one's
  float* out;      // [tiles, tokens, heads, size], without gaps
  int64_t tokens;
  int64_t heads;
  int size;  // of a head
};

// How weights are packed; the numbers are those of `WeightFormat` in Python. Codes stand for numbers as packed.h says.
enum class Packing : int64_t { kBfloat16 = 0, kInt7 = 1, kInt4 = 2 };

// Most inputs of a group: bounds the scratch on the stack.
constexpr int64_t kMostInputs = 1024;

// A block of 64 outputs and so many inputs, a byte each, and its factors.
constexpr int64_t kOpenedFloats = (kMostInputs / 4 + 1) * 64;

// A matrix [outputs, inputs] on its way into panels: as numbers, or as codes that were chosen before.
struct Packer {
  Packing packing;
  const void* from;         // float32, or the bits of bfloat16
  bool from_bfloat16;
  const uint8_t* codes;     // [outputs, groups, group], two to a byte if they have 4 bits; or null
  const uint32_t* factors;  // [outputs, groups]: scale in the upper bfloat16, low in the lower
  int64_t outputs;
  int64_t inputs;
  int64_t group;  // inputs that share a scale
  char* to;       // see packed.h
};

// What becomes of a row before it is multiplied; the numbers are those of `NativeOps` in Python.
enum class Before : int64_t { kNothing = 0, kRmsNorm = 1, kLayerNorm = 2, kGelu = 3, kSwiglu = 4 };

// Rows of activations times a packed matrix.
struct Product {
  Packing packing;
  const char* weights;
  int64_t outputs;
  int64_t inputs;
  int64_t group;
  int64_t groups;
  const float* x;  // [rows, inputs], or twice as many of a gate's
  int64_t rows;
  Before before;
  const float* norm;       // [inputs], or null
  const float* norm_bias;  // [inputs], or null
  float eps;
  const float* bias;      // [outputs], or null
  const float* scale;     // [outputs] that the sum is multiplied by, or null
  const float* residual;  // [rows, outputs] that is added last, or null
  float* out;             // [rows, outputs]
  char* numbers;      // scratch: the rows as the level multiplies them, `row_bytes` each
  int64_t row_bytes;
  float* factors;  // scratch [rows, groups, 2]: scale of a row's numbers in a group, and scale times their sum
};

// What each instruction set implements.
struct Kernels {
  const char* name;

  // Everything of one layer that belongs to `heads` key heads of one sequence; such pieces share no output.
  void (*paged_attention)(const PagedAttention& work, int sequence, int kv_head, int heads);

  // One head of one tile, with so many floats of scratch.
  int64_t (*full_attention_room)(const FullAttention& work);
  void (*full_attention)(const FullAttention& work, int64_t tile, int64_t head, float* room);

  // One row of `size` numbers; of the gate's, twice as many come in.
  void (*rms_norm)(const float* from, const float* weight, float eps, int64_t size, float* to);
  void (*swiglu)(const float* gate_up, int64_t size, float* to);
  void (*layer_norm)(const float* from, const float* weight, const float* bias, float eps, int64_t size, float* to);
  void (*gelu)(const float* from, int64_t size, float* to);

  // Packed matrices, a panel of 64 outputs at a time: scratch for eight inputs of a row, in bytes; one row into it,
  // which must be there before the product, with `inputs` floats of scratch; the product, with [rows, 64] for sums and kOpenedFloats behind them.
  void (*pack_panel)(const Packer& packer, int64_t panel);
  int64_t (*row_bytes)(Packing packing);
  void (*prepare_row)(const Product& work, int64_t row, float* room);
  void (*product)(const Product& work, int64_t first_panel, int64_t last_panel, float* sums);

  // What bounds all of the above, for benchmarks: reading memory, and the multiply-adds of a packing. Both return
  // something that depends on all they did.
  int64_t (*read_all)(const char* from, int64_t bytes);
  int64_t (*multiply_adds)(Packing packing, int64_t rounds);
};

}  // namespace internvl
