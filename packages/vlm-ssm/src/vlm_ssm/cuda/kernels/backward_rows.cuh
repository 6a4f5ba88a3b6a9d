// What the backward scan reads: its arguments, who works on what, and the first phase of a chunk, which puts delta,
// delta u and the gradient of the ungated y of every position into shared memory.
#include "common.cuh"

static constexpr int SLICE = 16, CHUNK = 32, TILE = 4, TILES = CHUNK / TILE;
static constexpr bool SLICED = STATES != SLICE, SHORT = STATES % SLICE != 0;  // SHORT: the last slice is not full
static constexpr bool EXACT = MAT == 0;  // gradients of fp32 B and C need more than one product of tensor cores
static constexpr int BLOCK = 16 * WARPS, THREADS = 32 * WARPS;

struct Arguments {
  const Row* u; i64 u_k, u_n, u_t;
  const Row* dt; i64 dt_k, dt_n, dt_t;
  const Row* z; i64 z_k, z_n, z_t;
  const Row* grad; i64 grad_k, grad_n, grad_t;
  const Mat* B; i64 B_k, B_n, B_t, B_g;
  const Mat* C; i64 C_k, C_n, C_t, C_g;
  const float *A, *D, *bias;
  const u8* reset;
  const i64* order;
  const float *grad_last, *starts;      // (K, N, E, S), (K, N, chunks, E, S)
  Row *grad_u, *grad_dt;                // (K, N, T, E)
  Row* grad_z; i64 grad_z_k, grad_z_n, grad_z_t;
  float *sums, *matrices, *grad_first;  // (K, N, parts, 18 E); (blocks, K, N, T, G, 32); (K, N, E, S)
  float *ends, *decays;                 // (K, N, parts, E, S)
  float *slices;                        // (2 or 3, K, N, T, E): sums over the slices of states so far
  Row* y;                               // (K, N, T, E)
  i64 N, T, E, own, sets, part_chunks, slice, rows;  // rows: K N T
};

// A warp's shared memory. Rows of 8 pairs of channels.
struct __align__(128) WarpMemory {
  float4 steps[CHUNK * 8];    // delta of 2 channels, delta u of 2 channels
  float2 grad[CHUNK * 8];     // gradient of y before its gate
  float4 states[CARRY ? 1 : TILES * 64];  // before each tile; then the tile's sums for B and C
  float4 y[CARRY ? 1 : TILE * 16];        // sums over the 4 states of a lane
  float4 back[CARRY ? 1 : TILE * 32];     // the same of the gradients of delta u and delta
};
struct __align__(128) Shared {
  WarpMemory warp[WARPS];
  float4 matrices[CHUNK * 8];  // B, C
  float D[BLOCK];
};

static_assert(sizeof(Shared) == SHARED, "the size that the launch asks for");

DEVICE float2 operator+(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }
DEVICE u32 address(const void* p) { return shared_address(p); }
DEVICE float4 read4(u32 a) {
  float4 v;
  asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(a));
  return v;
}
DEVICE float2 read2(u32 a) {
  float2 v;
  asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(a));
  return v;
}
DEVICE void write4(u32 a, float x, float y, float z, float w) {
  asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" :: "r"(a), "f"(x), "f"(y), "f"(z), "f"(w) : "memory");
}
DEVICE void write2(u32 a, float x, float y) {
  asm volatile("st.shared.v2.f32 [%0], {%1,%2};" :: "r"(a), "f"(x), "f"(y) : "memory");
}
DEVICE void multiply_add(float (&d)[4], float a0, float a1, float a2, float a3, float b0, float b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(a2)), "r"(__float_as_uint(a3)),
        "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
}
DEVICE float cut_tf32(float x) { return __uint_as_float(__float_as_uint(x) & 0xffffe000u); }
DEVICE float round_tf32(float x) { return __uint_as_float(__float_as_uint(x) + 0x1000u); }

