// What the kernels share. The stream is dense and little-endian: code i takes the bits
// [i K, (i + 1) K), so 8 codes are exactly K bytes and 32 codes exactly K words.
#pragma once

template <bool CONDITION, typename A, typename B> struct ConditionalType {
    using Type = A;
};
template <typename A, typename B> struct ConditionalType<false, A, B> {
    using Type = B;
};
template <bool CONDITION, typename A, typename B>
using Conditional = typename ConditionalType<CONDITION, A, B>::Type;

constexpr int GROUP = 8;  // weights a thread takes at a time: 16 bytes in 16 bit

using Constant = unsigned short;  // absmax or mean, fp16 or bf16

__device__ __forceinline__ float constant(const Constant* constants, long long i, bool bf16) {
    return bf16 ? widen(BF16{constants[i]}) : widen(F16{constants[i]});
}

// The blocks that a group of weights is in, of any size. Each row is cut into `row_blocks` blocks, its
// last one may be short. What lies beyond the group does not matter: counts stop at FAR.
struct Owner {
    static constexpr int FAR = 2 * GROUP;
    long long block;
    int left, left_row;  // weights of the block, and of the row, from here on

    __device__ __forceinline__ Owner(long long weight, long long row, long long row_blocks,
                                     long long size) {
        const long long before = weight < row ? 0 : weight / row, column = weight - before * row;
        const long long in_row = column / size;
        block = before * row_blocks + in_row;
        left_row = near(row - column);
        left = near((in_row + 1) * size - column);
        if (left > left_row) left = left_row;
    }

    static __device__ __forceinline__ int near(long long count) {
        return count < FAR ? static_cast<int>(count) : FAR;
    }

    // Go to the next weight. Whether it is in another block.
    __device__ __forceinline__ bool next(long long row, long long size) {
        --left_row;
        if (--left) return false;
        ++block;
        if (left_row == 0) left_row = near(row);
        left = near(size) < left_row ? near(size) : left_row;
        return true;
    }
};

// 16 bytes of weights as one load or store.
struct alignas(16) Vector {
    unsigned word[4];
};

// The bits [8 K g, 8 K (g + 1)) of the stream: the codes of group g.
template <int K> struct Codes {
    static constexpr int STEP = K % 4 == 0 ? 32 : K % 2 == 0 ? 16 : 8;  // groups start at multiples
    static constexpr int LOADED = (GROUP * K + (32 - STEP) + 31) / 32;
    unsigned word[LOADED];

    // A group may end before its last loaded word, which then may lie beyond the stream's `last`.
    __device__ __forceinline__ void load(const unsigned* stream, long long group, long long last) {
        const long long first = group * K / 4;
#pragma unroll
        for (int i = 0; i < LOADED; ++i) word[i] = stream[first + i < last ? first + i : last];
        align(static_cast<unsigned>(group * K & 3) * 8);
    }

    // The same of a group that others follow: its words from its first, and where it starts there.
    __device__ __forceinline__ void load_inside(const unsigned* words, unsigned offset) {
#pragma unroll
        for (int i = 0; i < LOADED; ++i) word[i] = words[i];
        align(offset);
    }

    __device__ __forceinline__ void align(unsigned offset) {
#pragma unroll
        for (int i = 0; i < LOADED; ++i)
            word[i] = __funnelshift_r(word[i], i + 1 < LOADED ? word[i + 1] : 0u, offset);
    }

    __device__ __forceinline__ unsigned code(int i) const {  // i must fold to a constant
        const int at = i * K / 32, offset = i * K % 32;
        const unsigned bits = offset + K > 32
            ? __funnelshift_r(word[at], word[at + 1 < LOADED ? at + 1 : at], offset)
            : word[at] >> offset;
        return bits & ((1u << K) - 1);
    }
};
