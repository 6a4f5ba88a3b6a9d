// One token of up to SLOTS sequences through a stack of Mamba layers, in one launch: one block on each multiprocessor,
// for all layers, so that memory is read without a pause.
//
// A layer is four steps, each of which reads what all blocks wrote in the one before: in_proj and convolution; x_proj;
// dt_proj and recurrence; out_proj. One warp copies weights and states of all layers into a ring of stages, as far
// ahead as there is room. Eight warps share a stage's columns; their sums go to the warps of the epilogue, which add
// them up and write results while the next stage is multiplied.
//
// The order of a sum depends on the layer's sizes and the number of blocks alone, not on the number of sequences.
//
// -DM, -DE, -DRANK, -DTAPS: sizes of a layer; 32 columns divide M and E. -DLAYERS. -DSLOTS: 8 or 16. -DGRID: blocks.
// -DSHARED: bytes of shared memory.
#include "stack_sizes.cuh"
#include "stack_copies.cuh"
#include "stack_products.cuh"
#include "stack_residual.cuh"
#include "stack_recurrence.cuh"

// ---- the epilogue

// u: the convolution's window, which moves on by a position, and its SiLU.
DEVICE void finish_u(const Arguments& a, const Layer& w, Shared& s, int layer, int i, int m) {
  const int r = warp_lane() % 8, e = 8 * channels_of(i) + r;
  float taps[TAPS], sums[OUTPUTS];
  Bf16 window[OUTPUTS][TAPS];
  UNROLL for (int j = 0; j < TAPS; ++j) taps[j] = as_float(w.taps[e * TAPS + j]);
  const float bias = w.taps_bias ? as_float(w.taps_bias[e]) : 0.f;
  UNROLL for (int o = 0; o < OUTPUTS; ++o)
    UNROLL for (int j = 0; j < TAPS - 1; ++j)
      if (sequence_of(o) < a.B) window[o][j] = w.past[((i64)sequence_of(o) * (TAPS - 1) + j) * E + e];
  add_parts(sums, s, m);
  UNROLL for (int o = 0; o < OUTPUTS; ++o) {
    const i64 b = sequence_of(o);
    window[o][TAPS - 1] = as_bf16(sums[o]);
    float total = as_float(window[o][TAPS - 1]) * taps[TAPS - 1] + bias;
    UNROLL for (int j = 0; j < TAPS - 1; ++j) {
      total += as_float(window[o][j]) * taps[j];
      if (b < a.B) w.past_after[(b * (TAPS - 1) + j) * E + e] = window[o][j + 1];
    }
    const float u = rounded(total * sigmoid(total));
    const uint4 unit = gather_bf16(u, 1);
    s.u[i][b][r] = u;
    if (b >= a.B) continue;
    if (r == 0) publish_unit(u_of(a, layer) + b * E + e, unit);
    if (r == 1) reset_unit(u_of(a, layer + 2) + b * E + e - 1);
  }
}

DEVICE void finish_gate(Shared& s, int i, int m) {
  float sums[OUTPUTS];
  add_parts(sums, s, m);
  UNROLL for (int o = 0; o < OUTPUTS; ++o) s.z[i][sequence_of(o)][warp_lane() % 8] = rounded(sums[o]);
}

// x_proj: the sum of a part of the columns.
DEVICE void finish_low(const Arguments& a, Shared& s, int layer, int m) {
  const int r = warp_lane() % 8, row = blockIdx.x % X_GROUPS * 8 + r, split = blockIdx.x / X_GROUPS;
  float sums[OUTPUTS];
  add_parts(sums, s, m);
  UNROLL for (int o = 0; o < OUTPUTS; ++o) {
    const uint4 unit = gather_fp32(sums[o]);
    if (sequence_of(o) >= a.B) continue;
    const i64 at = ((i64)split * a.B + sequence_of(o)) * X_ROWS + row;
    if (r % 4 == 0) publish_unit(low_of(a, layer) + at, unit);
    if (r % 4 == 1) reset_unit(low_of(a, layer + 2) + at - 1);
  }
}

// out_proj: added to the residual.
DEVICE void finish_out(const Arguments& a, Shared& s, int layer, int j, int m) {
  const int r = warp_lane() % 8, g = out_group(j);
  float sums[OUTPUTS];
  add_parts(sums, s, m);
  UNROLL for (int o = 0; o < OUTPUTS; ++o) {
    const int b = sequence_of(o);
    const float residual = s.residual[j][b][r] += rounded(sums[o]);
    float square = residual * residual;
    UNROLL for (int lanes = 1; lanes < 8; lanes *= 2) square += __shfl_xor_sync(ALL_LANES, square, lanes);
    const uint4 unit = gather_fp32(residual);
    if (b >= a.B) continue;
    const i64 at = (i64)b * M + 8 * g + r;
    if (r % 4 == 0) publish_unit(residual_of(a, layer + 1) + at, unit);
    if (r % 4 == 1) reset_unit(residual_of(a, layer + 3) + at - 1);
    if (r == 0) publish_number(squares_of(a, layer + 1) + b * OUT_GROUPS + g, square);
    if (r == 1) reset_number(squares_of(a, layer + 3) + b * OUT_GROUPS + g);
  }
}

