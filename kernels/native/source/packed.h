// Where a weight lies in a packed matrix, and how it gets there.
//
// The outputs are cut into panels of 64 and the inputs into groups, both filled up with zeros at the end. A block is one
// group of one panel; blocks follow one another group by group, panel by panel, so that a thread reads its panels
// in one run. A block holds
//
//   factors  [64] words                 of each output: scale in the upper bfloat16, low in the lower; not of bfloat16
//   lines    [group / inputs, 64] words  of some inputs of each output: two bfloat16; or eight nibbles, of which the
//                                        lower ones of the four bytes come first; or four codes of 7 bits, a byte
//                                        each. Seven such lines hold an eighth one in their upper bits, bit j of its
//                                        codes in line j, and are cut into [4, 7, 16] words, so that 16 outputs are
//                                        read in one run
//
// and a quantised weight is low + scale * code.
// Included inside a level's namespace.

constexpr int kPanel = 64;
constexpr int kLineBytes = 4 * kPanel;

inline int64_t rounded_up(int64_t number, int64_t step) { return (number + step - 1) / step * step; }

inline bool is_scaled(Packing packing) { return packing != Packing::kBfloat16; }

// Lines that lie together, and the inputs they hold.
constexpr int kSevenLines = 7, kSevenInputs = 32;

inline int64_t lines_of(Packing packing, int64_t group) {
  switch (packing) {
    case Packing::kBfloat16: return group / 2;
    case Packing::kInt7: return group / kSevenInputs * kSevenLines;
    case Packing::kInt4: return group / 8;
  }
  __builtin_unreachable();
}

inline int64_t block_bytes(Packing packing, int64_t group) {
  return (lines_of(packing, group) + is_scaled(packing)) * kLineBytes;
}

