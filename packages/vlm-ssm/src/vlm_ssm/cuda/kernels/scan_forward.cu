// The selective scan, forward.
//
// A block takes BLOCK channels of one sequence through one part of its positions, in tiles of TILE positions. A
// channel's STATES states are spread over LANES lanes: two neighbours, or, of more, one in each of LANES runs of BLOCK
// threads, so that neighbours read the same B and C. A tile has two phases between barriers: first each
// thread turns its own vectors of 8 channels into (delta, delta u) in shared memory, then each lane takes its states
// through the tile; the sums over states meet in shared memory, where the next first phase gates and stores them.
//
// -DSTATES(a multiple of 8) -DBLOCK -DLANES -DMIN_BLOCKS(per multiprocessor) -DGATED -DSOFTPLUS -DRESET -DORDERED
// -DTAIL(channels may be missing)
// -DCHAINED: directions add up into the same rows, one after the other, in `acc`: a block waits for that of the direction
// before, which was launched earlier. The last direction gates and stores the sum.
// -DOUT: type of y, numbered as ROW. -DSTATE_ONLY: no y; what a part adds to the state, and how much passes through it.
#include "common.cuh"

static constexpr int TILE = 32, LANE_STATES = STATES / LANES;
static constexpr int THREADS = BLOCK * LANES, VECTORS = BLOCK / 8, ROUND = THREADS / VECTORS;
static constexpr int ROUNDS = (TILE + ROUND - 1) / ROUND;           // vectors of a thread in a tile
static constexpr int MAT_VECTORS = 2 * STATES * sizeof(Mat) / 16;   // 16-byte vectors of B and C at a position
static constexpr int MAT_ROUNDS = (TILE * MAT_VECTORS + THREADS - 1) / THREADS;
static constexpr bool IN_PLACE = LANES == 2;  // the two sums of a channel replace its delta and delta u
static constexpr int GROUP = 4;               // steps whose sums are stored together
// Floats behind `bias`, so that loads of B and C one step ahead end before the sums, which other threads write.
static constexpr int BEHIND = 2 * STATES - BLOCK > BLOCK ? 2 * STATES - BLOCK : BLOCK;
static_assert(STATES % LANES == 0 && THREADS % VECTORS == 0 && THREADS % 32 == 0, "a thread keeps its channels");
typedef TypeOf<OUT>::Type Out;

struct Arguments {
  const Row* u; i64 u_k, u_n, u_t;
  const Row* dt; i64 dt_k, dt_n, dt_t;
  const Row* z; i64 z_k, z_n, z_t;
  const Mat* B; i64 B_k, B_n, B_t, B_g;
  const Mat* C; i64 C_k, C_n, C_t, C_g;
  const float *A, *D, *bias, *first;  // A (P, E, S), D and bias (P, E), first (K, N, E, S)
  const u8* reset;                    // (N, T)
  const i64* order;                   // (K, T)
  Out* out; i64 out_k, out_n, out_t;
  float *last, *starts;               // (K, N, E, S), (K, N, tiles, E, S)
  float *ends, *decays;               // (K, N, parts, E, S)
  float* acc; int* done;              // (N, T, E), (N, blocks): directions that are complete
  i64 K, N, T, E, own, sets, part_tiles, keep; // own: channels of a group; keep: the sum in `acc`, too
};

struct Raw {
  Row u[TILE * BLOCK], dt[TILE * BLOCK], z[GATED ? TILE * BLOCK : 16 / sizeof(Row)];
  Mat matrices[TILE * 2 * STATES];
};
struct __align__(16) Shared {
  Raw raw[2];
  float steps[TILE * BLOCK * 2];      // (delta, delta u); swizzled
  float matrices[TILE * 2 * STATES];  // B, then C of each position
  float bias[BLOCK], D[BEHIND];       // loads one step ahead end here
  float sums[IN_PLACE ? 4 : TILE * BLOCK * LANES];
};

