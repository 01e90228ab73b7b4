// y = x W^T (+ bias) for few rows of x, straight from the packed W: what is read follows the bits.
//
// Codes become values of the codebook in 16 bit by a look-up and go into tensor-core products with
// fp32 sums, so up to 8 rows of x cost what one costs. The sums over 64 columns, which share a scale,
// are scaled, not each weight. (In FINE blocks each weight is, to exactly what `dequantize` gives.) A
// warp keeps its columns of x in registers and goes down the rows of W, 16 at a time; then the warps'
// sums are added up. Codes come through a ring in shared memory, one step ahead. A lane takes 32 of
// 128 columns of two rows: which column meets which slot of a product does not matter as long as W
// and x agree. Of 64 columns that are summed up apart it takes 16 neighbours, else 32 (K words).

constexpr int CHUNK = 128;            // columns that the 4 lanes of a row take together
constexpr int MULTIPLY_SLOTS = 2;     // of a warp's ring
constexpr int MULTIPLY_KEPT = 8;      // tiles of 16 rows whose sums a block keeps over its passes

// x [m, d_in], y [m, d_out], m <= 8 X_TILES; d_in a multiple of 128, d_in d_out < 2^31; block of
// 2^shift >= 16, shift < 32. CHUNKS: chunks of a warp, its segment of the row. `segments` warps share
// rows; a row takes `passes` of them. FINE: blocks of 16 or 32, so that lanes have scales of their
// own. levels [n_codes + 1]: the codebook, in 16 bit unless FINE, in multiples of what comes last.
template <int K, typename T, int X_TILES, int CHUNKS, bool FINE>
__global__ void __launch_bounds__(X_TILES > 2 ? MULTIPLY_THREADS / 2 : MULTIPLY_THREADS, 1)
multiply(const T* __restrict__ x, const unsigned* __restrict__ stream,
         const T* __restrict__ absmax, const float* __restrict__ levels,
         const T* __restrict__ bias, T* __restrict__ y, long long m, long long d_in,
         long long d_out, long long shift, long long n_codes, long long segments,
         long long passes) {
    using Table = LaneTable<K>;
    constexpr int COLUMNS = 8 * X_TILES, SUMS = 16 * COLUMNS;  // of a tile: rows x columns of y
    // Loads of different rows would meet in the same banks: at 8 bit FINE rows lie 16 bytes further
    // apart; of others, at even widths, some have the codes of their last 64 columns first.
    constexpr int ROW = 16 * K + (FINE && K == 8 ? 16 : 0);          // bytes, of a chunk
    constexpr int TURN = K == 8 ? 1 : K == 4 ? 2 : 4;                // every so many rows
    constexpr int TURNED = FINE || K % 2 ? 0 : K / 2;                // by pieces of 16 bytes
    constexpr int SLOT = CHUNKS * 16 * ROW, RING = MULTIPLY_SLOTS * SLOT;
    constexpr int BEFORE = (Table::BYTES - MOST_RESERVED) / RING;  // rings that fit below the table

    const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int g = lane / 4, t = lane % 4;
    const int groups = warps / static_cast<int>(segments);  // tiles the block works on at a time
    const int segment = warp % static_cast<int>(segments), group = warp / static_cast<int>(segments);
    const Shared table = Table::place(), after = table + Table::BYTES;
    const Shared ring = warp < BEFORE ? shared_address(dynamic_memory) + warp * RING
                                      : after + (warp - BEFORE) * RING;
    const Shared sums = after + (warps < BEFORE ? 0 : warps - BEFORE) * RING;  // two of each warp
    const Shared kept_sums = sums + 2 * warps * SUMS * 4;
    const int turned = g / TURN % 2 * TURNED * 16;
    const Shared from = ring + g * ROW + (FINE ? t * 4 * K : t * K / 2 * 4 + turned);
    const Shared from_last = from + 8 * K - 2 * turned;  // the last 64 columns, unless FINE
    const Shared copy = kept(table + (FINE ? lane % Table::COPIES * (4 * Table::WIDTH) : lane * 4));


    const int rows = static_cast<int>(d_out), columns = static_cast<int>(d_in);
    const int row_words = columns / 32 * K;
    const int tiles = (rows + 15) / 16, block_tile = blockIdx.x * groups, stride = gridDim.x * groups;
    const int steps = (tiles - block_tile + stride - 1) / stride;
    // Of more passes than one, with which the block has one group.
    const int kept_steps = passes > 1 ? MULTIPLY_KEPT : steps;

    // What comes next: steps in portions of `kept_steps`, each in all passes.
    int next_begin = 0, next_pass = 0, next_step = 0;
    // Scales in pairs, fine ones of a lane's halves of 16 columns in a chunk and row. Else each lane
    // has the pair of both halves of 64 columns of another row and chunk: 16 rows are read at once.
    unsigned next_scales[FINE ? 2 * CHUNKS : 1];
    // Where registers are scarce, what follows from a lane's number is found anew each time.
    constexpr bool SCARCE = X_TILES == 2 && CHUNKS == 2 && K < 4;
    auto fetch = [&](int next_slot) {
        if (next_step < steps) {
            const int mine = SCARCE ? static_cast<int>(kept(static_cast<Shared>(threadIdx.x % 32))) : lane;
            const int row = (block_tile + group + next_step * stride) * 16;
            const int first = (next_pass * static_cast<int>(segments) + segment) * CHUNKS * CHUNK;
#pragma unroll
            for (int i = 0; i < CHUNKS * 16 * K; i += 32) {  // pieces of 16 bytes
                const int piece = i + mine;
                const int chunk = piece / (16 * K), of = piece / K % 16, part = piece % K;
                const int place = (part + of / TURN % 2 * TURNED) % K;
                if (piece < CHUNKS * 16 * K && row + of < rows && first + chunk * CHUNK < columns)
                    copy_async(ring + next_slot * SLOT + (chunk * 16 + of) * ROW + place * 16,
                               stream + static_cast<unsigned>(row + of) * row_words + first / 32 * K
                                   + chunk * 4 * K + part * 4);
            }
            const unsigned last = static_cast<unsigned>(rows) * columns - 1;
#pragma unroll
            for (int i = 0; i < (FINE ? 2 * CHUNKS : 1); ++i) {
                const int of = FINE ? i % 2 * 8 + g : mine / CHUNKS % 16;
                const int chunk = FINE ? i / 2 : mine % CHUNKS;
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
    fetch(0);
    if constexpr (FINE)
        Table::fill(levels, n_codes);
    else
        Table::template fill_pairs<T>(levels, n_codes);
    __syncthreads();

    int slot = 0;  // of the ring, and of the sums
    for (int begin = 0; begin < steps; begin += kept_steps) {
        for (int pass = 0; pass < passes; ++pass) {
            // The lane's columns of row g of each tile of x: two values a word.
            unsigned values[X_TILES][CHUNKS][16];
            const int first = (pass * static_cast<int>(segments) + segment) * CHUNKS * CHUNK
                              + t * (FINE ? 32 : 16);
#pragma unroll
            for (int i = 0; i < X_TILES; ++i)
#pragma unroll
                for (int chunk = 0; chunk < CHUNKS; ++chunk) {
                    const bool there = i * 8 + g < m && first + chunk * CHUNK < columns;
                    const T* some = x + (i * 8 + g) * d_in + first + chunk * CHUNK;
#pragma unroll
                    for (int j = 0; j < 4; ++j) {
                        Vector loaded = {};
                        const int at = FINE ? j : j / 2 * 8 + j % 2;
                        if (there) loaded = reinterpret_cast<const Vector*>(some)[at];
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
                fetch(slot ^ 1);

                float sum[X_TILES][4] = {};
#pragma unroll
                for (int chunk = 0; chunk < CHUNKS; ++chunk) {
                    const int here = slot * SLOT + chunk * 16 * ROW;
                    auto multiply_columns = [&](const unsigned (&a)[4], int s, float (&into)[X_TILES][4]) {
#pragma unroll
                        for (int i = 0; i < X_TILES; ++i) {
                            const unsigned b[2] = {values[i][chunk][2 * s], values[i][chunk][2 * s + 1]};
                            mma<T>(into[i], a, b);
                        }
                    };
                    if constexpr (FINE) {
                        unsigned word[2][K];
#pragma unroll
                        for (int half = 0; half < 2; ++half)
                            load_words<K % 4 == 0 ? 4 : K % 2 == 0 ? 2 : 1>(from + here + half * 8 * ROW, word[half]);
                        // Eight products over 16 columns: 4 of every lane.
#pragma unroll
                        for (int s = 0; s < 8; ++s) {
                            unsigned a[4];
#pragma unroll
                            for (int half = 0; half < 2; ++half) {
                                float weight[4];
                                Table::look_up(word[half], 4 * s, copy, weight);
                                const float factor = widen(T{static_cast<unsigned short>(
                                    scales[chunk * 2 + half] >> s / 4 * 16)});
#pragma unroll
                                for (int j = 0; j < 4; j += 2)
                                    a[half + j] = narrow_pair<T>(__fmul_rn(weight[j], factor),
                                                                 __fmul_rn(weight[j + 1], factor));
                            }
                            multiply_columns(a, s, sum);
                        }
                    } else {
#pragma unroll
                        for (int part = 0; part < 2; ++part) {  // 64 columns
                            constexpr int WORDS = (K + 1) / 2;
                            unsigned word[2][WORDS];
#pragma unroll
                            for (int half = 0; half < 2; ++half) {
                                load_words<K == 8 ? 4 : K == 4 ? 2 : 1>(
                                    (part ? from_last : from) + here + half * 8 * ROW, word[half]);
                                // 16 codes of an odd width begin on a word or in its middle.
                                if constexpr (K % 2)
#pragma unroll
                                    for (int i = 0; i < WORDS; ++i) {
                                        const unsigned next = i + 1 < WORDS ? word[half][i + 1] : 0u;
                                        word[half][i] = __funnelshift_r(word[half][i], next, threadIdx.x % 2 * 16);
                                    }
                            }
                            float some[X_TILES][4] = {};
#pragma unroll
                            for (int s = 0; s < 4; ++s) {
                                unsigned first[2], second[2];
                                Table::look_up_pairs(word[0], 4 * s, copy, first);
                                Table::look_up_pairs(word[1], 4 * s, copy, second);
                                const unsigned a[4] = {first[0], second[0], first[1], second[1]};
                                multiply_columns(a, part * 4 + s, some);
                            }
#pragma unroll
                            for (int half = 0; half < 2; ++half) {
                                const int of = K == 2 && SCARCE ? static_cast<int>(threadIdx.x) % 32 / 4 : g;
                                const unsigned pair = __shfl_sync(0xffffffffu, scales[0],
                                                                  (half * 8 + of) * CHUNKS + chunk);
                                const float factor = widen(T{static_cast<unsigned short>(pair >> part * 16)});
#pragma unroll
                                for (int j = 2 * half; j < 2 * half + 2; ++j)
#pragma unroll
                                    for (int i = 0; i < X_TILES; ++i)
                                        sum[i][j] = __fmaf_rn(some[i][j], factor, sum[i][j]);
                            }
                        }
                    }
                }

                // Row 8 h + g of the tile and columns 8 i + 2 t, + 1 of y: in pairs, by lanes.
                const Shared mine = sums + (slot * warps + warp) * SUMS * 4;
#pragma unroll
                for (int i = 0; i < X_TILES; ++i)
#pragma unroll
                    for (int j = 0; j < 4; ++j)
                        store_shared(mine + ((i * 4 + j) * 32 + lane) * 4, sum[i][j]);
                __syncthreads();  // while some warps add up these, the others do the next step
                for (int i = threadIdx.x; i < groups * SUMS; i += blockDim.x) {
                    const int of = i / SUMS, at = i % SUMS;  // group, place among its sums
                    const Shared source = sums + ((slot * warps + of * static_cast<int>(segments)) * SUMS + at) * 4;
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
                        total = __fmul_rn(total, levels[n_codes]);
                        if (bias) total = __fadd_rn(total, widen(bias[row]));
                        y[column * rows + row] = narrow<T>(total);
                    }
                }
                slot ^= 1;
            }
        }
    }
}
