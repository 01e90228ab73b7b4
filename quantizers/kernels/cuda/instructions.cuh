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
