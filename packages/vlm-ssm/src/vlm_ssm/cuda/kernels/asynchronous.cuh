// Bulk copies into shared memory, the barriers that count their bytes, and what blocks of one launch write for each
// other. From compute capability 9.0 on.
typedef unsigned long long u64;

// Barriers in shared memory. `parity`: that of the phase which must have ended; phases count from 0. A whole warp
// waits, and goes on as one: a lane that sees the end later would miss the warp's products.
DEVICE void barrier_init(u64* barrier, u32 arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
DEVICE void barriers_ready() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void barrier_arrive(u64* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(shared_address(barrier)) : "memory");
}
DEVICE void barrier_expect(u64* barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
               :: "r"(shared_address(barrier)), "r"(bytes) : "memory");
}
DEVICE void barrier_wait(u64* barrier, u32 parity) {
  u32 done = 0;
  while (!done)
    asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                 : "=r"(done) : "r"(shared_address(barrier)), "r"(parity) : "memory");
  __syncwarp();
}

// A copy of contiguous bytes, a multiple of 16, which `barrier` counts; what is read once leaves the caches first.
DEVICE u64 policy_read_once() {
  u64 policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
// Reads of shared memory so far come before copies that begin after a barrier: a barrier alone doesn't order them.
DEVICE void reads_before_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
DEVICE void copy_bulk(void* to, const void* from, u32 bytes, u64* barrier, u64 policy) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
               "[%0], [%1], %2, [%3], %4;"
               :: "r"(shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(barrier)), "l"(policy) : "memory");
}

// A line of 128 bytes, into the second-level cache.
DEVICE void prefetch_line(const void* at) { asm volatile("prefetch.global.L2 [%0];" :: "l"(at)); }

// Some warps of a block wait for each other.
DEVICE void sync_warps(int which, int warps) {
  __syncwarp();
  asm volatile("bar.sync %0, %1;" :: "r"(which), "r"(32 * warps) : "memory");
}

// Data of one launch's blocks for each other: units of 16 bytes that arrive at once. The last word of an unwritten unit
// is all ones. A result never is: GPUs make 0x7fffffff of every NaN in fp32 and 0x7fff in bf16, and a bf16 number as
// fp32 has 16 zeros. So whoever reads a unit knows whether it is there, and the writer needs no fence, which takes a
// microsecond, in front of a flag. A reader needs none either: it reads on after a branch that depends on what it has
// read.
static constexpr u32 UNWRITTEN = 0xffffffffu;
DEVICE void publish_unit(void* at, const uint4& v) {
  asm volatile("{.reg .b128 all; .reg .b64 lo, hi; mov.b64 lo, {%1, %2}; mov.b64 hi, {%3, %4}; mov.b128 all, {lo, hi}; "
               "st.relaxed.gpu.global.b128 [%0], all;}" :: "l"(at), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
DEVICE uint4 read_unit(const void* at) {
  uint4 v;
  asm volatile("{.reg .b128 all; .reg .b64 lo, hi; ld.relaxed.gpu.global.b128 all, [%4]; mov.b128 {lo, hi}, all; "
               "mov.b64 {%0, %1}, lo; mov.b64 {%2, %3}, hi;}"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(at) : "memory");
  return v;
}
DEVICE void publish_number(float* at, float v) {
  asm volatile("st.relaxed.gpu.global.f32 [%0], %1;" :: "l"(at), "f"(v) : "memory");
}
DEVICE void reset_unit(void* at) { publish_unit(at, make_uint4(UNWRITTEN, UNWRITTEN, UNWRITTEN, UNWRITTEN)); }
DEVICE void reset_number(float* at) { publish_number(at, __uint_as_float(UNWRITTEN)); }
DEVICE float read_number(const float* at) {
  float v;
  asm volatile("ld.relaxed.gpu.global.f32 %0, [%1];" : "=f"(v) : "l"(at) : "memory");
  return v;
}
DEVICE bool is_unwritten(const uint4& v) { return v.w == UNWRITTEN; }
DEVICE bool is_unwritten(float v) { return __float_as_uint(v) == UNWRITTEN; }

// Counters say when it is worth to look at units: many that look all the time would take the cache's bandwidth.
DEVICE void count_up(u32* counter) {
  asm volatile("red.relaxed.gpu.global.add.u32 [%0], 1;" :: "l"(counter) : "memory");
}
DEVICE u32 read_counter(const u32* counter) {
  u32 v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(counter) : "memory");
  return v;
}
DEVICE void fence_gpu() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }
