// The warp of stack_step.cu that copies what a layer reads from memory into a ring of stages, one after the other, as
// far ahead as there is room. Nothing of it depends on what the kernel computes.

// Stages on their way: enough for memory's full rate. With more, what blocks read of each other waits behind them.
static constexpr int IN_FLIGHT = 2;

struct Ring {
  int n = 0;  // stages that were begun
  u64 policy = policy_read_once();

  // The next stage, once it is free; `bytes` are on their way to it.
  DEVICE int begin(Shared& s, u32 bytes) {
    const int stage = n % STAGES;
    barrier_wait(&s.empty[stage], n / STAGES % 2 ^ 1);
    if (n >= IN_FLIGHT) barrier_wait(&s.full[(n - IN_FLIGHT) % STAGES], (n - IN_FLIGHT) / STAGES % 2);
    if (warp_lane() == 0) barrier_expect(&s.full[stage], bytes);
    __syncwarp();
    ++n;
    return stage;
  }
  // 8 rows of weights.
  DEVICE void rows(Shared& s, const Bf16* rows, int pitch, int columns) {
    const int stage = begin(s, 16 * columns), lane = warp_lane();
    char* to = s.stage[stage] + lane * PITCH;
    if (lane < 8) copy_bulk(to, rows + (i64)lane * pitch, 2 * columns, &s.full[stage], policy);
  }
  // dt_proj, A, D and bias of the block's channels.
  DEVICE void channels(Shared& s, const Layer& w, int count) {
    const int stage = begin(s, count * sizeof(Channels)), lane = warp_lane();
    if (lane >= count) return;
    const i64 e = 8 * channels_of(lane);
    Channels& to = reinterpret_cast<Channels*>(s.stage[stage])[lane];
    u64* barrier = &s.full[stage];
    copy_bulk(to.dt_proj, w.dt_proj + e * RANK, sizeof(to.dt_proj), barrier, policy);
    copy_bulk(to.A_log, w.A_log + e * STATES, sizeof(to.A_log), barrier, policy);
    copy_bulk(to.D, w.D + e, sizeof(to.D), barrier, policy);
    copy_bulk(to.bias, w.dt_bias + e, sizeof(to.bias), barrier, policy);
  }
  // The states of the block's channels (count, 8, 8, STATES) of up to 8 sequences from `first` on.
  DEVICE void states(Shared& s, const float* state, int count, int first, int sequences) {
    const int stage = begin(s, count * sequences * STATE);
    for (int i = warp_lane(); i < count * sequences; i += 32) {
      const int group = i / sequences, b = i % sequences;
      const i64 from = ((i64)(first + b) * E + 8 * channels_of(group)) * STATES;
      copy_bulk(s.stage[stage] + (8 * group + b) * STATE, state + from, STATE, &s.full[stage], policy);
    }
  }
};

// What the norm and the convolution need comes in small pieces: into the second-level cache.
DEVICE void prefetch_small(const Layer& w, int count, int sequences) {
  if (64 * (int)blockIdx.x < M && warp_lane() == 0) prefetch_line(w.norm + 64 * blockIdx.x);
  const int pieces = sequences * (TAPS - 1) + 2;
  for (int i = warp_lane(); i < count * pieces; i += 32) {
    const int e = 8 * channels_of(i / pieces), piece = i % pieces;
    if (piece >= 2) prefetch_line(w.past + (i64)(piece - 2) * E + e);
    else if (piece == 1) prefetch_line(w.taps + e * TAPS);
    else if (w.taps_bias) prefetch_line(w.taps_bias + e);
  }
}

DEVICE int channel_groups() { return (CHANNEL_GROUPS - (int)blockIdx.x + GRID - 1) / GRID; }

DEVICE void copy_layers(const Arguments& a, const Layers& l, Shared& s) {
  const int count = channel_groups(), sequences = (int)a.B;
  Ring ring;
  prefetch_small(l.layer[0], count, sequences);
  for (int i = 0; i < LAYERS; ++i) {
    const Layer& w = l.layer[i];
    if (i + 1 < LAYERS) prefetch_small(l.layer[i + 1], count, sequences);
    for (int j = 0; j < 2 * count; ++j)  // rows of u, and of the gate
      for (int c = 0; c < IN_CHUNKS; ++c)
        ring.rows(s, w.in_proj + (i64)(8 * channels_of(j / 2) + j % 2 * E) * M + c * IN_CHUNK, M, IN_CHUNK);
    if (has_x_proj()) {
      const i64 group = blockIdx.x % X_GROUPS, split = blockIdx.x / X_GROUPS;
      ring.rows(s, w.x_proj + group * 8 * E + split * SPLIT, E, SPLIT);
    }
    ring.channels(s, w, count);
    for (int b = 0; b < sequences; b += 8) ring.states(s, w.state, count, b, min(8, sequences - b));
    for (int first = 0; first < OUT_CHUNKS; first += AT_ONCE)
      for (int j = 0; out_group(j) < OUT_GROUPS; ++j)
        for (int c = first; c < min(first + AT_ONCE, OUT_CHUNKS); ++c)
          ring.rows(s, w.out_proj + (i64)out_group(j) * 8 * E + c * OUT_CHUNK, E, OUT_CHUNK);
  }
}
