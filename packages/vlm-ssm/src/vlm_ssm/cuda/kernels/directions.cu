// Where several directions add up into the same rows: their sum and its gate, forward and backward. 8 channels a thread.
#include "common.cuh"

struct Arguments {
  const float* parts;                       // (K, N, T, E), in the rows' order
  const Row* z; i64 z_n, z_t;               // may be null
  float* summed;                            // (N, T, E) before the gate; may be null
  Row* out;                                 // (N, T, E)
  const Row* grad; i64 grad_n, grad_t;
  Row* grad_z;                              // (N, T, E)
  i64 K, N, T, E;
};

struct Place {
  i64 row, lies;
  int n, t, e;
  bool there;
  DEVICE Place(const Arguments& a) {
    const i64 i = blockIdx.x * 256ll + threadIdx.x, vectors = a.E / 8;
    there = i < a.N * a.T * vectors;
    row = i / vectors; e = (int)(i % vectors) * 8;
    n = (int)(row / a.T); t = (int)(row % a.T);
    lies = row * a.E + e;
  }
};

extern "C" __global__ void __launch_bounds__(256) sum_directions(const __grid_constant__ Arguments a) {
  const Place at(a);
  if (!at.there) return;
  float y[8] = {}, part[8], z[8];
  for (int k = 0; k < a.K; ++k) {
    load<float, 8>(a.parts + k * a.N * a.T * a.E + at.lies).open(part);
    UNROLL for (int c = 0; c < 8; ++c) y[c] += part[c];
  }
  if (a.summed) store<float, 8>(a.summed + at.lies, y);
  if (a.z) {
    load<Row, 8>(a.z + at.n * a.z_n + at.t * a.z_t + at.e).open(z);
    UNROLL for (int c = 0; c < 8; ++c) y[c] *= z[c] * sigmoid(z[c]);
  }
  store<Row, 8>(a.out + at.lies, y);
}

// The gradient of the gate: grad * summed * silu'(z).
extern "C" __global__ void __launch_bounds__(256) gate_backward(const __grid_constant__ Arguments a) {
  const Place at(a);
  if (!at.there) return;
  float y[8], z[8], g[8];
  load<float, 8>(a.summed + at.lies).open(y);
  load<Row, 8>(a.z + at.n * a.z_n + at.t * a.z_t + at.e).open(z);
  load<Row, 8>(a.grad + at.n * a.grad_n + at.t * a.grad_t + at.e).open(g);
  UNROLL for (int c = 0; c < 8; ++c) {
    const float s = sigmoid(z[c]);
    g[c] *= y[c] * s * fmaf(z[c], 1.f - s, 1.f);
  }
  store<Row, 8>(a.grad_z + at.lies, g);
}
