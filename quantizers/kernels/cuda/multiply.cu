// y = x W^T (+ bias) for few rows of x, straight from the packed W: what is read follows the bits.
//
// Weights are dequantized in registers to exactly what `dequantize` gives and go into tensor-core
// products with fp32 sums, so up to 8 rows of x cost what one costs. A warp keeps its columns of x
// in registers and goes down the rows of W, 16 at a time; then the warps' sums are added up. Codes
// come through a ring in shared memory, one step ahead. A lane takes 32 neighbouring columns (K
// whole words) of two rows: which column meets which slot of the product does not matter as long as
// W and x agree.

constexpr int CHUNK = 128;            // columns that the 4 lanes of a row take together
constexpr int MULTIPLY_SLOTS = 2;     // of a warp's ring
constexpr int MULTIPLY_KEPT = 8;      // tiles of 16 rows whose sums a block keeps over its passes

// x [m, d_in], y [m, d_out], m <= 8 X_TILES; d_in a multiple of 128, d_in d_out < 2^31; block of
// 2^shift >= 16, shift < 32. CHUNKS: chunks of a warp, its segment of the row. `segments` warps share
// rows; a row takes `passes` of them. FINE: blocks of 16 or 32, so that lanes have scales of their
// own.
template <int K, typename T, int X_TILES, int CHUNKS, bool FINE>
__global__ void __launch_bounds__(MULTIPLY_THREADS, 1)
multiply(const T* __restrict__ x, const unsigned* __restrict__ stream,
         const T* __restrict__ absmax, const float* __restrict__ codebook,
         const T* __restrict__ bias, T* __restrict__ y, long long m, long long d_in,
         long long d_out, long long shift, long long n_codes, long long segments,
         long long passes) {
    using Table = LaneTable<K>;
    constexpr int COLUMNS = 8 * X_TILES, SUMS = 16 * COLUMNS;  // of a tile: rows x columns of y
    // A lane's loads of 16 bytes, 32 bytes apart, would meet in the same banks at 8 bit.
    constexpr int ROW = 16 * K + (K == 8 ? 16 : 0);  // bytes, of a chunk
    constexpr int SLOT = CHUNKS * 16 * ROW, RING = MULTIPLY_SLOTS * SLOT;
    constexpr int BEFORE = (Table::BYTES - MOST_RESERVED) / RING;  // rings that fit below the table

    const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int g = lane / 4, t = lane % 4;
    const int groups = warps / static_cast<int>(segments);  // tiles the block works on at a time
    const int segment = warp % static_cast<int>(segments), group = warp / static_cast<int>(segments);
    const Shared table = Table::place(), after = table + Table::BYTES;
    const Shared ring = kept(warp < BEFORE ? shared_address(dynamic_memory) + warp * RING
                                           : after + (warp - BEFORE) * RING);
    const Shared sums = after + (warps < BEFORE ? 0 : warps - BEFORE) * RING;  // two of each warp
    const Shared kept_sums = sums + 2 * warps * SUMS * 4;
    const Shared from = kept(ring + g * ROW + t * 4 * K);
    const Shared copy = kept(table + lane % Table::COPIES * (4 * Table::WIDTH));

    const int rows = static_cast<int>(d_out), columns = static_cast<int>(d_in);
    const int row_words = columns / 32 * K;
    const int tiles = (rows + 15) / 16, block_tile = blockIdx.x * groups, stride = gridDim.x * groups;
    const int steps = (tiles - block_tile + stride - 1) / stride;
    // Of more passes than one, with which the block has one group.
    const int kept_steps = passes > 1 ? MULTIPLY_KEPT : steps;

    // What comes next: steps in portions of `kept_steps`, each in all passes.
    int next_begin = 0, next_pass = 0, next_step = 0, next_slot = 0;
    // Scales in pairs, fine ones of a lane's halves of 16 columns in a chunk and row. Else each lane
    // has the pair of both halves of 64 columns of another row and chunk: 16 rows are read at once.
    unsigned next_scales[FINE ? 2 * CHUNKS : 1];
    auto fetch = [&] {
        if (next_step < steps) {
            const int row = (block_tile + group + next_step * stride) * 16;
            const int first = (next_pass * static_cast<int>(segments) + segment) * CHUNKS * CHUNK;
#pragma unroll
            for (int i = 0; i < CHUNKS * 16 * K; i += 32) {  // pieces of 16 bytes
                const int piece = i + lane;
                const int chunk = piece / (16 * K), of = piece / K % 16, part = piece % K;
                if (piece < CHUNKS * 16 * K && row + of < rows && first + chunk * CHUNK < columns)
                    copy_async(ring + next_slot * SLOT + (chunk * 16 + of) * ROW + part * 16,
                               stream + static_cast<unsigned>(row + of) * row_words + first / 32 * K
                                   + chunk * 4 * K + part * 4);
            }
            const unsigned last = static_cast<unsigned>(rows) * columns - 1;
#pragma unroll
            for (int i = 0; i < (FINE ? 2 * CHUNKS : 1); ++i) {
                const int of = FINE ? i % 2 * 8 + g : lane / CHUNKS % 16;
                const int chunk = FINE ? i / 2 : lane % CHUNKS;
                const unsigned weight = static_cast<unsigned>(row + of) * columns + first
                                        + chunk * CHUNK + (FINE ? t * 32 : 0);
                const unsigned here = weight < last ? weight : last;
                if (shift == (FINE ? 4 : 6))
                    next_scales[i] = reinterpret_cast<const unsigned*>(absmax)[here / (FINE ? 32 : 128)];
                else
                    next_scales[i] = absmax[here >> shift].bits * 0x10001u;
            }
        }
        commit_copies();
        next_slot ^= 1;
        const int end = next_begin + kept_steps < steps ? next_begin + kept_steps : steps;
        if (++next_step == end) {
            if (++next_pass == passes) {
                next_pass = 0;
                next_begin = end;
            }
            next_step = next_begin;
        }
    };
    // Codes that are never copied are zeros, and meet columns of zeros.
    for (int i = lane; i < RING / 16; i += 32) store_shared_zeros(ring + i * 16);
    __syncwarp();
    fetch();
    Table::fill(codebook, n_codes);
    __syncthreads();

    int slot = 0, parity = 0;
    for (int begin = 0; begin < steps; begin += kept_steps) {
        for (int pass = 0; pass < passes; ++pass) {
            // The lane's columns of row g of each tile of x: two values a word.
            unsigned values[X_TILES][CHUNKS][16];
            const int first = (pass * static_cast<int>(segments) + segment) * CHUNKS * CHUNK + t * 32;
#pragma unroll
            for (int i = 0; i < X_TILES; ++i)
#pragma unroll
                for (int chunk = 0; chunk < CHUNKS; ++chunk) {
                    const bool there = i * 8 + g < m && first + chunk * CHUNK < columns;
                    const T* some = x + (i * 8 + g) * d_in + first + chunk * CHUNK;
#pragma unroll
                    for (int j = 0; j < 4; ++j) {
                        Vector loaded = {};
                        if (there) loaded = reinterpret_cast<const Vector*>(some)[j];
#pragma unroll
                        for (int w = 0; w < 4; ++w) values[i][chunk][4 * j + w] = loaded.word[w];
                    }
                }

            for (int step = begin; step < begin + kept_steps && step < steps; ++step) {
                wait_copies<0>();
                __syncwarp();  // all lanes' copies are there, and all have read the slot before
                unsigned scales[FINE ? 2 * CHUNKS : 1];
#pragma unroll
                for (int i = 0; i < (FINE ? 2 * CHUNKS : 1); ++i) scales[i] = next_scales[i];
                fetch();

                float sum[X_TILES][4] = {};
#pragma unroll
                for (int chunk = 0; chunk < CHUNKS; ++chunk) {
                    unsigned word[2][K];
                    constexpr int WIDE = K % 4 == 0 ? 4 : K % 2 == 0 ? 2 : 1;  // words of a load
#pragma unroll
                    for (int i = 0; i < 2 * K; i += WIDE) {
                        unsigned some[WIDE];
                        load_shared(from + slot * SLOT + (chunk * 16 + i / K * 8) * ROW + i % K * 4, some);
#pragma unroll
                        for (int j = 0; j < WIDE; ++j) word[i / K][i % K + j] = some[j];
                    }
                    unsigned pair[2];  // of the lane's first and last 16 columns, of either row
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        if constexpr (FINE) {
                            pair[half] = scales[chunk * 2 + half];
                        } else {
                            const int owner = (half * 8 + g) * CHUNKS + chunk;
                            const unsigned both = __shfl_sync(0xffffffffu, scales[0], owner);
                            pair[half] = both >> t / 2 * 16;
                        }
                    }
                    // Eight products over 16 columns: 4 of every lane.
#pragma unroll
                    for (int s = 0; s < 8; ++s) {
                        unsigned a[4];
#pragma unroll
                        for (int half = 0; half < 2; ++half) {
                            float weight[4];
                            Table::look_up(word[half], 4 * s, copy, weight);
                            const float factor = widen(T{
                                static_cast<unsigned short>(pair[half] >> (FINE ? s / 4 * 16 : 0))});
#pragma unroll
                            for (int j = 0; j < 2; ++j)
                                a[half + 2 * j] = narrow_pair<T>(__fmul_rn(weight[2 * j], factor),
                                                                 __fmul_rn(weight[2 * j + 1], factor));
                        }
#pragma unroll
                        for (int i = 0; i < X_TILES; ++i) {
                            const unsigned b[2] = {values[i][chunk][2 * s], values[i][chunk][2 * s + 1]};
                            mma<T>(sum[i], a, b);
                        }
                    }
                }
                slot ^= 1;

                // Row 8 h + g of the tile and columns 8 i + 2 t, + 1 of y: in pairs, by lanes.
                const Shared mine = sums + (parity * warps + warp) * SUMS * 4;
#pragma unroll
                for (int i = 0; i < X_TILES; ++i)
#pragma unroll
                    for (int j = 0; j < 4; ++j)
                        store_shared(mine + ((i * 4 + j) * 32 + lane) * 4, sum[i][j]);
                __syncthreads();  // while some warps add up these, the others do the next step
                for (int i = threadIdx.x; i < groups * SUMS; i += blockDim.x) {
                    const int of = i / SUMS, at = i % SUMS;  // group, place among its sums
                    const Shared source = sums + ((parity * warps + of * static_cast<int>(segments)) * SUMS + at) * 4;
                    float total = 0.0f;
#pragma unroll 4
                    for (int s = 0; s < static_cast<int>(segments); ++s) {
                        float some[1];
                        load_shared(source + s * SUMS * 4, some);
                        total = __fadd_rn(total, some[0]);
                    }
                    if (passes > 1) {
                        const Shared keep = kept_sums + ((step - begin) * SUMS + at) * 4;
                        float before[1] = {};
                        if (pass) load_shared(keep, before);
                        total = __fadd_rn(before[0], total);
                        store_shared(keep, total);
                    }
                    const int of_lane = at % 32, j = at / 32 % 4;
                    const int row = (block_tile + of + step * stride) * 16 + j / 2 * 8 + of_lane / 4;
                    const int column = at / 128 * 8 + of_lane % 4 * 2 + j % 2;
                    if (pass + 1 == passes && row < rows && column < m) {
                        if (bias) total = __fadd_rn(total, widen(bias[row]));
                        y[column * d_out + row] = narrow<T>(total);
                    }
                }
                parity ^= 1;
            }
        }
    }
}
