// Weights to packed codes, and in one pass also to the absmax of each block.
//
// A code is the number of fp32 midpoints below x = (weight - mean) / absmax. The upper bits of x in
// fp16, rounded toward zero, name a bucket; `first` says how many midpoints lie below all of it,
// and a binary search, for the usual tables one comparison, counts those inside (search.py).

constexpr int MOST_BUCKETS = 8192;
constexpr int TILE = QUANTIZE_THREADS * GROUP;  // weights a thread block takes at a time
template <int K> using First = Conditional<K <= 8, unsigned char, unsigned short>;

// Quotients of fp16 are 0 or at least 2^-40.
template <typename T> constexpr bool NO_TINY_QUOTIENTS = false;
template <> constexpr bool NO_TINY_QUOTIENTS<F16> = true;

// x / scale as IEEE division rounds it, with `inverse` = 1 / scale to 3 ulp.
//
// Then the first quotient is right to 8 ulp. The remainder is a multiple of an ulp of the quotient
// times the last bit of scale, a number of 11 bits, and less than 2^16 of them: it is exact. So the
// sum, before it is rounded, is within 2^-18 ulp of x / scale, and rounds like it: x / scale is an
// fp32 number, or at least 2^-12 ulp from the middle between two. (x - middle * scale is a multiple
// of half such a unit, and not 0: middle * scale has more bits than x.) It takes that nothing
// underflows: a scale from 2^-50 to 2^60 and |x / scale| >= 2^-64. Less stays less than 2^-63.
__device__ __forceinline__ float divide(float x, float scale, float inverse) {
    const float quotient = __fmul_rn(x, inverse);
    const float remainder = __fmaf_rn(-quotient, scale, x);
    return __fmaf_rn(remainder, inverse, quotient);
}

// The greatest magnitude of the x of so many neighbouring threads, as an integer: those order like
// the floats, infinity and then NaN above all. Warps meet in the half of `of_warp` that `turn` names,
// while slow ones still read the other: one barrier a call.
__device__ __forceinline__ unsigned greatest_of_block(const float (&x)[GROUP], int threads,
                                                      int& turn) {
    __shared__ unsigned of_warp[2][QUANTIZE_THREADS / 32];
    float largest = fabsf(x[0]);
#pragma unroll
    for (int i = 1; i < GROUP; ++i) largest = greatest(largest, fabsf(x[i]));
    unsigned top = __float_as_uint(largest);
    if (threads < 32) {
#pragma unroll
        for (int step = 1; step < 16; step *= 2) {
            if (step >= threads) break;
            const unsigned other = __shfl_xor_sync(0xffffffffu, top, step);
            top = other > top ? other : top;
        }
        return top;
    }
    top = __reduce_max_sync(0xffffffffu, top);
    if (threads > 32) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = threads / 32;
        if (lane == 0) of_warp[turn][warp] = top;
        __syncthreads();
        top = __reduce_max_sync(0xffffffffu, of_warp[turn][(warp & ~(warps - 1)) + lane % warps]);
        turn ^= 1;
    }
    return top;
}

template <int K> struct Search {
    const float* midpoints;
    const First<K>* first;
    unsigned key_shift, widest;

    // Step by step for all 8: their loads do not wait for one another.
    __device__ __forceinline__ void operator()(const float (&x)[GROUP],
                                               unsigned (&code)[GROUP]) const {
#pragma unroll
        for (int i = 0; i < GROUP; i += 2) {
            const unsigned keys = truncate_pair(x[i], x[i + 1]);
            code[i] = first[(keys & 0xffffu) >> key_shift];
            code[i + 1] = first[keys >> (16 + key_shift)];
        }
#pragma unroll 1
        for (unsigned step = widest; step > 1; step /= 2)
#pragma unroll
            for (int i = 0; i < GROUP; ++i)
                code[i] += midpoints[code[i] + step - 1] < x[i] ? step : 0;
        // The difference's sign says it too: no two floats are so near that it rounds to 0.
#pragma unroll
        for (int i = 0; i < GROUP; ++i)
            code[i] += __float_as_uint(__fsub_rn(midpoints[code[i]], x[i])) >> 31;
    }
};

// Where threads make more words than one, and not the same number, a warp stages them to write
// neighbouring ones at once.
template <int K> constexpr bool STAGED = K > 4 && K % 4 != 0;

