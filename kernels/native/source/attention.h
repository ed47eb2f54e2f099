// Paged attention of some key heads of one sequence: rotate and store the new keys and values, then attend.
//
// A row's result never depends on what else is in the step. Its keys are taken in groups of 16 counted from the
// start of the sequence, each group through `attend_group`, whichever rows the step has beside it; so a token
// computed alone, in a chunk or in another batch comes out bit for bit the same. Blocks of any multiple of 8 make the
// same groups; those of another size cut them where they end.
//
// Decode reads each stored key and value once and is bound by memory; int8 is bound by its unpacking. A prompt takes 36
// queries to each group, six at a time, and is bound by multiply-adds. docs/kernels.md says how near they come.
// Included inside a level's namespace.

// Queries that share one pass over the keys, for which a group is unpacked or brought to the first-level cache once.
constexpr int kTile = 36;

// Channel pairs (i, i + size / 2) turn together.
inline void rotate(const float* from, const float* cos, const float* sin, int size, float scale, float* to) {
  const int half = size / 2;
  for (int i = 0; i < half; ++i) {
    to[i] = (from[i] * cos[i] - from[i + half] * sin[i]) * scale;
    to[i + half] = (from[i + half] * cos[i] + from[i] * sin[i]) * scale;
  }
}

inline void store_tokens(const PagedAttention& work, int sequence, int kv_head) {
  const int size = work.size, half = size / 2;
  for (int64_t row = work.starts[sequence]; row < work.starts[sequence + 1]; ++row) {
    const int64_t token = work.pasts[sequence] + row - work.starts[sequence];
    const float* heads = work.qkv + row * (work.heads + 2 * work.kv_heads) * size;
    float key[kMaxHeadSize];
    rotate(heads + (work.heads + kv_head) * size, work.cos + row * half, work.sin + row * half, size, 1, key);
    const float* value = heads + (work.heads + work.kv_heads + kv_head) * size;
    store_token(work, sequence, kv_head, token, key, value);
  }
}

// Up to 36 queries of one sequence. Of a prompt, all belong to one key head: rows in order, within a row the query
// heads that share the key head. Where a sequence has few rows, the tile takes more key heads, because those of a
// block lie side by side: memory gives twice as much in long runs as in the 12 KiB of a single head.
template <int kChunks>
class Tile {
 public:
  // `queries` of each of `heads` key heads, the first of them number `first`.
  Tile(const PagedAttention& work, int sequence, int kv_head, int heads, int64_t first, int queries)
      : work_(work), sequence_(sequence), kv_head_(kv_head), heads_(heads), first_(first), queries_(queries) {
    const float scale = kLog2E / __builtin_sqrtf(static_cast<float>(work.size));  // the softmax takes powers of 2
    const int half = work.size / 2;
    for (int i = 0; i < heads * queries; ++i) {
      const int64_t row = row_of(i);
      const float* query = work.qkv + (row * (work.heads + 2 * work.kv_heads) + head_of(i)) * work.size;
      rotate(query, work.cos + row * half, work.sin + row * half, work.size, scale, rotated_[i]);
      running_[i].clear();
      ends_[i] = work.pasts[sequence] + row - work.starts[sequence] + 1;
    }
  }

  // All tokens up to that of the last row, a group at a time, each row as far as it may see.
  void attend() {
    const int64_t end = ends_[queries_ - 1];
    for (int64_t token = 0; token < end;) {
      const int first = held_from(token), both = first < kTokens ? first : first + held_from(token + first);
      attend_tokens(token, both, end);
      token += both;
    }
  }

  void write() const {
    for (int i = 0; i < heads_ * queries_; ++i)
      running_[i].write(work_.size, work_.out + (row_of(i) * work_.heads + head_of(i)) * work_.size);
  }

 private:
  // Tokens from this one to the next border of eight, or of its block.
  int held_from(int64_t token) const {
    const int offset = static_cast<int>(token % work_.block_size);
    return smaller(kTokens, work_.block_size - offset);
  }

  const char* place_at(int64_t token, int kv_head) const {
    const int32_t* table = work_.tables + sequence_ * work_.table_width;
    return place_of(work_, table[token / work_.block_size], kv_head, static_cast<int>(token % work_.block_size));
  }