DEVICE void finish_layers(const Arguments& a, const Layers& l, Shared& s, int epilogue) {
  const int count = channel_groups();
  for (int j = epilogue; j < BLOCK_OUT_GROUPS && out_group(j) < OUT_GROUPS; j += EPILOGUES)
    UNROLL for (int o = 0; o < OUTPUTS; ++o) {
      const int b = min(sequence_of(o), (int)a.B - 1), r = warp_lane() % 8;
      s.residual[j][sequence_of(o)][r] = as_float(a.x[(i64)b * M + 8 * out_group(j) + r]);
    }
  sync_warps(2, EPILOGUES);
  int m = 0;
  for (int i = 0; i < LAYERS; ++i) {
    for (int j = 0; j < 2 * count; ++j, ++m)
      if (m % EPILOGUES == epilogue) {
        if (j % 2 == 0) finish_u(a, l.layer[i], s, i, j / 2, m);
        else finish_gate(s, j / 2, m);
      }
    count_written(a, U);
    if (warp_lane() == 0) barrier_arrive(&s.in_proj_done);
    if (has_x_proj()) {
      if (m % EPILOGUES == epilogue) {
        finish_low(a, s, i, m);
        count_written(a, LOW_RANK);
      }
      ++m;
    }
    for (int j = 0; out_group(j) < OUT_GROUPS; ++j, ++m)
      if (m % EPILOGUES == epilogue) finish_out(a, s, i, j, m);
    count_written(a, RESIDUAL);
    fence_gpu();  // resets of this layer come before what is published of the next one
    sync_warps(2, EPILOGUES);
  }
}

// ---- the warps that multiply

DEVICE void multiply_in(const Fragments (&x)[IN_CHUNKS], Shared& s, Warp& warp) {
  for (int j = 0; j < 2 * channel_groups(); ++j) {
    float sums[4] = {};
    UNROLL for (int c = 0; c < IN_CHUNKS; ++c) multiply_stage<IN_CHUNK>(sums, x[c], s, warp);
    store_parts(sums, s, warp);
  }
}

DEVICE void multiply_low(const Arguments& a, Shared& s, int layer, Warp& warp) {
  if (!has_x_proj()) return;
  Fragments x[1];
  float sums[4] = {};
  consumers_wait(a, U, layer + 1);
  load_columns<SPLIT>(x, a, u_of(a, layer) + blockIdx.x / X_GROUPS * SPLIT, warp);
  multiply_stage<SPLIT>(sums, x[0], s, warp);
  store_parts(sums, s, warp);
}

// The columns of out_proj from the FIRST chunk on.
template <int FIRST>
DEVICE void multiply_chunks(float (&sums)[BLOCK_OUT_GROUPS][4], const Arguments& a, Shared& s, int layer, Warp& warp) {
  constexpr int COUNT = FIRST + AT_ONCE < OUT_CHUNKS ? AT_ONCE : OUT_CHUNKS - FIRST;
  Fragments x[COUNT];
  load_columns<OUT_CHUNK>(x, a, y_of(a, layer) + FIRST * OUT_CHUNK, warp);
  UNROLL for (int j = 0; j < BLOCK_OUT_GROUPS; ++j)
    if (out_group(j) < OUT_GROUPS)
      UNROLL for (int c = 0; c < COUNT; ++c) multiply_stage<OUT_CHUNK>(sums[j], x[c], s, warp);
  if constexpr (FIRST + COUNT < OUT_CHUNKS) multiply_chunks<FIRST + COUNT>(sums, a, s, layer, warp);
}

DEVICE void multiply_out(const Arguments& a, Shared& s, int layer, Warp& warp) {
  float sums[BLOCK_OUT_GROUPS][4] = {};
  consumers_wait(a, Y, layer + 1);
  multiply_chunks<0>(sums, a, s, layer, warp);
  UNROLL for (int j = 0; j < BLOCK_OUT_GROUPS; ++j)
    if (out_group(j) < OUT_GROUPS) store_parts(sums[j], s, warp);
}

DEVICE void multiply_layers(const Arguments& a, const Layers& l, Shared& s, int index) {
  Fragments x[IN_CHUNKS];
  Warp warp{index};
  start_residual(a);
  for (int i = 0; i < LAYERS; ++i) {
    load_norm(s, l.layer[i].norm, warp);
    load_normed(x, a, s, i, warp);
    multiply_in(x, s, warp);
    multiply_low(a, s, i, warp);
    run_recurrence(a, l.layer[i], s, i, warp);
    multiply_out(a, s, i, warp);
  }
  write_last_norm(a);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
stack_step(const __grid_constant__ Arguments a, const __grid_constant__ Layers l) {
  extern __shared__ char memory[];
  Shared& s = *reinterpret_cast<Shared*>(memory + (128 - shared_address(memory) % 128) % 128);
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; ++i) {
      barrier_init(&s.full[i], 1);
      barrier_init(&s.empty[i], WARPS);
    }
    for (int i = 0; i < EPILOGUES; ++i) {
      barrier_init(&s.parts_full[i], WARPS);
      barrier_init(&s.parts_empty[i], 1);
    }
    barrier_init(&s.in_proj_done, EPILOGUES);
    barriers_ready();
  }
  __syncthreads();
  const int warp = threadIdx.x / 32;
  if (warp < WARPS) multiply_layers(a, l, s, warp);
  else if (warp < WARPS + EPILOGUES) finish_layers(a, l, s, warp - WARPS);
  else copy_layers(a, l, s);
}
