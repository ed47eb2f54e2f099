// The inner step of a packed product: one line of weights (see packed.h) against the inputs of some rows.
//
// What the rows hold is up to the level: bfloat16 or int8 where the processor multiplies pairs or fours of them in
// one step (AVX-512 with BF16 and VNNI), float32 or int8 elsewhere. Included inside a level's namespace.

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

typedef uint32_t Bits __attribute__((vector_size(kWidth * 4)));

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

// The sum itself, which the compiler must have now: it would rather collect products in memory and add them later.
INTERNVL_INLINE IntPart settled(IntPart sum) {
#ifdef INTERNVL_INTEGER
  asm("" : "+v"(sum));
#endif
  return sum;
}

#ifdef INTERNVL_INTEGER
// Sums of two products each, in 16 bits: unsigned bytes of weights, bytes of a row.
INTERNVL_INLINE Integers products_of(IntPart bytes, const char* row) {
  return INTERNVL_INTEGER(maddubs_epi16)(reinterpret_cast<Integers>(bytes), INTERNVL_INTEGER(set1_epi32)(word_at(row)));
}

INTERNVL_INLINE IntPart pairs_added(Integers halves) {
  return reinterpret_cast<IntPart>(INTERNVL_INTEGER(madd_epi16)(halves, INTERNVL_INTEGER(set1_epi16)(1)));
}
#endif

// sum + (four unsigned bytes of each word of weights) . (four numbers of a row). Where the processor adds two products
// in 16 bits first, they must fit: codes up to 127 times numbers up to 127 do.
INTERNVL_INLINE IntPart add_fours(IntPart sum, IntPart bytes, const char* row) {
#ifdef INTERNVL_DOTS
  return reinterpret_cast<IntPart>(_mm512_dpbusd_epi32(reinterpret_cast<Integers>(sum),
                                                       reinterpret_cast<Integers>(bytes),
                                                       _mm512_set1_epi32(word_at(row))));
#elif defined(INTERNVL_INTEGER)
  return settled(sum + pairs_added(products_of(bytes, row)));
#else
  for (int i = 0; i < 4; ++i) sum += (bytes >> 8 * i & 0xff) * static_cast<int8_t>(row[i]);
  return sum;
#endif
}

// The same place, of which the compiler does not know that: it reads there anew instead of keeping what it read, or where
// else it will read, for which six rows leave no register.
INTERNVL_INLINE const char* again(const char* place) {
  asm("" : "+r"(place));
  return place;
}

struct Bfloat16 {
  static constexpr bool kScaled = false;
  static constexpr int kInputs = 2;  // of lines that lie together
  static constexpr int kLines = 1;
  static constexpr int kSettled = 4;  // times of adding such lines between two `settle`
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

    INTERNVL_INLINE void add(const char* line, const char* rows, int64_t stride, int64_t ahead) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) {
        __builtin_prefetch(line + ahead + v * 64, 0, 2);
#ifdef INTERNVL_DOTS
        const IntVec words = load_words(line + v * 64);
#pragma GCC unroll 6
        for (int r = 0; r < kRows; ++r)
          of[r][v].part[0] = reinterpret_cast<FloatPart>(
              _mm512_dpbf16_ps(reinterpret_cast<__m512>(of[r][v].part[0]),
                               reinterpret_cast<__m512bh>(_mm512_set1_epi32(word_at(rows + r * stride))),
                               reinterpret_cast<__m512bh>(words.part[0])));
#else
        rows = again(rows);
        add_input(v, as_float(load_words(line + v * 64) << 16), rows, stride);
        add_input(v, as_float(load_words(again(line) + v * 64) & ~0xffff), rows + 4, stride);
#endif
      }
    }

    INTERNVL_INLINE void add_input(int v, Vec weights, const char* rows, int64_t stride) {
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) of[r][v] = add_product(of[r][v], float_at(rows + r * stride), weights);
    }

    INTERNVL_INLINE void settle() {}
    INTERNVL_INLINE Vec total(int r, int v) const { return of[r][v]; }
  };
};

// Sums of what is multiplied byte by byte.
template <int kRows, int kVecs>
struct ByteSums {
  IntVec of[kRows][kVecs];

  INTERNVL_INLINE void clear() {
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVecs; ++v) of[r][v] = IntVec{};
  }

  // A part at a time: six rows leave registers for no more.
  INTERNVL_INLINE void add_inputs(int v, int p, Bits bytes, const char* rows, int64_t stride) {
    rows = again(rows);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r)
      of[r][v].part[p] = add_fours(of[r][v].part[p], reinterpret_cast<IntPart>(bytes), rows + r * stride);
  }

  INTERNVL_INLINE void settle() {}
  INTERNVL_INLINE Vec total(int r, int v) const { return to_float(of[r][v]); }
};

