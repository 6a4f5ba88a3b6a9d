// LayerNorm of the sum of two inputs, forward and backward. The sum is computed again instead of being kept.
//
// -DROW -DMAT: types of the two inputs and their gradients. -DOUT: type of y and its gradient.
#include "norm_rows.cuh"

typedef TypeOf<OUT>::Type Out;

struct Arguments {
  const Row* x; const Mat* skip;      // (rows, width)
  const float *weight, *bias;
  Out* y;
  float *mean, *scale;                // (rows)
  const Out* grad_y;
  Row* grad_x; Mat* grad_skip;        // the latter may be null: where types are equal, one tensor is both
  float* sums;                        // (blocks, 2, width): to the gradients of weight and bias
  i64 rows, width, each, eps;         // rows of a block in the backward; the bits of a float
};

DEVICE void load_sum(const Arguments& a, i64 row, Values& v) {
  vectors(a.width, [&](int i, int column) {
    float skip[N];
    load<Row, N>(a.x + row + column).open(v[i]);
    load<Mat, N>(a.skip + row + column).open(skip);
    UNROLL for (int c = 0; c < N; ++c) v[i][c] += skip[c];
  });
}

extern "C" __global__ void __launch_bounds__(THREADS) layer_norm_forward(const __grid_constant__ Arguments a) {
  __shared__ float shared[2][WARPS];
  const i64 row = blockIdx.x * a.width;
  Values v = {};
  load_sum(a, row, v);
  float total = 0.f, square = 0.f;
  UNROLL for (int i = 0; i < PER; ++i)
    UNROLL for (int c = 0; c < N; ++c) total += v[i][c];
  const float mean = block_sum(total, shared[0]) / (float)a.width;
  vectors(a.width, [&](int i, int) {
    UNROLL for (int c = 0; c < N; ++c) {
      v[i][c] -= mean;
      square = fmaf(v[i][c], v[i][c], square);
    }
  });
  const float scale = 1.f / sqrtf(block_sum(square, shared[1]) / (float)a.width + __uint_as_float((u32)a.eps));
  vectors(a.width, [&](int i, int column) {
    float w[N], b[N];
    load<float, N>(a.weight + column).open(w);
    load<float, N>(a.bias + column).open(b);
    UNROLL for (int c = 0; c < N; ++c) v[i][c] = fmaf(v[i][c] * scale, w[c], b[c]);
    store<Out, N>(a.y + row + column, v[i]);
  });
  if (threadIdx.x == 0) {
    a.mean[blockIdx.x] = mean;
    a.scale[blockIdx.x] = scale;
  }
}

// `each` rows a block: the gradient of the sum, and what the rows give to those of weight and bias.
extern "C" __global__ void __launch_bounds__(THREADS) layer_norm_backward(const __grid_constant__ Arguments a) {
  __shared__ float shared[2][2][WARPS];  // by turns, so that no third barrier a row is needed
  Values weights = {}, biases = {};
  const i64 first = blockIdx.x * a.each, end = min(first + a.each, a.rows);
  for (i64 r = first; r < end; ++r) {
    const i64 row = r * a.width;
    const float mean = __ldg(a.mean + r), scale = __ldg(a.scale + r);
    Values normal = {}, g = {};
    load_sum(a, row, normal);
    float total = 0.f, dot = 0.f;
    vectors(a.width, [&](int i, int column) {
      float w[N];
      load<Out, N>(a.grad_y + row + column).open(g[i]);
      load<float, N>(a.weight + column).open(w);
      UNROLL for (int c = 0; c < N; ++c) {
        normal[i][c] = (normal[i][c] - mean) * scale;
        weights[i][c] = fmaf(g[i][c], normal[i][c], weights[i][c]);
        biases[i][c] += g[i][c];
        g[i][c] *= w[c];
        total += g[i][c];
        dot = fmaf(g[i][c], normal[i][c], dot);
      }
    });
    total = block_sum(total, shared[r & 1][0]) / (float)a.width;
    dot = block_sum(dot, shared[r & 1][1]) / (float)a.width;
    vectors(a.width, [&](int i, int column) {
      UNROLL for (int c = 0; c < N; ++c) g[i][c] = (fmaf(-normal[i][c], dot, g[i][c]) - total) * scale;
      store<Row, N>(a.grad_x + row + column, g[i]);
      if (a.grad_skip) store<Mat, N>(a.grad_skip + row + column, g[i]);
    });
  }
  float* sums = a.sums + 2 * blockIdx.x * a.width;
  vectors(a.width, [&](int i, int column) {
    store<float, N>(sums + column, weights[i]);
    store<float, N>(sums + a.width + column, biases[i]);
  });
}
