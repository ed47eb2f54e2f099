// Where a token's key and value lie in the pool of a layer.
//
// The pool is [blocks, kv_heads] of cells. A cell holds one key head of a block's tokens in groups of 16:
//
//   keys    [size, 16]         one vector for each channel: 16 scores grow side by side, no sum crosses lanes
//   values  [16, padded size]  one or more vectors for each token
//   scales  [2, 16] float32    of keys, then of values; only int8 has them
//
// Keys and values of a group lie together, and so do all the heads of a block: attention reads them in one run.
// Included inside a level's namespace.

// Vectors a value takes: the sizes in use exactly, any other the next one that has code of its own.
inline int chunks_of(int size) {
  const int with_code[] = {1, 2, 4, 6, 8};
  for (const int chunks : with_code)
    if (size <= chunks * kLanes) return chunks;
  return kMaxHeadSize / kLanes;
}

inline int padded(int size) { return chunks_of(size) * kLanes; }

inline int64_t groups_of(int block_size) { return (block_size + kLanes - 1) / kLanes; }

inline int64_t group_bytes(Stored stored, int size) {
  const int64_t numbers = int64_t{kLanes} * (size + padded(size));
  switch (stored) {
    case Stored::kFloat32: return numbers * 4;
    case Stored::kBfloat16: return numbers * 2;
    case Stored::kInt8: return numbers + 2 * kLanes * sizeof(float);
  }
  __builtin_unreachable();
}

inline char* group_start(const PagedAttention& work, int block, int kv_head, int group) {
  const int64_t index = (int64_t{block} * work.kv_heads + kv_head) * groups_of(work.block_size) + group;
  return work.pool + index * group_bytes(work.stored, work.size);
}

// Where lane `lane` of vector `vector` lies among the numbers of a group, when `kMixed` vectors share a word each
// lane: two of bfloat16, four of int8. Unpacking is then a shift or two of a whole register.
template <int kMixed>
inline int64_t place(int64_t vector, int lane) {
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
  const int offset = static_cast<int>(token % work.block_size), lane = offset % kLanes;
  char* start = group_start(work, block, kv_head, offset / kLanes);
  const int size = work.size, first = size + lane * chunks_of(size);  // vectors before those of the value
  switch (work.stored) {
    case Stored::kFloat32: {
      float* numbers = reinterpret_cast<float*>(start);
      for (int i = 0; i < size; ++i) numbers[i * kLanes + lane] = key[i];
      for (int i = 0; i < size; ++i) numbers[first * kLanes + i] = value[i];
      return;
    }
    case Stored::kBfloat16: {
      uint16_t* numbers = reinterpret_cast<uint16_t*>(start);
      for (int i = 0; i < size; ++i) numbers[place<2>(i, lane)] = to_bfloat16(key[i]);
      for (int i = 0; i < size; ++i) numbers[place<2>(first + i / kLanes, i % kLanes)] = to_bfloat16(value[i]);
      return;
    }
    case Stored::kInt8: {
      int8_t* numbers = reinterpret_cast<int8_t*>(start);
      const float key_scale = scale_of(key, size), value_scale = scale_of(value, size);
      for (int i = 0; i < size; ++i) numbers[place<4>(i, lane)] = to_int8(key[i], key_scale);
      for (int i = 0; i < size; ++i)
        numbers[place<4>(first + i / kLanes, i % kLanes)] = to_int8(value[i], value_scale);
      float* scales = reinterpret_cast<float*>(numbers + int64_t{kLanes} * (size + padded(size)));
      scales[lane] = key_scale;
      scales[kLanes + lane] = value_scale;
      return;
    }
  }
}

// Keys [size, 16] and values [16, padded size] of a group as floats.
struct Group {
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
  const int vectors = size + padded(size), width = chunks_of(size);
  const float* scales = reinterpret_cast<const float*>(from + vectors * kLanes);
  const Vec of_keys = load(scales), every_key[4] = {of_keys, of_keys, of_keys, of_keys};
  for (int v = 0; v < size; v += 4) unpack_int8(from + v * kLanes, every_key, to + v * kLanes);
  for (int v = size; v < vectors; v += 4) {
    Vec of_values[4];
    for (int i = 0; i < 4; ++i) of_values[i] = broadcast(scales[kLanes + (v - size + i) / width]);
    unpack_int8(from + v * kLanes, of_values, to + v * kLanes);
  }
}

// Ask for a group before its turn: a processor looks ahead by itself only within a page, which is one head of a block.
inline void fetch_ahead(const PagedAttention& work, int block, int kv_head, int group) {
  const char* start = group_start(work, block, kv_head, group);
  const int64_t bytes = group_bytes(work.stored, work.size);
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(start + at, 0, 2);
}

// Where the group lies, if it holds floats, else a copy in `room`, which stays in the first-level cache.
inline Group group_at(const PagedAttention& work, int block, int kv_head, int group, float* room) {
  const char* start = group_start(work, block, kv_head, group);
  const float* numbers = room;
  switch (work.stored) {
    case Stored::kFloat32: numbers = reinterpret_cast<const float*>(start); break;
    case Stored::kBfloat16: unpack_bfloat16(start, work.size + padded(work.size), room); break;
    case Stored::kInt8: unpack_int8(start, work.size, room); break;
  }
  return {numbers, numbers + kLanes * work.size};
}
