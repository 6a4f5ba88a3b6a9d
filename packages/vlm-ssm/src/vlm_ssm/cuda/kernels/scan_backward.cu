// The selective scan, backward: gradients of everything from that of y and of the last state.
//
// A warp takes 16 channels, a lane 2 of them and 4 of their 16 states: lane = 16 half + 4 quarter + pair, channels
// 8 half + 2 pair and the next, states 4 quarter to + 3. A block of WARPS warps goes backward through chunks of CHUNK
// positions, for which the forward saved the state at the beginning. In a chunk
//   1. `prepare` puts delta, delta u and the gradient of the ungated y into shared memory;
//   2. `forward_states` goes forward and keeps the state before each tile of TILE positions;
//   3. for each tile, the last first, `recompute` goes forward with everything in registers, `reverse` back, and
//      `finish` computes the gradients of u, dt and z;
//   4. `sum_matrices` adds up what the warps give to the gradients of B and C.
// Sums over channels for B and C are products on tensor cores: the registers that hold h and its gradient are the left
// operand as they are, the right one is g or delta u of one position. The unit reads the left operand with 10 bits of
// mantissa, cut off; the mean of that error, 3.52e-4, is multiplied back by `reduce_matrices` (in reduce.cu). If B and C
// are fp32, each operand is a sum of two such numbers and three of the four products are added: exact to fp32.
//
// Other state sizes than 16 take a launch for each slice of 16 states (the last may have 8). What slices give to the
// gradients of u, dt and z is added up in fp32, one after the other; the last writes them, and those of D and bias.
//
// -DSTATES(a multiple of 8) -DWARPS -DMIN_BLOCKS -DGATED -DOWN_GATE(gradients of z too) -DWRITE_Y(the gated y, too)
// -DSOFTPLUS -DRESET -DORDERED -DTAIL
// -DCARRY: only what passes through a part of time, for the parts before it.
#include "backward_rows.cuh"

typedef float Block[2][4];  // 2 channels x 4 states of a lane

DEVICE void step_forward(Block& h, const Block& rate, float4 d, float4 b, bool begins) {
  const float delta[2] = {d.x, d.y}, delta_u[2] = {d.z, d.w}, B[4] = {b.x, b.y, b.z, b.w};
  UNROLL for (int j = 0; j < 2; ++j)
    UNROLL for (int i = 0; i < 4; ++i)
      h[j][i] = fmaf(exp2_fast(delta[j] * rate[j][i]), RESET && begins ? 0.f : h[j][i], delta_u[j] * B[i]);
}

// Addresses in shared memory, in bytes. Halves of y and of `back` that lie 64 bytes apart are swapped for odd quarters.
struct Addresses {
  u32 lane, steps, grad, matrices, e_grad, sums, y, back, D;
  DEVICE Addresses(const Place& at, Shared& s) {
    WarpMemory& m = s.warp[at.warp];
    const int l = threadIdx.x & 31, odd = at.quarter & 1;
    lane = address(&m) + l * 16;
    steps = address(&m.steps[at.pair]);
    grad = address(&m.grad[at.pair]);
    matrices = address(&s.matrices[at.quarter]);
    e_grad = address(&m.grad[l]);
    sums = address(&m.states[(l & 3) * 16 + at.half * 8 + (at.quarter ^ ((l & 3) * 2))]);
    y = address(m.y) + odd * 512 + (at.pair ^ (odd * 4)) * 16 + (at.quarter >> 1) * 8;
    back = address(m.back) + at.quarter * 512 + (at.pair ^ (odd * 4)) * 16;
    D = address(&s.D[at.e_channel]);
  }
};
static constexpr u32 STATES_AT = CHUNK * 192, Y_AT = STATES_AT + TILES * 1024, BACK_AT = Y_AT + 1024;