// The warp's codes as 8 K words. Each thread's are K bytes, and it makes the words that end in
// them; the first of those may begin with the last bytes of the thread before. `n_codes` of the
// thread's 8 codes and `n_words` of the words exist: in whole tiles, all of them.
template <int K, bool WHOLE>
__device__ __forceinline__ void write_codes(const unsigned (&code)[GROUP], unsigned* to,
                                            unsigned* staged, int n_codes, int n_words) {
    constexpr int WORDS = (GROUP * K + 31) / 32;
    unsigned packed[WORDS] = {};
#pragma unroll
    for (int i = 0; i < GROUP; ++i) {
        const unsigned here = WHOLE || i < n_codes ? code[i] : 0u;
        const int at = i * K / 32, offset = i * K % 32;
        packed[at] += here << offset;
        if (offset + K > 32) packed[at + 1] += here >> (32 - offset);
    }
    const int lane = threadIdx.x % 32, first = lane * K / 4, odd = lane * K % 4;
    unsigned before = 0;
    if (K % 4 != 0) {
        const unsigned last = WORDS == 1
            ? packed[0] << (32 - GROUP * K) % 32
            : __funnelshift_r(packed[WORDS == 1 ? 0 : WORDS - 2], packed[WORDS - 1], GROUP * K);
        before = __shfl_up_sync(0xffffffffu, last, 1);
    }
    unsigned* const at = STAGED<K> ? staged + first : to;
#pragma unroll
    for (int i = 0; i < (K + 3) / 4; ++i) {
        const unsigned word = K % 4 == 0
            ? packed[i]
            : __funnelshift_l(i == 0 ? before : packed[i - 1], i < WORDS ? packed[i] : 0u, 8 * odd);
        if (odd + K >= 4 * i + 4 && (WHOLE || STAGED<K> || first + i < n_words)) at[i] = word;
    }
    if (STAGED<K>) {
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 8 * K; i += 32)
            if (lane + i < (WHOLE || n_words > 8 * K ? 8 * K : n_words))
                to[i] = staged[lane + i];
        __syncwarp();
    }
}

