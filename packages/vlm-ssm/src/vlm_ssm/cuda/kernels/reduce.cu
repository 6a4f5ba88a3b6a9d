// Sums of what blocks and parts of the backward scan wrote, in one order: no atomics.
#include "common.cuh"

struct Arguments {
  const float4* matrices;        // (blocks, rows, 8) of 4 numbers: B, then C
  Mat *grad_B, *grad_C;          // (rows, S)
  const float4* sums;            // (sets, slices, length) of 4 numbers
  float4 *first, *second, *third;  // (sets, first_length), … of 4 numbers: what `length` consists of
  i64 first_length, second_length, third_length;
  i64 blocks, rows, matrix_grid, sets, slices;
  i64 states, slice;             // S, and which 16 of them; `first` is then (sets, E, S)
};

// The tensor cores cut the left operand to 10 bits of mantissa: the mean error for a logarithmically uniform mantissa.
// Gradients of fp32 are exact without it.
static constexpr float CUT = ROW == 0 ? 1.f : 1.f + 3.52e-4f;

DEVICE void add(float4& v, float4 x) { v.x += x.x; v.y += x.y; v.z += x.z; v.w += x.w; }

// 8 rows x 8 granules; four slices of the blocks side by side.
DEVICE void reduce_matrices(const Arguments& a, float4* shared) {
  const int slice = threadIdx.x >> 6, w = threadIdx.x & 63, granule = w & 7;
  const i64 row = blockIdx.x * 8 + (w >> 3);
  float4 v = make_float4(0, 0, 0, 0);
  if (row < a.rows)
#pragma unroll 8
    for (int i = slice; i < a.blocks; i += 4) add(v, __ldcs(a.matrices + (i * a.rows + row) * 8 + granule));
  shared[threadIdx.x] = v;
  __syncthreads();
  if (slice || row >= a.rows) return;
  UNROLL for (int i = 1; i < 4; ++i) add(v, shared[i * 64 + w]);
  const float out[4] = {v.x * CUT, v.y * CUT, v.z * CUT, v.w * CUT};
  const int state = (int)a.slice * 16 + (granule & 3) * 4;
  if (state < a.states) store<Mat, 4>((granule < 4 ? a.grad_B : a.grad_C) + row * a.states + state, out);
}

DEVICE void reduce_sums(const Arguments& a) {
  const i64 i = (blockIdx.x - a.matrix_grid) * 256 + threadIdx.x;
  const i64 length = a.first_length + a.second_length + a.third_length, set = i / length, at = i % length;
  if (set >= a.sets) return;
  const float4* from = a.sums + set * a.slices * length + at;
  float4 v = from[0];
#pragma unroll 8
  for (int j = 1; j < a.slices; ++j) add(v, from[j * length]);
  const i64 second = at - a.first_length, third = second - a.second_length;
  if (second < 0 && !a.states) a.first[set * a.first_length + at] = v;
  else if (second < 0) {
    const i64 own = a.states / 4, state = a.slice * 4 + at % 4;  // in granules
    if (state < own) a.first[(set * a.first_length + at) / 4 * own + state] = v;
  }
  else if (third < 0) a.second[set * a.second_length + second] = v;
  else a.third[set * a.third_length + third] = v;
}

extern "C" __global__ void __launch_bounds__(256) reduce(const __grid_constant__ Arguments a) {
  __shared__ float4 shared[256];
  if (blockIdx.x < a.matrix_grid) reduce_matrices(a, shared);
  else reduce_sums(a);
}