static_assert(sizeof(Shared) == SHARED, "the size that the launch asks for");

// Granule (16 bytes) of a row of shared memory, so that neither phase has bank conflicts.
DEVICE int swizzle(int granule) { return granule ^ ((granule >> 3) & 7); }

// What a block and a thread work on.
struct Place {
  int e0, live, k, n, q, p, group, part;  // first channel, channels that exist, direction, sequence, k N + n, parameters
  int column, row;                        // first phase: 8 channels from `column`, positions row + i ROUND
  int channel, part_of_channel, state;    // second phase
  DEVICE Place(const Arguments& a) {
    const int blocks = ((int)a.own + BLOCK - 1) / BLOCK, x = blockIdx.x % blocks, tid = threadIdx.x;
    group = blockIdx.x / blocks;
    e0 = group * (int)a.own + x * BLOCK;
    live = TAIL ? min(BLOCK, (int)a.own - x * BLOCK) : BLOCK;
    q = blockIdx.y; k = q / (int)a.N; n = q % (int)a.N; p = a.sets > 1 ? k : 0;
    part = blockIdx.z;
    column = tid % VECTORS * 8; row = tid / VECTORS;
    channel = IN_PLACE ? tid / LANES : tid % BLOCK; part_of_channel = IN_PLACE ? tid % LANES : tid / BLOCK;
    state = part_of_channel * LANE_STATES;
  }
  DEVICE bool is_last(const Arguments& a) const { return !CHAINED || k == (int)a.K - 1; }
  DEVICE bool has_column() const { return !TAIL || column < live; }
  DEVICE bool has_channel() const { return !TAIL || channel < live; }
};

// Row of memory at which direction k has position t.
DEVICE int row_at(const Arguments& a, const Place& at, int t) {
  return ORDERED ? (int)__ldg(a.order + (i64)at.k * a.T + min(t, (int)a.T - 1)) : t;
}

// Rows of a tile, a round ahead of their copies; a lane has the flag of position `lane`.
struct Ahead {
  int rows[ROUNDS];
  int flag;
  DEVICE void read(const Arguments& a, const Place& at, int t0) {
    UNROLL for (int i = 0; i < ROUNDS; ++i) rows[i] = row_at(a, at, t0 + at.row + i * ROUND);
    const int t = t0 + (threadIdx.x & 31);
    flag = t < a.T ? 0 : PAD;
    if (RESET && t < a.T) flag = a.reset[(i64)at.n * a.T + t];
  }
};

// Sums of directions at a row, from the thread's column.
DEVICE float* acc_at(const Arguments& a, const Place& at, int row) {
  return a.acc + ((i64)at.n * a.T + row) * a.E + at.e0 + at.column;
}
DEVICE void prefetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" :: "l"(p)); }

DEVICE int* done_at(const Arguments& a, const Place& at) { return a.done + at.n * gridDim.x + blockIdx.x; }

// Until the direction before has added its part everywhere.
DEVICE void wait_for_direction(const Arguments& a, const Place& at) {
  int count = 0;
  while (count < at.k) asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(count) : "l"(done_at(a, at)) : "memory");
}
DEVICE void end_direction(const Arguments& a, const Place& at) {
  __syncthreads();
  if (threadIdx.x == 0)
    asm volatile("fence.acq_rel.gpu; st.release.gpu.global.s32 [%0], %1;" :: "l"(done_at(a, at)), "r"(at.k + 1) : "memory");
}