// ONE_PASS: blocks of 2^shift weights, 16 to TILE of them, not centered; absmax is written, and
// problem[0] becomes 1 if a weight is not finite or an absmax overflows 16 bit. Otherwise absmax
// and mean (or null) are given, and blocks have any size.
template <int K, typename T, bool ONE_PASS>
__global__ void
__launch_bounds__(QUANTIZE_THREADS, QUANTIZE_RESIDENT - (K > 8 || sizeof(T) > 2 || !ONE_PASS))
quantize(const T* __restrict__ weights, Constant* __restrict__ absmax,
         const Constant* __restrict__ mean, const float* __restrict__ midpoints,
         const First<K>* __restrict__ first, unsigned* __restrict__ stream,
         unsigned* __restrict__ problem, long long n, long long row, long long row_blocks,
         long long block, long long shift, long long bf16, long long key_shift, long long widest,
         long long near_zero) {
    constexpr bool SHARED = K <= 8;  // larger tables stay in global memory
    constexpr int VECTORS = GROUP * sizeof(T) / sizeof(Vector);
    __shared__ float shared_midpoints[SHARED ? 1 << K : 1];
    alignas(16) __shared__ First<K> shared_first[SHARED ? MOST_BUCKETS : 1];
    __shared__ unsigned staged[TILE / 32 * K];
    if (SHARED) {
#pragma unroll 1
        for (int i = threadIdx.x; i < 1 << K; i += QUANTIZE_THREADS)
            shared_midpoints[i] = midpoints[i];
        const int vectors = 65536 / static_cast<int>(sizeof(Vector)) >> key_shift;
#pragma unroll 1
        for (int i = threadIdx.x; i < vectors; i += QUANTIZE_THREADS)
            reinterpret_cast<Vector*>(shared_first)[i] = reinterpret_cast<const Vector*>(first)[i];
        __syncthreads();
    }
    const Search<K> search{SHARED ? shared_midpoints : midpoints, SHARED ? shared_first : first,
                           static_cast<unsigned>(key_shift), static_cast<unsigned>(widest)};

    // A thread takes the same 8 weights of every tile, a warp the same 8 K words.
    const int mine = threadIdx.x * GROUP, warp_word = threadIdx.x / 32 * 8 * K;
    const int whole_tiles = static_cast<int>(n / TILE), rest = static_cast<int>(n % TILE);
    const int threads = static_cast<int>(block) / GROUP;  // that share a block, in one pass
    const bool leader = ONE_PASS && threadIdx.x % threads == 0;
    const T* from = weights + static_cast<long long>(blockIdx.x) * TILE + mine;
    unsigned* to = stream + static_cast<long long>(blockIdx.x) * (TILE / 32 * K) + warp_word;
    const int lane = threadIdx.x % 32;
    to += STAGED<K> ? lane : lane * K / 4;  // where it writes first
    Constant* to_absmax = absmax;
    if (ONE_PASS) to_absmax += (static_cast<long long>(blockIdx.x) * TILE + mine) >> shift;
    const unsigned absmax_step = ONE_PASS ? gridDim.x * TILE >> shift : 0;
    unsigned worst = 0;
    int turn = 0;
    // 2^-50 to 2^60 as integers, unless tiny quotients matter.
    constexpr unsigned LEAST_SCALE = 77u << 23;
    const unsigned usual_scales = near_zero ? 0 : (187u << 23) - LEAST_SCALE;

    auto quotients = [&](float (&x)[GROUP], long long begin, int n_here) {
        if (ONE_PASS) {
            const unsigned top = greatest_of_block(x, threads, turn);
            worst = top > worst ? top : worst;
            using Stored = Conditional<sizeof(T) == 2, T, F16>;
            const Stored stored = narrow<Stored>(__uint_as_float(top));
            const float scale = widen(stored);
            if (leader && n_here > 0) *to_absmax = stored.bits;
            if (NO_TINY_QUOTIENTS<T> || __float_as_uint(scale) - LEAST_SCALE < usual_scales) {
                const float inverse = NO_TINY_QUOTIENTS<T> && scale == 0 ? 0.0f : reciprocal(scale);
#pragma unroll
                for (int i = 0; i < GROUP; ++i) x[i] = divide(x[i], scale, inverse);
            } else {
#pragma unroll
                for (int i = 0; i < GROUP; ++i) x[i] = scale > 0 ? __fdiv_rn(x[i], scale) : 0.0f;
            }
        } else {
            Owner owner(begin, row, row_blocks, block);
            float scale = 0.0f, center = 0.0f;
            bool entered = true;
#pragma unroll
            for (int i = 0; i < GROUP; ++i) {
                if (entered && i < n_here) {
                    scale = constant(absmax, owner.block, bf16);
                    center = mean ? constant(mean, owner.block, bf16) : 0.0f;
                }
                entered = owner.next(row, block);
                if (mean) x[i] = __fsub_rn(x[i], center);
                x[i] = scale > 0 ? __fdiv_rn(x[i], scale) : 0.0f;
            }
        }
    };

    float x[GROUP];
    unsigned code[GROUP];
    Vector loaded[VECTORS];
    auto load = [&] {
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) loaded[i] = reinterpret_cast<const Vector*>(from)[i];
        from += static_cast<long long>(gridDim.x) * TILE;
    };
    int tile = blockIdx.x;
    if (tile < whole_tiles) load();
#pragma unroll 1
    while (tile < whole_tiles) {
#pragma unroll
        for (int i = 0; i < GROUP; ++i) x[i] = widen(reinterpret_cast<const T*>(loaded)[i]);
        const long long begin = static_cast<long long>(tile) * TILE + mine;
        tile += gridDim.x;
        if (tile < whole_tiles) load();  // on their way while these are quantized
        quotients(x, begin, GROUP);
        search(x, code);
        write_codes<K, true>(code, to, staged + warp_word, GROUP, 8 * K);
        to += static_cast<long long>(gridDim.x) * (TILE / 32 * K);
        to_absmax += absmax_step;
    }
    if (tile == whole_tiles && rest > 0) {
        const int left = rest - mine;
#pragma unroll
        for (int i = 0; i < GROUP; ++i) x[i] = i < left ? widen(from[i]) : 0.0f;
        quotients(x, static_cast<long long>(tile) * TILE + mine, left);
        search(x, code);
        write_codes<K, false>(code, to, staged + warp_word, left, (rest * K + 31) / 32 - warp_word);
    }
    // One comparison for NaN, infinity and a finite absmax that rounds to infinity.
    using Stored = Conditional<sizeof(T) == 2, T, F16>;
    if (ONE_PASS && !(widen(narrow<Stored>(__uint_as_float(worst))) < __uint_as_float(0x7f800000u)))
        problem[0] = 1;
}
