// Sizes, memory and barriers of stack_step.cu.
#include "matvec.cuh"
#include "asynchronous.cuh"

constexpr __device__ int at_least(int a, int b) { return a > b ? a : b; }
constexpr __device__ int up(int a, int b) { return (a + b - 1) / b; }
constexpr __device__ int divisor(int n, int most) { return n % most == 0 ? most : divisor(n, most - 1); }

static constexpr int WARPS = 8, EPILOGUES = 3;  // warps that multiply, and that add up; one more copies
static constexpr int CONSUMERS = 32 * WARPS, THREADS = CONSUMERS + 32 * (EPILOGUES + 1);
static constexpr int STATES = 16, HALVES = SLOTS / 8, LOW = RANK + 2 * STATES;  // LOW: delta's low rank, B and C
// Groups of 8 rows. A block has the rows of u and of the gate, and the recurrence, of the same channels.
static constexpr int CHANNELS = E / 8, B_GROUPS = LOW / 8, D_GROUPS = M / 8;
static constexpr int C_MOST = up(CHANNELS, GRID), D_MOST = up(D_GROUPS, GRID);  // of a block
// x_proj has few rows: its columns are split among blocks. Columns of the others come in chunks, a stage each.
static constexpr int SPLITS = divisor(E / K_BLOCK, GRID / B_GROUPS), SPLIT = E / SPLITS;
static constexpr int A_CHUNKS = up(M, 1280), A_CHUNK = M / A_CHUNKS, D_CHUNKS = up(E, 1280), D_CHUNK = E / D_CHUNKS;
static constexpr int AT_ONCE = SLOTS == 8 ? 4 : 2;  // chunks of out_proj whose inputs a warp holds, by registers
static constexpr int WIDEST = at_least(A_CHUNK, at_least(SPLIT, D_CHUNK));
static constexpr int FRAGMENTS = up(WIDEST / K_BLOCK, WARPS);  // column blocks that a warp has of a stage
static constexpr int PITCH = up(2 * WIDEST, 128) * 128 + 64;   // bytes of a row: 8 lanes read without bank conflicts
static constexpr int LOW_PITCH = (up(2 * LOW, 128) * 128 + 64) / 2;
static_assert(CHANNELS >= GRID, "a block without channels would run ahead of its counters");
static_assert(A_CHUNK % K_BLOCK == 0 && D_CHUNK % K_BLOCK == 0 && RANK % 8 == 0, "widths that column blocks don't divide");

struct Layer {
  const Bf16 *norm, *in_proj, *taps, *taps_bias, *x_proj, *dt_proj, *out_proj;
  const float *dt_bias, *A_log, *D;
  const Bf16* past;
  Bf16* past_after;
  const float* state;
  float* state_after;
};
struct Layers { Layer layer[LAYERS]; };

struct Arguments {
  const Bf16 *x, *last_norm;  // (B, M), (M)
  Bf16 *out, *u, *y;          // (B, M), (TURNS, B, E), (TURNS, B, E)
  float *residual, *squares;  // (TURNS, B, M), (TURNS, B, M / 8): sums of squares of 8 columns
  float* low;                 // (TURNS, SPLITS, B, LOW): sums of parts of columns
  u32* counters;              // writers of each step that are done, of all layers; 32 numbers apart
  i64 B, eps;                 // eps: the bits of a float
};

// What the recurrence of 8 channels needs besides the state.
struct Channels {
  Bf16 dt_proj[8 * RANK];
  float A_log[8 * STATES], D[8], bias[8];
};

