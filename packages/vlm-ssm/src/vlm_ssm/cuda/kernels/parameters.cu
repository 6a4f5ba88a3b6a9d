// What the kernels of a Mamba layer read of its parameters, and the gradients of the parameters: in one launch each.
// -DROW: type of the convolution's weight and bias.
#include "common.cuh"

struct Arguments {
  const float *A_log;                     // (E, S)
  const Row *weight, *bias;               // (E, W), (E); bias may be 0
  float *A, *by_tap, *bias_out;           // (E, S), (W, E), (E)
  const float *grad_A, *grad_by_tap;      // as A and by_tap
  float *grad_A_log, *grad_weight;        // as A_log and weight
  i64 E, S, W;
};

DEVICE i64 thread() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }

DEVICE float number(float v) { return v; }
DEVICE float number(Bf16 v) { return __uint_as_float((u32)v.bits << 16); }
DEVICE float number(Half v) { return unpack<Half>(v.bits).x; }

// A = -exp(A_log); the taps of a window before the channels; the bias.
extern "C" __global__ void __launch_bounds__(256) prepare(const __grid_constant__ Arguments a) {
  const i64 i = thread(), tap = i - a.E * a.S, e = tap - a.E * a.W;
  if (tap < 0) a.A[i] = -expf(a.A_log[i]);
  else if (e < 0) a.by_tap[tap] = number(a.weight[tap % a.E * a.W + tap / a.E]);
  else if (e < a.E && a.bias) a.bias_out[e] = number(a.bias[e]);
}

extern "C" __global__ void __launch_bounds__(256) gradients(const __grid_constant__ Arguments a) {
  const i64 i = thread(), at = i - a.E * a.S;
  if (at < 0) a.grad_A_log[i] = a.grad_A[i] * a.A[i];
  else if (at < a.E * a.W) a.grad_weight[at] = a.grad_by_tap[at % a.W * a.E + at / a.W];
}
