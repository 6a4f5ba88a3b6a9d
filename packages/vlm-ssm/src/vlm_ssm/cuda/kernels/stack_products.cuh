// The warps of stack_step.cu that multiply, and those that add up what each has for its columns.

struct Warp {
  int index, n = 0, m = 0;  // stages that were used, sums that were given

  DEVICE int stage() const { return n % STAGES; }
  DEVICE void wait(Shared& s) { barrier_wait(&s.full[stage()], n / STAGES % 2); }
  DEVICE void release(Shared& s) {
    reads_before_copies();
    __syncwarp();
    if (warp_lane() == 0) barrier_arrive(&s.empty[stage()]);
    ++n;
  }
  // The first of a lane's columns; the others are WARPS * K_BLOCK apart.
  DEVICE int column() const { return index * K_BLOCK + 8 * (warp_lane() % 4); }
};
// Whether a warp's j-th block of columns exists; of all lanes alike.
template <int COLUMNS> DEVICE bool has_block(int warp, int j) {
  constexpr int BLOCKS = COLUMNS / K_BLOCK;
  return (j + 1) * WARPS <= BLOCKS || (j * WARPS < BLOCKS && j * WARPS + warp < BLOCKS);
}
// Rows beyond the last sequence are that of the last one: their products are not used.
DEVICE int sequence_row(const Arguments& a, int half) { return min(warp_lane() / 4 + 8 * half, (int)a.B - 1); }

typedef uint4 Fragments[FRAGMENTS][HALVES];

// COUNT chunks of COLUMNS of x (B, E), once they are written.
template <int COLUMNS, int COUNT>
DEVICE void load_columns(Fragments (&to)[COUNT], const Arguments& a, const Bf16* x, const Warp& warp) {
  const Bf16* from[HALVES];
  UNROLL for (int h = 0; h < HALVES; ++h) from[h] = x + (i64)sequence_row(a, h) * E + warp.column();
  bool missing = true;
  while (missing) {
    missing = false;
    UNROLL for (int c = 0; c < COUNT; ++c)
      UNROLL for (int j = 0; j < FRAGMENTS; ++j)
        UNROLL for (int h = 0; h < HALVES; ++h)
          if (has_block<COLUMNS>(warp.index, j)) to[c][j][h] = read_unit(from[h] + c * COLUMNS + j * WARPS * K_BLOCK);
    UNROLL for (int c = 0; c < COUNT; ++c)
      UNROLL for (int j = 0; j < FRAGMENTS; ++j)
        UNROLL for (int h = 0; h < HALVES; ++h)
          if (has_block<COLUMNS>(warp.index, j)) missing |= is_unwritten(to[c][j][h]);
    missing = __any_sync(ALL_LANES, missing);
  }
}

// sums += 8 rows of a stage, a chunk of COLUMNS, times x, over this warp's columns.
template <int COLUMNS> DEVICE void multiply_stage(float (&sums)[4], const Fragments& x, Shared& s, Warp& warp) {
  constexpr int CHAINS = 4;  // an instruction waits for the one in front that adds to the same sums
  float parts[CHAINS][4] = {};
  const char* row = s.stage[warp.stage()] + warp_lane() / 4 * PITCH + 2 * warp.column();
  warp.wait(s);
  UNROLL for (int j = 0; j < FRAGMENTS; ++j)
    if (has_block<COLUMNS>(warp.index, j)) {
      const uint4 weights = *reinterpret_cast<const uint4*>(row + j * WARPS * K_BLOCK * 2);
      multiply(parts[j % CHAINS], x[j][0], HALVES > 1 ? x[j][HALVES - 1] : make_uint4(0, 0, 0, 0), weights);
    }
  warp.release(s);
  UNROLL for (int i = 0; i < 4; ++i) sums[i] += (parts[0][i] + parts[1][i]) + (parts[2][i] + parts[3][i]);
}

// This warp's part of a sum, to the epilogue.
DEVICE void store_parts(const float (&sums)[4], Shared& s, Warp& warp) {
  const int part = warp.m % EPILOGUES, lane = warp_lane();
  barrier_wait(&s.parts_empty[part], warp.m / EPILOGUES % 2 ^ 1);
  UNROLL for (int h = 0; h < HALVES; ++h)
    *reinterpret_cast<float2*>(&s.parts[part][warp.index][lane / 4 + 8 * h][2 * (lane % 4)]) =
        make_float2(sums[2 * h], sums[2 * h + 1]);
  __syncwarp();
  if (lane == 0) barrier_arrive(&s.parts_full[part]);
  ++warp.m;
}

static constexpr int OUTPUTS = SLOTS / 4;  // of a lane of the epilogue: row lane % 8 of sequences `sequence_of(i)`
DEVICE int sequence_of(int i) { return warp_lane() / 8 + 4 * i; }

// The m-th sums that were given.
DEVICE void add_parts(float (&sums)[OUTPUTS], Shared& s, int m) {
  const int part = m % EPILOGUES;
  barrier_wait(&s.parts_full[part], m / EPILOGUES % 2);
  UNROLL for (int i = 0; i < OUTPUTS; ++i) {
    sums[i] = 0.f;
    UNROLL for (int w = 0; w < WARPS; ++w) sums[i] += s.parts[part][w][sequence_of(i)][warp_lane() % 8];
  }
  __syncwarp();
  if (warp_lane() == 0) barrier_arrive(&s.parts_empty[part]);
}