DEVICE void fetch(const Arguments& a, const Place& at, const Ahead& ahead, int t0, Raw& raw) {
  UNROLL for (int i = 0; i < ROUNDS; ++i) {
    const int row = at.row + i * ROUND, t = t0 + row;
    if (ROUNDS * ROUND > TILE && row >= TILE) break;
    const bool there = t < a.T && at.has_column();
    const int to = row * BLOCK + at.column;
    const i64 lies = at.e0 + at.column;
    copy_vector_async<Row, 8>(raw.u + to, a.u + (there ? at.k * a.u_k + at.n * a.u_n + t * a.u_t + lies : 0), there);
    copy_vector_async<Row, 8>(raw.dt + to, a.dt + (there ? at.k * a.dt_k + at.n * a.dt_n + t * a.dt_t + lies : 0), there);
    if (CHAINED && at.k && there) prefetch(acc_at(a, at, ahead.rows[i]));
    if (GATED && !STATE_ONLY && at.is_last(a))
      copy_vector_async<Row, 8>(
          raw.z + to, a.z + (there ? at.k * a.z_k + at.n * a.z_n + ahead.rows[i] * a.z_t + lies : 0), there);
  }
  UNROLL for (int i = 0; i < MAT_ROUNDS; ++i) {
    const int q = threadIdx.x + i * THREADS, v = q % MAT_VECTORS, t = t0 + q / MAT_VECTORS;
    if (TILE * MAT_VECTORS % THREADS && q >= TILE * MAT_VECTORS) break;
    const bool there = t < a.T, is_C = v >= MAT_VECTORS / 2;
    const Mat* from = is_C ? a.C + at.k * a.C_k + at.n * a.C_n + at.group * a.C_g + (there ? t : 0) * a.C_t
                           : a.B + at.k * a.B_k + at.n * a.B_n + at.group * a.B_g + (there ? t : 0) * a.B_t;
    copy_async(reinterpret_cast<char*>(raw.matrices) + 16 * q,
               reinterpret_cast<const char*>(from) + 16 * (v % (MAT_VECTORS / 2)), there);
  }
  copies_commit();
}

// First phase: delta and delta u of the tile. `dead`: a bit for each position that is padding or beyond the end.
DEVICE void prepare(const Place& at, const Raw& raw, u32 dead, Shared& s) {
  UNROLL for (int i = 0; i < ROUNDS; ++i) {
    const int row = at.row + i * ROUND;
    if (ROUNDS * ROUND > TILE && row >= TILE) break;
    float u[8], d[8];
    load<Row, 8>(raw.u + row * BLOCK + at.column).open(u);
    load<Row, 8>(raw.dt + row * BLOCK + at.column).open(d);
    UNROLL for (int c = 0; c < 8; ++c) {
      d[c] += s.bias[at.column + c];
      if (SOFTPLUS) d[c] = softplus(d[c]);
      if ((dead >> row) & 1) d[c] = 0.f;
    }
    UNROLL for (int c = 0; c < 8; c += 2)
      *reinterpret_cast<float4*>(s.steps + row * BLOCK * 2 + swizzle((at.column + c) / 2) * 4) =
          make_float4(d[c], d[c] * u[c], d[c + 1], d[c + 1] * u[c + 1]);
  }
  UNROLL for (int i = 0; i < MAT_ROUNDS; ++i) {
    constexpr int N = 16 / sizeof(Mat);
    const int q = threadIdx.x + i * THREADS;
    if (TILE * MAT_VECTORS % THREADS && q >= TILE * MAT_VECTORS) break;
    float v[N];
    load<Mat, N>(raw.matrices + q * N).open(v);
    store<float, N>(s.matrices + q * N, v);
  }
}

// What a lane needs at one position.
struct Step {
  float delta, delta_u, B[LANE_STATES], C[LANE_STATES];
  DEVICE void read(const Place& at, const Shared& s, int t) {
    const int place = swizzle(at.channel / 2) * 4 + (at.channel & 1) * 2;
    const float2 two = *reinterpret_cast<const float2*>(s.steps + t * BLOCK * 2 + place);
    delta = two.x; delta_u = two.y;
    const float* from = s.matrices + t * 2 * STATES + at.state;
    load<float, LANE_STATES>(from).open(B);
    if (!STATE_ONLY) load<float, LANE_STATES>(from + STATES).open(C);
  }
};

