// RMSNorm of fp32 rows, one a block, rounded to bf16: the input of the product that follows.
#include "matvec.cuh"

static constexpr int WARPS = 8;

struct Arguments {
  const float* x;
  const Bf16* weight;
  Bf16* y;
  i64 columns, eps;  // eps: the bits of a float
};

extern "C" __global__ void __launch_bounds__(32 * WARPS) row_norm(const Arguments a) {
  __shared__ float parts[WARPS];
  const i64 at = (i64)blockIdx.x * a.columns;
  const int columns = (int)a.columns, first = 4 * threadIdx.x, stride = 128 * WARPS;
  start_next_kernel();
  wait_for_inputs();
  float sum = 0.f;
  UNROLL4 for (int k = first; k < columns; k += stride) {
    const float4 v = *reinterpret_cast<const float4*>(a.x + at + k);
    sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
  }
  UNROLL for (int i = 16; i > 0; i /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, i);
  if (warp_lane() == 0) parts[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0.f;
  UNROLL for (int w = 0; w < WARPS; ++w) sum += parts[w];
  const float scale = 1.f / sqrtf(sum / columns + __uint_as_float((u32)a.eps));
  UNROLL4 for (int k = first; k < columns; k += stride) {
    const float4 v = *reinterpret_cast<const float4*>(a.x + at + k);
    float w[4];
    load<Bf16, 4>(a.weight + k).open(w);
    const float normed[4] = {v.x * scale * w[0], v.y * scale * w[1], v.z * scale * w[2], v.w * scale * w[3]};
    store<Bf16, 4>(a.y + at + k, normed);
  }
}
