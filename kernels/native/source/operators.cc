// The Paddle operators: they take tensors apart, share the work among threads and call the kernels.
//
// Only the headers an operator needs: paddle/extension.h would bring Python's, which a machine may lack, and
// triple the time to compile.
#include <algorithm>
#include <cstring>

#include "levels.h"
#include "paddle/phi/api/ext/op_meta_info.h"
#include "paddle/phi/api/include/api.h"
#include "parallel.h"

namespace internvl {
namespace {

using paddle::Tensor;
using Tensors = std::vector<Tensor>;

// Multiply-adds that a power of two costs, about.
constexpr int64_t kWorkOfPower = 16;

// What one of attention costs, in those of a product: a key is read for a single one, two bytes of it or more.
constexpr int64_t kWorkOfKey = 4;

// Pieces of a prompt's heads for each thread.
constexpr int64_t kPiecesOfPrompt = 8;

// Tokens that all rows of the step see together.
int64_t tokens_seen(const PagedAttention& work, int64_t sequences) {
  int64_t seen = 0;
  for (int64_t i = 0; i < sequences; ++i) {
    const int64_t rows = work.starts[i + 1] - work.starts[i];
    seen += rows * (work.pasts[i] + (rows + 1) / 2);
  }
  return seen;
}

// The pool is written in place and deliberately no output: an in-place output costs 3 us a call, and nothing
// orders operators by it, since all run on one thread.
Tensors paged_attention(const Tensor& qkv, const Tensor& pool, const Tensor& starts, const Tensor& pasts,
                        const Tensor& tables, const Tensor& cos, const Tensor& sin, int64_t heads, int64_t kv_heads,
                        int64_t size, int64_t block_size, int64_t stored) {
  const int64_t rows = qkv.shape()[0], width = heads * size, sequences = pasts.shape()[0];
  Tensor out = paddle::experimental::empty({rows, width});
  PagedAttention work;
  work.qkv = qkv.data<float>();
  work.out = out.data<float>();
  work.cos = cos.data<float>();
  work.sin = sin.data<float>();
  work.pool = reinterpret_cast<char*>(const_cast<uint8_t*>(pool.data<uint8_t>()));
  work.starts = starts.data<int32_t>();
  work.pasts = pasts.data<int32_t>();
  work.tables = tables.data<int32_t>();
  work.table_width = tables.shape()[1];
  work.heads = static_cast<int>(heads);
  work.kv_heads = static_cast<int>(kv_heads);
  work.size = static_cast<int>(size);
  work.block_size = static_cast<int>(block_size);
  work.stored = static_cast<Stored>(stored);

  const int threads = threads_for(2 * width * tokens_seen(work, sequences) * kWorkOfKey);
  // New tokens alone are read in long runs, a thread's heads in one; those of prompts balance the threads, if there
  // are several: 2,000 tokens read head by head took one thread twice as long.
  const int64_t pieces = rows == sequences || threads == 1 ? threads : threads * kPiecesOfPrompt;
  const int64_t at_once = (kv_heads + pieces - 1) / pieces, parts = (kv_heads + at_once - 1) / at_once;
  const auto attend = kernels().paged_attention;
  for_each_piece(sequences * parts, threads, [&](int64_t piece) {
    const int64_t head = piece % parts * at_once;
    attend(work, static_cast<int>(piece / parts), static_cast<int>(head),
           static_cast<int>(std::min(at_once, kv_heads - head)));
  });
  const int64_t live = work.starts[sequences];  // what follows is padding
  std::memset(work.out + live * width, 0, (rows - live) * width * sizeof(float));
  return {out};
}

Tensors full_attention(const Tensor& qkv, int64_t heads) {
  const std::vector<int64_t> shape = qkv.shape();  // [tiles, tokens, 3 heads size]
  const int64_t width = shape[2] / 3;
  Tensor out = paddle::experimental::empty({shape[0], shape[1], width});
  FullAttention work;
  work.queries = qkv.data<float>();
  work.keys = work.queries + width;
  work.values = work.keys + width;
  work.stride = shape[2];
  work.out = out.data<float>();
  work.tokens = shape[1];
  work.heads = heads;
  work.size = static_cast<int>(width / heads);
  const int threads = threads_for(2 * out.numel() * work.tokens);
  const int64_t room = kernels().full_attention_room(work);
  Tensor rooms = paddle::experimental::empty({threads * room}, paddle::DataType::FLOAT32);
  float* scratch = rooms.data<float>();
  for_each_piece(shape[0] * work.heads, threads, [&](int64_t piece) {
    kernels().full_attention(work, piece / work.heads, piece % work.heads, scratch + omp_get_thread_num() * room);
  });
  return {out};
}

Tensors rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  const int64_t size = weight.numel(), rows = x.numel() / size;
  Tensor out = paddle::experimental::empty(x.shape());
  const float *from = x.data<float>(), *weights = weight.data<float>();
  float* to = out.data<float>();
  for_each_piece(rows, threads_for(rows * size), [&](int64_t row) {
    kernels().rms_norm(from + row * size, weights, static_cast<float>(eps), size, to + row * size);
  });
  return {out};
}

Tensors swiglu(const Tensor& gate_up) {
  std::vector<int64_t> shape = gate_up.shape();
  const int64_t size = shape.back() /= 2, rows = gate_up.numel() / (2 * size);
  Tensor out = paddle::experimental::empty(shape);
  const float* from = gate_up.data<float>();
  float* to = out.data<float>();
  for_each_piece(rows, threads_for(rows * size * kWorkOfPower), [&](int64_t row) {
    kernels().swiglu(from + row * 2 * size, size, to + row * size);
  });
  return {out};
}

Tensors layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  const int64_t size = weight.numel(), rows = x.numel() / size;
  Tensor out = paddle::experimental::empty(x.shape());
  const float *from = x.data<float>(), *weights = weight.data<float>(), *biases = bias.data<float>();
  float* to = out.data<float>();
  for_each_piece(rows, threads_for(rows * size * 2), [&](int64_t row) {
    kernels().layer_norm(from + row * size, weights, biases, static_cast<float>(eps), size, to + row * size);
  });
  return {out};
}

