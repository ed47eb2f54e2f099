// The inner step of a packed product: one line of weights (see packed.h) against the inputs of some rows.
//
// What the rows hold is up to the level: bfloat16 or int8 where the processor multiplies pairs or fours of them in
// one step (AVX-512 with BF16 and VNNI), float32 or int16 elsewhere. Included inside a level's namespace.

// Intrinsics by the width of the level's registers.
#if INTERNVL_WIDTH == 16
#define INTERNVL_INTEGER(name) _mm512_##name
#define INTERNVL_BITS(name) _mm512_##name##_si512
typedef __m512i Integers;
#elif INTERNVL_WIDTH == 8
#define INTERNVL_INTEGER(name) _mm256_##name
#define INTERNVL_BITS(name) _mm256_##name##_si256
typedef __m256i Integers;
#endif

INTERNVL_INLINE int32_t word_at(const char* from) {
  int32_t word;
  __builtin_memcpy(&word, from, sizeof(word));
  return word;
}

INTERNVL_INLINE float float_at(const char* from) {
  float number;
  __builtin_memcpy(&number, from, sizeof(number));
  return number;
}

// sum + (four unsigned bytes of each word of weights) . (four numbers of a row).
#ifdef INTERNVL_DOTS
INTERNVL_INLINE IntPart add_fours(IntPart sum, IntPart bytes, const char* row) {
  return reinterpret_cast<IntPart>(_mm512_dpbusd_epi32(reinterpret_cast<Integers>(sum),
                                                       reinterpret_cast<Integers>(bytes),
                                                       _mm512_set1_epi32(word_at(row))));
}
#elif defined(INTERNVL_INTEGER)
INTERNVL_INLINE IntPart add_pairs(IntPart sum, IntPart halves, const char* row) {
  return sum + reinterpret_cast<IntPart>(INTERNVL_INTEGER(madd_epi16)(
                   reinterpret_cast<Integers>(halves), INTERNVL_INTEGER(set1_epi32)(word_at(row))));
}
#endif

struct Bfloat16 {
  static constexpr bool kScaled = false;
  static constexpr int kInputs = 2;  // of a line
#ifdef INTERNVL_DOTS
  static constexpr int kRowBytes = 4;  // of a row, for these inputs
#else
  static constexpr int kRowBytes = 8;
#endif

  template <int kRows, int kVecs>
  struct Sums {
    Vec of[kRows][kVecs];

    INTERNVL_INLINE void clear() {
      for (int r = 0; r < kRows; ++r)
        for (int v = 0; v < kVecs; ++v) of[r][v] = zero();
    }

    INTERNVL_INLINE void add(const char* line, const char* rows, int64_t stride) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) {
        const IntVec words = load_words(line + v * 64);
#ifdef INTERNVL_DOTS
#pragma GCC unroll 6
        for (int r = 0; r < kRows; ++r)
          of[r][v].part[0] = reinterpret_cast<FloatPart>(
              _mm512_dpbf16_ps(reinterpret_cast<__m512>(of[r][v].part[0]),
                               reinterpret_cast<__m512bh>(_mm512_set1_epi32(word_at(rows + r * stride))),
                               reinterpret_cast<__m512bh>(words.part[0])));
#else
        const Vec even = as_float(words << 16), odd = as_float(words & ~0xffff);
#pragma GCC unroll 6
        for (int r = 0; r < kRows; ++r) of[r][v] = add_product(of[r][v], float_at(rows + r * stride), even);
#pragma GCC unroll 6
        for (int r = 0; r < kRows; ++r) of[r][v] = add_product(of[r][v], float_at(rows + r * stride + 4), odd);
#endif
      }
    }

    INTERNVL_INLINE void settle() {}
    INTERNVL_INLINE Vec total(int r, int v) const { return of[r][v]; }
  };
};

struct Unsigned8 {
  static constexpr bool kScaled = true;
  static constexpr int kInputs = 4;
#ifdef INTERNVL_DOTS
  static constexpr int kRowBytes = 4;
#else
  static constexpr int kRowBytes = 8;
#endif

  template <int kRows, int kVecs>
  struct Sums {
    IntVec of[kRows][kVecs];

    INTERNVL_INLINE void clear() {
      for (int r = 0; r < kRows; ++r)
        for (int v = 0; v < kVecs; ++v) of[r][v] = IntVec{};
    }