DEVICE float* sum_place(const Place& at, Shared& s, int t) {
  if (IN_PLACE)
    return s.steps + t * BLOCK * 2 + swizzle(at.channel / 2) * 4 + (at.channel & 1) * 2 + at.part_of_channel;
  return s.sums + (t * LANES + at.part_of_channel) * BLOCK + (at.channel ^ (t & 1) * 4);
}

// Second phase: the states through the tile. Operands are read a step ahead and sums stored after GROUP steps, as a
// load can't overtake a store that might touch the same memory. `begins`: a bit for each position that starts anew.
DEVICE void advance(const Place& at, const float (&rate)[LANE_STATES], float (&h)[LANE_STATES], float& total,
                    u32 begins, Shared& s) {
  Step next;
  next.read(at, s, 0);
#pragma unroll 1
  for (int t = 0; t < TILE; t += GROUP) {
    float y[GROUP];
    UNROLL for (int j = 0; j < GROUP; ++j) {
      const Step now = next;
      next.read(at, s, t + j + 1);
      if (RESET && (begins >> (t + j)) & 1)
        UNROLL for (int i = 0; i < LANE_STATES; ++i) h[i] = 0.f;
      UNROLL for (int i = 0; i < LANE_STATES; ++i) {
        h[i] = fmaf(exp2_fast(now.delta * rate[i]), h[i], now.delta_u * now.B[i]);
        if (!STATE_ONLY) y[j] = i ? fmaf(now.C[i], h[i], y[j]) : now.C[i] * h[i];
      }
      if (STATE_ONLY) total += now.delta;
    }
    if (IN_PLACE) __syncwarp();  // the other lane of the channel has read its step
    if (!STATE_ONLY)
      UNROLL for (int j = 0; j < GROUP; ++j) *sum_place(at, s, t + j) = y[j];
  }
}

// y of the tile: the sum over states, D u, the gate.
DEVICE void finish(const Arguments& a, const Place& at, const Raw& raw, const Ahead& ahead, int t0, Shared& s) {
  UNROLL for (int i = 0; i < ROUNDS; ++i) {
    const int row = at.row + i * ROUND;
    if (row >= TILE || t0 + row >= a.T || !at.has_column()) break;
    float u[8], z[8], y[8], part[4];
    load<Row, 8>(raw.u + row * BLOCK + at.column).open(u);
    UNROLL for (int c = 0; c < 8; ++c) y[c] = s.D[at.column + c] * u[c];
    UNROLL for (int g = 0; g < 2 * LANES; ++g) {
      const float* in_place = s.steps + row * BLOCK * 2 + swizzle(at.column / 2 + g) * 4;
      const float* apart = s.sums + (row * LANES + g / 2) * BLOCK + (at.column + (g + row & 1) * 4);
      load<float, 4>(IN_PLACE ? in_place : apart).open(part);
      UNROLL for (int j = 0; j < 4; ++j) y[IN_PLACE ? g * 2 + j / 2 : g % 2 * 4 + j] += part[j];
    }
    if (CHAINED && at.k) {
      float sum[8];
      load<float, 8>(acc_at(a, at, ahead.rows[i])).open(sum);
      UNROLL for (int c = 0; c < 8; ++c) y[c] += sum[c];
    }
    if (CHAINED && (a.keep || !at.is_last(a))) store<float, 8>(acc_at(a, at, ahead.rows[i]), y);
    if (CHAINED && !at.is_last(a)) continue;
    if (GATED) {
      load<Row, 8>(raw.z + row * BLOCK + at.column).open(z);
      UNROLL for (int c = 0; c < 8; ++c) y[c] *= z[c] * sigmoid(z[c]);
    }
    store<Out, 8>(a.out + at.k * a.out_k + at.n * a.out_n + ahead.rows[i] * a.out_t + at.e0 + at.column, y);
  }
}