// Two channels of a row, from a byte offset: addresses in 32 bits cost fewer registers.
struct Pair {
  Words<Row, 2> words;
  DEVICE void read(const Row* base, u32 byte) {
    const char* at = reinterpret_cast<const char*>(base) + byte;
    if (sizeof(Row) == 2) {
      words.word[0] = __ldg(reinterpret_cast<const u32*>(at));
    } else {
      const uint2 two = __ldg(reinterpret_cast<const uint2*>(at));
      words.word[0] = two.x;
      words.word[sizeof(Row) / 4] = two.y;
    }
  }
  DEVICE float2 open() const {
    float v[2];
    words.open(v);
    return make_float2(v[0], v[1]);
  }
};
DEVICE void write_pair(Row* to, float x, float y) {
  const float v[2] = {x, y};
  store<Row, 2>(to, v);
}

struct Place {
  int e0, live, k, n, q, p, group, block, part, parts;
  int warp, half, quarter, pair;  // second view: states
  int channel;                    // first of the lane's two channels, in the block
  int state;                      // first of its four states
  int e_pair, e_row, e_channel;   // first view, elementwise: 2 channels, rows e_row + 4 i
  DEVICE Place(const Arguments& a) {
    const int lane = threadIdx.x & 31, blocks = ((int)a.own + BLOCK - 1) / BLOCK;
    block = blockIdx.x % blocks; group = blockIdx.x / blocks;
    e0 = group * (int)a.own + block * BLOCK;
    live = TAIL ? min(BLOCK, (int)a.own - block * BLOCK) : BLOCK;
    q = blockIdx.y; k = q / (int)a.N; n = q % (int)a.N; p = a.sets > 1 ? k : 0;
#if CARRY
    part = blockIdx.z + 1; parts = gridDim.z + 1;
#else
    part = blockIdx.z; parts = gridDim.z;
#endif
    warp = threadIdx.x >> 5; half = lane >> 4; quarter = (lane >> 2) & 3; pair = half * 4 + (lane & 3);
    channel = warp * 16 + 2 * pair;
    state = (SLICED ? SLICE * (int)a.slice : 0) + 4 * quarter;
    e_pair = lane & 7; e_row = lane >> 3; e_channel = warp * 16 + 2 * e_pair;
  }
  DEVICE bool has_channel() const { return !TAIL || channel < live; }
  DEVICE bool has_states() const { return has_channel() && (!SHORT || state < STATES); }
  DEVICE bool has_e_channel() const { return !TAIL || e_channel < live; }
};

// Byte offsets of the lane's two channels in rows of memory; the row of a position in scan order.
struct Lanes {
  const Row *u, *dt, *z, *grad;
  u32 u_t, dt_t, z_t, grad_t, lies;
  DEVICE Lanes(const Arguments& a, const Place& at) {
    u = a.u + at.k * a.u_k + at.n * a.u_n;
    dt = a.dt + at.k * a.dt_k + at.n * a.dt_n;
    z = a.z + at.k * a.z_k + at.n * a.z_n;
    grad = a.grad + at.k * a.grad_k + at.n * a.grad_n;
    u_t = (u32)a.u_t * sizeof(Row); dt_t = (u32)a.dt_t * sizeof(Row);
    z_t = (u32)a.z_t * sizeof(Row); grad_t = (u32)a.grad_t * sizeof(Row);
    lies = (at.e0 + (at.has_e_channel() ? at.e_channel : 0)) * sizeof(Row);
  }
};

// What holds for the 32 positions of a chunk: a lane has the row and the flag of position `lane`.
struct Chunk {
  int t0, count, tiles, row;
  u32 dead, begins;
  DEVICE Chunk(const Arguments& a, const Place& at, int chunk) {
    t0 = chunk * CHUNK;
    count = min(CHUNK, (int)a.T - t0);
    tiles = (count + TILE - 1) / TILE;
    const int t = t0 + (threadIdx.x & 31);
    row = ORDERED ? (int)__ldg(a.order + (i64)at.k * a.T + min(t, (int)a.T - 1)) : 0;
    int flag = t < a.T ? 0 : PAD;
    if (RESET && t < a.T) flag = a.reset[(i64)at.n * a.T + t];
    dead = __ballot_sync(ALL_LANES, flag == PAD);
    begins = RESET ? __ballot_sync(ALL_LANES, flag == BEGIN) : 0u;
  }
  // By all lanes of a warp together.
  DEVICE int row_at(const Arguments& a, int i) const {
    return ORDERED ? __shfl_sync(ALL_LANES, row, i) : min(t0 + i, (int)a.T - 1);
  }
};

