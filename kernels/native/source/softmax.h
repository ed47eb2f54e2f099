// Some queries against sixteen keys and values: what paged and full attention share.
//
// A query goes through the same steps alone or beside others, so that company changes no bit of its result. Three at
// once read each key and value from the first-level cache once instead of three times, which is what bounds one alone:
// the processor loads no more numbers than it multiplies.
// Included inside a level's namespace.

constexpr float kMinusInfinity = -__builtin_inff();

// Queries that share a key in registers: their sums fill 12 of AVX2's 16.
constexpr int kBeside = 3;

inline int smaller(int64_t a, int64_t b) { return static_cast<int>(a < b ? a : b); }

// Sixteen tokens, or where a block ends before, so many that `upper` holds nothing.
struct Group {
  Eight lower;
  Eight upper;
};

// Softmax over the groups seen so far, relative to the largest score among them.
template <int kChunks>
struct Running {
  float largest;
  Vec weight;
  Vec mixed[kChunks];

  // Not a constructor: GCC 12 compiles implicit ones without the target of the pragma.
  void clear() {
    largest = kMinusInfinity;
    weight = zero();
    for (int c = 0; c < kChunks; ++c) mixed[c] = zero();
  }

  // The weights of scores of which the first `count` are seen; what was added before shrinks if need be.
  INTERNVL_INLINE Vec weigh(Vec scores, int count) {
    scores = first_lanes(count, scores, kMinusInfinity);
    const float greatest = maximum(scores);
    if (greatest > largest) {
      const Vec shrink = exp2_nonpositive(broadcast(largest - greatest));
      weight = weight * shrink;
      for (int c = 0; c < kChunks; ++c) mixed[c] = mixed[c] * shrink;
      largest = greatest;
    }
    const Vec weights = first_lanes(count, exp2_nonpositive(scores - broadcast(largest)), 0);
    weight = weight + weights;
    return weights;
  }

  // The mean of the values, `size` numbers.
  void write(int size, float* to) const {
    float mean[kChunks * kLanes];
    const Vec share = broadcast(1 / sum(weight));
    for (int c = 0; c < kChunks; ++c) store(mean + c * kLanes, mixed[c] * share);
    __builtin_memcpy(to, mean, size * sizeof(float));
  }
};

// Scores of 16 tokens, a channel at a time. Two partial sums keep the multiply-add units busy.
template <int kQueries, int kRow>
INTERNVL_INLINE void add_scores(const float (*queries)[kRow], Group group, int size, Vec (&scores)[kQueries]) {
  const float *lower = group.lower.keys, *upper = group.upper.keys;
  Vec odd[kQueries];
#pragma GCC unroll 3
  for (int q = 0; q < kQueries; ++q) scores[q] = odd[q] = zero();
  for (int i = 0; i < size; i += 2, lower += 2 * kTokens, upper += 2 * kTokens) {
    const Vec even_keys = load(lower, upper);
#pragma GCC unroll 3
    for (int q = 0; q < kQueries; ++q) scores[q] = add_product(scores[q], queries[q][i], even_keys);
    const Vec odd_keys = load(lower + kTokens, upper + kTokens);
#pragma GCC unroll 3
    for (int q = 0; q < kQueries; ++q) odd[q] = add_product(odd[q], queries[q][i + 1], odd_keys);
  }
#pragma GCC unroll 3
  for (int q = 0; q < kQueries; ++q) scores[q] = scores[q] + odd[q];
}

// `count` values of `kVecs` vectors each, `stride` numbers apart, times the weights of each query.
template <int kQueries, int kVecs>
INTERNVL_INLINE void add_values(const float* weights, const float* values, int stride, int count,
                                Vec (&mixed)[kQueries][kVecs]) {
  for (int token = 0; token < count; ++token, values += stride)
#pragma GCC unroll 6
    for (int v = 0; v < kVecs; ++v) {
      const Vec value = load(values + v * kLanes);
#pragma GCC unroll 3
      for (int q = 0; q < kQueries; ++q) mixed[q][v] = add_product(mixed[q][v], weights[q * kLanes + token], value);
    }
}

// Vectors of a value whose sums fit the registers.
constexpr int vecs_of(int chunks, int queries) {
  const int most = queries > 1 ? 2 : chunks == 6 ? 6 : 4;
  return chunks < most ? chunks : most;
}

// Queries against the first tokens of a group, each as many as its count says, at least one. What lies behind the
// greatest count may be anything, NaN too.
template <int kChunks, int kQueries>
INTERNVL_INLINE void attend_group(const float (*queries)[kChunks * kLanes], Group group, int size, const int* counts,
                                  Running<kChunks>* running) {
  Vec scores[kQueries];
  add_scores<kQueries, kChunks * kLanes>(queries, group, size, scores);
  alignas(64) float weights[kQueries][kLanes];
  int count = 0;
  for (int q = 0; q < kQueries; ++q) {
    store(weights[q], running[q].weigh(scores[q], counts[q]));
    count = counts[q] > count ? counts[q] : count;
  }
  constexpr int kVecs = vecs_of(kChunks, kQueries), kStride = kChunks * kLanes;
  for (int c = 0; c < kChunks; c += kVecs) {
    Vec mixed[kQueries][kVecs];
#pragma GCC unroll 3
    for (int q = 0; q < kQueries; ++q)
#pragma GCC unroll 6
      for (int v = 0; v < kVecs; ++v) mixed[q][v] = zero();
    add_values<kQueries, kVecs>(weights[0], group.lower.values + c * kLanes, kStride, smaller(count, kTokens), mixed);
    add_values<kQueries, kVecs>(weights[0] + kTokens, group.upper.values + c * kLanes, kStride, count - kTokens, mixed);
#pragma GCC unroll 3
    for (int q = 0; q < kQueries; ++q)
#pragma GCC unroll 6
      for (int v = 0; v < kVecs; ++v) running[q].mixed[c + v] = running[q].mixed[c + v] + mixed[q][v];
  }
}

// The same for as many queries as there are: those with a count above zero, which come last.
template <int kChunks>
inline void attend_group(const float (*queries)[kChunks * kLanes], Group group, int size, const int* counts, int many,
                         Running<kChunks>* running) {
  int q = 0;
  while (q < many && counts[q] <= 0) ++q;
  for (; q + kBeside <= many; q += kBeside)
    attend_group<kChunks, kBeside>(queries + q, group, size, counts + q, running + q);
  for (; q < many; ++q) attend_group<kChunks, 1>(queries + q, group, size, counts + q, running + q);
}
