// The residual of stack_step.cu: its start, its norm as input of a product, its last norm.

// The residual in fp32, and sums of squares of 8 columns; a block a sequence.
DEVICE void start_residual(const Arguments& a) {
  const i64 b = blockIdx.x;
  if (b >= a.B) return;
  for (int g = threadIdx.x; g < OUT_GROUPS; g += CONSUMERS) {
    float v[8], sum = 0.f;
    load<Bf16, 8>(a.x + b * M + 8 * g).open(v);
    UNROLL for (int i = 0; i < 8; ++i) sum += v[i] * v[i];
    UNROLL for (int i = 0; i < 8; i += 4)
      publish_unit(a.residual + b * M + 8 * g + i, *reinterpret_cast<const uint4*>(v + i));
    publish_number(a.squares + b * OUT_GROUPS + g, sum);
  }
}

// visit(c, j, k) for each block of columns of in_proj that a warp has; its lane has the eight from k on.
template <typename Visit> DEVICE void each_block(Visit visit, const Warp& warp) {
  UNROLL for (int c = 0; c < IN_CHUNKS; ++c)
    UNROLL for (int j = 0; j < FRAGMENTS; ++j)
      if (has_block<IN_CHUNK>(warp.index, j)) visit(c, j, c * IN_CHUNK + j * WARPS * K_BLOCK + warp.column());
}

// Sums of squares of a sequence's residual, over a warp.
static constexpr int SQUARES = ceil_div(OUT_GROUPS, 32);
DEVICE void read_squares(float (&to)[SQUARES], const float* from) {
  UNROLL for (int i = 0; i < SQUARES; ++i) {
    const bool there = (i + 1) * 32 <= OUT_GROUPS || i * 32 + warp_lane() < OUT_GROUPS;
    to[i] = there ? read_number(from + 32 * i + warp_lane()) : 0.f;
  }
}
DEVICE bool is_unwritten(const float (&squares)[SQUARES]) {
  bool missing = false;
  UNROLL for (int i = 0; i < SQUARES; ++i) missing |= is_unwritten(squares[i]);
  return missing;
}
// 1 / root mean square; of all lanes alike.
DEVICE float scale_of(const Arguments& a, const float (&squares)[SQUARES]) {
  float sum = 0.f;
  UNROLL for (int i = 0; i < SQUARES; ++i) sum += squares[i];
  UNROLL for (int i = 16; i > 0; i /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, i);
  return 1.f / sqrtf(sum / M + __uint_as_float((u32)a.eps));
}
DEVICE float scale_of(const Arguments& a, int layer, int b) {
  const float* from = squares_of(a, layer) + b * OUT_GROUPS;
  float squares[SQUARES];
  do read_squares(squares, from);
  while (__any_sync(ALL_LANES, is_unwritten(squares)));
  return scale_of(a, squares);
}

DEVICE u32 normed(u32 even, u32 odd, float scale, u32 weights) {
  const float2 w = unpack<Bf16>(weights);
  return pack<Bf16>(__uint_as_float(even) * scale * w.x, __uint_as_float(odd) * scale * w.y);
}
DEVICE uint4 normed(const uint4 (&v)[2], float scale, const uint4& weight) {
  return make_uint4(normed(v[0].x, v[0].y, scale, weight.x), normed(v[0].z, v[0].w, scale, weight.y),
                    normed(v[1].x, v[1].y, scale, weight.z), normed(v[1].z, v[1].w, scale, weight.w));
}

// The norm's weights, into shared memory: a lane has its own columns.
DEVICE void load_norm(Shared& s, const Bf16* weight, const Warp& warp) {
  uint4 v[IN_CHUNKS][FRAGMENTS];
  each_block([&](int c, int j, int k) { v[c][j] = load_weights(weight + k, true); }, warp);
  each_block([&](int c, int j, int k) { *reinterpret_cast<uint4*>(s.norm + k) = v[c][j]; }, warp);
  __syncwarp();
}

// This warp's columns of a sequence's residual.
typedef uint4 Residual[IN_CHUNKS][FRAGMENTS][2];
DEVICE void read_residual(Residual& to, const float* from, const Warp& warp) {
  each_block([&](int c, int j, int k) {
    UNROLL for (int i = 0; i < 2; ++i) to[c][j][i] = read_unit(from + k + 4 * i);
  }, warp);
}
DEVICE bool is_unwritten(const Residual& v, const Warp& warp) {
  bool missing = false;
  each_block([&](int c, int j, int) { missing |= is_unwritten(v[c][j][0]) || is_unwritten(v[c][j][1]); }, warp);
  return missing;
}

// RMSNorm of the residual once it is written.
DEVICE void load_normed(Fragments (&to)[IN_CHUNKS], const Arguments& a, Shared& s, int layer, const Warp& warp) {
  const float* squares_from = squares_of(a, layer) + warp.index * OUT_GROUPS;
  const bool scales = warp.index < a.B;
  consumers_wait(a, RESIDUAL, layer);
  UNROLL for (int h = 0; h < HALVES; ++h) {
    const int b = sequence_row(a, h);
    Residual v;
    float squares[SQUARES] = {};
    bool missing = true;
    while (missing) {
      read_residual(v, residual_of(a, layer) + (i64)b * M, warp);
      if (h == 0 && scales) read_squares(squares, squares_from);
      missing = __any_sync(ALL_LANES, is_unwritten(v, warp) || is_unwritten(squares));
    }
    if (h == 0) {
      if (scales) s.scale[warp.index] = scale_of(a, squares);
      for (int other = warp.index + WARPS; other < a.B; other += WARPS) s.scale[other] = scale_of(a, layer, other);
      consumers_meet();
    }
    const float scale = s.scale[b];
    each_block([&](int c, int j, int k) { to[c][j][h] = normed(v[c][j], scale, load_row(s.norm + k, true)); }, warp);
  }
}

// The stack's output: a block a sequence.
DEVICE void write_last_norm(const Arguments& a) {
  const int b = blockIdx.x;
  if (b >= a.B) return;
  const float scale = scale_of(a, LAYERS, b);
  for (int g = threadIdx.x; g < OUT_GROUPS; g += CONSUMERS) {
    const float* from = residual_of(a, LAYERS) + (i64)b * M + 8 * g;
    uint4 v[2] = {read_unit(from), read_unit(from + 4)};
    while (is_unwritten(v[0])) v[0] = read_unit(from);
    while (is_unwritten(v[1])) v[1] = read_unit(from + 4);
    *reinterpret_cast<uint4*>(a.out + (i64)b * M + 8 * g) = normed(v, scale, load_row(a.last_norm + 8 * g, true));
  }
}
