// What all kernels share: types, conversions, fast functions, asynchronous copies. NVRTC needs no header.
//
// -DROW: type of rows in memory (u, delta, z, y and their gradients). 0: fp32, 1: bf16, 2: fp16.
// -DMAT: type of B and C, numbered alike.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;

#define DEVICE __device__ __forceinline__
#define UNROLL _Pragma("unroll")

static constexpr float LOG2E = 1.4426950408889634f;
static constexpr float LN2 = 0.6931471805599453f;
static constexpr u32 ALL_LANES = 0xffffffffu;
static constexpr u8 BEGIN = 1, PAD = 2;  // as in vlm_ssm.segments

struct Bf16 { u16 bits; };
struct Half { u16 bits; };
template <int KIND> struct TypeOf;
template <> struct TypeOf<0> { typedef float Type; };
template <> struct TypeOf<1> { typedef Bf16 Type; };
template <> struct TypeOf<2> { typedef Half Type; };
#ifndef MAT
#define MAT ROW
#endif
typedef TypeOf<ROW>::Type Row;
typedef TypeOf<MAT>::Type Mat;

// Two numbers of 16 bits in a word.
template <typename T> DEVICE float2 unpack(u32 word);
template <> DEVICE float2 unpack<Bf16>(u32 word) {
  return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}
template <> DEVICE float2 unpack<Half>(u32 word) {
  float2 v;
  asm("{.reg .b16 lo, hi; mov.b32 {lo, hi}, %2; cvt.f32.f16 %0, lo; cvt.f32.f16 %1, hi;}"
      : "=f"(v.x), "=f"(v.y) : "r"(word));
  return v;
}
template <typename T> DEVICE u32 pack(float lo, float hi);
template <> DEVICE u32 pack<Bf16>(float lo, float hi) {
  u32 word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(hi), "f"(lo));
  return word;
}
template <> DEVICE u32 pack<Half>(float lo, float hi) {
  u32 word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(hi), "f"(lo));
  return word;
}

// N numbers of memory as words, and words as numbers.
template <typename T, int N> struct Words {
  u32 word[N * sizeof(T) / 4];
  DEVICE void open(float (&v)[N]) const {
    UNROLL for (int i = 0; i < N; i += 2) {
      const float2 two = unpack<T>(word[i / 2]);
      v[i] = two.x;
      v[i + 1] = two.y;
    }
  }
  DEVICE void close(const float (&v)[N]) {
    UNROLL for (int i = 0; i < N; i += 2) word[i / 2] = pack<T>(v[i], v[i + 1]);
  }
};
template <int N> struct Words<float, N> {
  u32 word[N];
  DEVICE void open(float (&v)[N]) const { UNROLL for (int i = 0; i < N; ++i) v[i] = __uint_as_float(word[i]); }
  DEVICE void close(const float (&v)[N]) { UNROLL for (int i = 0; i < N; ++i) word[i] = __float_as_uint(v[i]); }
};
template <typename T, int N> DEVICE Words<T, N> load(const T* at) {
  constexpr int BYTES = N * sizeof(T);
  Words<T, N> w;
  UNROLL for (int i = 0; i < BYTES / 16; ++i)
    reinterpret_cast<uint4*>(w.word)[i] = reinterpret_cast<const uint4*>(at)[i];
  if (BYTES == 8) *reinterpret_cast<uint2*>(w.word) = *reinterpret_cast<const uint2*>(at);
  if (BYTES == 4) w.word[0] = *reinterpret_cast<const u32*>(at);
  return w;
}
template <typename T, int N> DEVICE void store(T* at, const float (&v)[N]) {
  constexpr int BYTES = N * sizeof(T);
  Words<T, N> w;
  w.close(v);
  UNROLL for (int i = 0; i < BYTES / 16; ++i)
    reinterpret_cast<uint4*>(at)[i] = reinterpret_cast<const uint4*>(w.word)[i];
  if (BYTES == 8) *reinterpret_cast<uint2*>(at) = *reinterpret_cast<const uint2*>(w.word);
  if (BYTES == 4) *reinterpret_cast<u32*>(at) = w.word[0];
}

// Functions: ex2.approx and rcp.approx have a relative error of about 2^-22.
DEVICE float exp2_fast(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float reciprocal(float x) { float y; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float sigmoid(float x) { return reciprocal(1.f + exp2_fast(-x * LOG2E)); }
// log1p(w) / w for w in [0, 1]: a polynomial of degree 6, relative error 1.3e-6, so that tiny steps keep their digits.
DEVICE float log1p_over(float w) {
  float p = 0.014140969128976806f;
  p = fmaf(p, w, -0.06640165249938496f);
  p = fmaf(p, w, 0.14922373236833392f);
  p = fmaf(p, w, -0.23503854676688674f);
  p = fmaf(p, w, 0.3310944828048995f);
  p = fmaf(p, w, -0.49986965697490165f);
  return fmaf(p, w, 0.9999987316215989f);
}
DEVICE float softplus(float x) {
  const float w = exp2_fast(-fabsf(x) * LOG2E);
  return fmaf(w, log1p_over(w), fmaxf(x, 0.f));
}
// d softplus(x) / dx from its value: 1 - exp(-softplus(x)).
DEVICE float softplus_slope(float value) {
  if (ROW != 0) return value < 1e-3f ? value : 1.f - exp2_fast(-value * LOG2E);
  // a series keeps the digits of fp32 that the difference loses
  float p = fmaf(value, -1.f / 720, 1.f / 120);
  p = fmaf(p, value, -1.f / 24);
  p = fmaf(p, value, 1.f / 6);
  p = fmaf(p, value, -1.f / 2);
  p = fmaf(p, value, 1.f);
  return value < 0.25f ? value * p : 1.f - exp2_fast(-value * LOG2E);
}

// Asynchronous copies of 16 bytes to shared memory; `bytes` 0 writes zeros.
DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
DEVICE void copy_async(void* to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :: "r"(shared_address(to)), "l"(from), "r"(there ? 16 : 0) : "memory");
}
template <typename T, int N> DEVICE void copy_vector_async(T* to, const T* from, bool there) {
  UNROLL for (int i = 0; i < N * (int)sizeof(T) / 16; ++i)
    copy_async(reinterpret_cast<char*>(to) + 16 * i, reinterpret_cast<const char*>(from) + (there ? 16 * i : 0), there);
}
DEVICE void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
DEVICE void copies_wait() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }
