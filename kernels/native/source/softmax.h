// Some queries against some keys and values: what paged and full attention share.
//
// A query goes through the same steps alone or beside others, so that company changes no bit of its result. Six at once
// read each key and value from the first-level cache once instead of six times: the processor loads two vectors a cycle
// and multiplies as many, so one query alone waits for what it loads.
// Included inside a level's namespace.

constexpr float kMinusInfinity = -__builtin_inff();

// Queries that share a key in registers: their sums are 12 registers, enough that none waits for its last multiply-add.
constexpr int kBeside = 12 / kParts;

inline int smaller(int64_t a, int64_t b) { return static_cast<int>(a < b ? a : b); }

// Tokens that are met together, sixteen for each pair. Where a block ends before, those of `upper` may be anything.
struct Pair {
  Eight lower;
  Eight upper;
};
template <int kPairs>
struct Group {
  Pair pairs[kPairs];
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

  // Scores, of which the first `count` are seen, to weights; what was added before shrinks if need be.
  template <int kPairs>
  INTERNVL_INLINE void weigh(Vec (&scores)[kPairs], int count) {
    const bool all = count >= kPairs * kLanes;
    if (!all)
      for (int p = 0; p < kPairs; ++p) scores[p] = first_lanes(count - p * kLanes, scores[p], kMinusInfinity);
    Vec together = scores[0];
    for (int p = 1; p < kPairs; ++p) together = larger(together, scores[p]);
    const float greatest = maximum(together);
    if (greatest > largest) {
      const Vec shrink = exp2_nonpositive(broadcast(largest - greatest));
      weight = weight * shrink;
      for (int c = 0; c < kChunks; ++c) mixed[c] = mixed[c] * shrink;
      largest = greatest;
    }
    for (int p = 0; p < kPairs; ++p) scores[p] = exp2_nonpositive(scores[p] - broadcast(largest));
    if (!all)
      for (int p = 0; p < kPairs; ++p) scores[p] = first_lanes(count - p * kLanes, scores[p], 0);
    for (int p = 0; p < kPairs; ++p) weight = weight + scores[p];
  }

  // The mean of the values, `size` numbers.
  void write(int size, float* to) const {
    float mean[kChunks * kLanes];
    const Vec share = broadcast(1 / sum(weight));
    for (int c = 0; c < kChunks; ++c) store(mean + c * kLanes, mixed[c] * share);
    __builtin_memcpy(to, mean, size * sizeof(float));
  }
};

// Scores of 16 tokens, every other channel at a time from the first one on.
template <int kQueries, int kRow>
INTERNVL_INLINE void add_scores(const float (*queries)[kRow], Pair pair, int first, int size, Vec (&scores)[kQueries]) {
#pragma GCC unroll 12
  for (int q = 0; q < kQueries; ++q) scores[q] = zero();
  for (int i = first; i < size; i += 2) {
    const Vec keys = in_registers(load(pair.lower.keys + i * kTokens, pair.upper.keys + i * kTokens));
#pragma GCC unroll 12
    for (int q = 0; q < kQueries; ++q) scores[q] = add_product(scores[q], queries[q][i], keys);
  }
}

// Scores of 16 tokens: those of the even channels and of the odd ones apart, as single_query.h takes them side by side,
// whose one query would wait for its last multiply-add.
template <int kQueries, int kRow>
INTERNVL_INLINE void scores_of(const float (*queries)[kRow], Pair pair, int size, Vec (&scores)[kQueries]) {
  Vec odd[kQueries];
  add_scores<kQueries, kRow>(queries, pair, 0, size, scores);
  add_scores<kQueries, kRow>(queries, pair, 1, size, odd);
#pragma GCC unroll 12
  for (int q = 0; q < kQueries; ++q) scores[q] = scores[q] + odd[q];
}

// `count` values of `kVecs` vectors each, `stride` numbers apart, times the weights of each query.
template <int kQueries, int kVecs, int kWeights>
INTERNVL_INLINE void add_values(const float (&weights)[kQueries][kWeights], int first, const float* values, int stride,
                                int count, Vec (&mixed)[kQueries][kVecs]) {
  for (int token = 0; token < count; ++token, values += stride)
#pragma GCC unroll 12
    for (int v = 0; v < kVecs; ++v) {
      const Vec value = in_registers(load(values + v * kLanes));
#pragma GCC unroll 12
      for (int q = 0; q < kQueries; ++q) mixed[q][v] = add_product(mixed[q][v], weights[q][first + token], value);
    }
}

// Vectors of a value whose sums fit the registers.
constexpr int vecs_of(int chunks, int queries) {
  const int most = queries > 1 ? 1 : chunks == 6 ? 6 : 4;
  return chunks < most ? chunks : most;
}

// Queries against the first tokens of a group, each as many as its count says, at least one. What lies behind the
// greatest count may be anything, NaN too.
template <int kChunks, int kQueries, int kPairs>
INTERNVL_INLINE void attend_group(const float (*queries)[kChunks * kLanes], const Group<kPairs>& group, int size,
                                  const int* counts, Running<kChunks>* running) {
  alignas(64) float weights[kQueries][kPairs * kLanes];
  for (int p = 0; p < kPairs; ++p) {
    Vec scores[kQueries];
    scores_of<kQueries, kChunks * kLanes>(queries, group.pairs[p], size, scores);
#pragma GCC unroll 12
    for (int q = 0; q < kQueries; ++q) store(weights[q] + p * kLanes, scores[q]);
  }
  int count = 0;
  for (int q = 0; q < kQueries; ++q) {
    Vec scores[kPairs];
    for (int p = 0; p < kPairs; ++p) scores[p] = load(weights[q] + p * kLanes);
    running[q].weigh(scores, counts[q]);
    for (int p = 0; p < kPairs; ++p) store(weights[q] + p * kLanes, scores[p]);
    count = counts[q] > count ? counts[q] : count;
  }
  constexpr int kVecs = vecs_of(kChunks, kQueries), kStride = kChunks * kLanes;
  for (int c = 0; c < kChunks; c += kVecs) {
    Vec mixed[kQueries][kVecs];
#pragma GCC unroll 12
    for (int q = 0; q < kQueries; ++q)
#pragma GCC unroll 12
      for (int v = 0; v < kVecs; ++v) mixed[q][v] = zero();
    for (int p = 0; p < kPairs; ++p) {
      const Pair& pair = group.pairs[p];
      const int first = p * kLanes, second = first + kTokens;
      add_values(weights, first, pair.lower.values + c * kLanes, kStride, smaller(count - first, kTokens), mixed);
      add_values(weights, second, pair.upper.values + c * kLanes, kStride, smaller(count - second, kTokens), mixed);
    }
#pragma GCC unroll 12
    for (int q = 0; q < kQueries; ++q)
#pragma GCC unroll 12
      for (int v = 0; v < kVecs; ++v) running[q].mixed[c + v] = running[q].mixed[c + v] + mixed[q][v];
  }
}

// The same for as many queries as there are: those with a count above zero, which come last.
template <int kChunks, int kPairs>
inline void attend_group(const float (*queries)[kChunks * kLanes], const Group<kPairs>& group, int size,
                         const int* counts, int many, Running<kChunks>* running) {
  int q = 0;
  while (q < many && counts[q] <= 0) ++q;
  for (; q + kBeside <= many; q += kBeside)
    attend_group<kChunks, kBeside>(queries + q, group, size, counts + q, running + q);
  for (; q < many; ++q) attend_group<kChunks, 1>(queries + q, group, size, counts + q, running + q);
}
