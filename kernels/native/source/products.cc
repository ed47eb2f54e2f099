// Packed matrices: the operator that multiplies by one, and the functions for Python that make one.
#include <algorithm>
#include <cstring>

#include "levels.h"
#include "paddle/phi/api/ext/op_meta_info.h"
#include "paddle/phi/api/include/api.h"
#include "parallel.h"

namespace internvl {
namespace {

using paddle::Tensor;

constexpr int64_t kPanel = 64;

// Most rows at once: a tile of the vision tower in two passes, with sums that stay in the second-level cache.
constexpr int64_t kMostRows = 528;

// Floats of scratch.
constexpr int64_t kSumsOfThread = kMostRows * kPanel + kOpenedFloats;

// Pieces that a thread takes of a product, one after the other: few, because each is read in one run.
constexpr int64_t kPiecesOfThread = 4;

int64_t panels_of(int64_t outputs) { return (outputs + kPanel - 1) / kPanel; }

Tensor scratch(int64_t bytes) { return paddle::experimental::empty({bytes}, paddle::DataType::UINT8); }

// Up to `kMostRows` rows.
void multiply(const Product& work, int threads, float* sums, float* rooms) {
  const Kernels& level = kernels();
  const int64_t count = panels_of(work.outputs);
  const int64_t pieces = std::min(count, threads * kPiecesOfThread);
  for_each_piece(work.rows, work.rows == 1 ? 1 : threads, [&](int64_t row) {
    level.prepare_row(work, row, rooms + omp_get_thread_num() * work.inputs);
  });
  for_each_piece(pieces, threads, [&](int64_t piece) {
    float* own = sums + omp_get_thread_num() * kSumsOfThread;
    level.product(work, count * piece / pieces, count * (piece + 1) / pieces, own);
  });
}

const float* numbers_or_null(const Tensor& tensor) { return tensor.numel() ? tensor.data<float>() : nullptr; }

// (before(x) W^T + bias) * scale + residual, without what is empty.
std::vector<Tensor> linear(const Tensor& x, const Tensor& weights, const Tensor& bias, const Tensor& norm,
                           const Tensor& norm_bias, const Tensor& scale, const Tensor& residual, int64_t outputs,
                           int64_t group, int64_t packing, int64_t before, double eps) {
  std::vector<int64_t> shape = x.shape();
  Product work;
  work.before = static_cast<Before>(before);
  const int64_t width = shape.back(), rows = x.numel() / width;
  const int64_t inputs = work.before == Before::kSwiglu ? width / 2 : width;
  shape.back() = outputs;
  Tensor out = paddle::experimental::empty(shape);
  work.packing = static_cast<Packing>(packing);
  work.weights = reinterpret_cast<const char*>(weights.data<uint8_t>());
  work.outputs = outputs;
  work.inputs = inputs;
  work.group = group;
  work.groups = (inputs + group - 1) / group;
  work.bias = numbers_or_null(bias);
  work.norm = numbers_or_null(norm);
  work.norm_bias = numbers_or_null(norm_bias);
  work.scale = numbers_or_null(scale);
  work.eps = static_cast<float>(eps);
  // A line apart, or all rows would compete for the same places of the first-level cache.
  work.row_bytes = work.groups * group / 8 * kernels().row_bytes(work.packing) + 64;
  const int threads = threads_for(rows * inputs * outputs);
  const int64_t passes = (rows + kMostRows - 1) / kMostRows, at_once = (rows + passes - 1) / passes;
  Tensor numbers = scratch(at_once * work.row_bytes), factors = scratch(at_once * work.groups * 2 * sizeof(float));
  Tensor sums = scratch(threads * kSumsOfThread * sizeof(float) + 64);
  Tensor rooms = scratch(work.before == Before::kNothing ? 0 : threads * inputs * sizeof(float));
  work.numbers = reinterpret_cast<char*>(numbers.data<uint8_t>());
  work.factors = reinterpret_cast<float*>(factors.data<uint8_t>());
  for (int64_t first = 0; first < rows; first += at_once) {
    work.rows = std::min(at_once, rows - first);
    work.x = x.data<float>() + first * width;
    work.out = out.data<float>() + first * outputs;
    work.residual = residual.numel() ? residual.data<float>() + first * outputs : nullptr;
    multiply(work, threads, reinterpret_cast<float*>(sums.data<uint8_t>()),
             reinterpret_cast<float*>(rooms.data<uint8_t>()));
  }
  return {out};
}

}  // namespace
}  // namespace internvl

PD_BUILD_OP(internvl_linear)
    .Inputs({"X", "Weights", "Bias", "Norm", "NormBias", "Scale", "Residual"})
    .Outputs({"Out"})
    .Attrs({"outputs: int64_t", "group: int64_t", "packing: int64_t", "before: int64_t", "eps: double"})
    .SetKernelFn(PD_KERNEL(internvl::linear));

namespace {

void pack(const internvl::Packer& packer) {
  const auto pack_panel = internvl::kernels().pack_panel;
  internvl::for_each_piece(internvl::panels_of(packer.outputs), internvl::threads_for(packer.outputs * packer.inputs),
                           [&](int64_t panel) { pack_panel(packer, panel); });
}

}  // namespace

// Packs [outputs, inputs] into `to`, which has room for all its panels.
extern "C" void internvl_pack(const void* from, bool from_bfloat16, int64_t outputs, int64_t inputs, int64_t group,
                              int64_t packing, char* to) {
  pack({static_cast<internvl::Packing>(packing), from, from_bfloat16, nullptr, nullptr, outputs, inputs, group, to});
}

// The same for a matrix whose codes and factors were chosen before.
extern "C" void internvl_pack_codes(const uint8_t* codes, const uint32_t* factors, int64_t outputs, int64_t inputs,
                                    int64_t group, int64_t packing, char* to) {
  pack({static_cast<internvl::Packing>(packing), nullptr, false, codes, factors, outputs, inputs, group, to});
}
