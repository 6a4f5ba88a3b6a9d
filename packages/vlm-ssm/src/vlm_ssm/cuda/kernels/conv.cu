// The causal depthwise convolution of TAPS positions with its SiLU, forward and backward.
//
// A thread takes CHANNELS channels of one sequence through a strip of STRIP positions, its window in registers. In the
// backward it goes TAPS - 1 positions beyond the strip, for what they give to the strip's gradient.
//
// -DTAPS -DCHANNELS -DSTRIP -DAHEAD(rows loaded at once) -DBOUNDARIES(segments and padding) -DORDERED -DSTATE
// -DOUT: type of the gradient of x: ROW, or fp32 where directions add up.
#include "common.cuh"

static constexpr int PAST = TAPS - 1, THREADS = 128;
typedef TypeOf<OUT>::Type Out;

struct Arguments {
  const Row* x; i64 x_k, x_n, x_t;
  const float *weight, *bias;               // (P, TAPS, E), (P, E)
  const Row* state;                         // (N, PAST, E)
  const u8 *reset, *history;                // (N, T)
  const i64 *left_pad, *order;              // (N), (K, T)
  Row* y;                                   // (K, N, T, E)
  const Row* grad;                          // (K, N, T, E)
  Out* grad_x; i64 grad_x_k, grad_x_n, grad_x_t;
  float* grad_state;                        // (K, N, PAST, E)
  float* sums;                              // (K, N, strips, TAPS + 1, E): gradients of weight and bias
  i64 N, T, E, sets;
};

typedef float Vector[CHANNELS];

struct Place {
  int e, k, n, q, p, begin, end, left_pad;
  DEVICE Place(const Arguments& a) {
    e = (blockIdx.x * THREADS + threadIdx.x) * CHANNELS;
    q = blockIdx.z; k = q / (int)a.N; n = q % (int)a.N; p = a.sets > 1 ? k : 0;
    begin = blockIdx.y * STRIP; end = min(begin + STRIP, (int)a.T);
    left_pad = BOUNDARIES ? (int)a.left_pad[n] : 0;
  }
};

DEVICE int row_at(const Arguments& a, const Place& at, int t) {
  return ORDERED ? (int)__ldg(a.order + (i64)at.k * a.T + t) : t;
}

// x at position t: rows of memory, before the first live position the state, else 0.
DEVICE Words<Row, CHANNELS> input(const Arguments& a, const Place& at, int t) {
  Words<Row, CHANNELS> nothing = {};
  if (t >= a.T) return nothing;
  if (t >= at.left_pad) return load<Row, CHANNELS>(a.x + at.k * a.x_k + at.n * a.x_n + row_at(a, at, t) * a.x_t + at.e);
  const int saved = PAST + t - at.left_pad;
  if (!STATE || saved < 0) return nothing;
  return load<Row, CHANNELS>(a.state + ((i64)at.n * PAST + saved) * a.E + at.e);
}

// How many positions back the window at t reaches, and whether t is live.
struct Reach {
  int history;
  bool live;
  DEVICE Reach(const Arguments& a, const Place& at, int t) {
    history = PAST;
    live = t < a.T;
    if (BOUNDARIES && live) {
      history = a.history[(i64)at.n * a.T + t];
      live = a.reset[(i64)at.n * a.T + t] != PAD;
    }
  }
  DEVICE bool has(int back) const { return !BOUNDARIES || (live && back <= history); }
};

struct Taps {
  Vector weight[TAPS], bias;
  DEVICE Taps(const Arguments& a, const Place& at) {
    UNROLL for (int j = 0; j < TAPS; ++j) load<float, CHANNELS>(a.weight + (at.p * TAPS + j) * a.E + at.e).open(weight[j]);
    UNROLL for (int c = 0; c < CHANNELS; ++c) bias[c] = 0.f;
    if (a.bias) load<float, CHANNELS>(a.bias + at.p * a.E + at.e).open(bias);
  }
  // window[j]: x at j - PAST positions from here.
  DEVICE float sum(const Vector (&window)[TAPS], const Reach& reach, int c) const {
    float y = bias[c];
    UNROLL for (int j = 0; j < TAPS; ++j) y = fmaf(weight[j][c], reach.has(PAST - j) ? window[j][c] : 0.f, y);
    return y;
  }
};

DEVICE void slide(Vector (&window)[TAPS]) {
  UNROLL for (int j = 0; j < PAST; ++j)
    UNROLL for (int c = 0; c < CHANNELS; ++c) window[j][c] = window[j + 1][c];
}

DEVICE void open_window(const Arguments& a, const Place& at, Vector (&window)[TAPS]) {
  UNROLL for (int j = 0; j < PAST; ++j) input(a, at, at.begin - PAST + j).open(window[j]);
}