    INTERNVL_INLINE void add(const char* line, const char* rows, int64_t stride) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) {
        const IntVec words = load_words(line + v * 64);
#pragma GCC unroll 2
        for (int p = 0; p < kParts; ++p) {
#ifdef INTERNVL_DOTS
#pragma GCC unroll 6
          for (int r = 0; r < kRows; ++r) of[r][v].part[p] = add_fours(of[r][v].part[p], words.part[p], rows + r * stride);
#elif defined(INTERNVL_INTEGER)
          const IntPart even = words.part[p] & 0x00ff00ff;
          const IntPart odd = reinterpret_cast<IntPart>(
              INTERNVL_INTEGER(srli_epi16)(reinterpret_cast<Integers>(words.part[p]), 8));
#pragma GCC unroll 6
          for (int r = 0; r < kRows; ++r) of[r][v].part[p] = add_pairs(of[r][v].part[p], even, rows + r * stride);
#pragma GCC unroll 6
          for (int r = 0; r < kRows; ++r) of[r][v].part[p] = add_pairs(of[r][v].part[p], odd, rows + r * stride + 4);
#else
          for (int r = 0; r < kRows; ++r)
            for (int i = 0; i < 4; ++i) {  // the row holds inputs 0, 2, 1, 3
              int16_t number;
              __builtin_memcpy(&number, rows + r * stride + (i % 2 * 2 + i / 2) * 2, sizeof(number));
              of[r][v].part[p] += (words.part[p] >> 8 * i & 0xff) * number;
            }
#endif
        }
      }
    }

    INTERNVL_INLINE void settle() {}
    INTERNVL_INLINE Vec total(int r, int v) const { return to_float(of[r][v]); }
  };
};

struct Unsigned4 {
  static constexpr bool kScaled = true;
  static constexpr int kInputs = 8;
  static constexpr int kRowBytes = 8;

  template <int kRows, int kVecs>
  struct Sums {
    IntVec of[kRows][kVecs];
    IntVec small[kRows][kVecs];  // int16, where the level has no wider step: 8 products of 15 * 127 * 2 at most

    INTERNVL_INLINE void clear() {
      for (int r = 0; r < kRows; ++r)
        for (int v = 0; v < kVecs; ++v) of[r][v] = small[r][v] = IntVec{};
    }

    INTERNVL_INLINE void add(const char* line, const char* rows, int64_t stride) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) {
        const IntVec words = load_words(line + v * 64);
#pragma GCC unroll 2
        for (int p = 0; p < kParts; ++p) {
          const IntPart low = words.part[p] & 0x0f0f0f0f, high = words.part[p] >> 4 & 0x0f0f0f0f;
#pragma GCC unroll 6
          for (int r = 0; r < kRows; ++r) {
            add_bytes(r, v, p, low, rows + r * stride);
            add_bytes(r, v, p, high, rows + r * stride + 4);
          }
        }
      }
    }

    INTERNVL_INLINE void add_bytes(int r, int v, int p, IntPart bytes, const char* row) {
#ifdef INTERNVL_DOTS
      of[r][v].part[p] = add_fours(of[r][v].part[p], bytes, row);
#elif defined(INTERNVL_INTEGER)
      const Integers products = INTERNVL_INTEGER(maddubs_epi16)(reinterpret_cast<Integers>(bytes),
                                                                INTERNVL_INTEGER(set1_epi32)(word_at(row)));
      small[r][v].part[p] = reinterpret_cast<IntPart>(
          INTERNVL_INTEGER(add_epi16)(reinterpret_cast<Integers>(small[r][v].part[p]), products));
#else
      for (int i = 0; i < 4; ++i) of[r][v].part[p] += (bytes >> 8 * i & 0xff) * static_cast<int8_t>(row[i]);
#endif
    }

    // After at most four lines.
    INTERNVL_INLINE void settle() {
#if defined(INTERNVL_INTEGER) && !defined(INTERNVL_DOTS)
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; ++v)
#pragma GCC unroll 2
          for (int p = 0; p < kParts; ++p) {
            of[r][v].part[p] += reinterpret_cast<IntPart>(INTERNVL_INTEGER(madd_epi16)(
                reinterpret_cast<Integers>(small[r][v].part[p]), INTERNVL_INTEGER(set1_epi16)(1)));
            small[r][v].part[p] = IntPart{};
          }
#endif
    }

    INTERNVL_INLINE Vec total(int r, int v) const { return to_float(of[r][v]); }
  };
};
