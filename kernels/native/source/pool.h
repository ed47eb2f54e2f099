// Where a token's key and value lie in the pool of a layer.
//
// The pool is [blocks, kv_heads] of cells. A cell holds one key head of a block's tokens, eight by eight:
//
//   keys    [size, 8]         a channel of all eight: scores grow side by side, no sum crosses lanes
//   values  [8, padded size]  one or more vectors for each token
//   scales  [2, 8] float32    of keys, then of values; only int8 has them
//
// Keys and values of eight tokens lie together, and so do all the heads of a block: attention reads them in one run.
// It takes sixteen tokens at a time, from two places if need be, so that small blocks cost nothing.
// Included inside a level's namespace.

constexpr int kTokens = 8;

// Vectors a value takes: the sizes in use exactly, any other the next one that has code of its own.
inline int chunks_of(int size) {
  const int with_code[] = {1, 2, 4, 6, 8};
  for (const int chunks : with_code)
    if (size <= chunks * kLanes) return chunks;
  return kMaxHeadSize / kLanes;
}

inline int padded(int size) { return chunks_of(size) * kLanes; }

// Numbers, keys and values, of eight tokens.
inline int numbers_of(int size) { return kTokens * (size + padded(size)); }

inline int64_t bytes_of(Stored stored, int size) {
  switch (stored) {
    case Stored::kFloat32: return int64_t{4} * numbers_of(size);
    case Stored::kBfloat16: return int64_t{2} * numbers_of(size);
    case Stored::kInt8: return numbers_of(size) + 2 * kTokens * sizeof(float);
  }
  __builtin_unreachable();
}

// Where the eight tokens begin among which the one at `offset` of a block lies.
inline char* place_of(const PagedAttention& work, int block, int kv_head, int offset) {
  const int64_t each = (work.block_size + kTokens - 1) / kTokens;
  const int64_t index = (int64_t{block} * work.kv_heads + kv_head) * each + offset / kTokens;
  return work.pool + index * bytes_of(work.stored, work.size);
}

// Where a number lies when `kMixed` vectors share a word each lane: two of bfloat16, four of int8. Unpacking is then
// a shift or two of a whole register.
template <int kMixed>
inline int mixed(int number) {
  const int vector = number / kLanes, lane = number % kLanes;
  return (vector / kMixed * kLanes + lane) * kMixed + vector % kMixed;
}

inline uint16_t to_bfloat16(float value) {  // to the nearest, ties to even
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float scale_of(const float* head, int size) {
  float largest = 0;
  for (int i = 0; i < size; ++i) largest = __builtin_fabsf(head[i]) > largest ? __builtin_fabsf(head[i]) : largest;
  return largest / 127;
}

inline int8_t to_int8(float value, float scale) {
  return scale > 0 ? static_cast<int8_t>(__builtin_rintf(value / scale)) : 0;
}

inline void store_token(const PagedAttention& work, int sequence, int kv_head, int64_t token, const float* key,
                        const float* value) {
  const int block = work.tables[sequence * work.table_width + token / work.block_size];
  const int offset = static_cast<int>(token % work.block_size), lane = offset % kTokens;
  char* start = place_of(work, block, kv_head, offset);
  const int size = work.size, first = kTokens * size + lane * padded(size);  // numbers before those of the value
  switch (work.stored) {
    case Stored::kFloat32: {
      float* numbers = reinterpret_cast<float*>(start);
      for (int i = 0; i < size; ++i) numbers[i * kTokens + lane] = key[i];
      for (int i = 0; i < size; ++i) numbers[first + i] = value[i];
      return;
    }
    case Stored::kBfloat16: {
      uint16_t* numbers = reinterpret_cast<uint16_t*>(start);
      for (int i = 0; i < size; ++i) numbers[mixed<2>(i * kTokens + lane)] = to_bfloat16(key[i]);
      for (int i = 0; i < size; ++i) numbers[mixed<2>(first + i)] = to_bfloat16(value[i]);
      return;
    }
    case Stored::kInt8: {
      int8_t* numbers = reinterpret_cast<int8_t*>(start);
      const float key_scale = scale_of(key, size), value_scale = scale_of(value, size);
      for (int i = 0; i < size; ++i) numbers[mixed<4>(i * kTokens + lane)] = to_int8(key[i], key_scale);
      for (int i = 0; i < size; ++i) numbers[mixed<4>(first + i)] = to_int8(value[i], value_scale);
      float* scales = reinterpret_cast<float*>(numbers + numbers_of(size));
      scales[lane] = key_scale;
      scales[kTokens + lane] = value_scale;
      return;
    }
  }
}

// Keys [size, 8] and values [8, padded size] of eight tokens as floats.
struct Eight {
  const float* keys;
  const float* values;
};

inline void unpack_bfloat16(const char* from, int vectors, float* to) {
  for (int v = 0; v < vectors; v += 2, from += 64, to += 2 * kLanes) {
    const IntVec words = load_words(from);
    store(to, as_float(words << 16));
    store(to + kLanes, as_float(words & ~0xffff));
  }
}

// Four vectors, each byte times the scale of its lane.
inline void unpack_int8(const char* from, const Vec (&scales)[4], float* to) {
  const IntVec words = load_words(from);
  store(to, to_float(words << 24 >> 24) * scales[0]);
  store(to + kLanes, to_float(words << 16 >> 24) * scales[1]);
  store(to + 2 * kLanes, to_float(words << 8 >> 24) * scales[2]);
  store(to + 3 * kLanes, to_float(words >> 24) * scales[3]);
}

inline void unpack_int8(const char* from, int size, float* to) {
  const int of_keys = kTokens * size, all = numbers_of(size), width = chunks_of(size);
  const float *key_scales = reinterpret_cast<const float*>(from + all), *value_scales = key_scales + kTokens;
  const Vec every_two = load(key_scales, key_scales), every_key[4] = {every_two, every_two, every_two, every_two};
  for (int n = 0; n < of_keys; n += 4 * kLanes) unpack_int8(from + n, every_key, to + n);
  for (int n = of_keys; n < all; n += 4 * kLanes) {
    Vec of_values[4];
    for (int i = 0; i < 4; ++i) of_values[i] = broadcast(value_scales[((n - of_keys) / kLanes + i) / width]);
    unpack_int8(from + n, of_values, to + n);
  }
}

// Ask for eight tokens before their turn: a processor looks ahead by itself only within a page.
inline void fetch_ahead(const PagedAttention& work, const char* place) {
  const int64_t bytes = bytes_of(work.stored, work.size);
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(place + at, 0, 2);
}

// Where the eight tokens lie, if as floats, else a copy in `room`, which stays in the first-level cache.
inline Eight eight_at(const PagedAttention& work, const char* place, float* room) {
  const float* numbers = room;
  switch (work.stored) {
    case Stored::kFloat32: numbers = reinterpret_cast<const float*>(place); break;
    case Stored::kBfloat16: unpack_bfloat16(place, numbers_of(work.size) / kLanes, room); break;
    case Stored::kInt8: unpack_int8(place, work.size, room); break;
  }
  return {numbers, numbers + kTokens * work.size};
}
