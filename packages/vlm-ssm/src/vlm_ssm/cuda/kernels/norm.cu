// Residual addition and RMSNorm, forward and backward.
//
// -DROW: type of `out` and its gradient. -DMAT: type of y and its gradient. -DADDED: there is an `out`.
// -DWEIGHT: type of the weight.
#include "norm_rows.cuh"

typedef TypeOf<WEIGHT>::Type Weight;

struct Arguments {
  const float* residual; const Row* out;  // (rows, width)
  const Weight* weight; float* summed; Mat* y;
  float* scale;                           // (rows)
  const Mat* grad_y; const float* grad_summed;
  float* grad; Row* grad_out;             // of the sum; grad_out may be null
  float* sums;                            // (blocks, width): to the gradient of the weight
  i64 rows, width, each, eps;             // rows of a block in the backward; the bits of a float
};

extern "C" __global__ void __launch_bounds__(THREADS) norm_forward(const __grid_constant__ Arguments a) {
  __shared__ float shared[WARPS];
  const i64 row = blockIdx.x * a.width;
  Values v = {}, w;
  vectors(a.width, [&](int i, int column) {
    load<float, N>(a.residual + row + column).open(v[i]);
    if (ADDED) {
      float out[N];
      load<Row, N>(a.out + row + column).open(out);
      UNROLL for (int c = 0; c < N; ++c) v[i][c] += out[c];
      store<float, N>(a.summed + row + column, v[i]);
    }
    load<Weight, N>(a.weight + column).open(w[i]);
  });
  float square = 0.f;
  UNROLL for (int i = 0; i < PER; ++i)
    UNROLL for (int c = 0; c < N; ++c) square = fmaf(v[i][c], v[i][c], square);
  const float mean = block_sum(square, shared) / (float)a.width;
  const float scale = 1.f / sqrtf(mean + __uint_as_float((u32)a.eps));
  vectors(a.width, [&](int i, int column) {
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
    vectors(a.width, [&](int i, int column) {
      load<Mat, N>(a.grad_y + row + column).open(g[i]);
      load<float, N>(a.summed + row + column).open(normal[i]);
      if (a.grad_summed) load<float, N>(a.grad_summed + row + column).open(back[i]);
    });
    vectors(a.width, [&](int i, int column) {
      float w[N];
      load<Weight, N>(a.weight + column).open(w);
      UNROLL for (int c = 0; c < N; ++c) {
        normal[i][c] *= scale;
        total[i][c] = fmaf(g[i][c], normal[i][c], total[i][c]);
        g[i][c] *= w[c];
        dot = fmaf(g[i][c], normal[i][c], dot);
      }
    });
    dot = block_sum(dot, shared[r & 1]) / (float)a.width;
    vectors(a.width, [&](int i, int column) {
      UNROLL for (int c = 0; c < N; ++c) back[i][c] = fmaf(fmaf(-normal[i][c], dot, g[i][c]), scale, back[i][c]);
      store<float, N>(a.grad + row + column, back[i]);
      if (a.grad_out) store<Row, N>(a.grad_out + row + column, back[i]);
    });
  }
  vectors(a.width, [&](int i, int column) { store<float, N>(a.sums + blockIdx.x * a.width + column, total[i]); });
}
