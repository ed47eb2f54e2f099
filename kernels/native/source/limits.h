// What this instruction set does at most, for `benchmarks/kernels`: how near the kernels come to it.
// Included inside a level's namespace.

// Sums side by side: enough that none waits for its last multiply-add.
constexpr int kChains = 12;

// The same number, of which the compiler does not know that.
template <class Part>
INTERNVL_INLINE Part unknown(Part part) {
#ifdef __x86_64__
  asm volatile("" : "+v"(part));
#else
  asm volatile("" : "+m"(part));
#endif
  return part;
}

// Reads everything once, in the order it lies.
int64_t read_all(const char* from, int64_t bytes) {
  IntVec sums[4] = {};
  for (int64_t at = 0; at + 256 <= bytes; at += 256)
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      __builtin_prefetch(from + at + 4096 + v * 64, 0, 2);
      sums[v] = sums[v] + load_words(from + at + v * 64);
    }
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])).part[0][0];
}

// The multiply-add of each packing as dots.h does it, and the products in one.
#ifdef INTERNVL_DOTS
struct Bfloat16Step {
  typedef FloatPart Part;
  static constexpr int kProducts = 2 * kWidth;
  static INTERNVL_INLINE Part add(Part sum, Part a) {
    return reinterpret_cast<Part>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(a),
                                                   reinterpret_cast<__m512bh>(a)));
  }
};
struct Int8Step {
  typedef IntPart Part;
  static constexpr int kProducts = 4 * kWidth;
  static INTERNVL_INLINE Part add(Part sum, Part a) {
    const Integers numbers = reinterpret_cast<Integers>(a);
    return reinterpret_cast<Part>(_mm512_dpbusd_epi32(reinterpret_cast<Integers>(sum), numbers, numbers));
  }
};
typedef Int8Step Int4Step;
#else
struct Bfloat16Step {
  typedef FloatPart Part;
  static constexpr int kProducts = kWidth;
  static INTERNVL_INLINE Part add(Part sum, Part a) { return sum + a * a; }
};
#ifdef INTERNVL_INTEGER
struct Int8Step {
  typedef IntPart Part;
  static constexpr int kProducts = 4 * kWidth;
  static INTERNVL_INLINE Part add(Part sum, Part a) {
    const Integers numbers = reinterpret_cast<Integers>(a);
    return sum + pairs_added(INTERNVL_INTEGER(maddubs_epi16)(numbers, numbers));
  }
};
struct Int4Step {
  typedef IntPart Part;
  static constexpr int kProducts = 4 * kWidth;
  static INTERNVL_INLINE Part add(Part sum, Part a) {
    const Integers numbers = reinterpret_cast<Integers>(a);
    return reinterpret_cast<Part>(INTERNVL_INTEGER(add_epi16)(reinterpret_cast<Integers>(sum),
                                                              INTERNVL_INTEGER(maddubs_epi16)(numbers, numbers)));
  }
};
#else
struct Int8Step {
  typedef IntPart Part;
  static constexpr int kProducts = kWidth;
  static INTERNVL_INLINE Part add(Part sum, Part a) { return sum + a * a; }
};
typedef Int8Step Int4Step;
#endif
#endif

template <class Step>
int64_t run_chains(int64_t rounds) {
  typename Step::Part sums[kChains], factor = {};
#pragma GCC unroll 12
  for (int c = 0; c < kChains; ++c) sums[c] = unknown(factor);
  for (int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) {
      factor = unknown(factor);
      sums[c] = unknown(Step::add(sums[c], factor));
    }
  return rounds * kChains * Step::kProducts;
}

// Multiply-adds between registers alone; how many there were.
int64_t multiply_adds(Packing packing, int64_t rounds) {
  switch (packing) {
    case Packing::kBfloat16: return run_chains<Bfloat16Step>(rounds);
    case Packing::kInt7: return run_chains<Int8Step>(rounds);
    case Packing::kInt4: return run_chains<Int4Step>(rounds);
  }
  __builtin_unreachable();
}
