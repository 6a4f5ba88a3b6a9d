// Rows of a norm: a block takes whole rows, a thread PER vectors of 4 numbers.
//
// -DTHREADS -DPER
#include "common.cuh"

static constexpr int WARPS = THREADS / 32, N = 4;

typedef float Values[PER][N];

// By all threads; `shared` may be used again after another barrier.
DEVICE float block_sum(float v, float* shared) {
  UNROLL for (int o = 16; o; o /= 2) v += __shfl_xor_sync(ALL_LANES, v, o);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
  __syncthreads();
  v = 0.f;
  UNROLL for (int w = 0; w < WARPS; ++w) v += shared[w];
  return v;
}

// Calls `visit(i, column)` for the thread's vectors.
template <typename Visit> DEVICE void vectors(i64 width, Visit visit) {
  UNROLL for (int i = 0; i < PER; ++i) {
    const int column = (threadIdx.x + i * THREADS) * N;
    if (column < (int)width) visit(i, column);
  }
}
