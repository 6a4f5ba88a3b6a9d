// Products of a weight matrix with a few vectors, for decoding: the weights are read once, at the memory's rate.
//
// A warp multiplies 8 rows of weights by up to 16 vectors with tensor cores (mma m16n8k16, fp32 sums). A lane reads 16
// bytes of one row, so what an instruction calls column k is another column here: the vectors are read alike, and the
// order of a sum's terms is free. Weights don't depend on earlier kernels: a kernel asks for them before it waits.
#define ROW 1
#include "common.cuh"
#define UNROLL4 _Pragma("unroll 4")

static constexpr int K_BLOCK = 32;  // columns that a warp reads at once: 4 lanes of 8
DEVICE int warp_lane() { return threadIdx.x & 31; }

// Programmatic dependent launch. `wait_for_inputs`: until the kernel in front is done, and with it all before that.
// `start_next_kernel`: once all blocks have called it, blocks of the next kernel may start; those that only read weights
// before they wait may do so at any time.
DEVICE void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
DEVICE void start_next_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// The block's part of memory that a later kernel reads, into the second-level cache: it arrives while this one computes.
DEVICE void prefetch_part(const char* from, i64 bytes) {
#if __CUDA_ARCH__ >= 900
  const i64 part = (bytes / gridDim.x) & ~(i64)127;
  if (blockIdx.y == 0 && part > 0)
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" :: "l"(from + blockIdx.x * part), "r"((u32)part));
#endif
}

// Read once, not kept in the first-level cache. Volatile, so that it stays in front of the wait.
DEVICE uint4 load_weights(const Bf16* at, bool there) {
  uint4 v = make_uint4(0, 0, 0, 0);
  if (there)
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(at));
  return v;
}
DEVICE uint4 load_row(const Bf16* at, bool there) {
  return there ? *reinterpret_cast<const uint4*>(at) : make_uint4(0, 0, 0, 0);
}

// sums (16 vectors, 8 rows) += vectors (16, 32 columns) times weights (8 rows, 32 columns). A lane has the columns
// 8 (lane % 4) to 8 (lane % 4) + 7 of weight row lane / 4, and of the vectors lane / 4 and lane / 4 + 8.
// Its sums: vector lane / 4 (0, 1) or lane / 4 + 8 (2, 3), row 2 (lane % 4) + 0 or 1.
DEVICE void mma_half(float (&sums)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
DEVICE void multiply(float (&sums)[4], const uint4& low, const uint4& high, const uint4& weights) {
  mma_half(sums, low.x, high.x, low.y, high.y, weights.x, weights.y);
  mma_half(sums, low.z, high.z, low.w, high.w, weights.z, weights.w);
}

DEVICE float as_float(Bf16 v) { return __uint_as_float((u32)v.bits << 16); }
DEVICE Bf16 as_bf16(float v) { return Bf16{(u16)pack<Bf16>(v, 0.f)}; }
DEVICE float rounded(float v) { return __uint_as_float(pack<Bf16>(v, 0.f) << 16); }
