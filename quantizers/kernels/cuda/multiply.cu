// y = x W^T (+ bias) for few rows of x, straight from the packed W: what is read follows the bits.
//
// Weights are dequantized in registers to exactly what `dequantize` gives and go into tensor-core
// products with fp32 sums, so up to 8 rows of x cost what one costs. A warp takes 16 rows of W and
// 128 columns at a time; a lane takes 32 neighbouring columns (K whole words) of two rows. Which
// column meets which slot of the product does not matter as long as W and x agree.
//
// Look-ups have no bank conflicts: each lane reads a copy of the table in banks of its own, up to
// 4 bit one of all pairs of codes (two banks), above one of single codes (one bank).

template <int K> struct Lookup {
    static constexpr int WIDTH = K <= 4 ? 2 : 1;  // codes a look-up takes
    static constexpr int BYTES = (1 << K * WIDTH) * 128;

    static __device__ __forceinline__ void fill(float* table, const float* codebook,
                                                long long n_codes) {
        for (int i = threadIdx.x; i < BYTES / 4; i += MULTIPLY_THREADS) {
            const int entry = i / 32;
            const int code = WIDTH == 1 ? entry : i % 2 ? entry >> K : entry & ((1 << K) - 1);
            table[i] = code < n_codes ? codebook[code] : __uint_as_float(0x7fc00000u);
        }
    }

    // Bits [bit, bit + K WIDTH) of the words, times 128, plus the offset of the lane's copy.
    static __device__ __forceinline__ unsigned address(const unsigned (&word)[K], int bit,
                                                       unsigned copy) {
        constexpr unsigned MASK = ((1u << K * WIDTH) - 1) << 7;
        const int at = bit / 32, offset = bit % 32;
        const unsigned field = offset < 7 ? word[at] << (7 - offset)
            : offset + K * WIDTH > 32
            ? __funnelshift_r(word[at], word[at + 1 < K ? at + 1 : at], offset - 7)
            : word[at] >> (offset - 7);
        return (field & MASK) | copy;
    }

    // Values of the codes 2 p and 2 p + 1.
    static __device__ __forceinline__ float2 pair(const unsigned char* table,
                                                  const unsigned (&word)[K], int p, unsigned copy) {
        if constexpr (WIDTH == 2) {
            return *reinterpret_cast<const float2*>(table + address(word, 2 * p * K, copy));
        } else {
            float2 values;
            values.x = *reinterpret_cast<const float*>(table + address(word, 2 * p * K, copy));
            values.y = *reinterpret_cast<const float*>(table + address(word, (2 * p + 1) * K, copy));
            return values;
        }
    }
};

// A lane's share of 16 rows x 128 columns: rows lane / 4 and + 8, 32 columns of each.
template <int K, typename T> struct Share {
    unsigned word[2][K];
    T scale[2][2];  // of each row's first and last 16 columns

    // first: the element of W that each row's columns begin with.
    __device__ __forceinline__ void load(const unsigned* stream, const T* absmax,
                                         const long long (&first)[2], long long shift) {
        constexpr int WORDS = K % 4 == 0 ? 4 : K % 2 == 0 ? 2 : 1;  // a load
        struct alignas(4 * WORDS) Load {
            unsigned word[WORDS];
        };
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const unsigned* codes = stream + first[half] / 32 * K;
#pragma unroll
            for (int i = 0; i < K / WORDS; ++i) {
                const Load load = reinterpret_cast<const Load*>(codes)[i];
#pragma unroll
                for (int j = 0; j < WORDS; ++j) word[half][i * WORDS + j] = load.word[j];
            }
            const T* owner = absmax + (first[half] >> shift);
            scale[half][0] = owner[0];
            scale[half][1] = owner[shift == 4];  // blocks of 16, or one for all 32 columns
        }
    }
};

