// Packed codes to weights: out = codebook[code] * absmax (+ mean) in fp32, rounded once.
//
// Bound by memory: a thread turns K bytes of the stream into 8 weights, so that a warp reads and
// writes whole lines. Up to 5 bit each table entry has a shared-memory bank of its own.

template <typename T> __device__ __forceinline__ void store(T* to, const T (&weights)[GROUP]) {
#pragma unroll
    for (int i = 0; i < GROUP * static_cast<int>(sizeof(T)) / 16; ++i)
        reinterpret_cast<Vector*>(to)[i] = reinterpret_cast<const Vector*>(weights)[i];
}

// WHOLE_GROUPS: the 8 weights of a group share a block, and group g belongs to block g >> shift.
template <int K, typename T, bool WHOLE_GROUPS>
__global__ void __launch_bounds__(DEQUANTIZE_THREADS, DEQUANTIZE_RESIDENT)
dequantize(const unsigned* __restrict__ stream, const Constant* __restrict__ absmax,
           const Constant* __restrict__ mean, const float* __restrict__ codebook,
           T* __restrict__ out, long long n, long long row, long long row_blocks, long long block,
           long long shift, long long n_codes, long long bf16) {
    constexpr bool SHARED_TABLE = K <= 8;
    constexpr int UNROLL = WHOLE_GROUPS ? DEQUANTIZE_UNROLL : 1;
    constexpr int TILE = DEQUANTIZE_THREADS * UNROLL;  // groups
    constexpr int WORDS = DEQUANTIZE_THREADS * K / 4;  // of DEQUANTIZE_THREADS groups
    __shared__ float table[SHARED_TABLE ? 1 << K : 1];
    const float nan = __uint_as_float(0x7fc00000u);
    const long long groups = (n + GROUP - 1) / GROUP;
    const long long tile = static_cast<long long>(blockIdx.x) * TILE;

    // Most tiles: no group is short or the last, and no bound needs a look. All loads first, before
    // the table's: the more of them in flight, the better memory latency hides.
    const bool whole = WHOLE_GROUPS && tile + TILE < groups;
    Codes<K> codes[UNROLL];
    float scale[UNROLL], center[UNROLL];
    if (whole) {
        const unsigned* words = stream + tile / 4 * K + threadIdx.x * K / 4;
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
            codes[u].load_inside(words + u * WORDS, (threadIdx.x * K & 3) * 8);
            const long long owner = (tile + u * DEQUANTIZE_THREADS + threadIdx.x) >> shift;
            scale[u] = constant(absmax, owner, bf16);
            center[u] = mean ? constant(mean, owner, bf16) : 0.0f;
        }
    }
    if (SHARED_TABLE) {
        for (int i = threadIdx.x; i < 1 << K; i += DEQUANTIZE_THREADS)
            table[i] = i < n_codes ? codebook[i] : nan;
        __syncthreads();
    }
    auto lookup = [&](unsigned code) {
        if (SHARED_TABLE) return table[code];
        return code < n_codes ? codebook[code] : nan;
    };

    auto weight = [&](unsigned code, float scale, float center) {
        const float value = __fmul_rn(lookup(code), scale);
        return narrow<T>(mean ? __fadd_rn(value, center) : value);
    };

    const long long last_word = (n * K + 31) / 32 - 1;
    // One group wherever it lies: at the end of the tensor, over the end of a block.
    auto careful = [&](long long group) {
        const long long first = group * GROUP;
        Codes<K> own;
        own.load(stream, group, last_word);
        float scale, center;
        auto enter = [&](long long owner) {
            scale = constant(absmax, owner, bf16);
            center = mean ? constant(mean, owner, bf16) : 0.0f;
        };
        alignas(16) T weights[GROUP];
        if constexpr (WHOLE_GROUPS) {
            enter(group >> shift);
#pragma unroll
            for (int i = 0; i < GROUP; ++i) weights[i] = weight(own.code(i), scale, center);
        } else {
            Owner owner(first, row, row_blocks, block);
            enter(owner.block);
#pragma unroll
            for (int i = 0; i < GROUP; ++i) {
                weights[i] = weight(own.code(i), scale, center);
                if (owner.next(row, block) && first + i + 1 < n) enter(owner.block);
            }
        }
        if (first + GROUP <= n) {
            store(out + first, weights);
        } else {
#pragma unroll
            for (int i = 0; i < GROUP; ++i)
                if (first + i < n) out[first + i] = weights[i];
        }
    };

    if (whole) {
        T* to = out + (tile + threadIdx.x) * GROUP;
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
            alignas(16) T weights[GROUP];
#pragma unroll
            for (int i = 0; i < GROUP; ++i)
                weights[i] = weight(codes[u].code(i), scale[u], center[u]);
            store(to + u * DEQUANTIZE_THREADS * GROUP, weights);
        }
    } else {
        for (int u = 0; u < UNROLL; ++u) {
            const long long group = tile + u * DEQUANTIZE_THREADS + threadIdx.x;
            if (group < groups) careful(group);
        }
    }
}
