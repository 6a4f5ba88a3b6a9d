// Sizes, memory and barriers of stack_step.cu.
#include "matvec.cuh"
#include "asynchronous.cuh"

constexpr __device__ int larger(int a, int b) { return a > b ? a : b; }
constexpr __device__ int ceil_div(int a, int b) { return (a + b - 1) / b; }
constexpr __device__ int largest_divisor(int n, int most) {
  return n % most == 0 ? most : largest_divisor(n, most - 1);
}

static constexpr int WARPS = 8, EPILOGUES = 3;  // warps that multiply, and that add up; one more copies
static constexpr int CONSUMERS = 32 * WARPS, THREADS = CONSUMERS + 32 * (EPILOGUES + 1);
static constexpr int STATES = 16, HALVES = SLOTS / 8;
static constexpr int X_ROWS = RANK + 2 * STATES;  // of x_proj: delta's low rank, B and C
// Groups of 8 rows of x_proj and out_proj, and of 8 channels: a block has the rows of in_proj, for u and for the gate,
// and the recurrence of the same channels. BLOCK_: of one block at most.
static constexpr int CHANNEL_GROUPS = E / 8, X_GROUPS = X_ROWS / 8, OUT_GROUPS = M / 8;
static constexpr int BLOCK_CHANNEL_GROUPS = ceil_div(CHANNEL_GROUPS, GRID);
static constexpr int BLOCK_OUT_GROUPS = ceil_div(OUT_GROUPS, GRID);
// x_proj has few rows: its columns are split among blocks. Columns of the others come in chunks, a stage each.
static constexpr int SPLITS = largest_divisor(E / K_BLOCK, GRID / X_GROUPS), SPLIT = E / SPLITS;
static constexpr int IN_CHUNKS = ceil_div(M, 1280), IN_CHUNK = M / IN_CHUNKS;
static constexpr int OUT_CHUNKS = ceil_div(E, 1280), OUT_CHUNK = E / OUT_CHUNKS;
static constexpr int AT_ONCE = SLOTS == 8 ? 4 : 2;  // chunks of out_proj whose inputs a warp holds, by registers
static constexpr int WIDEST = larger(IN_CHUNK, larger(SPLIT, OUT_CHUNK));
static constexpr int FRAGMENTS = ceil_div(WIDEST / K_BLOCK, WARPS);  // column blocks that a warp has of a stage
static constexpr int PITCH = ceil_div(2 * WIDEST, 128) * 128 + 64;  // bytes of a row: 8 lanes have no bank conflicts
static constexpr int X_PITCH = (ceil_div(2 * X_ROWS, 128) * 128 + 64) / 2;
static_assert(IN_CHUNK % K_BLOCK == 0 && OUT_CHUNK % K_BLOCK == 0 && RANK % 8 == 0, "blocks of columns don't fit");
// Without sums of in_proj to wait for, a block's epilogue would end several phases of `in_proj_done`, whose parity then
// says nothing to those who wait.
static_assert(CHANNEL_GROUPS >= GRID, "blocks without channels");

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
  float* low;                 // (TURNS, SPLITS, B, X_ROWS): sums of parts of columns
  u32* counters;              // writers of each step that are done, of all layers; 32 numbers apart
  i64 B, eps;                 // eps: the bits of a float
};

// What the recurrence of 8 channels needs besides the state.
struct Channels {
  Bf16 dt_proj[8 * RANK];
  float A_log[8 * STATES], D[8], bias[8];
};

// Shared memory besides the ring.
struct SharedFixed {
  u64 full[16], empty[16], parts_full[EPILOGUES], parts_empty[EPILOGUES], in_proj_done;
  float scale[SLOTS];
  float delta[BLOCK_CHANNEL_GROUPS][SLOTS][8], u[BLOCK_CHANNEL_GROUPS][SLOTS][8], z[BLOCK_CHANNEL_GROUPS][SLOTS][8];
  float residual[BLOCK_OUT_GROUPS][SLOTS][8];
  float parts[EPILOGUES][WARPS][SLOTS][8];
  alignas(16) Bf16 low[SLOTS * X_PITCH], norm[M];
};
static constexpr int STATE = 32 * STATES;  // bytes of 8 channels
static constexpr int OF_CHANNELS = BLOCK_CHANNEL_GROUPS * larger((int)sizeof(Channels), 8 * STATE);
static constexpr int STAGE = 128 * ceil_div(larger(8 * PITCH, OF_CHANNELS), 128);
static constexpr int ROOM = (SHARED - (int)sizeof(SharedFixed) - 256) / STAGE, STAGES = ROOM > 16 ? 16 : ROOM;
static_assert(STAGES >= 1 + HALVES, "too little shared memory: the recurrence uses so many stages at once");
struct Shared : SharedFixed { alignas(128) char stage[STAGES][STAGE]; };
static_assert(sizeof(Shared) + 128 <= SHARED, "too much shared memory");

DEVICE int channels_of(int i) { return blockIdx.x + i * GRID; }           // the block's i-th group of 8 channels
DEVICE int out_group(int i) { return GRID - 1 - blockIdx.x + i * GRID; }  // blocks with fewer channels have more
DEVICE bool has_x_proj() { return blockIdx.x < X_GROUPS * SPLITS; }

// What blocks write for each other is unwritten at first. Layers take turns in TURNS copies of it: who writes a unit of
// layer i resets that of layer i + 2, where layer i - 2 was. Nobody reads it for i - 2 any more: the writer holds y of
// layer i - 1 of all blocks, directly or through the residual, and a block publishes that after its last read of i - 2.
// Nobody looks at it for i + 2 before the reset: who does holds y of layer i + 1 of all blocks (for y itself u of
// i + 2, through the low rank), and a block publishes that after a fence that follows its resets of layer i.
static constexpr int TURNS = 4;
template <typename T> DEVICE T* turn(T* of, i64 size, int i) { return of + i % TURNS * size; }
DEVICE Bf16* u_of(const Arguments& a, int i) { return turn(a.u, a.B * E, i); }
DEVICE Bf16* y_of(const Arguments& a, int i) { return turn(a.y, a.B * E, i); }
DEVICE float* residual_of(const Arguments& a, int i) { return turn(a.residual, a.B * M, i); }  // what layer i reads
DEVICE float* squares_of(const Arguments& a, int i) { return turn(a.squares, a.B * OUT_GROUPS, i); }
DEVICE float* low_of(const Arguments& a, int i) { return turn(a.low, SPLITS * a.B * X_ROWS, i); }

// Numbers of eight lanes, `stride` apart, as a unit of bf16 in the first of them.
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
DEVICE int writers(Step step) { return step == LOW_RANK ? X_GROUPS * SPLITS : step == Y ? GRID : GRID * EPILOGUES; }
DEVICE void count_written(const Arguments& a, Step step) {
  __syncwarp();
  if (warp_lane() == 0) count_up(a.counters + 32 * step);
}
// Until units of `layers` layers are likely to be written, which each unit says for itself; counters begin with -1.
DEVICE void consumers_wait(const Arguments& a, Step step, int layers) {
  if (threadIdx.x == 0)
    while (read_counter(a.counters + 32 * step) + 1 < (u32)(writers(step) * layers)) {}
  consumers_meet();
}