extern "C" __global__ void __launch_bounds__(THREADS) conv_forward(const __grid_constant__ Arguments a) {
  const Place at(a);
  if (at.e >= a.E) return;
  const Taps taps(a, at);
  Vector window[TAPS], y;
  open_window(a, at, window);
#pragma unroll 1
  for (int t0 = at.begin; t0 < at.end; t0 += AHEAD) {
    Words<Row, CHANNELS> rows[AHEAD];
    UNROLL for (int i = 0; i < AHEAD; ++i) rows[i] = input(a, at, t0 + i);
    UNROLL for (int i = 0; i < AHEAD; ++i) {
      const Reach reach(a, at, t0 + i);
      rows[i].open(window[PAST]);
      UNROLL for (int c = 0; c < CHANNELS; ++c) {
        y[c] = taps.sum(window, reach, c);
        y[c] = reach.live ? y[c] * sigmoid(y[c]) : 0.f;
      }
      slide(window);
      if (t0 + i < at.end) store<Row, CHANNELS>(a.y + ((i64)at.q * a.T + t0 + i) * a.E + at.e, y);
    }
  }
}

// The convolution's state after the sequence, to y (N, PAST, E): its last PAST inputs, 0 outside the last segment.
extern "C" __global__ void __launch_bounds__(THREADS) conv_after(const __grid_constant__ Arguments a) {
  const Place at(a);
  if (at.e >= a.E) return;
  const int last = (int)a.T - 1;
  const Reach reach(a, at, last);
  const int known = BOUNDARIES ? reach.history + reach.live : PAST;  // inputs of the last segment, at least
  UNROLL for (int i = 0; i < PAST; ++i) {
    Words<Row, CHANNELS> row = {};
    if (known >= PAST - i) row = input(a, at, last - PAST + 1 + i);
    Vector v;
    row.open(v);
    store<Row, CHANNELS>(a.y + ((i64)at.n * PAST + i) * a.E + at.e, v);
  }
}

// The gradient of x at position t, complete once the window has left it; that of positions before the first live
// one is the state's.
DEVICE void write_gradient(const Arguments& a, const Place& at, int t, const Vector& v) {
  if (t < (at.begin ? at.begin : -PAST) || t >= at.end) return;
  if (t >= 0) {
    Vector own;
    UNROLL for (int c = 0; c < CHANNELS; ++c) own[c] = t >= at.left_pad ? v[c] : 0.f;
    store<Out, CHANNELS>(
        a.grad_x + at.k * a.grad_x_k + at.n * a.grad_x_n + row_at(a, at, t) * a.grad_x_t + at.e, own);
  }
  const int saved = PAST + t - at.left_pad;
  if (STATE && saved >= 0 && saved < PAST)
    store<float, CHANNELS>(a.grad_state + ((i64)at.q * PAST + saved) * a.E + at.e, v);
}

extern "C" __global__ void __launch_bounds__(THREADS) conv_backward(const __grid_constant__ Arguments a) {
  const Place at(a);
  if (at.e >= a.E) return;
  const Taps taps(a, at);
  Vector window[TAPS], flow[TAPS] = {}, grad_weight[TAPS] = {}, grad_bias = {};  // flow[j]: to x, j - PAST from here
  open_window(a, at, window);
#pragma unroll 1
  for (int t0 = at.begin; t0 < at.end + PAST; t0 += AHEAD) {
    Words<Row, CHANNELS> rows[AHEAD], grads[AHEAD];
    UNROLL for (int i = 0; i < AHEAD; ++i) {
      const int t = t0 + i;
      rows[i] = input(a, at, t);
      grads[i] = {};
      if (t < min(at.end + PAST, (int)a.T)) grads[i] = load<Row, CHANNELS>(a.grad + ((i64)at.q * a.T + t) * a.E + at.e);
    }
    UNROLL for (int i = 0; i < AHEAD; ++i) {
      const int t = t0 + i;
      const Reach reach(a, at, t);
      Vector g;
      rows[i].open(window[PAST]);
      grads[i].open(g);
      UNROLL for (int c = 0; c < CHANNELS; ++c) {
        const float y = taps.sum(window, reach, c), s = sigmoid(y);
        const float d = reach.live ? g[c] * s * fmaf(y, 1.f - s, 1.f) : 0.f, mine = t < at.end ? d : 0.f;
        UNROLL for (int j = 0; j < TAPS; ++j)
          if (reach.has(PAST - j)) {
            flow[j][c] = fmaf(taps.weight[j][c], d, flow[j][c]);
            grad_weight[j][c] = fmaf(mine, window[j][c], grad_weight[j][c]);
          }
        grad_bias[c] += mine;
      }
      write_gradient(a, at, t - PAST, flow[0]);
      slide(window);
      slide(flow);
      UNROLL for (int c = 0; c < CHANNELS; ++c) flow[PAST][c] = 0.f;
    }
  }
  float* to = a.sums + ((i64)at.q * gridDim.y + blockIdx.y) * (TAPS + 1) * a.E + at.e;
  UNROLL for (int j = 0; j < TAPS; ++j) store<float, CHANNELS>(to + j * a.E, grad_weight[j]);
  store<float, CHANNELS>(to + TAPS * a.E, grad_bias);
}
