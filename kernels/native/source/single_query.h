// A single query against sixteen keys and values of bfloat16 as they are stored, unpacked in registers.
//
// Decode reads every key and value for one query and is bound by memory; unpacking them into the first-level cache, as
// a prompt does for its 36 queries, took half as long again. The sums are those of softmax.h in the same order, so that
// results are equal to the last bit.
// Included inside a level's namespace.

constexpr int kPairBytes = 4 * kLanes;  // of two vectors, which share words

// How far ahead of its turn a line is asked for: enough to cross pages, and no farther, since the heads of a block lie
// in one run, which the processor follows by itself.
constexpr int kLookAhead = 1024;

INTERNVL_INLINE IntVec words_at(const char* lower, const char* upper) {
  __builtin_prefetch(lower + kLookAhead, 0, 2);
  __builtin_prefetch(upper + kLookAhead, 0, 2);
  return load_words(lower, upper);
}

// Scores of 16 tokens. A line holds four channels of eight of them, two in the lower halves of its words.
INTERNVL_INLINE Vec scores_of(const float* query, int size, const char* lower, const char* upper) {
  Vec even = zero(), odd = zero();
  for (int i = 0; i < size; i += 4, lower += kPairBytes, upper += kPairBytes) {
    const IntVec evens = words_at(lower, upper), odds = load_words(lower + kPairBytes / 2, upper + kPairBytes / 2);
    even = add_product(even, query[i], as_float(evens << 16));
    odd = add_product(odd, query[i + 1], as_float(odds << 16));
    even = add_product(even, query[i + 2], as_float(evens & ~0xffff));
    odd = add_product(odd, query[i + 3], as_float(odds & ~0xffff));
  }
  return even + odd;
}

// `kVecs` vectors of `count` values times their weights.
template <int kChunks, int kVecs>
INTERNVL_INLINE void add_stored(const float* weights, const char* values, int count, Vec (&mixed)[kVecs]) {
  for (int token = 0; token < count; ++token, values += kChunks / 2 * kPairBytes)
#pragma GCC unroll 3
    for (int v = 0; v < kVecs; v += 2) {
      const char* line = values + v / 2 * kPairBytes;
      __builtin_prefetch(line + kLookAhead, 0, 2);
      const IntVec words = load_words(line);
      mixed[v] = add_product(mixed[v], weights[token], as_float(words << 16));
      mixed[v + 1] = add_product(mixed[v + 1], weights[token], as_float(words & ~0xffff));
    }
}

// The first `count` of sixteen tokens, at least one; `upper` may be anything where there are no more than eight.
template <int kChunks>
void attend_stored(const float* query, const char* lower, const char* upper, int size, int count,
                   Running<kChunks>& running) {
  static_assert(kChunks % 2 == 0, "vectors in pairs");
  alignas(64) float weights[kLanes];
  Vec scores[] = {scores_of(query, size, lower, upper)};
  running.weigh(scores, count);
  store(weights, scores[0]);
  constexpr int kVecs = vecs_of(kChunks, 1);
  for (int c = 0; c < kChunks; c += kVecs) {
    Vec mixed[kVecs];
#pragma GCC unroll 6
    for (int v = 0; v < kVecs; ++v) mixed[v] = zero();
    const int64_t values = 2 * kTokens * size + c / 2 * kPairBytes;
    add_stored<kChunks>(weights, lower + values, smaller(count, kTokens), mixed);
    add_stored<kChunks>(weights + kTokens, upper + values, count - kTokens, mixed);
#pragma GCC unroll 6
    for (int v = 0; v < kVecs; ++v) running.mixed[c + v] = running.mixed[c + v] + mixed[v];
  }
}
