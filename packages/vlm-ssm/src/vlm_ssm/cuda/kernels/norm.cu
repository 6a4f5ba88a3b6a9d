// Residual addition and RMSNorm, forward and backward. A block takes whole rows, a thread PER vectors of 4 numbers.
//
// -DTHREADS -DPER -DROW: type of `out` and its gradient. -DMAT: type of y and its gradient. -DADDED: there is an `out`.
#include "common.cuh"

static constexpr int WARPS = THREADS / 32, N = 4;

struct Arguments {
  const float* residual; const Row* out;  // (rows, width)
  const float* weight; float* summed; Mat* y;
  float* scale;                           // (rows)
  const Mat* grad_y; const float* grad_summed;
  float* grad; Row* grad_out;             // of the sum; grad_out may be null
  float* sums;                            // (blocks, width): to the gradient of the weight
  i64 rows, width, each, eps;             // rows of a block in the backward; the bits of a float
};

typedef float Values[PER][N];

DEVICE float block_sum(float v, float* shared) {
  UNROLL for (int o = 16; o; o /= 2) v += __shfl_xor_sync(ALL_LANES, v, o);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
  __syncthreads();
  v = 0.f;
  UNROLL for (int w = 0; w < WARPS; ++w) v += shared[w];
  return v;
}

// Calls `visit(i, column)` for the thread's vectors.
template <typename Visit> DEVICE void vectors(const Arguments& a, Visit visit) {
  UNROLL for (int i = 0; i < PER; ++i) {
    const int column = (threadIdx.x + i * THREADS) * N;
    if (column < (int)a.width) visit(i, column);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) norm_forward(const __grid_constant__ Arguments a) {
  __shared__ float shared[WARPS];
  const i64 row = blockIdx.x * a.width;
  Values v = {}, w;
  vectors(a, [&](int i, int column) {
    load<float, N>(a.residual + row + column).open(v[i]);
    if (ADDED) {
      float out[N];
      load<Row, N>(a.out + row + column).open(out);
      UNROLL for (int c = 0; c < N; ++c) v[i][c] += out[c];
      store<float, N>(a.summed + row + column, v[i]);
    }
    load<float, N>(a.weight + column).open(w[i]);
  });
  float square = 0.f;
  UNROLL for (int i = 0; i < PER; ++i)
    UNROLL for (int c = 0; c < N; ++c) square = fmaf(v[i][c], v[i][c], square);
  const float mean = block_sum(square, shared) / (float)a.width;
  const float scale = 1.f / sqrtf(mean + __uint_as_float((u32)a.eps));
  vectors(a, [&](int i, int column) {
    UNROLL for (int c = 0; c < N; ++c) v[i][c] *= scale * w[i][c];
    store<Mat, N>(a.y + row + column, v[i]);
  });
  if (threadIdx.x == 0) a.scale[blockIdx.x] = scale;
}

// `each` rows a block: the gradient of the sum, and what the rows give to that of the weight.
extern "C" __global__ void __launch_bounds__(THREADS) norm_backward(const __grid_constant__ Arguments a) {
  __shared__ float shared[2][WARPS];  // by turns, so that one barrier a row suffices
  Values total = {};
  const i64 first = blockIdx.x * a.each, end = min(first + a.each, a.rows);
  for (i64 r = first; r < end; ++r) {
    const i64 row = r * a.width;
    const float scale = __ldg(a.scale + r);
    Values g = {}, normal = {}, back = {};
    float dot = 0.f;
    vectors(a, [&](int i, int column) {
      load<Mat, N>(a.grad_y + row + column).open(g[i]);
      load<float, N>(a.summed + row + column).open(normal[i]);
      if (a.grad_summed) load<float, N>(a.grad_summed + row + column).open(back[i]);
    });
    vectors(a, [&](int i, int column) {
      float w[N];
      load<float, N>(a.weight + column).open(w);
      UNROLL for (int c = 0; c < N; ++c) {
        normal[i][c] *= scale;
        total[i][c] = fmaf(g[i][c], normal[i][c], total[i][c]);
        g[i][c] *= w[c];
        dot = fmaf(g[i][c], normal[i][c], dot);
      }
    });
    dot = block_sum(dot, shared[r & 1]) / (float)a.width;
    vectors(a, [&](int i, int column) {
      UNROLL for (int c = 0; c < N; ++c) back[i][c] = fmaf(fmaf(-normal[i][c], dot, g[i][c]), scale, back[i][c]);
      store<float, N>(a.grad + row + column, back[i]);
      if (a.grad_out) store<Row, N>(a.grad_out + row + column, back[i]);
    });
  }
  vectors(a, [&](int i, int column) { store<float, N>(a.sums + blockIdx.x * a.width + column, total[i]); });
}