INTERNVL_INLINE Bits bits_at(const char* from) {
  Bits bits;
  __builtin_memcpy(&bits, from, sizeof(bits));
  return bits;
}

// Takes the bits of an eighth line off seven others, which come in order.
struct Eighth {
  Bits bits;

  INTERNVL_INLINE Bits take(Bits words) {
    bits = bits >> 1 | (words & 0x80808080u);
    return words & 0x7f7f7f7fu;
  }

  INTERNVL_INLINE Bits line() const { return bits >> 1; }
};

struct Unsigned7 {
  static constexpr bool kScaled = true;
  static constexpr int kInputs = kSevenInputs;
  static constexpr int kLines = kSevenLines;
  static constexpr int kSettled = 1;
  static constexpr int kRowBytes = kSevenInputs;

  template <int kRows, int kVecs>
  struct Sums : ByteSums<kRows, kVecs> {
    INTERNVL_INLINE void add(const char* lines, const char* rows, int64_t stride, int64_t ahead) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v)
#pragma GCC unroll 4
        for (int p = 0; p < kParts; ++p) {
          Eighth eighth = {};
#pragma GCC unroll 7
          for (int line = 0; line < kSevenLines; ++line) {
            const char* at = lines + (v * kSevenLines + line) * 64;
            if (p == 0) __builtin_prefetch(at + ahead, 0, 2);
            this->add_inputs(v, p, eighth.take(bits_at(at + p * sizeof(Bits))), rows + 4 * line, stride);
          }
          this->add_inputs(v, p, eighth.line(), rows + 4 * kSevenLines, stride);
        }
    }
  };
};

// What is left of codes of 7 bits once they are opened.
struct Unsigned8 {
  static constexpr bool kScaled = true;
  static constexpr int kInputs = 4;
  static constexpr int kLines = 1;
  static constexpr int kSettled = 4;
  static constexpr int kRowBytes = 4;

  template <int kRows, int kVecs>
  struct Sums : ByteSums<kRows, kVecs> {
    // Nothing is asked for ahead: an opened block lies in the cache.
    INTERNVL_INLINE void add(const char* line, const char* rows, int64_t stride, int64_t) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v)
#pragma GCC unroll 4
        for (int p = 0; p < kParts; ++p)
          this->add_inputs(v, p, bits_at(again(line) + v * 64 + p * sizeof(Bits)), rows, stride);
    }
  };
};

struct Unsigned4 {
  static constexpr bool kScaled = true;
  static constexpr int kInputs = 8;
  static constexpr int kLines = 1;
  static constexpr int kSettled = 4;
  static constexpr int kRowBytes = 8;

  template <int kRows, int kVecs>
  struct Sums {
    IntVec of[kRows][kVecs];
    IntVec small[kRows][kVecs];  // int16, where the level has no wider step: 8 products of 15 * 127 * 2 at most

    INTERNVL_INLINE void clear() {
      for (int r = 0; r < kRows; ++r)
        for (int v = 0; v < kVecs; ++v) of[r][v] = small[r][v] = IntVec{};
    }

    INTERNVL_INLINE void add(const char* line, const char* rows, int64_t stride, int64_t ahead) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) {
        __builtin_prefetch(line + ahead + v * 64, 0, 2);
        rows = again(rows);
        add_inputs(v, load_words(line + v * 64) & 0x0f0f0f0f, rows, stride);
        add_inputs(v, load_words(again(line) + v * 64) >> 4 & 0x0f0f0f0f, rows + 4, stride);
      }
    }

    INTERNVL_INLINE void add_inputs(int v, IntVec bytes, const char* rows, int64_t stride) {
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < kParts; ++p) add_bytes(r, v, p, bytes.part[p], rows + r * stride);
    }

    INTERNVL_INLINE void add_bytes(int r, int v, int p, IntPart bytes, const char* row) {
#if defined(INTERNVL_INTEGER) && !defined(INTERNVL_DOTS)
      small[r][v].part[p] = settled(reinterpret_cast<IntPart>(INTERNVL_INTEGER(add_epi16)(
          reinterpret_cast<Integers>(small[r][v].part[p]), products_of(bytes, row))));
#else
      of[r][v].part[p] = add_fours(of[r][v].part[p], bytes, row);
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
            of[r][v].part[p] += pairs_added(reinterpret_cast<Integers>(small[r][v].part[p]));
            small[r][v].part[p] = IntPart{};
          }
#endif
    }

    INTERNVL_INLINE Vec total(int r, int v) const { return to_float(of[r][v]); }
  };
};
