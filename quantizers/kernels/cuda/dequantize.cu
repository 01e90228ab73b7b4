// Packed codes to weights: out = codebook[code] * absmax (+ mean) in fp32, rounded once.
//
// Bound by memory: a thread turns K bytes of the stream into 8 weights, so that a warp reads and
// writes whole lines. Up to 5 bit each table entry has a shared-memory bank of its own.

// WHOLE_GROUPS: the 8 weights of a group share a block, and group g belongs to block g >> shift.
template <int K, typename T, bool WHOLE_GROUPS>
__global__ void __launch_bounds__(DEQUANTIZE_THREADS, DEQUANTIZE_RESIDENT)
dequantize(const unsigned* __restrict__ stream, const Constant* __restrict__ absmax,
           const Constant* __restrict__ mean, const float* __restrict__ codebook,
           T* __restrict__ out, long long n, long long block, long long shift, long long n_codes,
           long long bf16) {
    constexpr bool SHARED_TABLE = K <= 8;
    constexpr int UNROLL = WHOLE_GROUPS ? DEQUANTIZE_UNROLL : 1;
    __shared__ float table[SHARED_TABLE ? 1 << K : 1];
    const float nan = __uint_as_float(0x7fc00000u);
    if (SHARED_TABLE) {
        for (int i = threadIdx.x; i < 1 << K; i += DEQUANTIZE_THREADS)
            table[i] = i < n_codes ? codebook[i] : nan;
        __syncthreads();
    }
    auto lookup = [&](unsigned code) {
        if (SHARED_TABLE) return table[code];
        return code < n_codes ? codebook[code] : nan;
    };

    const long long groups = (n + GROUP - 1) / GROUP;
    const long long last_word = (n * K + 31) / 32 - 1;
    constexpr int TILE = DEQUANTIZE_THREADS * UNROLL;
    for (long long tile = static_cast<long long>(blockIdx.x) * TILE; tile < groups;
         tile += static_cast<long long>(gridDim.x) * TILE) {
        Codes<K> codes[UNROLL];
        float scale[UNROLL], center[UNROLL];
        // All loads first: the more of them in flight, the better memory latency hides.
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
            const long long group = tile + u * DEQUANTIZE_THREADS + threadIdx.x;
            if (group >= groups) continue;
            codes[u].load(stream, group, last_word);
            const long long owner = WHOLE_GROUPS ? group >> shift : group * GROUP / block;
            scale[u] = constant(absmax, owner, bf16);
            center[u] = mean ? constant(mean, owner, bf16) : 0.0f;
        }
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
            const long long group = tile + u * DEQUANTIZE_THREADS + threadIdx.x;
            if (group >= groups) continue;
            const long long first = group * GROUP;
            long long owner = WHOLE_GROUPS ? 0 : first / block;
            long long left = WHOLE_GROUPS ? GROUP : (owner + 1) * block - first;
            alignas(16) T weights[GROUP];
#pragma unroll
            for (int i = 0; i < GROUP; ++i) {
                if (!WHOLE_GROUPS && left == 0) {
                    left = block;
                    if (first + i < n) {
                        ++owner;
                        scale[u] = constant(absmax, owner, bf16);
                        center[u] = mean ? constant(mean, owner, bf16) : 0.0f;
                    }
                }
                if (!WHOLE_GROUPS) --left;
                float value = __fmul_rn(lookup(codes[u].code(i)), scale[u]);
                if (mean) value = __fadd_rn(value, center[u]);
                weights[i] = narrow<T>(value);
            }
            if (first + GROUP <= n) {
                constexpr int VECTORS = GROUP * sizeof(T) / sizeof(Vector);
#pragma unroll
                for (int i = 0; i < VECTORS; ++i)
                    reinterpret_cast<Vector*>(out + first)[i] =
                        reinterpret_cast<const Vector*>(weights)[i];
            } else {
#pragma unroll
                for (int i = 0; i < GROUP; ++i)
                    if (first + i < n) out[first + i] = weights[i];
            }
        }
    }
}