// x [m, d_in], y [m, d_out], m <= 8 X_TILES; d_in a multiple of 128; block of 2^shift >= 16.
template <int K, typename T, int X_TILES, int ROW_TILES>
__global__ void __launch_bounds__(MULTIPLY_THREADS, X_TILES == 1 ? MULTIPLY_RESIDENT : MULTIPLY_RESIDENT_WIDE)
multiply(const T* __restrict__ x, const unsigned* __restrict__ stream,
         const T* __restrict__ absmax, const float* __restrict__ codebook,
         const T* __restrict__ bias, T* __restrict__ y, long long m, long long d_in,
         long long d_out, long long shift, long long n_codes) {
    constexpr int WARPS = MULTIPLY_THREADS / 32, CHUNK = 128;
    constexpr int ROWS = 16 * ROW_TILES, COLUMNS = 8 * X_TILES;
    constexpr int SUM_BYTES = WARPS * ROWS * COLUMNS * 4;
    // First the table, at the end the warps' sums.
    alignas(16) __shared__ unsigned char
        memory[Lookup<K>::BYTES > SUM_BYTES ? Lookup<K>::BYTES : SUM_BYTES];

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int g = lane / 4, t = lane % 4;
    const unsigned copy = Lookup<K>::WIDTH == 2 ? lane % 16 * 8 : lane * 4;
    const long long first_row = static_cast<long long>(blockIdx.x) * ROWS;
    const int chunks = static_cast<int>(d_in / CHUNK);

    // Where the lane reads next. Rows beyond the last are that one again: read, and not written.
    constexpr int STEP = WARPS * CHUNK;
    const long long column = warp * CHUNK + t * 32;
    long long first[ROW_TILES][2];
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const long long row = first_row + r * 16 + half * 8 + g;
            first[r][half] = (row < d_out ? row : d_out - 1) * d_in + column;
        }
    const T* x_columns[X_TILES];
#pragma unroll
    for (int i = 0; i < X_TILES; ++i)
        x_columns[i] = x + (i * 8 + g < m ? i * 8 + g : m - 1) * d_in + column;

    Share<K, T> next[ROW_TILES];
    auto load_next = [&] {
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r) {
            next[r].load(stream, absmax, first[r], shift);
#pragma unroll
            for (int half = 0; half < 2; ++half) first[r][half] += STEP;
        }
    };
    if (warp < chunks) load_next();
    Lookup<K>::fill(reinterpret_cast<float*>(memory), codebook, n_codes);
    __syncthreads();

    float sum[ROW_TILES][X_TILES][4] = {};
    for (int chunk = warp; chunk < chunks; chunk += WARPS) {
        Share<K, T> share[ROW_TILES];
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r) share[r] = next[r];
        if (chunk + WARPS < chunks) load_next();

        // Each lane's first 16 columns, then its other 16: all at once would not fit registers.
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            Vector columns[X_TILES][2];  // of row g of x, two values a word
#pragma unroll
            for (int i = 0; i < X_TILES; ++i)
#pragma unroll
                for (int j = 0; j < 2; ++j)
                    columns[i][j] = reinterpret_cast<const Vector*>(x_columns[i])[2 * part + j];
            // Four products over 16 columns: 4 of every lane.
#pragma unroll
            for (int step = 0; step < 4; ++step) {
#pragma unroll
                for (int r = 0; r < ROW_TILES; ++r) {
                    unsigned a[4];
#pragma unroll
                    for (int slot = 0; slot < 4; ++slot) {
                        const int half = slot % 2, p = 8 * part + 2 * step + slot / 2;
                        const float2 value = Lookup<K>::pair(memory, share[r].word[half], p, copy);
                        const float scale = widen(share[r].scale[half][part]);
                        a[slot] =
                            narrow_pair<T>(__fmul_rn(value.x, scale), __fmul_rn(value.y, scale));
                    }
#pragma unroll
                    for (int i = 0; i < X_TILES; ++i) {
                        const unsigned b[2] = {columns[i][step / 2].word[step % 2 * 2],
                                               columns[i][step / 2].word[step % 2 * 2 + 1]};
                        mma<T>(sum[r][i], a, b);
                    }
                }
            }
        }
#pragma unroll
        for (int i = 0; i < X_TILES; ++i) x_columns[i] += STEP;
    }

    // Add up the warps, always in the same order.
    __syncthreads();
    float* sums = reinterpret_cast<float*>(memory);
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int i = 0; i < X_TILES; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int row = r * 16 + g + j / 2 * 8, column = i * 8 + 2 * t + j % 2;
                sums[(warp * COLUMNS + column) * ROWS + row] = sum[r][i][j];
            }
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * COLUMNS; i += MULTIPLY_THREADS) {
        const long long row = first_row + i % ROWS;
        const int column = i / ROWS;
        if (column >= m || row >= d_out) continue;
        float total = 0.0f;
        for (int w = 0; w < WARPS; ++w) total += sums[w * ROWS * COLUMNS + i];
        if (bias) total += widen(bias[row]);
        y[column * d_out + row] = narrow<T>(total);
    }
}