// The state before each tile but the last, whose is left in h.
DEVICE void forward_states(const Addresses& in, const Chunk& chunk, const Block& rate, Block& h) {
  float4 d[TILE], b[TILE];
  UNROLL for (int k = 0; k < TILE; ++k) {
    d[k] = read4(in.steps + k * 128);
    b[k] = read4(in.matrices + k * 128);
  }
#pragma unroll 1
  for (int tile = 0; tile < chunk.tiles - 1; ++tile) {
    const u32 to = in.lane + STATES_AT + tile * 1024, next = (tile + 1) * TILE * 128;
    write4(to, h[0][0], h[0][1], h[0][2], h[0][3]);
    write4(to + 512, h[1][0], h[1][1], h[1][2], h[1][3]);
    UNROLL for (int k = 0; k < TILE; ++k) {
      const float4 d_now = d[k], b_now = b[k];
      d[k] = read4(in.steps + next + k * 128);
      b[k] = read4(in.matrices + next + k * 128);
      step_forward(h, rate, d_now, b_now, (chunk.begins >> (tile * TILE + k)) & 1);
    }
  }
}

DEVICE float2 right_operand(float2 v) { return EXACT ? v : make_float2(round_tf32(v.x), round_tf32(v.y)); }

// Sums over the 16 channels of a warp: `s0` of states 4 q, 4 q + 1; `s1` of the next two.
struct ChannelSums {
  float s0[4] = {0, 0, 0, 0}, s1[4] = {0, 0, 0, 0};
  DEVICE void multiply(const Block& v, float b0, float b1) {
    multiply_add(s0, v[0][0], v[0][1], v[1][0], v[1][1], b0, b1);
    multiply_add(s1, v[0][2], v[0][3], v[1][2], v[1][3], b0, b1);
  }
  DEVICE void add(const Block& v, float b0, float b1) {
    if (EXACT) multiply_exactly(v, b0, b1);
    else multiply(v, b0, b1);
  }
  DEVICE void multiply_exactly(const Block& v, float b0, float b1) {
    Block high, low;
    UNROLL for (int j = 0; j < 2; ++j)
      UNROLL for (int i = 0; i < 4; ++i) {
        high[j][i] = cut_tf32(v[j][i]);
        low[j][i] = v[j][i] - high[j][i];
      }
    const float c0 = cut_tf32(b0), c1 = cut_tf32(b1);
    multiply(low, c0, c1);
    multiply(high, b0 - c0, b1 - c1);
    multiply(high, c0, c1);
  }
  DEVICE void write(u32 to, int half) const {
    write4(to, half ? s0[1] : s0[0], half ? s0[3] : s0[2], half ? s1[1] : s1[0], half ? s1[3] : s1[2]);
  }
};

// Forward through a tile: decays a and what they leave of the state, a h; parts of y; sums for the gradient of C.
DEVICE void recompute(const Place& at, const Addresses& in, const Chunk& chunk, int tile, const Block& rate, Block& h,
                      Block (&a)[TILE], Block (&ah)[TILE]) {
  const u32 steps = in.steps + tile * TILE * 128, matrices = in.matrices + tile * TILE * 128;
  float4 d_next = read4(steps), b_next = read4(matrices), c_next = read4(matrices + 64);
  const float2 g = right_operand(read2(in.e_grad + tile * TILE * 64));
  ChannelSums sums;
  float y[TILE][2];
  UNROLL for (int k = 0; k < TILE; ++k) {
    const float delta[2] = {d_next.x, d_next.y}, delta_u[2] = {d_next.z, d_next.w};
    const float B[4] = {b_next.x, b_next.y, b_next.z, b_next.w}, C[4] = {c_next.x, c_next.y, c_next.z, c_next.w};
    if (k + 1 < TILE) {
      d_next = read4(steps + (k + 1) * 128);
      b_next = read4(matrices + (k + 1) * 128);
      c_next = read4(matrices + (k + 1) * 128 + 64);
    }
    const bool begins = RESET && (chunk.begins >> (tile * TILE + k)) & 1;
    UNROLL for (int j = 0; j < 2; ++j)
      UNROLL for (int i = 0; i < 4; ++i) {
        a[k][j][i] = exp2_fast(delta[j] * rate[j][i]);
        if (begins) a[k][j][i] = 0.f;
        ah[k][j][i] = a[k][j][i] * h[j][i];
        h[j][i] = fmaf(delta_u[j], B[i], ah[k][j][i]);
        y[k][j] = i ? fmaf(C[i], h[j][i], y[k][j]) : C[i] * h[j][i];
      }
    sums.add(h, at.e_row == k ? g.x : 0.f, at.e_row == k ? g.y : 0.f);
  }
  if (OWN_GATE)
    UNROLL for (int k = 0; k < TILE; ++k) write2(in.y + k * 128, y[k][0], y[k][1]);
  sums.write((in.sums + tile * 1024) ^ 64, at.half);
}