struct Small {
  u64 full[16], empty[16], given[EPILOGUES], taken[EPILOGUES], entered;
  float scale[SLOTS];
  float delta[C_MOST][SLOTS][8], u[C_MOST][SLOTS][8], z[C_MOST][SLOTS][8], residual[D_MOST][SLOTS][8];
  float parts[EPILOGUES][WARPS][SLOTS][8];
  alignas(16) Bf16 low[SLOTS * LOW_PITCH], norm[M];
};
static constexpr int STATE = 32 * STATES;  // bytes of 8 channels
static constexpr int STAGE = 128 * up(at_least(8 * PITCH, C_MOST * at_least((int)sizeof(Channels), 8 * STATE)), 128);
static constexpr int ROOM = (SHARED - (int)sizeof(Small) - 256) / STAGE, STAGES = ROOM > 16 ? 16 : ROOM;
static_assert(STAGES >= 2, "too little shared memory");
struct Shared : Small { alignas(128) char stage[STAGES][STAGE]; };
static_assert(sizeof(Shared) + 128 <= SHARED, "too much shared memory");
DEVICE int channels_of(int i) { return blockIdx.x + i * GRID; }            // the block's i-th group of 8 channels
DEVICE int group_of_d(int i) { return GRID - 1 - blockIdx.x + i * GRID; }  // blocks with fewer channels have more
DEVICE bool has_b() { return blockIdx.x < B_GROUPS * SPLITS; }

// What blocks write for each other is all ones at first. Layers take turns in TURNS copies of it: who writes a unit of
// layer i makes that of layer i + 2 unwritten again. Nobody still reads it for layer i - 2, since what the writer has
// read of layer i exists only after all blocks were done with i - 1; and nobody looks at it for layer i + 2 before it
// has read of layer i + 1 from the same block, which was written after a fence.
static constexpr int TURNS = 4;
static constexpr uint4 NOTHING = {UNWRITTEN, UNWRITTEN, UNWRITTEN, UNWRITTEN};
template <typename T> DEVICE T* turn(T* of, i64 size, int i) { return of + i % TURNS * size; }
DEVICE Bf16* u_of(const Arguments& a, int i) { return turn(a.u, a.B * E, i); }
DEVICE Bf16* y_of(const Arguments& a, int i) { return turn(a.y, a.B * E, i); }
DEVICE float* residual_of(const Arguments& a, int i) { return turn(a.residual, a.B * M, i); }  // what layer i reads
DEVICE float* squares_of(const Arguments& a, int i) { return turn(a.squares, a.B * D_GROUPS, i); }
DEVICE float* low_of(const Arguments& a, int i) { return turn(a.low, SPLITS * a.B * LOW, i); }

// Eight numbers of eight neighbouring lanes as a unit of bf16, in the first of them.
DEVICE uint4 gather_bf16(float v, int stride) {
  const u32 word = pack<Bf16>(v, __shfl_down_sync(ALL_LANES, v, stride));
  return make_uint4(word, __shfl_down_sync(ALL_LANES, word, 2 * stride), __shfl_down_sync(ALL_LANES, word, 4 * stride),
                    __shfl_down_sync(ALL_LANES, word, 6 * stride));
}
// Four numbers of four neighbouring lanes, in the first of them.
DEVICE uint4 gather_fp32(float v) {
  const u32 word = __float_as_uint(v);
  return make_uint4(word, __shfl_down_sync(ALL_LANES, word, 1), __shfl_down_sync(ALL_LANES, word, 2),
                    __shfl_down_sync(ALL_LANES, word, 3));
}
DEVICE void consumers_meet() { sync_warps(1, WARPS); }

// The steps of a layer whose results all blocks read, and how many warps write each.
enum Step { U, LOW_RANK, Y, RESIDUAL };
DEVICE int writers(Step step) { return step == LOW_RANK ? B_GROUPS * SPLITS : step == Y ? GRID : GRID * EPILOGUES; }
DEVICE void written(const Arguments& a, Step step) {
  __syncwarp();
  if (warp_lane() == 0) count_up(a.counters + 32 * step);
}
// Until `layers` layers are written; counters begin with -1.
DEVICE void consumers_wait(const Arguments& a, Step step, int layers) {
  if (threadIdx.x == 0)
    while (read_counter(a.counters + 32 * step) + 1 < (u32)(writers(step) * layers)) {}
  consumers_meet();
}
