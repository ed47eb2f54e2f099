// Products of a packed matrix: y = (x W^T + b) * scale + residual.
//
// Up to six rows at a time go through a block of weights, their sums in registers, and add to the sums of the groups
// before. So weights come from memory once for all rows, and every row is computed in the same steps alone or among
// others: results never depend on the batch, to the last bit.
//
// One row is bound by memory, and many by multiply-adds; docs/kernels.md has the measurements.
// Included inside a level's namespace.

constexpr int kMostRows = 6;

// Rows that take longer to multiply codes of 7 bits than to open them and multiply bytes.
constexpr int64_t kWorthOpening = 2 * kMostRows + 1;

// How far ahead of its turn a line is asked for, in bytes, where whole lines are taken one after the other. Where a
// block is gone through more than once, the first time is the turn to ask for the next one.
constexpr int64_t kAhead = 1024;

// 64-byte parts of a line whose sums fit the registers beside those of so many rows.
constexpr int vecs_for(int rows) { return kParts == 1 || rows == 1 ? 4 : rows <= 3 ? 2 : 1; }

// Of rows that go through a block in so many tiles, those of the next one. Five and three rather than twice four: eight
// sums in 16 registers wait for one another.
constexpr int64_t rows_of_tile(int64_t rows, int64_t tiles) {
  const int64_t even = rows / tiles;
  return even == 4 && tiles > 1 ? 5 : even;
}

// One block against `kRows` rows.
template <class Weights, int kRows>
__attribute__((noinline)) void add_block(const Product& work, const char* block, const char* numbers,
                                         const float* factors, bool first, float* sums) {
  constexpr int kVecs = vecs_for(kRows);
  const int64_t times = work.group / Weights::kInputs;
  const int64_t ahead = kVecs == 4 ? kAhead : block_bytes(work.packing, work.group);
  for (int begin = 0; begin < 4; begin += kVecs) {
    typename Weights::template Sums<kRows, kVecs> total;
    total.clear();
    const char* line = block + (Weights::kScaled ? kLineBytes : 0) + begin * Weights::kLines * 64;
    const char* row = numbers;
    for (int64_t i = 0; i < times; i += Weights::kSettled) {
#pragma GCC unroll 4
      for (int j = 0; j < Weights::kSettled; ++j, line += Weights::kLines * kLineBytes, row += Weights::kRowBytes)
        total.add(line, row, work.row_bytes, ahead);
      total.settle();
    }
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) {
        float* to = sums + r * kPanel + (begin + v) * kLanes;
        const Vec before = first ? zero() : load(to);
        Vec sum = total.total(r, v);
        if (Weights::kScaled) {
          const IntVec pair = load_words(block + (begin + v) * 64);
          const float* of_row = factors + r * work.groups * 2;
          sum = add_product(before, sum * of_row[0], as_float(pair & ~0xffff));
          sum = add_product(sum, of_row[1], as_float(pair << 16));
        } else {
          sum = before + sum;
        }
        store(to, sum);
      }
  }
}

template <class Weights>
void add_group(const Product& work, const char* block, int64_t group, float* sums) {
  const int64_t tiles = (work.rows + kMostRows - 1) / kMostRows;
  int64_t row = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t rows = rows_of_tile(work.rows - row, tiles - tile);
    const char* numbers = work.numbers + row * work.row_bytes + group * work.group / Weights::kInputs * Weights::kRowBytes;
    const float* factors = work.factors + (row * work.groups + group) * 2;
    float* to = sums + row * kPanel;
    switch (rows) {
      case 1: add_block<Weights, 1>(work, block, numbers, factors, group == 0, to); break;
      case 2: add_block<Weights, 2>(work, block, numbers, factors, group == 0, to); break;
      case 3: add_block<Weights, 3>(work, block, numbers, factors, group == 0, to); break;
      case 4: add_block<Weights, 4>(work, block, numbers, factors, group == 0, to); break;
      case 5: add_block<Weights, 5>(work, block, numbers, factors, group == 0, to); break;
      default: add_block<Weights, 6>(work, block, numbers, factors, group == 0, to); break;
    }
    row += rows;
  }
}

inline void write_panel(const Product& work, int64_t panel, const float* sums) {
  const int64_t first = panel * kPanel;
  const int width = static_cast<int>(work.outputs - first < kPanel ? work.outputs - first : kPanel);
  for (int64_t row = 0; row < work.rows; ++row) {
    const int64_t at = row * work.outputs + first;
    float numbers[kPanel];
    __builtin_memcpy(numbers, sums + row * kPanel, sizeof(numbers));
    if (work.bias)
      for (int i = 0; i < width; ++i) numbers[i] += work.bias[first + i];
    if (work.scale)
      for (int i = 0; i < width; ++i) numbers[i] *= work.scale[first + i];
    if (work.residual)
      for (int i = 0; i < width; ++i) numbers[i] += work.residual[at + i];
    __builtin_memcpy(work.out + at, numbers, width * sizeof(float));
  }
}

template <class Weights>
void panels(const Product& work, int64_t first, int64_t last, float* sums) {
  const int64_t bytes = block_bytes(work.packing, work.group);
  for (int64_t panel = first; panel < last; ++panel) {
    for (int64_t group = 0; group < work.groups; ++group)
      add_group<Weights>(work, work.weights + (panel * work.groups + group) * bytes, group, sums);
    write_panel(work, panel, sums);
  }
}

