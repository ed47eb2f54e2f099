// Full attention of one head of one tile: every token sees all others.
//
// Keys and values are laid out as the groups of softmax.h want them, once, and then met by 36 queries at a time. It is
// bound by the multiply-adds; docs/kernels.md says how near it comes.
// Included inside a level's namespace.

// Of sixteen tokens, so many in a group: it must fit the first-level cache beside the queries.
constexpr int kPairsMet = 2;

constexpr int kTokensMet = kPairsMet * kLanes;

inline int64_t groups_of(int64_t tokens) { return (tokens + kTokensMet - 1) / kTokensMet; }

// Numbers of a pair: keys and values of twice eight tokens.
inline int64_t pair_numbers(int size) { return 2 * numbers_of(size); }

int64_t full_attention_room(const FullAttention& work) {
  return groups_of(work.tokens) * kPairsMet * pair_numbers(work.size);
}

inline void lay_out_pair(const float* keys, const float* values, int64_t stride, int size, int count, float* to) {
  const int width = padded(size);
  for (int token = 0; token < kLanes; ++token, keys += stride, values += stride) {
    float* eight = to + token / kTokens * numbers_of(size);
    float *key = eight + token % kTokens, *value = eight + kTokens * size + token % kTokens * width;
    for (int i = 0; i < size; ++i) key[i * kTokens] = token < count ? keys[i] : 0;
    for (int i = 0; i < width; ++i) value[i] = token < count && i < size ? values[i] : 0;
  }
}

inline Group<kPairsMet> group_at(const float* from, int size) {
  Group<kPairsMet> group;
  for (Pair& pair : group.pairs) {
    const float* upper = from + numbers_of(size);
    pair = {{from, from + kTokens * size}, {upper, upper + kTokens * size}};
    from = upper + numbers_of(size);
  }
  return group;
}

template <int kChunks>
void attend_tile(const FullAttention& work, int64_t first, int64_t head, float* room) {
  const int size = work.size;
  const int64_t stride = work.stride, at = first * stride + head * size, each = pair_numbers(size);
  float* out = work.out + (first * work.heads + head) * size;
  for (int64_t token = 0; token < work.tokens; token += kLanes)
    lay_out_pair(work.keys + at + token * stride, work.values + at + token * stride, stride, size,
                 smaller(kLanes, work.tokens - token), room + token / kLanes * each);
  const float scale = kLog2E / __builtin_sqrtf(static_cast<float>(size));
  for (int64_t query = 0; query < work.tokens; query += kTile) {
    const int many = smaller(kTile, work.tokens - query);
    float queries[kTile][kChunks * kLanes];
    Running<kChunks> running[kTile];
    for (int q = 0; q < many; ++q) {
      for (int i = 0; i < size; ++i) queries[q][i] = work.queries[at + (query + q) * stride + i] * scale;
      running[q].clear();
    }
    for (int64_t token = 0; token < work.tokens; token += kTokensMet) {
      int counts[kTile];
      for (int q = 0; q < many; ++q) counts[q] = smaller(kTokensMet, work.tokens - token);
      attend_group<kChunks>(queries, group_at(room + token / kLanes * each, size), size, counts, many, running);
    }
    for (int q = 0; q < many; ++q) running[q].write(size, out + (query + q) * work.heads * size);
  }
}

void full_attention(const FullAttention& work, int64_t tile, int64_t head, float* room) {
  const int64_t first = tile * work.tokens;
  switch (chunks_of(work.size)) {
    case 1: return attend_tile<1>(work, first, head, room);
    case 2: return attend_tile<2>(work, first, head, room);
    case 4: return attend_tile<4>(work, first, head, room);
    case 6: return attend_tile<6>(work, first, head, room);
    case 8: return attend_tile<8>(work, first, head, room);
    default: return attend_tile<16>(work, first, head, room);
  }
}
