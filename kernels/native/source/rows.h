// What a layer does to each row between its products. A row is read and written once, from cache: some 5 us for 32
// rows of the small model, where plain operators take 75 for the gate alone, most of it in calls to exp.
//
// Each row goes through the same steps alone or among others. Included inside a level's namespace.

// row / sqrt(mean(row^2) + eps) * weight. Sixteen partial sums, then those of the tail.
void rms_norm(const float* from, const float* weight, float eps, int64_t size, float* to) {
  Vec squares = zero();
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) squares = add_product(squares, load(from + i), load(from + i));
  float total = sum(squares);
  for (; i < size; ++i) total += from[i] * from[i];
  const float scale = 1 / __builtin_sqrtf(total / static_cast<float>(size) + eps);
  for (i = 0; i + kLanes <= size; i += kLanes) store(to + i, load(from + i) * scale * load(weight + i));
  for (; i < size; ++i) to[i] = from[i] * scale * weight[i];
}

// silu(gate) * up = gate / (1 + e^-gate) * up. The power is taken of -|gate|, where it cannot overflow.
INTERNVL_INLINE Vec gated(Vec gate, Vec up) {
  const Vec magnitude = larger(gate, zero() - gate), one = broadcast(1);
  const Vec power = exp2_nonpositive(magnitude * -kLog2E);
  const Vec share = one / (one + power);  // the sigmoid of |gate|; that of -|gate| is power times it
  return gate * where_positive(gate, share, power * share) * up;
}

void swiglu(const float* gate_up, int64_t size, float* to) {
  const float *gate = gate_up, *up = gate_up + size;
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) store(to + i, gated(load(gate + i), load(up + i)));
  if (i == size) return;
  float last_gate[kLanes] = {}, last_up[kLanes] = {}, last[kLanes];
  __builtin_memcpy(last_gate, gate + i, (size - i) * sizeof(float));
  __builtin_memcpy(last_up, up + i, (size - i) * sizeof(float));
  store(last, gated(load(last_gate), load(last_up)));
  __builtin_memcpy(to + i, last, (size - i) * sizeof(float));
}