Tensors gelu(const Tensor& x) {
  const int64_t size = x.shape().back(), rows = x.numel() / size;
  Tensor out = paddle::experimental::empty(x.shape());
  const float* from = x.data<float>();
  float* to = out.data<float>();
  for_each_piece(rows, threads_for(rows * size * kWorkOfPower), [&](int64_t row) {
    kernels().gelu(from + row * size, size, to + row * size);
  });
  return {out};
}

}  // namespace
}  // namespace internvl

PD_BUILD_OP(internvl_full_attention)
    .Inputs({"Qkv"})
    .Outputs({"Out"})
    .Attrs({"heads: int64_t"})
    .SetKernelFn(PD_KERNEL(internvl::full_attention));

PD_BUILD_OP(internvl_layer_norm)
    .Inputs({"X", "Weight", "Bias"})
    .Outputs({"Out"})
    .Attrs({"eps: double"})
    .SetKernelFn(PD_KERNEL(internvl::layer_norm));

PD_BUILD_OP(internvl_gelu).Inputs({"X"}).Outputs({"Out"}).SetKernelFn(PD_KERNEL(internvl::gelu));

PD_BUILD_OP(internvl_rms_norm)
    .Inputs({"X", "Weight"})
    .Outputs({"Out"})
    .Attrs({"eps: double"})
    .SetKernelFn(PD_KERNEL(internvl::rms_norm));

PD_BUILD_OP(internvl_swiglu).Inputs({"GateUp"}).Outputs({"Out"}).SetKernelFn(PD_KERNEL(internvl::swiglu));

PD_BUILD_OP(internvl_paged_attention)
    .Inputs({"Qkv", "Pool", "Starts", "Pasts", "Tables", "Cos", "Sin"})
    .Outputs({"Out"})
    .Attrs({"heads: int64_t", "kv_heads: int64_t", "size: int64_t", "block_size: int64_t", "stored: int64_t"})
    .SetKernelFn(PD_KERNEL(internvl::paged_attention));