// Back through a tile: dh = g C + carry; parts of the gradients of delta u and delta; dA; sums for the gradient of B.
DEVICE void reverse(const Place& at, const Addresses& in, int tile, const Block& rate, const Block (&a)[TILE],
                    const Block (&ah)[TILE], Block& carry, Block& dA) {
  const u32 steps = in.steps + tile * TILE * 128, matrices = in.matrices + tile * TILE * 128;
  const u32 grads = in.grad + tile * TILE * 64;
  const float2 x = right_operand(read2(in.lane + tile * TILE * 128 + 8));
  constexpr int END = TILE - 1;
  float2 d_next = read2(steps + END * 128), g_next = read2(grads + END * 64);
  float4 b_next = read4(matrices + END * 128), c_next = read4(matrices + END * 128 + 64);
  ChannelSums sums;
  UNROLL for (int k = END; k >= 0; --k) {
    const float delta[2] = {d_next.x, d_next.y}, g[2] = {g_next.x, g_next.y};
    const float B[4] = {b_next.x, b_next.y, b_next.z, b_next.w}, C[4] = {c_next.x, c_next.y, c_next.z, c_next.w};
    if (k > 0) {
      d_next = read2(steps + (k - 1) * 128);
      g_next = read2(grads + (k - 1) * 64);
      b_next = read4(matrices + (k - 1) * 128);
      c_next = read4(matrices + (k - 1) * 128 + 64);
    }
    Block dh;
    float dx[2], dd[2];
    UNROLL for (int j = 0; j < 2; ++j)
      UNROLL for (int i = 0; i < 4; ++i) {
        dh[j][i] = fmaf(g[j], C[i], carry[j][i]);
        dx[j] = i ? fmaf(dh[j][i], B[i], dx[j]) : dh[j][i] * B[i];
        const float w = dh[j][i] * ah[k][j][i];
        dd[j] = i ? fmaf(w, rate[j][i], dd[j]) : w * rate[j][i];
        dA[j][i] = fmaf(w, delta[j], dA[j][i]);
        carry[j][i] = a[k][j][i] * dh[j][i];
      }
    sums.add(dh, at.e_row == k ? x.x : 0.f, at.e_row == k ? x.y : 0.f);
    write4(in.back + k * 128, dx[0], dx[1], dd[0], dd[1]);
  }
  sums.write(in.sums + tile * 1024, at.half);
}

// Adds what earlier slices of states left; keeps the sums for later ones. Whether this is the last slice.
DEVICE bool add_slices(const Arguments& a, i64 lies, bool there, float2& dx, float2& dd, float2& y) {
  constexpr int VALUES = OWN_GATE ? 3 : 2;
  float2* value[3] = {&dx, &dd, &y};
  const bool last = (a.slice + 1) * SLICE >= STATES;
  UNROLL for (int i = 0; i < VALUES; ++i) {
    float2* at = reinterpret_cast<float2*>(a.slices + i * a.rows * a.E + lies);
    if (a.slice && there) *value[i] = *value[i] + *at;
    if (!last && there) *at = *value[i];
  }
  return last;
}

