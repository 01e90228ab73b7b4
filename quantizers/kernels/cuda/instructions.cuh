// Types and instructions that C++ has no word for. No CUDA header is needed.
#pragma once

struct F16 {
    unsigned short bits;
};
struct BF16 {
    unsigned short bits;
};

__device__ __forceinline__ float widen(float x) { return x; }

__device__ __forceinline__ float widen(F16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

__device__ __forceinline__ float widen(BF16 x) {
    return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
}

// fp32 to T, round to nearest even.
template <typename T> __device__ __forceinline__ T narrow(float x);

template <> __device__ __forceinline__ float narrow<float>(float x) { return x; }

template <> __device__ __forceinline__ F16 narrow<F16>(float x) {
    F16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

template <> __device__ __forceinline__ BF16 narrow<BF16>(float x) {
    BF16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// Two at once, `low` in the lower half of the register.
template <typename T> __device__ __forceinline__ unsigned narrow_pair(float low, float high);

template <> __device__ __forceinline__ unsigned narrow_pair<F16>(float low, float high) {
    unsigned pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

template <> __device__ __forceinline__ unsigned narrow_pair<BF16>(float low, float high) {
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// c += a b on the tensor cores: a 16 x 16 (row-major), b 16 x 8, c 16 x 8 in fp32. With
// g = lane / 4 and t = lane % 4 a lane holds
//   a[0], a[2]: row g,     columns 2t, 2t+1 and 2t+8, 2t+9;     a[1], a[3]: the same of row g + 8
//   b[0], b[1]: column g,  rows    2t, 2t+1 and 2t+8, 2t+9
//   c[0], c[1]: row g,     columns 2t, 2t+1;                    c[2], c[3]: the same of row g + 8
#define KBIT_MMA(TYPE)                                                                            \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE ".f32 "                            \
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                         \
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                          \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

template <typename T>
__device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]);

template <>
__device__ __forceinline__ void mma<F16>(float (&c)[4], const unsigned (&a)[4],
                                         const unsigned (&b)[2]) {
    KBIT_MMA("f16");
}

template <>
__device__ __forceinline__ void mma<BF16>(float (&c)[4], const unsigned (&a)[4],
                                          const unsigned (&b)[2]) {
    KBIT_MMA("bf16");
}

// The same for int8, exact in int32: a 16 x 32, b 32 x 8. A lane holds
//   a[0], a[2]: row g,    columns 4t to 4t+3 and 4t+16 to 4t+19;    a[1], a[3]: the same of row g + 8
//   b[0], b[1]: column g, rows    4t to 4t+3 and 4t+16 to 4t+19;    c as above
__device__ __forceinline__ void mma_int8(int (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The bytes of `high` and `low`, eight in all, that the low four digits of `which` name.
__device__ __forceinline__ unsigned permute(unsigned low, unsigned high, unsigned which) {
    unsigned y;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(y) : "r"(low), "r"(high), "r"(which));
    return y;
}

// To the nearest whole number, halves to even.
__device__ __forceinline__ int nearest(float x) {
    int y;
    asm("cvt.rni.s32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
}

// --- shared memory by its own addresses, which take one register and no conversion ---

#define DYNAMIC_SHARED(name) extern __shared__ unsigned char name[]
using Shared = unsigned;
constexpr int MOST_RESERVED = 1024;  // bytes of it that the system keeps, below what is ours

__device__ __forceinline__ Shared shared_address(const void* p) {
    return static_cast<Shared>(__cvta_generic_to_shared(p));
}

// What is kept in a register where the compiler would rather compute it again and again.
__device__ __forceinline__ Shared kept(Shared address) {
    asm volatile("" : "+r"(address));
    return address;
}
__device__ __forceinline__ float kept(float x) {
    asm volatile("" : "+f"(x));
    return x;
}

// Byte i of `word` in place of the second byte of an address.
__device__ __forceinline__ Shared with_byte(Shared address, unsigned word, int i) {
    return __byte_perm(address, word, 0x3200 | (4 + i) << 4);
}

// (a & b) | c, which the compiler would take for two.
__device__ __forceinline__ unsigned and_or(unsigned a, unsigned b, unsigned c) {
    unsigned d;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

// Volatile, since other threads and copies write: but only single loads are kept in order by it.
__device__ __forceinline__ void load_shared(Shared from, float (&x)[1]) {
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x[0]) : "r"(from));
}
__device__ __forceinline__ void load_shared(Shared from, float (&x)[2]) {
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x[0]), "=f"(x[1]) : "r"(from));
}
__device__ __forceinline__ void load_shared(Shared from, float (&x)[4]) {
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
                 : "r"(from));
}
__device__ __forceinline__ void load_shared(Shared from, unsigned (&x)[1]) {
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(x[0]) : "r"(from));
}
__device__ __forceinline__ void load_shared(Shared from, unsigned (&x)[2]) {
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(x[0]), "=r"(x[1]) : "r"(from));
}
__device__ __forceinline__ void load_shared(Shared from, unsigned (&x)[4]) {
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(from));
}
__device__ __forceinline__ void store_shared(Shared to, float x) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(to), "f"(x) : "memory");
}
__device__ __forceinline__ void store_shared(Shared to, const float (&x)[4]) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to), "f"(x[0]), "f"(x[1]), "f"(x[2]),
                 "f"(x[3])
                 : "memory");
}
__device__ __forceinline__ void store_shared(Shared to, const unsigned (&x)[4]) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x[0]), "r"(x[1]), "r"(x[2]),
                 "r"(x[3])
                 : "memory");
}
__device__ __forceinline__ void store_shared_zeros(Shared to) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(to), "r"(0u) : "memory");
}

// 16 bytes from global to shared memory, past the registers, in groups that end with a commit.
// `wait_copies` waits until at most PENDING of the thread's groups are on their way.
__device__ __forceinline__ void copy_async(Shared to, const void* global) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(global)
                 : "memory");
}

__device__ __forceinline__ void commit_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int PENDING> __device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// fp32 to fp16 toward zero, two at once: `low` in the lower half of the register.
__device__ __forceinline__ unsigned truncate_pair(float low, float high) {
    unsigned pair;
    asm("cvt.rz.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// 1 / x, perhaps an ulp off. x and 1 / x must be normal.
__device__ __forceinline__ float reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 2^x, perhaps two ulps off, and 0 where that is below 2^-126.
__device__ __forceinline__ float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The greater one, and NaN if either is.
__device__ __forceinline__ float greatest(float a, float b) {
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}
