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

// (row - mean) / sqrt(variance + eps) * weight + bias. The variance is taken of what is left without the mean.
void layer_norm(const float* from, const float* weight, const float* bias, float eps, int64_t size, float* to) {
  Vec sums = zero();
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) sums = sums + load(from + i);
  float total = sum(sums);
  for (; i < size; ++i) total += from[i];
  const float mean = total / static_cast<float>(size);
  Vec squares = zero();
  for (i = 0; i + kLanes <= size; i += kLanes) {
    const Vec rest = load(from + i) - broadcast(mean);
    squares = add_product(squares, rest, rest);
  }
  total = sum(squares);
  for (; i < size; ++i) total += (from[i] - mean) * (from[i] - mean);
  const float scale = 1 / __builtin_sqrtf(total / static_cast<float>(size) + eps);
  for (i = 0; i + kLanes <= size; i += kLanes)
    store(to + i, add_product(load(bias + i), (load(from + i) - broadcast(mean)) * scale, load(weight + i)));
  for (; i < size; ++i) to[i] = bias[i] + (from[i] - mean) * scale * weight[i];
}

// x Phi(x), with erfc of Abramowitz and Stegun 7.1.26: t = 1 / (1 + p |z|), a polynomial of t times e^(-z^2), wrong by
// 1.5e-7 at most. Phi(x) = erfc(-x / sqrt 2) / 2.
INTERNVL_INLINE Vec gelu(Vec x) {
  const Vec z = larger(x, zero() - x) * 0.70710678f, one = broadcast(1);
  const Vec t = one / add_product(one, 0.3275911f, z);
  Vec tail = broadcast(1.061405429f);
  tail = add_product(broadcast(-1.453152027f), tail, t);
  tail = add_product(broadcast(1.421413741f), tail, t);
  tail = add_product(broadcast(-0.284496736f), tail, t);
  tail = add_product(broadcast(0.254829592f), tail, t);
  tail = tail * t * exp2_nonpositive(z * z * -kLog2E) * 0.5f;  // Phi(-|x|)
  return x * where_positive(x, one - tail, tail);
}

void gelu(const float* from, int64_t size, float* to) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) store(to + i, gelu(load(from + i)));
  if (i == size) return;
  float last[kLanes] = {};
  __builtin_memcpy(last, from + i, (size - i) * sizeof(float));
  store(last, gelu(load(last)));
  __builtin_memcpy(to + i, last, (size - i) * sizeof(float));
}