// Gradients of u, dt and z of a tile: a lane has 2 channels of one position. `sum_D`, `sum_bias` grow.
DEVICE void finish(const Arguments& a, const Place& at, const Addresses& in, const Chunk& chunk, int tile,
                   const Loaded& w, int row, float2& sum_D, float2& sum_bias) {
  const int i = tile * TILE + at.e_row, t = chunk.t0 + i;
  const u32 swapped = in.lane ^ 64;
  const float2 d = read2(in.lane + tile * TILE * 128), g = read2(in.e_grad + tile * TILE * 64), D = read2(in.D);
  const float4 b0 = read4(in.lane + BACK_AT), b1 = read4(swapped + BACK_AT + 512);
  const float4 b2 = read4(in.lane + BACK_AT + 1024), b3 = read4(swapped + BACK_AT + 1536);
  float2 dx = make_float2((b0.x + b1.x) + (b2.x + b3.x), (b0.y + b1.y) + (b2.y + b3.y));
  float2 dd = make_float2((b0.z + b1.z) + (b2.z + b3.z), (b0.w + b1.w) + (b2.w + b3.w)), y = dx;
  if (OWN_GATE) {
    const float4 y0 = read4(in.lane + Y_AT), y1 = read4(swapped + Y_AT + 512);
    y = make_float2((y0.x + y0.z) + (y1.x + y1.z), (y0.y + y0.w) + (y1.y + y1.w));
  }
  const i64 lies = ((i64)at.q * a.T + t) * a.E + at.e0 + at.e_channel;
  const bool there = t < a.T && at.has_e_channel();
  if (SLICED && !add_slices(a, lies, there, dx, dd, y)) return;
  const float2 u = w.u.open();
  float2 step = make_float2(fmaf(dd.x, LN2, dx.x * u.x), fmaf(dd.y, LN2, dx.y * u.y));
  if (SOFTPLUS) step = make_float2(step.x * softplus_slope(d.x), step.y * softplus_slope(d.y));
  if ((chunk.dead >> i) & 1) step = make_float2(0.f, 0.f);
  float2 dz;
#if WRITE_Y
  float2 gated;
#endif
  if (OWN_GATE) {
    y = make_float2(fmaf(D.x, u.x, y.x), fmaf(D.y, u.y, y.y));
    const float2 z = w.z.open(), go = w.grad.open();
    const float s0 = sigmoid(z.x), s1 = sigmoid(z.y);  // go silu'(z) = s (go - g) + g, as g = go z s
    dz = make_float2(y.x * fmaf(s0, go.x - g.x, g.x), y.y * fmaf(s1, go.y - g.y, g.y));
#if WRITE_Y
    gated = make_float2(y.x * z.x * s0, y.y * z.y * s1);
#endif
  }
  if (!there) return;
#if WRITE_Y
  write_pair(a.y + lies, gated.x, gated.y);
#endif
  write_pair(a.grad_u + lies, fmaf(dx.x, d.x, D.x * g.x), fmaf(dx.y, d.y, D.y * g.y));
  write_pair(a.grad_dt + lies, step.x, step.y);
  if (OWN_GATE)
    write_pair(a.grad_z + at.k * a.grad_z_k + at.n * a.grad_z_n + row * a.grad_z_t + at.e0 + at.e_channel, dz.x, dz.y);
  sum_bias = sum_bias + step;
  sum_D = make_float2(fmaf(g.x, u.x, sum_D.x), fmaf(g.y, u.y, sum_D.y));
}

// What the block's channels give to the gradients of B and C at the chunk's positions.
DEVICE void sum_matrices(const Arguments& a, const Place& at, const Chunk& chunk, const Shared& s) {
  const int groups = (int)(a.E / a.own);
  for (int item = threadIdx.x; item < chunk.tiles * TILE * 8; item += THREADS) {
    const int i = item >> 3, granule = item & 7, k = i % TILE;
    const int lies = i / TILE * 64 + k * 16 + (granule ^ (k * 2));
    float4 v = make_float4(0, 0, 0, 0);
    UNROLL for (int w = 0; w < WARPS * 2; ++w) {
      const float4 x = s.warp[w >> 1].states[lies + (w & 1) * 8];
      v.x += x.x; v.y += x.y; v.z += x.z; v.w += x.w;
    }
    const i64 row = (((i64)at.block * gridDim.y + at.q) * a.T + chunk.t0 + i) * groups + at.group;
    if (chunk.t0 + i < a.T) reinterpret_cast<float4*>(a.matrices)[row * 8 + granule] = v;
  }
}

