// dt_proj and the recurrence of stack_step.cu, for the block's channels.

// delta's low rank, B and C: the sums of all splits, once they are written, as rows of shared memory.
DEVICE void sum_low(const Arguments& a, Shared& s, int layer) {
  const int count = (int)a.B * X_ROWS;
  for (int i = 4 * threadIdx.x; i < count; i += 4 * CONSUMERS) {
    const float* from = low_of(a, layer) + i;
    uint4 parts[SPLITS];
    bool missing = true;
    while (missing) {
      missing = false;
      UNROLL for (int p = 0; p < SPLITS; ++p) parts[p] = read_unit(from + (i64)p * count);
      UNROLL for (int p = 0; p < SPLITS; ++p) missing |= is_unwritten(parts[p]);
    }
    float sums[4] = {};
    UNROLL for (int p = 0; p < SPLITS; ++p) {
      const u32 words[4] = {parts[p].x, parts[p].y, parts[p].z, parts[p].w};
      UNROLL for (int j = 0; j < 4; ++j) sums[j] += __uint_as_float(words[j]);
    }
    store<Bf16, 4>(s.low + i / X_ROWS * X_PITCH + i % X_ROWS, sums);
  }
}

// delta of 8 channels and all sequences.
DEVICE void project_delta(Shared& s, const Channels& w, float (&to)[SLOTS][8]) {
  const int lane = warp_lane(), group = lane / 4, part = lane % 4;
  float sums[2][4] = {};
  UNROLL for (int k0 = 0; k0 < RANK; k0 += K_BLOCK) {
    const int k = k0 + 8 * part;
    const bool there = k0 + K_BLOCK <= RANK || k < RANK;
    const uint4 low = load_row(s.low + group * X_PITCH + k, there);
    const uint4 high = load_row(s.low + (group + 8) * X_PITCH + k, HALVES > 1 && there);
    multiply(sums[k0 / K_BLOCK % 2], low, high, load_row(w.dt_proj + group * RANK + k, there));
  }
  UNROLL for (int i = 0; i < 2 * HALVES; ++i) {
    const int channel = 2 * part + i % 2;
    to[group + 8 * (i / 2)][channel] = softplus(rounded(sums[0][i] + sums[1][i]) + w.bias[channel]);
  }
}

// One position of the block's i-th group of channels in sequence b: a lane has 4 states of one.
DEVICE void recur(const Arguments& a, const Layer& l, Shared& s, const Channels& w, const float* before, int layer,
                  int i, int b) {
  const int lane = warp_lane(), channel = lane / 4, part = lane % 4, e = 8 * channels_of(i) + channel;
  const float delta = s.delta[i][b][channel], u = s.u[i][b][channel], z = s.z[i][b][channel];
  float A_log[4], h[4], B_row[4], C_row[4], after[4], out = 0.f;
  load<float, 4>(w.A_log + channel * STATES + 4 * part).open(A_log);
  load<float, 4>(before + channel * STATES + 4 * part).open(h);
  load<Bf16, 4>(s.low + b * X_PITCH + RANK + 4 * part).open(B_row);
  load<Bf16, 4>(s.low + b * X_PITCH + RANK + STATES + 4 * part).open(C_row);
  UNROLL for (int j = 0; j < 4; ++j) {
    const float A2 = -LOG2E * exp2f(A_log[j] * LOG2E);
    after[j] = fmaf(exp2_fast(delta * A2), h[j], delta * u * B_row[j]);
    out = fmaf(after[j], C_row[j], out);
  }
  store<float, 4>(l.state_after + ((i64)b * E + e) * STATES + 4 * part, after);
  out += __shfl_xor_sync(ALL_LANES, out, 1);
  out += __shfl_xor_sync(ALL_LANES, out, 2);
  const uint4 unit = gather_bf16(fmaf(u, w.D[channel], out) * z * sigmoid(z), 4);
  const i64 at = (i64)b * E + 8 * channels_of(i);
  if (lane == 0) publish_unit(y_of(a, layer) + at, unit);
  if (lane == 1) reset_unit(y_of(a, layer + 2) + at);
}

DEVICE void run_recurrence(const Arguments& a, const Layer& l, Shared& s, int layer, Warp& warp) {
  const int count = channel_groups(), sequences = (int)a.B;
  const Channels* channels = reinterpret_cast<const Channels*>(s.stage[warp.stage()]);
  Warp states = warp;
  warp.wait(s);
  for (int b = 0; b < sequences; b += 8) {
    ++states.n;
    states.wait(s);
  }
  barrier_wait(&s.in_proj_done, layer % 2);
  consumers_wait(a, LOW_RANK, layer + 1);
  sum_low(a, s, layer);
  consumers_meet();
  for (int i = warp.index; i < count; i += WARPS) project_delta(s, channels[i], s.delta[i]);
  consumers_meet();
  for (int t = warp.index; t < count * sequences; t += WARPS) {
    const int i = t / sequences, b = t % sequences;
    const char* stage = s.stage[(warp.n + 1 + b / 8) % STAGES] + (8 * i + b % 8) * STATE;
    recur(a, l, s, channels[i], reinterpret_cast<const float*>(stage), layer, i, b);
  }
  for (int b = -8; b < sequences; b += 8) warp.release(s);
  consumers_meet();
  if (warp.index == 0) count_written(a, Y);
}