// The state before a part: what all earlier parts leave, each known from a pass with STATE_ONLY.
DEVICE void before_part(const Arguments& a, const Place& at, float (&h)[LANE_STATES]) {
  const i64 state = (i64)(at.e0 + at.channel) * STATES + at.state, plane = a.E * STATES;
  UNROLL for (int i = 0; i < LANE_STATES; ++i) h[i] = 0.f;
  if (!at.has_channel()) return;
  if (a.first && !(STATE_ONLY && at.part))
    UNROLL for (int i = 0; i < LANE_STATES; ++i) h[i] = a.first[at.q * plane + state + i];
  for (int part = 0; part < (STATE_ONLY ? 0 : at.part); ++part) {
    const i64 lies = ((i64)at.q * gridDim.z + part) * plane + state;
    UNROLL for (int i = 0; i < LANE_STATES; ++i)
      h[i] = part ? fmaf(a.decays[lies + i], h[i], a.ends[lies + i]) : a.ends[lies + i];
  }
}

DEVICE void save(float* to, const float (&h)[LANE_STATES]) {
  store<float, LANE_STATES>(to, h);
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) scan_forward(const __grid_constant__ Arguments a) {
  extern __shared__ __align__(16) char memory[];
  Shared& s = *reinterpret_cast<Shared*>(memory);
  const Place at(a);
  const i64 state = (i64)(at.e0 + at.channel) * STATES + at.state, plane = a.E * STATES;
  const int tiles = ((int)a.T + TILE - 1) / TILE;
  const int begin = at.part * (int)a.part_tiles, end = min(begin + (int)a.part_tiles, tiles);
  float rate[LANE_STATES], h[LANE_STATES], total = 0.f;
  UNROLL for (int i = 0; i < LANE_STATES; ++i)
    rate[i] = at.has_channel() ? a.A[at.p * plane + state + i] * LOG2E : 0.f;
  before_part(a, at, h);
  for (int i = threadIdx.x; i < BLOCK; i += THREADS) {
    const bool there = i < at.live;
    s.bias[i] = there && a.bias ? a.bias[at.p * a.E + at.e0 + i] : 0.f;
    s.D[i] = there && a.D ? a.D[at.p * a.E + at.e0 + i] : 0.f;
  }
  bool forgets = false;
  Ahead now, next;
  next.read(a, at, begin * TILE);
  fetch(a, at, next, begin * TILE, s.raw[begin & 1]);
  __syncthreads();
  for (int tile = begin; tile < end; ++tile) {
    const int t0 = tile * TILE;
    Raw& raw = s.raw[tile & 1];
    now = next;
    next.read(a, at, t0 + TILE);
    const u32 dead = __ballot_sync(ALL_LANES, now.flag == PAD);
    const u32 begins = RESET ? __ballot_sync(ALL_LANES, now.flag == BEGIN) : 0u;
    forgets |= begins != 0;
    copies_wait();
    if (tile + 1 < end) fetch(a, at, next, t0 + TILE, s.raw[(tile + 1) & 1]);
    prepare(at, raw, dead, s);
    __syncthreads();
    if (!STATE_ONLY && a.starts && at.has_channel()) save(a.starts + ((i64)at.q * tiles + tile) * plane + state, h);
    advance(at, rate, h, total, begins, s);
    __syncthreads();
    if (CHAINED && tile == begin) wait_for_direction(a, at);
    if (!STATE_ONLY) finish(a, at, raw, now, t0, s);
  }
  if (CHAINED && !at.is_last(a)) end_direction(a, at);
  if (!at.has_channel()) return;
  if (STATE_ONLY) {
    const i64 lies = ((i64)at.q * (gridDim.z + 1) + at.part) * plane + state;
    UNROLL for (int i = 0; i < LANE_STATES; ++i) rate[i] = forgets ? 0.f : exp2_fast(rate[i] * total);
    save(a.ends + lies, h);
    save(a.decays + lies, rate);
  } else if (at.part == (int)gridDim.z - 1) {
    save(a.last + at.q * plane + state, h);
  }
}
