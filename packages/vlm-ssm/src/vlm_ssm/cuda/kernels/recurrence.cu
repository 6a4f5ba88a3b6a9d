// One position of the recurrence for B sequences: delta from its low rank, the state, the gate.
//
// A warp has 8 channels of SLOTS sequences, a power of two up to 8; blockIdx.y counts them. -DDEPTH: blocks of 32
// columns in dt_proj.
#include "matvec.cuh"

static constexpr int STATES = 16, WARPS = 4;

struct Arguments {
  const Bf16 *low, *weight, *u, *z;
  const float *A_log, *D, *bias, *state;
  float* state_after;
  Bf16* y;
  i64 B, E, rank, low_columns, z_stride;
};

extern "C" __global__ void __launch_bounds__(32 * WARPS) recurrence(const Arguments a) {
  const int lane = warp_lane(), group = lane / 4, part = lane % 4, slot = blockIdx.y * SLOTS;
  const int e = (blockIdx.x * WARPS + threadIdx.x / 32) * 8 + group, rank = (int)a.rank, count = (int)a.B - slot;
  const bool there = e < a.E;
  start_next_kernel();
  uint4 weights[DEPTH];
  UNROLL for (int d = 0; d < DEPTH; ++d) {
    const int k = 8 * part + d * K_BLOCK;
    weights[d] = load_weights(a.weight + (i64)e * rank + k, there && k < rank);
  }
  float4 h[SLOTS];  // states of earlier tokens: no kernel that may still run writes them
  const i64 own = ((i64)slot * a.E + e) * STATES + 4 * part, next = a.E * STATES;
  UNROLL for (int b = 0; b < SLOTS; ++b)
    h[b] = there && b < count ? *reinterpret_cast<const float4*>(a.state + own + b * next) : make_float4(0, 0, 0, 0);
  const i64 first = (i64)e * STATES + 4 * part;
  const float4 log = there ? *reinterpret_cast<const float4*>(a.A_log + first) : make_float4(0, 0, 0, 0);
  const float A2[4] = {-LOG2E * exp2f(log.x * LOG2E), -LOG2E * exp2f(log.y * LOG2E), -LOG2E * exp2f(log.z * LOG2E),
                       -LOG2E * exp2f(log.w * LOG2E)};
  const float D = there ? a.D[e] : 0.f, bias = there ? a.bias[e] : 0.f;
  wait_for_inputs();
  const Bf16* low = a.low + (i64)slot * a.low_columns;
  float u[SLOTS], z[SLOTS];  // everything is asked for before anything is used
  Words<Bf16, 4> B_words[SLOTS], C_words[SLOTS];
  UNROLL for (int b = 0; b < SLOTS; ++b) {
    const bool here = there && b < count;
    const i64 at = (i64)(slot + b) * a.E + e;
    u[b] = here ? as_float(a.u[at]) : 0.f;
    z[b] = here ? as_float(a.z[(slot + b) * a.z_stride + e]) : 0.f;
    const Bf16* row = low + (b < count ? b : 0) * a.low_columns + rank + 4 * part;
    B_words[b] = load<Bf16, 4>(row);
    C_words[b] = load<Bf16, 4>(row + STATES);
  }
  float sums[4] = {};
  UNROLL for (int d = 0; d < DEPTH; ++d) {
    const int k = 8 * part + d * K_BLOCK;
    const uint4 x = load_row(low + group * a.low_columns + k, group < SLOTS && group < count && k < rank);
    multiply(sums, x, make_uint4(0, 0, 0, 0), weights[d]);
  }
  UNROLL for (int b = 0; b < SLOTS; ++b) {
    // delta of sequence b and channel `group` is in lane 4 b + group / 2
    const float even = __shfl_sync(ALL_LANES, sums[0], 4 * b + group / 2);
    const float odd = __shfl_sync(ALL_LANES, sums[1], 4 * b + group / 2);
    const float delta = softplus(rounded(group % 2 ? odd : even) + bias);
    float B[4], C[4];
    B_words[b].open(B);
    C_words[b].open(C);
    const float before[4] = {h[b].x, h[b].y, h[b].z, h[b].w};
    float after[4], out = 0.f;
    UNROLL for (int s = 0; s < 4; ++s) {
      after[s] = fmaf(exp2_fast(delta * A2[s]), before[s], delta * u[b] * B[s]);
      out = fmaf(after[s], C[s], out);
    }
    out += __shfl_xor_sync(ALL_LANES, out, 1);
    out += __shfl_xor_sync(ALL_LANES, out, 2);
    if (there && b < count) {
      store<float, 4>(a.state_after + own + b * next, after);
      if (part == 0) a.y[(i64)(slot + b) * a.E + e] = as_bf16(fmaf(u[b], D, out) * z[b] * sigmoid(z[b]));
    }
  }
}
