// Weights to packed codes, and in one pass also to the absmax of each block.
//
// A code is the number of fp32 midpoints below x = (weight - mean) / absmax, found by descending a
// binary tree in breadth-first order: node i has the children 2i and 2i + 1, so that the up to 32
// nodes of each of the first six levels lie in different shared-memory banks.

// ONE_PASS: blocks of 2^shift weights, 16 to QUANTIZE_THREADS * 8 of them, not centered; absmax is
// written, and problem[0] becomes 1 if a weight is not finite or an absmax overflows 16 bit.
// Otherwise absmax and mean (or null) are given, and blocks have any size.
template <int K, typename T, bool ONE_PASS>
__global__ void __launch_bounds__(QUANTIZE_THREADS, QUANTIZE_RESIDENT)
quantize(const T* __restrict__ weights, Constant* __restrict__ absmax,
         const Constant* __restrict__ mean, const float* __restrict__ tree,
         unsigned* __restrict__ stream, unsigned* __restrict__ problem, long long n,
         long long block, long long shift, long long bf16) {
    constexpr bool SHARED_TREE = K <= 8;
    // The codes of a thread as stored units: no thread shares a unit with another.
    using Unit = Conditional<K % 4 == 0, unsigned, Conditional<K % 2 == 0, unsigned short,
                                                               unsigned char>>;
    constexpr int UNITS = K / sizeof(Unit);
    constexpr int WARP_WORDS = 32 * GROUP * K / 32;
    __shared__ float nodes[SHARED_TREE ? 1 << K : 1];
    __shared__ unsigned staged[QUANTIZE_THREADS / 32 * WARP_WORDS];
    __shared__ unsigned warp_top[QUANTIZE_THREADS / 32];
    if (SHARED_TREE) {
        for (int i = threadIdx.x; i < 1 << K; i += QUANTIZE_THREADS) nodes[i] = tree[i];
        __syncthreads();
    }
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const long long n_words = (n * K + 31) / 32;

    constexpr int TILE = QUANTIZE_THREADS * GROUP;
    for (long long tile = static_cast<long long>(blockIdx.x) * TILE; tile < n;
         tile += static_cast<long long>(gridDim.x) * TILE) {
        const long long first = tile + threadIdx.x * GROUP;
        alignas(16) T loaded[GROUP] = {};
        if (first + GROUP <= n) {
            constexpr int VECTORS = GROUP * sizeof(T) / sizeof(Vector);
#pragma unroll
            for (int i = 0; i < VECTORS; ++i)
                reinterpret_cast<Vector*>(loaded)[i] =
                    reinterpret_cast<const Vector*>(weights + first)[i];
        } else {
#pragma unroll
            for (int i = 0; i < GROUP; ++i)
                if (first + i < n) loaded[i] = weights[first + i];
        }

        float x[GROUP];
        if (ONE_PASS) {
            // As integers magnitudes order like floats, infinity and then NaN above all.
            unsigned top = 0;
#pragma unroll
            for (int i = 0; i < GROUP; ++i) {
                x[i] = widen(loaded[i]);
                const unsigned magnitude = __float_as_uint(x[i]) & 0x7fffffffu;
                top = magnitude > top ? magnitude : top;
            }
            const int threads = static_cast<int>(block) / GROUP;  // that share a block
            for (int step = 1; step < 32 && step < threads; step *= 2) {
                const unsigned other = __shfl_xor_sync(0xffffffffu, top, step);
                top = other > top ? other : top;
            }
            if (threads > 32) {
                __syncthreads();  // the previous tile's have been read
                if (lane == 0) warp_top[warp] = top;
                __syncthreads();
                const int begin = warp & ~(threads / 32 - 1);
                for (int w = begin; w < begin + threads / 32; ++w)
                    top = warp_top[w] > top ? warp_top[w] : top;
            }
            using Stored = Conditional<sizeof(T) == 2, T, F16>;
            const Stored stored = narrow<Stored>(__uint_as_float(top));
            const float scale = widen(stored);
            if ((first & (block - 1)) == 0 && first < n) absmax[first >> shift] = stored.bits;
            // One comparison for NaN, infinity and a finite absmax that rounds to infinity.
            if (!(scale < __uint_as_float(0x7f800000u))) problem[0] = 1;
#pragma unroll
            for (int i = 0; i < GROUP; ++i) x[i] = scale > 0 ? __fdiv_rn(x[i], scale) : 0.0f;
        } else {
            long long owner = first / block, left = (owner + 1) * block - first;
            float scale = 0.0f, center = 0.0f;
#pragma unroll
            for (int i = 0; i < GROUP; ++i) {
                if (left == 0) {
                    left = block;
                    ++owner;
                }
                if (first + i < n && (i == 0 || left == block)) {
                    scale = constant(absmax, owner, bf16);
                    center = mean ? constant(mean, owner, bf16) : 0.0f;
                }
                --left;
                x[i] = widen(loaded[i]);
                if (mean) x[i] = __fsub_rn(x[i], center);
                x[i] = scale > 0 ? __fdiv_rn(x[i], scale) : 0.0f;
            }
        }

        unsigned packed[(GROUP * K + 31) / 32] = {};
        unsigned node[GROUP];
#pragma unroll
        for (int i = 0; i < GROUP; ++i) node[i] = 1;
        // Level by level: the loads of the 8 weights do not wait for one another.
#pragma unroll(SHARED_TREE ? K : 1)
        for (int level = 0; level < K; ++level)
#pragma unroll
            for (int i = 0; i < GROUP; ++i)
                node[i] = 2 * node[i] + ((SHARED_TREE ? nodes[node[i]] : tree[node[i]]) < x[i]);
#pragma unroll
        for (int i = 0; i < GROUP; ++i) {
            const unsigned code = first + i < n ? node[i] - (1u << K) : 0u;
            const int at = i * K / 32, offset = i * K % 32;
            packed[at] |= code << offset;
            if (offset + K > 32) packed[at + 1] |= code >> (32 - offset);
        }

        // The warp's 8 K words go through shared memory: their bounds are not the threads'.
        Unit* units = reinterpret_cast<Unit*>(staged + warp * WARP_WORDS) + lane * UNITS;
#pragma unroll
        for (int i = 0; i < UNITS; ++i) {
            constexpr int PER_WORD = 4 / sizeof(Unit);
            units[i] = static_cast<Unit>(packed[i / PER_WORD] >>
                                         (i % PER_WORD * 8 * static_cast<int>(sizeof(Unit))));
        }
        __syncwarp();
        const long long word = (tile + warp * 32 * GROUP) / 32 * K;
        for (int i = lane; i < WARP_WORDS; i += 32)
            if (word + i < n_words) stream[word + i] = staged[warp * WARP_WORDS + i];
        __syncwarp();
    }
}
