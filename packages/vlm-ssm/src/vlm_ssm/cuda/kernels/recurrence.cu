// One position of the recurrence for B sequences: delta from its low rank, the state, the gate.
//
// A warp has 8 channels. -DSLOTS: B rounded up to a power of two, 1 to 16. -DDEPTH: blocks of 32 columns in dt_proj.
#include "matvec.cuh"

static constexpr int STATES = 16, WARPS = 4, HALVES = SLOTS > 8 ? 2 : 1;

struct Arguments {
  const Bf16 *low, *weight, *u, *z;
  const float *A_log, *D, *bias, *state;
  float* state_after;
  Bf16* y;
  i64 B, E, rank, low_columns;
};

extern "C" __global__ void __launch_bounds__(32 * WARPS) recurrence(const Arguments a) {
  const int lane = warp_lane(), group = lane / 4, part = lane % 4;
  const int e = (blockIdx.x * WARPS + threadIdx.x / 32) * 8 + group, rank = (int)a.rank;
  const bool there = e < a.E;
  uint4 weights[DEPTH];
  UNROLL for (int d = 0; d < DEPTH; ++d) {
    const int k = 8 * part + d * K_BLOCK;
    weights[d] = load_weights(a.weight + (i64)e * rank + k, there && k < rank);
  }
  float4 h[SLOTS];  // states of earlier tokens: no kernel that may still run writes them
  const i64 own = (i64)e * STATES + 4 * part;
  UNROLL for (int b = 0; b < SLOTS; ++b)
    h[b] = there && b < a.B ? *reinterpret_cast<const float4*>(a.state + b * a.E * STATES + own) : make_float4(0, 0, 0, 0);
  const float4 log = there ? *reinterpret_cast<const float4*>(a.A_log + own) : make_float4(0, 0, 0, 0);
  const float A2[4] = {-LOG2E * exp2f(log.x * LOG2E), -LOG2E * exp2f(log.y * LOG2E), -LOG2E * exp2f(log.z * LOG2E),
                       -LOG2E * exp2f(log.w * LOG2E)};
  const float D = there ? a.D[e] : 0.f, bias = there ? a.bias[e] : 0.f;
  wait_for_inputs();
  float sums[4] = {};
  UNROLL for (int d = 0; d < DEPTH; ++d) {
    uint4 x[2] = {};
    const int k = 8 * part + d * K_BLOCK;
    UNROLL for (int i = 0; i < HALVES; ++i)
      x[i] = load_row(a.low + (group + 8 * i) * a.low_columns + k, group + 8 * i < a.B && k < rank);
    multiply(sums, x[0], x[1], weights[d]);
  }
  UNROLL for (int b = 0; b < SLOTS; ++b) {
    if (b >= a.B) break;
    // delta of vector b and channel `group` is in lane 4 (b % 8) + group / 2
    const int from = 4 * (b % 8) + group / 2;
    const float even = __shfl_sync(ALL_LANES, sums[b < 8 ? 0 : 2], from);
    const float odd = __shfl_sync(ALL_LANES, sums[b < 8 ? 1 : 3], from);
    const float delta = softplus(rounded(group % 2 ? odd : even) + bias);
    const i64 at = b * a.E + e;
    const float u = there ? as_float(a.u[at]) : 0.f, z = there ? as_float(a.z[at]) : 0.f;
    float B[4], C[4];
    load<Bf16, 4>(a.low + b * a.low_columns + rank + 4 * part).open(B);
    load<Bf16, 4>(a.low + b * a.low_columns + rank + STATES + 4 * part).open(C);
    const float4 old = h[b];
    const float before[4] = {old.x, old.y, old.z, old.w};
    float next[4], out = 0.f;
    UNROLL for (int s = 0; s < 4; ++s) {
      next[s] = fmaf(exp2_fast(delta * A2[s]), before[s], delta * u * B[s]);
      out = fmaf(next[s], C[s], out);
    }
    out += __shfl_xor_sync(ALL_LANES, out, 1);
    out += __shfl_xor_sync(ALL_LANES, out, 2);
    if (!there) continue;
    store<float, 4>(a.state_after + b * a.E * STATES + own, next);
    if (part == 0) a.y[at] = as_bf16(fmaf(u, D, out) * z * sigmoid(z));
  }
}