// The gradient of the state after a part: that of the last state, gone through all later parts.
DEVICE void after_part(const Arguments& a, const Place& at, Block& carry) {
  const i64 plane = a.E * STATES, state = (i64)(at.e0 + at.channel) * STATES + at.state;
  UNROLL for (int j = 0; j < 2; ++j)
    UNROLL for (int i = 0; i < 4; ++i) {
      carry[j][i] = 0.f;
      if (!at.has_states()) continue;
      const bool last = at.part == at.parts - 1;
      if (a.grad_last && last) carry[j][i] = a.grad_last[at.q * plane + state + j * STATES + i];
#if !CARRY
      for (int part = at.parts - 1; part > at.part; --part) {
        const i64 lies = ((i64)at.q * at.parts + part) * plane + state + j * STATES + i;
        carry[j][i] = part == at.parts - 1 ? a.ends[lies] : fmaf(a.decays[lies], carry[j][i], a.ends[lies]);
      }
#endif
    }
}

DEVICE float2 over_rows(float2 v) {
  UNROLL for (int o = 8; o < 32; o *= 2)
    v = v + make_float2(__shfl_xor_sync(ALL_LANES, v.x, o), __shfl_xor_sync(ALL_LANES, v.y, o));
  return v;
}

DEVICE void save(float* to, const float (&v)[4]) { *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]); }