struct Loaded {
  Pair u, dt, z, grad;
  DEVICE void read(const Arguments& a, const Lanes& from, const Chunk& chunk, int i) {
    const u32 t = min(chunk.t0 + i, (int)a.T - 1), row = chunk.row_at(a, i);
#if !CARRY
    u.read(from.u, t * from.u_t + from.lies);
#endif
    dt.read(from.dt, t * from.dt_t + from.lies);
    if (GATED) z.read(from.z, row * from.z_t + from.lies);
    grad.read(from.grad, row * from.grad_t + from.lies);
  }
};

// delta, delta u and the gradient of the ungated y at one position, for two channels.
DEVICE void prepare_row(const Place& at, const Chunk& chunk, const Loaded& w, float2 bias, int i, WarpMemory& m, float2& total) {
  float2 d = w.dt.open() + bias, g = w.grad.open();
  if (SOFTPLUS) d = make_float2(softplus(d.x), softplus(d.y));
  if (GATED) {
    const float2 z = w.z.open();
    g = make_float2(g.x * z.x * sigmoid(z.x), g.y * z.y * sigmoid(z.y));
  }
  if ((chunk.dead >> i) & 1 || !at.has_e_channel()) d = make_float2(0.f, 0.f);
  if (i >= chunk.count || !at.has_e_channel()) g = make_float2(0.f, 0.f);
#if CARRY
  total = total + d;
  const float2 x = d;
#else
  const float2 u = w.u.open(), x = make_float2(d.x * u.x, d.y * u.y);
#endif
  m.steps[i * 8 + at.e_pair] = make_float4(d.x, d.y, x.x, x.y);
  m.grad[i * 8 + at.e_pair] = g;
}

// Loads of 4 rows fly while 4 others are worked on.
DEVICE void prepare(const Arguments& a, const Place& at, const Lanes& from, const Chunk& chunk, float2 bias, Shared& s, float2& total) {
  constexpr int ROWS = CHUNK / 4, FLYING = 4;
  WarpMemory& m = s.warp[at.warp];
  Loaded loaded[FLYING];
  UNROLL for (int i = 0; i < FLYING; ++i) loaded[i].read(a, from, chunk, i * 4 + at.e_row);
  constexpr int N = 16 / sizeof(Mat), VECTORS = 2 * SLICE / N;
  for (int v = threadIdx.x; v < CHUNK * VECTORS; v += THREADS) {
    const int t = min(chunk.t0 + v / VECTORS, (int)a.T - 1), part = v % VECTORS;
    const Mat* row = part < VECTORS / 2 ? a.B + at.k * a.B_k + at.n * a.B_n + at.group * a.B_g + t * a.B_t
                                        : a.C + at.k * a.C_k + at.n * a.C_n + at.group * a.C_g + t * a.C_t;
    const int state = (SLICED ? SLICE * (int)a.slice : 0) + part % (VECTORS / 2) * N;
    float open[N] = {};
    if (!SHORT || state < STATES) load<Mat, N>(row + state).open(open);
    store<float, N>(reinterpret_cast<float*>(s.matrices) + v * N, open);
  }
  UNROLL for (int i = 0; i < ROWS; ++i) {
    const Loaded now = loaded[i % FLYING];
    if (i + FLYING < ROWS) loaded[i % FLYING].read(a, from, chunk, (i + FLYING) * 4 + at.e_row);
    prepare_row(at, chunk, now, bias, i * 4 + at.e_row, m, total);
  }
}

DEVICE void prefetch(const Arguments& a, const Place& at, const Lanes& from, int t0) {
  const u32 t = t0 + (threadIdx.x & 31), lies = (at.e0 + at.warp * 16) * sizeof(Row);
  if (TAIL && at.warp * 16 >= at.live) return;
  const auto line = [&](const Row* base, u32 stride) {
    asm volatile("prefetch.global.L2 [%0];" :: "l"(reinterpret_cast<const char*>(base) + t * stride + lies));
  };
  line(from.u, from.u_t);
  line(from.dt, from.dt_t);
  if (GATED && !ORDERED) line(from.z, from.z_t);
  if (!ORDERED) line(from.grad, from.grad_t);
}
