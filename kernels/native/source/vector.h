// Sixteen floats at a time, written once for every instruction set.
//
// A Vec is as many registers as the target needs for it: one zmm, two ymm or four xmm. The lanes, and so the order
// of every sum, are the same at each level; only the rounding of a multiply-add differs where the target has no
// fused one. (GCC would split a 64-byte vector type by itself, but through memory: ten times slower.)
//
// Included inside a level's namespace, behind its target pragma, with kWidth defined: floats in a register. It uses
// no templates of the standard library: an instance compiled here for AVX-512 could be the one the linker keeps for
// everybody.

// Vecs of several registers are structs: only inlining keeps them out of memory.
#define INTERNVL_INLINE inline __attribute__((always_inline))

constexpr float kLog2E = 1.44269504f;
constexpr int kLanes = 16;
constexpr int kParts = kLanes / kWidth;

typedef float FloatPart __attribute__((vector_size(kWidth * 4)));
typedef int32_t IntPart __attribute__((vector_size(kWidth * 4)));
typedef float Quarter __attribute__((vector_size(16)));
typedef int32_t QuarterMask __attribute__((vector_size(16)));

struct Vec {
  FloatPart part[kParts];
};
struct IntVec {
  IntPart part[kParts];
};

// The vector whose register p is `expression`.
#define INTERNVL_EACH_PART(Type, expression)          \
  Type out;                                           \
  for (int p = 0; p < kParts; ++p) out.part[p] = expression; \
  return out

INTERNVL_INLINE Vec broadcast(float value) { INTERNVL_EACH_PART(Vec, value - FloatPart{}); }
INTERNVL_INLINE Vec zero() { return broadcast(0); }

INTERNVL_INLINE Vec operator+(Vec a, Vec b) { INTERNVL_EACH_PART(Vec, a.part[p] + b.part[p]); }
INTERNVL_INLINE Vec operator-(Vec a, Vec b) { INTERNVL_EACH_PART(Vec, a.part[p] - b.part[p]); }
INTERNVL_INLINE Vec operator*(Vec a, Vec b) { INTERNVL_EACH_PART(Vec, a.part[p] * b.part[p]); }
INTERNVL_INLINE Vec operator/(Vec a, Vec b) { INTERNVL_EACH_PART(Vec, a.part[p] / b.part[p]); }
INTERNVL_INLINE Vec operator*(Vec a, float b) { INTERNVL_EACH_PART(Vec, a.part[p] * b); }

// sum + a * b, in one rounding where the target can.
INTERNVL_INLINE Vec add_product(Vec sum, Vec a, Vec b) { INTERNVL_EACH_PART(Vec, sum.part[p] + a.part[p] * b.part[p]); }
INTERNVL_INLINE Vec add_product(Vec sum, float a, Vec b) { INTERNVL_EACH_PART(Vec, sum.part[p] + a * b.part[p]); }

INTERNVL_INLINE Vec load(const float* from) {
  Vec out;
  for (int p = 0; p < kParts; ++p) __builtin_memcpy(&out.part[p], from + p * kWidth, sizeof(FloatPart));
  return out;
}

// The same value, of which the compiler no longer knows where it came from: it would load it again for each use.
INTERNVL_INLINE Vec in_registers(Vec value) {
#ifdef __x86_64__
  for (int p = 0; p < kParts; ++p) asm("" : "+v"(value.part[p]));
#endif
  return value;
}

// Eight floats from each of two places.
INTERNVL_INLINE Vec load(const float* lower, const float* upper) {
#if INTERNVL_WIDTH == 16  // GCC would put the halves together in memory
  const __m512 first = _mm512_castps256_ps512(_mm256_loadu_ps(lower));
  return {{_mm512_insertf32x8(first, _mm256_loadu_ps(upper), 1)}};
#else
  Vec out;
  for (int p = 0; p < kParts / 2; ++p) {
    __builtin_memcpy(&out.part[p], lower + p * kWidth, sizeof(FloatPart));
    __builtin_memcpy(&out.part[p + kParts / 2], upper + p * kWidth, sizeof(FloatPart));
  }
  return out;
#endif
}

INTERNVL_INLINE void store(float* to, Vec value) {
  for (int p = 0; p < kParts; ++p) __builtin_memcpy(to + p * kWidth, &value.part[p], sizeof(FloatPart));
}

INTERNVL_INLINE IntVec load_words(const void* from) {
  IntVec out;
  const int32_t* words = static_cast<const int32_t*>(from);
  for (int p = 0; p < kParts; ++p) __builtin_memcpy(&out.part[p], words + p * kWidth, sizeof(IntPart));
  return out;
}