#if CARRY
DEVICE void carry_back(const Addresses& in, const Chunk& chunk, const Block& rate, Block& carry) {
#pragma unroll 1
  for (int tile = CHUNK / 8 - 1; tile >= 0; --tile)
    UNROLL for (int k = 7; k >= 0; --k) {
      const int i = tile * 8 + k;
      const float2 d = read2(in.steps + i * 128), g = read2(in.grad + i * 64);
      const float4 c = read4(in.matrices + i * 128 + 64);
      const float delta[2] = {d.x, d.y}, gs[2] = {g.x, g.y}, C[4] = {c.x, c.y, c.z, c.w};
      const bool begins = RESET && (chunk.begins >> i) & 1;
      UNROLL for (int j = 0; j < 2; ++j)
        UNROLL for (int s = 0; s < 4; ++s)
          carry[j][s] = begins ? 0.f : exp2_fast(delta[j] * rate[j][s]) * fmaf(gs[j], C[s], carry[j][s]);
    }
}
#endif

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) scan_backward(const __grid_constant__ Arguments a) {
  extern __shared__ __align__(128) char memory[];
  Shared& s = *reinterpret_cast<Shared*>(memory);
  const Place at(a);
  const Lanes from(a, at);
  const Addresses in(at, s);
  const i64 plane = a.E * STATES, state = (i64)(at.e0 + at.channel) * STATES + at.state;
  const int chunks = ((int)a.T + CHUNK - 1) / CHUNK;
  const int begin = at.part * (int)a.part_chunks, end = min(begin + (int)a.part_chunks, chunks);
  Block rate, carry;
  UNROLL for (int j = 0; j < 2; ++j)
    UNROLL for (int i = 0; i < 4; ++i)
      rate[j][i] = at.has_states() ? a.A[at.p * plane + state + j * STATES + i] * LOG2E : 0.f;
  after_part(a, at, carry);
  const int e = at.p * (int)a.E + at.e0 + (at.has_e_channel() ? at.e_channel : 0);
  const float2 zero = make_float2(0.f, 0.f);
  const auto bias = [&] { return a.bias ? make_float2(__ldg(a.bias + e), __ldg(a.bias + e + 1)) : zero; };
  float2 total = zero;
#if CARRY
  bool forgets = false;
#pragma unroll 1
  for (int c = end - 1; c >= begin; --c) {
    const Chunk chunk(a, at, c);
    forgets |= chunk.begins != 0;
    prepare(a, at, from, chunk, bias(), s, total);
    __syncthreads();
    carry_back(in, chunk, rate, carry);
    __syncthreads();
  }
  total = over_rows(total);
  const float2 d = make_float2(__shfl_sync(ALL_LANES, total.x, at.pair), __shfl_sync(ALL_LANES, total.y, at.pair));
  UNROLL for (int j = 0; j < 2; ++j) {
    UNROLL for (int i = 0; i < 4; ++i) rate[j][i] = forgets ? 0.f : exp2_fast(rate[j][i] * (j ? d.y : d.x));
    if (!at.has_states()) continue;
    const i64 lies = ((i64)at.q * at.parts + at.part) * plane + state + j * STATES;
    save(a.ends + lies, carry[j]);
    save(a.decays + lies, rate[j]);
  }
#else
  Block dA = {};
  float2 sum_D = zero, sum_bias = zero;
  if (threadIdx.x % 32 < 8)
    *reinterpret_cast<float2*>(&s.D[at.e_channel]) = a.D && at.has_e_channel() ? make_float2(a.D[e], a.D[e + 1]) : zero;
#pragma unroll 1
  for (int c = end - 1; c >= begin; --c) {
    const Chunk chunk(a, at, c);
    Block h = {};
    if (at.has_states())
      UNROLL for (int j = 0; j < 2; ++j) {
        const float4 v = __ldg(reinterpret_cast<const float4*>(
            a.starts + ((i64)at.q * chunks + c) * plane + state + j * STATES));
        h[j][0] = v.x; h[j][1] = v.y; h[j][2] = v.z; h[j][3] = v.w;
      }
    prepare(a, at, from, chunk, bias(), s, total);
    __syncthreads();
    if (c > begin) prefetch(a, at, from, chunk.t0 - CHUNK);
    forward_states(in, chunk, rate, h);
#pragma unroll 1
    for (int tile = chunk.tiles - 1; tile >= 0; --tile) {
      Block decays[TILE], left[TILE];
      Loaded ends;
      ends.read(a, from, chunk, tile * TILE + at.e_row);
      const int row = chunk.row_at(a, tile * TILE + at.e_row);
      if (tile < chunk.tiles - 1) {
        const u32 saved = in.lane + STATES_AT + tile * 1024;
        const float4 v = read4(saved), w = read4(saved + 512);
        h[0][0] = v.x; h[0][1] = v.y; h[0][2] = v.z; h[0][3] = v.w;
        h[1][0] = w.x; h[1][1] = w.y; h[1][2] = w.z; h[1][3] = w.w;
      }
      recompute(at, in, chunk, tile, rate, h, decays, left);
      reverse(at, in, tile, rate, decays, left, carry, dA);
      __syncwarp();
      finish(a, at, in, chunk, tile, ends, row, sum_D, sum_bias);
      __syncwarp();
    }
    __syncthreads();
    sum_matrices(a, at, chunk, s);
  }
  sum_D = over_rows(sum_D);
  sum_bias = over_rows(sum_bias);
  float* sums = a.sums + ((i64)at.q * at.parts + at.part) * a.E * (SLICE + 2);
  if (at.has_channel())
    UNROLL for (int j = 0; j < 2; ++j) {
      save(sums + (at.e0 + at.channel + j) * SLICE + 4 * at.quarter, dA[j]);
      if (at.part == 0 && at.has_states()) save(a.grad_first + at.q * plane + state + j * STATES, carry[j]);
    }
  if (threadIdx.x % 32 < 8 && at.has_e_channel()) {
    *reinterpret_cast<float2*>(sums + SLICE * a.E + at.e0 + at.e_channel) = sum_D;
    *reinterpret_cast<float2*>(sums + (SLICE + 1) * a.E + at.e0 + at.e_channel) = sum_bias;
  }
#endif
}