// Seven lines as eight, a code to a byte.
inline void open_lines(const char* from, char* to) {
  for (int v = 0; v < 4; ++v)
    for (int p = 0; p < kParts; ++p) {
      Eighth eighth = {};
      char* place = to + v * 64 + p * sizeof(Bits);
#pragma GCC unroll 7
      for (int line = 0; line < kSevenLines; ++line) {
        const Bits words = eighth.take(bits_at(from + (v * kSevenLines + line) * 64 + p * sizeof(Bits)));
        __builtin_memcpy(place + line * kLineBytes, &words, sizeof(words));
      }
      const Bits last = eighth.line();
      __builtin_memcpy(place + kSevenLines * kLineBytes, &last, sizeof(last));
    }
}

inline void open_block(int64_t group, const char* block, char* to) {
  __builtin_memcpy(to, block, kLineBytes);  // the factors
  block += kLineBytes;
  to += kLineBytes;
  for (int64_t i = 0; i < group; i += kSevenInputs, block += kSevenLines * kLineBytes, to += (kSevenLines + 1) * kLineBytes)
    open_lines(block, to);
}

// Codes of 7 bits against so many rows that it pays to open a block first.
void opened_panels(const Product& work, int64_t first, int64_t last, float* sums) {
  const int64_t bytes = block_bytes(work.packing, work.group);
  char* opened = reinterpret_cast<char*>(sums + work.rows * kPanel);
  for (int64_t panel = first; panel < last; ++panel) {
    for (int64_t group = 0; group < work.groups; ++group) {
      open_block(work.group, work.weights + (panel * work.groups + group) * bytes, opened);
      add_group<Unsigned8>(work, opened, group, sums);
    }
    write_panel(work, panel, sums);
  }
}

void product(const Product& work, int64_t first, int64_t last, float* sums) {
  switch (work.packing) {
    case Packing::kBfloat16: return panels<Bfloat16>(work, first, last, sums);
    case Packing::kInt7:
      return work.rows < kWorthOpening ? panels<Unsigned7>(work, first, last, sums)
                                       : opened_panels(work, first, last, sums);
    case Packing::kInt4: return panels<Unsigned4>(work, first, last, sums);
  }
}

int64_t row_bytes(Packing packing) {
  switch (packing) {
    case Packing::kBfloat16: return Bfloat16::kRowBytes * 8 / Bfloat16::kInputs;
    case Packing::kInt7: return Unsigned7::kRowBytes * 8 / Unsigned7::kInputs;
    case Packing::kInt4: return Unsigned4::kRowBytes * 8 / Unsigned4::kInputs;
  }
  __builtin_unreachable();
}

inline void prepare_floats(const float* from, int64_t count, int64_t filled, char* to) {
#ifdef INTERNVL_DOTS
  uint16_t* numbers = reinterpret_cast<uint16_t*>(to);
  for (int64_t i = 0; i < count; ++i) numbers[i] = to_bfloat16(from[i]);
  for (int64_t i = count; i < filled; ++i) numbers[i] = 0;
#else
  float* numbers = reinterpret_cast<float*>(to);
  __builtin_memcpy(numbers, from, count * sizeof(float));
  for (int64_t i = count; i < filled; ++i) numbers[i] = 0;
#endif
}

inline float greatest_magnitude(const float* from, int64_t count) {
  Vec greatest = zero();
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Vec numbers = load(from + i);
    greatest = larger(larger(numbers, zero() - numbers), greatest);
  }
  float largest = maximum(greatest);
  for (; i < count; ++i) largest = __builtin_fabsf(from[i]) > largest ? __builtin_fabsf(from[i]) : largest;
  return largest;
}

// To whole numbers up to 127 with one factor, and their sum, which the low of the weights is multiplied by.
inline void prepare_group(const float* from, int64_t count, int64_t filled, char* to, float* factors) {
  int8_t* codes = reinterpret_cast<int8_t*>(to);
  const float largest = greatest_magnitude(from, count);
  const float scale = largest / 127, inverse = largest > 0 ? 127 / largest : 0;
  int32_t sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float code = from[i] * inverse;
    codes[i] = static_cast<int8_t>(static_cast<int32_t>(code + (code < 0 ? -0.5f : 0.5f)));
  }
  for (int64_t i = count; i < filled; ++i) codes[i] = 0;
  for (int64_t i = 0; i < count; ++i) sum += codes[i];
  factors[0] = scale;
  factors[1] = scale * static_cast<float>(sum);
}

// The row as it is multiplied, in `room` if it is not so already.
inline const float* entering(const Product& work, int64_t row, float* room) {
  const int64_t size = work.inputs;
  const float* from = work.x + row * size;
  switch (work.before) {
    case Before::kNothing: return from;
    case Before::kRmsNorm: rms_norm(from, work.norm, work.eps, size, room); return room;
    case Before::kLayerNorm: layer_norm(from, work.norm, work.norm_bias, work.eps, size, room); return room;
    case Before::kGelu: gelu(from, size, room); return room;
    case Before::kSwiglu: swiglu(work.x + row * 2 * size, size, room); return room;
  }
  __builtin_unreachable();
}

void prepare_row(const Product& work, int64_t row, float* room) {
  const float* from = entering(work, row, room);
  char* to = work.numbers + row * work.row_bytes;
  if (!is_scaled(work.packing)) return prepare_floats(from, work.inputs, work.groups * work.group, to);
  for (int64_t group = 0; group < work.groups; ++group) {
    const int64_t first = group * work.group;
    const int64_t count = work.inputs - first < work.group ? work.inputs - first : work.group;
    prepare_group(from + first, count, work.group, to + first * row_bytes(work.packing) / 8,
                  work.factors + (row * work.groups + group) * 2);
  }
}