inline float from_bfloat16(uint32_t bits) {
  bits <<= 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

// The inputs `first` to `first + group - 1` of one output; zero where the matrix has none.
inline void read_weights(const Packer& packer, int64_t output, int64_t first, float* to) {
  const int64_t count = packer.inputs - first < packer.group ? packer.inputs - first : packer.group;
  const int64_t at = output * packer.inputs + first;
  const bool exists = output < packer.outputs;
  for (int64_t i = exists ? count : 0; i < packer.group; ++i) to[i] = 0;
  if (!exists) return;
  if (packer.from_bfloat16) {
    const uint16_t* from = static_cast<const uint16_t*>(packer.from) + at;
    for (int64_t i = 0; i < count; ++i) to[i] = from_bfloat16(from[i]);
  } else {
    __builtin_memcpy(to, static_cast<const float*>(packer.from) + at, count * sizeof(float));
  }
}

// bfloat16 next to `value`, not below it (`up`) or not above it.
inline uint32_t bfloat16_beyond(float value, bool up) {
  uint32_t bits = to_bfloat16(value);
  const float rounded = from_bfloat16(bits);
  if (up ? rounded >= value : rounded <= value) return bits;
  return (value > 0) == up ? bits + 1 : bits - 1;
}

// Scale and low of a group, such that the codes 0 to `largest` reach from its least to its greatest weight.
inline uint32_t factors_of(const float* weights, int64_t count, float largest) {
  float least = weights[0], greatest = weights[0];
  for (int64_t i = 1; i < count; ++i) {
    least = weights[i] < least ? weights[i] : least;
    greatest = weights[i] > greatest ? weights[i] : greatest;
  }
  least += 0.0f;  // of two zeros the positive one, whichever came first
  if (greatest == least) return to_bfloat16(least);
  const uint32_t low = bfloat16_beyond(least, false);
  return bfloat16_beyond((greatest - from_bfloat16(low)) / largest, true) << 16 | low;
}

inline void encode(const float* weights, int64_t count, uint32_t factors, float largest, uint8_t* codes) {
  const float scale = from_bfloat16(factors >> 16), low = from_bfloat16(factors & 0xffff);
  const float inverse = scale > 0 ? 1 / scale : 0;
  // Rounded by itself, not by adding a half: that could be fused with the product, and codes differ with the processor.
  for (int64_t i = 0; i < count; ++i) {
    const float code = (weights[i] - low) * inverse;
    codes[i] = static_cast<uint8_t>(static_cast<int32_t>(__builtin_rintf(code < largest ? code : largest)));
  }
}

// Factors and codes of one group of one output, as they were chosen before; zero where the matrix has none.
inline uint32_t read_codes(const Packer& packer, int64_t output, int64_t index, uint8_t* codes) {
  const bool exists = output < packer.outputs;
  for (int64_t i = exists ? packer.group : 0; i < packer.group; ++i) codes[i] = 0;
  if (!exists) return 0;
  if (packer.packing == Packing::kInt7) {
    __builtin_memcpy(codes, packer.codes + index * packer.group, packer.group);
  } else {
    const uint8_t* pairs = packer.codes + index * packer.group / 2;
    for (int64_t i = 0; i < packer.group; ++i) codes[i] = pairs[i / 2] >> 4 * (i & 1) & 15;
  }
  return packer.factors[index];
}

inline uint32_t word_of(const uint8_t* codes) {
  uint32_t word;
  __builtin_memcpy(&word, codes, sizeof(word));
  return word;
}

// One group of one output, as codes.
inline void pack_codes(const Packer& packer, uint32_t factors, const uint8_t* codes, int lane, uint32_t* block) {
  block[lane] = factors;
  block += kPanel;
  if (packer.packing == Packing::kInt4) {
    for (int64_t i = 0; i < packer.group; i += 8, block += kPanel)
      block[lane] = word_of(codes + i) | word_of(codes + i + 4) << 4;
    return;
  }
  const int first = lane / kLanes * kSevenLines * kLanes + lane % kLanes;
  for (int64_t i = 0; i < packer.group; i += kSevenInputs, block += kSevenLines * kPanel) {
    const uint32_t eighth = word_of(codes + i + 4 * kSevenLines);
    for (int line = 0; line < kSevenLines; ++line)
      block[first + line * kLanes] = word_of(codes + i + 4 * line) | (eighth >> line & 0x01010101) << 7;
  }
}

constexpr int kWordsRead = 16;  // of an output at a time: one line of the cache

// `kWordsRead` words of bfloat16 of one output; zero where the matrix has none.
inline void read_words(const Packer& packer, int64_t output, int64_t first, uint32_t* words) {
  uint16_t bits[2 * kWordsRead] = {};
  const int64_t left = output < packer.outputs ? packer.inputs - first : 0, at = output * packer.inputs + first;
  const int count = left < 0 ? 0 : left < 2 * kWordsRead ? static_cast<int>(left) : 2 * kWordsRead;
  if (packer.from_bfloat16) {
    __builtin_memcpy(bits, static_cast<const uint16_t*>(packer.from) + at, count * sizeof(uint16_t));
  } else {
    const float* from = static_cast<const float*>(packer.from) + at;
    for (int i = 0; i < count; ++i) bits[i] = static_cast<uint16_t>(to_bfloat16(from[i]));
  }
  __builtin_memcpy(words, bits, sizeof(bits));
}

// A block of bfloat16, turned a few lines at a time: a whole output at once would write to as many lines of the cache
// as it has words, and each anew for every output (0.2 GB/s instead of 2).
void pack_bfloat16(const Packer& packer, int64_t first_output, int64_t first, uint32_t* block) {
  for (int64_t word = 0; word < packer.group / 2; word += kWordsRead) {
    for (int lane = 0; lane < kPanel; ++lane) {
      uint32_t words[kWordsRead];
      read_words(packer, first_output + lane, first + 2 * word, words);
      for (int i = 0; i < kWordsRead; ++i) block[(word + i) * kPanel + lane] = words[i];
    }
  }
}

void pack_panel(const Packer& packer, int64_t panel) {
  float weights[kMostInputs];
  uint8_t codes[kMostInputs];
  const int64_t groups = (packer.inputs + packer.group - 1) / packer.group;
  const float largest = packer.packing == Packing::kInt7 ? 127 : 15;
  for (int64_t group = 0; group < groups; ++group) {
    char* to = packer.to + (panel * groups + group) * block_bytes(packer.packing, packer.group);
    uint32_t* block = reinterpret_cast<uint32_t*>(to);
    if (packer.packing == Packing::kBfloat16) {
      pack_bfloat16(packer, panel * kPanel, group * packer.group, block);
      continue;
    }
    for (int lane = 0; lane < kPanel; ++lane) {
      const int64_t output = panel * kPanel + lane;
      uint32_t factors;
      if (packer.codes) {
        factors = read_codes(packer, output, output * groups + group, codes);
      } else {
        read_weights(packer, output, group * packer.group, weights);
        factors = factors_of(weights, packer.group, largest);
        encode(weights, packer.group, factors, largest, codes);
      }
      pack_codes(packer, factors, codes, lane, block);
    }
  }
}
