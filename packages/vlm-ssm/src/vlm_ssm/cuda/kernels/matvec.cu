// y (B, rows) = x (B, columns) W^T, and what follows a product of a Mamba layer that decodes.
//
// -DSLOTS: sequences of a block, a power of two up to 16; blockIdx.y counts them. -DWARPS: of a block; they share the
// columns. -DTILES: of 8 rows, those of a block. -DDEPTH: column blocks that a warp reads at once. -DREGISTERS: of a
// thread at most, so that blocks of the next kernel find room.
// -DSINK: 0 stores y as bf16; 1 adds y to the fp32 `residual`; 2 moves the convolution on for rows below `inner` and
// stores the rest as the gate.
#include "matvec.cuh"

struct Arguments {
  const Bf16 *x, *weight, *taps, *taps_bias, *past;  // addresses that a kernel does not use are 0
  const char* ahead;  // weights of a later kernel, to be brought into the second-level cache
  Bf16 *past_after, *y, *gate;
  float* residual;
  i64 B, rows, columns, inner, ahead_bytes;
};

static constexpr int ROWS = 8 * TILES, HALVES = SLOTS > 8 ? 2 : 1;

// SiLU of the convolution's window that ends with `fresh`; the window moves on by one position.
DEVICE void convolve(const Arguments& a, int b, int e, float fresh) {
  float total = fresh * as_float(a.taps[e * TAPS + TAPS - 1]);
  if (a.taps_bias) total += as_float(a.taps_bias[e]);
  const i64 at = (i64)b * (TAPS - 1) * a.inner + e;
  Bf16 old[TAPS];
  UNROLL for (int j = 0; j < TAPS - 1; ++j) old[j] = a.past[at + j * a.inner];
  old[TAPS - 1] = as_bf16(fresh);
  UNROLL for (int j = 0; j < TAPS - 1; ++j) {
    total += as_float(old[j]) * as_float(a.taps[e * TAPS + j]);
    a.past_after[at + j * a.inner] = old[j + 1];
  }
  a.y[b * a.inner + e] = as_bf16(total * sigmoid(total));
}

DEVICE void finish(const Arguments& a, int b, int row, float sum) {
  if (row >= a.rows || b >= a.B) return;
  const i64 at = (i64)b * a.rows + row;
  if (SINK == 0) a.y[at] = as_bf16(sum);
  if (SINK == 1) a.residual[at] += rounded(sum);
  if (SINK == 2) {
    if (row < a.inner) convolve(a, b, row, rounded(sum));
    else a.gate[b * a.inner + row - a.inner] = as_bf16(sum);
  }
}

extern "C" __global__ void __maxnreg__(REGISTERS) matvec(const Arguments a) {
  __shared__ float parts[WARPS][SLOTS][ROWS];
  const int lane = warp_lane(), warp = threadIdx.x / 32, group = lane / 4, first = blockIdx.x * ROWS + group;
  const int steps = (int)((a.columns + K_BLOCK * WARPS - 1) / (K_BLOCK * WARPS));  // of this warp
  const int start = warp * steps * K_BLOCK + 8 * (lane % 4), slot = blockIdx.y * SLOTS;
  const int columns = (int)a.columns, end = min(columns, (warp + 1) * steps * K_BLOCK);
  float sums[TILES][4] = {};
  uint4 weights[TILES][DEPTH];
  if (SINK != 2) start_next_kernel();
  for (int step = 0; step < steps; step += DEPTH) {
    UNROLL for (int d = 0; d < DEPTH; ++d)
      UNROLL for (int t = 0; t < TILES; ++t) {
        const int k = start + (step + d) * K_BLOCK, row = first + 8 * t;
        weights[t][d] = load_weights(a.weight + (i64)row * columns + k, k < end && row < a.rows);
      }
    if (step == 0) {
      if (threadIdx.x == 0) prefetch_part(a.ahead, a.ahead_bytes);
      wait_for_inputs();
      if (SINK == 2) start_next_kernel();
    }
    UNROLL for (int d = 0; d < DEPTH; ++d) {
      const int k = start + (step + d) * K_BLOCK;
      uint4 x[2] = {};
      UNROLL for (int h = 0; h < HALVES; ++h) {
        const int b = slot + group + 8 * h;
        x[h] = load_row(a.x + (i64)b * columns + k, group + 8 * h < SLOTS && b < a.B && k < end);
      }
      UNROLL for (int t = 0; t < TILES; ++t) multiply(sums[t], x[0], x[1], weights[t][d]);
    }
  }
  UNROLL for (int t = 0; t < TILES; ++t)
    UNROLL for (int i = 0; i < 2 * HALVES; ++i) {
      const int b = group + 8 * (i / 2);
      if (b < SLOTS) parts[warp][b][8 * t + 2 * (lane % 4) + i % 2] = sums[t][i];
    }
  __syncthreads();
  for (int i = threadIdx.x; i < SLOTS * ROWS; i += 32 * WARPS) {
    float sum = 0.f;
    UNROLL for (int w = 0; w < WARPS; ++w) sum += parts[w][i / ROWS][i % ROWS];
    finish(a, slot + i / ROWS, blockIdx.x * ROWS + i % ROWS, sum);
  }
}