INTERNVL_INLINE IntVec as_words(Vec a) { INTERNVL_EACH_PART(IntVec, reinterpret_cast<IntPart>(a.part[p])); }

// Eight words from each of two places.
INTERNVL_INLINE IntVec load_words(const void* lower, const void* upper) {
  return as_words(load(static_cast<const float*>(lower), static_cast<const float*>(upper)));
}

INTERNVL_INLINE IntVec operator<<(IntVec a, int bits) { INTERNVL_EACH_PART(IntVec, a.part[p] << bits); }
INTERNVL_INLINE IntVec operator>>(IntVec a, int bits) { INTERNVL_EACH_PART(IntVec, a.part[p] >> bits); }
INTERNVL_INLINE IntVec operator&(IntVec a, int mask) { INTERNVL_EACH_PART(IntVec, a.part[p] & mask); }
INTERNVL_INLINE IntVec operator+(IntVec a, IntVec b) { INTERNVL_EACH_PART(IntVec, a.part[p] + b.part[p]); }

INTERNVL_INLINE Vec to_float(IntVec a) { INTERNVL_EACH_PART(Vec, __builtin_convertvector(a.part[p], FloatPart)); }
INTERNVL_INLINE Vec as_float(IntVec a) { INTERNVL_EACH_PART(Vec, reinterpret_cast<FloatPart>(a.part[p])); }

INTERNVL_INLINE Vec larger(Vec a, Vec b) { INTERNVL_EACH_PART(Vec, a.part[p] > b.part[p] ? a.part[p] : b.part[p]); }

// `yes` where `sign` is above zero, else `no`.
INTERNVL_INLINE Vec where_positive(Vec sign, Vec yes, Vec no) {
  INTERNVL_EACH_PART(Vec, sign.part[p] > 0 ? yes.part[p] : no.part[p]);
}

// `value` in the first `count` lanes, `otherwise` in the others, whatever `value` holds there.
INTERNVL_INLINE Vec first_lanes(int count, Vec value, float otherwise) {
  const int32_t numbers[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const IntVec lane = load_words(numbers);
  INTERNVL_EACH_PART(Vec, lane.part[p] < count ? value.part[p] : FloatPart{} + otherwise);
}

struct Quarters {
  Quarter of[4];
};

INTERNVL_INLINE Quarters quarters(Vec value) {
  Quarters out;
  __builtin_memcpy(out.of, &value, sizeof(value));
  return out;
}

INTERNVL_INLINE float sum(Vec value) {
  const Quarters q = quarters(value);
  const Quarter folded = (q.of[0] + q.of[1]) + (q.of[2] + q.of[3]);
  return (folded[0] + folded[1]) + (folded[2] + folded[3]);
}

INTERNVL_INLINE Quarter larger(Quarter a, Quarter b) { return a > b ? a : b; }

INTERNVL_INLINE float maximum(Vec value) {
  const Quarters q = quarters(value);
  Quarter folded = larger(larger(q.of[0], q.of[1]), larger(q.of[2], q.of[3]));
  folded = larger(folded, __builtin_shuffle(folded, QuarterMask{2, 3, 0, 1}));
  folded = larger(folded, __builtin_shuffle(folded, QuarterMask{1, 0, 3, 2}));
  return folded[0];
}

// 2^x for x <= 0, relative error 1.2e-7; what lies below 2^-126 stays there, which is nothing beside a maximum of 1.
// x is split into its nearest integer n and a rest in [-1/2, 1/2]. Added to 1.5 * 2^23, x leaves n in the lowest bits.
// The power of the rest is the polynomial of degree 6 whose largest relative error is the smallest, in an order that
// makes short chains.
INTERNVL_INLINE Vec exp2_nonpositive(Vec x) {
  x = larger(broadcast(-126.0f), x);
  const Vec place = broadcast(12582912.0f), moved = x + place, rest = x - (moved - place), square = rest * rest;
  const Vec lowest = add_product(broadcast(1.0f), rest, broadcast(6.93147215e-1f));
  const Vec middle = add_product(broadcast(2.40226528e-1f), rest, broadcast(5.55031055e-2f));
  Vec highest = add_product(broadcast(9.61769297e-3f), rest, broadcast(1.34066439e-3f));
  highest = add_product(highest, square, broadcast(1.55946775e-4f));
  const Vec power = add_product(lowest, square, add_product(middle, square, highest));
  return as_float(as_words(power) + (as_words(moved) << 23));
}
