// What remains of an integer product after a library has computed its sums: scales and bias.

// sums [tokens, columns], columns a multiple of 4; x_scales [tokens]; scales and bias [columns];
// y like sums. Blocks of a token's columns, `strips` of them a token.
template <typename T>
__global__ void __launch_bounds__(SCALE_THREADS, 4)
scale_sums(const unsigned* __restrict__ sums, const float* __restrict__ x_scales,
           const float* __restrict__ scales, const float* __restrict__ bias, T* __restrict__ y,
           long long columns, long long strips) {
    const long long token = blockIdx.x / strips;
    const long long column = (blockIdx.x % strips * SCALE_THREADS + threadIdx.x) * 4;
    if (column >= columns) return;
    const float x_scale = x_scales[token];
    const Vector loaded = *reinterpret_cast<const Vector*>(sums + token * columns + column);
    struct alignas(4 * sizeof(T)) Four {
        T value[4];
    } out;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float sum = static_cast<float>(static_cast<int>(loaded.word[i]));
        float total = __fmul_rn(__fmul_rn(sum, scales[column + i]), x_scale);
        if (bias) total = __fadd_rn(total, bias[column + i]);
        out.value[i] = narrow<T>(total);
    }
    *reinterpret_cast<Four*>(y + token * columns + column) = out;
}