  void attend_tokens(int64_t token, int held, int64_t end) {
    if constexpr (kChunks % 2 == 0)
      if (queries_ == 1 && work_.stored == Stored::kBfloat16) return attend_alone(token, held, end);
    attend_together(token, held, end);
  }

  // `held` tokens, from one or two places, with all queries of each head.
  void attend_together(int64_t token, int held, int64_t end) {
    for (int head = 0; head < heads_; ++head) {
      if (head + 1 < heads_) {
        fetch_group(token, held, kv_head_ + head + 1, end);
      } else {
        fetch_group(token + held, kLanes, kv_head_, end);
      }
      attend_queries(group_at(token, held, kv_head_ + head, end), head, token, held);
    }
  }

  // The same where each head has a single one and keeps pairs of vectors.
  void attend_alone(int64_t token, int held, int64_t end) {
    const bool more = held > kTokens && token + kTokens < end;
    const char *lower = place_at(token, kv_head_), *upper = more ? place_at(token + kTokens, kv_head_) : lower;
    const int64_t each = place_at(token, kv_head_ + 1) - lower;
    const int count = smaller(held, end - token);
    for (int head = 0; head < heads_; ++head, lower += each, upper += each)
      attend_stored<kChunks>(rotated_[head], lower, upper, work_.size, count, running_[head]);
  }

  void fetch_group(int64_t token, int held, int kv_head, int64_t end) const {
    if (token < end) fetch_ahead(work_, place_at(token, kv_head));
    if (held > kTokens && token + kTokens < end) fetch_ahead(work_, place_at(token + kTokens, kv_head));
  }

  Group<1> group_at(int64_t token, int held, int kv_head, int64_t end) {
    const Eight lower = eight_at(work_, place_at(token, kv_head), unpacked_[0]);
    if (held <= kTokens || token + kTokens >= end) return {{{lower, lower}}};
    return {{{lower, eight_at(work_, place_at(token + kTokens, kv_head), unpacked_[1])}}};
  }

  void attend_queries(const Group<1>& group, int head, int64_t token, int held) {
    const int first = head * queries_;
    int counts[kTile];
    for (int i = 0; i < queries_; ++i) counts[i] = smaller(held, ends_[first + i] - token);
    attend_group<kChunks>(rotated_ + first, group, work_.size, counts, queries_, running_ + first);
  }

  int sharing() const { return work_.heads / work_.kv_heads; }
  int64_t query_of(int i) const { return first_ + i % queries_; }
  int64_t row_of(int i) const { return work_.starts[sequence_] + query_of(i) / sharing(); }
  int head_of(int i) const {
    return (kv_head_ + i / queries_) * sharing() + static_cast<int>(query_of(i) % sharing());
  }

  const PagedAttention& work_;
  const int sequence_, kv_head_, heads_;
  const int64_t first_;
  const int queries_;
  alignas(64) float unpacked_[2][2 * kTokens * kChunks * kLanes];
  int64_t ends_[kTile];  // tokens that each query sees
  float rotated_[kTile][kChunks * kLanes];
  Running<kChunks> running_[kTile];
};

template <int kChunks>
void attend_heads(const PagedAttention& work, int sequence, int kv_head, int heads) {
  const int64_t rows = work.starts[sequence + 1] - work.starts[sequence];
  const int64_t queries = rows * (work.heads / work.kv_heads);
  const int at_once = smaller(heads, queries < kTile ? kTile / queries : 1);
  for (int head = 0; head < heads; head += at_once)
    for (int64_t first = 0; first < queries; first += kTile) {
      Tile<kChunks> tile(work, sequence, kv_head + head, smaller(at_once, heads - head), first,
                         smaller(kTile, queries - first));
      tile.attend();
      tile.write();
    }
}

void paged_attention(const PagedAttention& work, int sequence, int kv_head, int heads) {
  for (int head = kv_head; head < kv_head + heads; ++head) store_tokens(work, sequence, head);
  switch (chunks_of(work.size)) {
    case 1: return attend_heads<1>(work, sequence, kv_head, heads);
    case 2: return attend_heads<2>(work, sequence, kv_head, heads);
    case 4: return attend_heads<4>(work, sequence, kv_head, heads);
    case 6: return attend_heads<6>(work, sequence, kv_head, heads);
    case 8: return attend_heads<8>(work, sequence, kv_head, heads);
    default: return attend_heads<16>(work, sequence, kv_head, heads);
  }
}
