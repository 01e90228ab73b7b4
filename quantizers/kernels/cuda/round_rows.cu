// Rows of activations to int8 and a scale a row, in one pass: a row waits in registers while its
// largest magnitude is found. Bound by memory.

constexpr float MOST = 3.402823466e38f;

// x [rows, columns], columns a multiple of those in 16 bytes and at most those of VECTORS vectors a
// thread; a block a row. fixed [1]: the scale of every row, which is not 0; null: a row's largest
// magnitude / limit. codes [rows, columns], within +-limit, halves to even; scales [rows]. A row with
// NaN or infinity has codes 0 and scale NaN.
template <typename T, int VECTORS>
__global__ void __launch_bounds__(ROUND_THREADS, VECTORS < 8 ? 4 : VECTORS < 16 ? 2 : 1)
round_rows(const T* __restrict__ x, const float* __restrict__ fixed, signed char* __restrict__ codes,
           float* __restrict__ scales, long long columns, long long limit) {
    constexpr int EACH = 16 / sizeof(T), WARPS = ROUND_THREADS / 32;
    __shared__ float largest_of[WARPS];
    const int thread = threadIdx.x, vectors = static_cast<int>(columns) / EACH;
    const long long row = blockIdx.x;
    const Vector* from = reinterpret_cast<const Vector*>(x + row * columns);
    Vector loaded[VECTORS];
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const int at = thread + i * ROUND_THREADS;
        loaded[i] = at < vectors ? from[at] : Vector{};
    }
    auto value = [&](int i, int j) { return widen(reinterpret_cast<const T*>(&loaded[i])[j]); };
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i)
#pragma unroll
        for (int j = 0; j < EACH; ++j) largest = greatest(largest, fabsf(value(i, j)));
    for (int mask = 16; mask; mask /= 2)
        largest = greatest(largest, __shfl_xor_sync(0xffffffffu, largest, mask));
    if (thread % 32 == 0) largest_of[thread / 32] = largest;
    __syncthreads();
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) largest = greatest(largest, largest_of[warp]);

    const float bound = static_cast<float>(limit);
    float scale = fixed ? *fixed : __fdiv_rn(largest, bound);
    if (scale == 0.0f) scale = 1.0f;
    const bool finite = largest <= MOST && scale <= MOST;
    if (thread == 0) scales[row] = finite ? scale : __uint_as_float(0x7fc00000u);
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const int at = thread + i * ROUND_THREADS;
        unsigned word[EACH / 4] = {};
        if (at < vectors && finite) {
#pragma unroll
            for (int j = 0; j < EACH; ++j) {
                const float ratio = __fdiv_rn(value(i, j), scale);
                const int code = nearest(fminf(fmaxf(ratio, -bound), bound));
                word[j / 4] |= (static_cast<unsigned>(code) & 0xffu) << j % 4 * 8;
            }
        }
        if (at < vectors) {
            unsigned* to = reinterpret_cast<unsigned*>(codes + row * columns) + at * (EACH / 4);
#pragma unroll
            for (int j = 0; j < EACH / 4; ++j) to[j] = word[j];
        }
    }
}
