// y = (X W^T) scaled (+ bias) for int8 X and 8- or 4-bit W: exact sums in int32 on the tensor cores.
//
// A block takes ROWS rows of W and TOKENS rows of X. Both come through a ring in shared memory,
// chunks of 64 columns; where the tile is small, warps share the columns and add up at the end. A
// lane takes 16 neighbouring columns of a chunk (8 of each half of it where a group has 32): which
// column meets which slot of the product does not matter as long as W and X agree. Weights of 4 bit
// become int8 by a table in four registers, three permutations for four of them, whatever the
// codebook.

constexpr int CHUNK = 64;           // columns: two products of 32
constexpr int SLOTS = INTEGER_SLOTS;  // of the ring
constexpr int WARPS = INTEGER_THREADS / 32;
constexpr int BY_ROW = 0, BY_GROUP = 1, FINE = 2;  // scales: one a row, a group of 64 or more, one of 32

using Any = unsigned char;  // what y points to: fp32, fp16 or bf16, as `type` says: 0, 1, 2

// Codes 0 to 3 and 4 to 7 of a word as int8: the 16 bytes of the table are looked up in two halves.
__device__ __forceinline__ void look_up(unsigned word, const unsigned (&table)[4], unsigned& first,
                                        unsigned& second) {
    const unsigned low = word & 0x77777777u;
    const unsigned half = static_cast<unsigned>(and_or(word >> 1, 0x44444444u, 0x32103210u));
    first = permute(permute(table[0], table[1], low), permute(table[2], table[3], low), half);
    second = permute(permute(table[0], table[1], low >> 16), permute(table[2], table[3], low >> 16),
                     half >> 16);
}

// x int8 [m, d_in]; x_scales [m]; weights: int8 [d_out, d_in] or codes of 4 bit, 8 a word; table: 16
// bytes, at 4 bit; scales [d_out, row_groups] of 2^shift columns each (BY_ROW: [d_out]); bias [d_out];
// y [m, d_out]. d_in a multiple of 64 and at most 2^17, d_in d_out < 2^31. `share`: chunks of each
// share of the columns, a multiple of a group's.
template <int BITS, int SCALES, int ROWS, int TOKENS>
__global__ void __launch_bounds__(INTEGER_THREADS, 1)
integer_product(const unsigned* __restrict__ x, const float* __restrict__ x_scales,
                const unsigned* __restrict__ weights, const unsigned* __restrict__ table,
                const float* __restrict__ scales, const float* __restrict__ bias,
                Any* __restrict__ y, long long m, long long d_in, long long d_out, long long shift,
                long long row_groups, long long share, long long type) {
    constexpr int ACROSS = TOKENS > 32 ? 2 : 1, DOWN = ROWS > 64 ? 4 : 2;  // warps of the tile
    constexpr int SHARES = WARPS / (ACROSS * DOWN);
    constexpr int X_TILES = TOKENS / (8 * ACROSS), W_TILES = ROWS / (16 * DOWN);  // of a warp
    constexpr int W_ROW = CHUNK * BITS / 8, X_ROW = CHUNK;                        // bytes
    constexpr int PART = ROWS * W_ROW + TOKENS * X_ROW, SLOT = SHARES * PART;
    constexpr int PITCH = ROWS + 4;  // of sums: lanes that store together meet no bank twice

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int across = warp % ACROSS, down = warp / ACROSS % DOWN, part = warp / (ACROSS * DOWN);
    const int rows = static_cast<int>(d_out), tokens = static_cast<int>(m);
    const int chunks = static_cast<int>(d_in) / CHUNK, steps = static_cast<int>(share);
    const int token_tiles = (tokens + TOKENS - 1) / TOKENS;
    const int first_row = blockIdx.x / token_tiles * ROWS;
    const int first_token = blockIdx.x % token_tiles * TOKENS;
    const Shared memory = shared_address(dynamic_memory);

    unsigned values[4] = {};
    if constexpr (BITS == 4)
#pragma unroll
        for (int i = 0; i < 4; ++i) values[i] = table[i];

    // A thread copies the same pieces of 16 bytes of every chunk. What is not there is not copied,
    // and not stored in the end.
    constexpr int W_PIECES = W_ROW / 16, X_PIECES = X_ROW / 16;  // of a row
    constexpr int OF_W = SHARES * ROWS * W_PIECES, OF_X = SHARES * TOKENS * X_PIECES;
    constexpr int W_COPIES = (OF_W + INTEGER_THREADS - 1) / INTEGER_THREADS;  // of a thread
    constexpr int X_COPIES = (OF_X + INTEGER_THREADS - 1) / INTEGER_THREADS;
    struct Piece {
        const unsigned* from;
        Shared to;   // in the slot
        int chunks;  // of its share
    } pieces[W_COPIES + X_COPIES];
#pragma unroll
    for (int i = 0; i < W_COPIES + X_COPIES; ++i) {
        const bool of_w = i < W_COPIES;
        const int piece = threadIdx.x + (of_w ? i : i - W_COPIES) * INTEGER_THREADS;
        const int in_row = of_w ? W_PIECES : X_PIECES, count = of_w ? ROWS : TOKENS;
        const int of = piece / (count * in_row), row = piece / in_row % count;
        const int here = (of_w ? first_row : first_token) + row, begin = of * steps;
        const bool there = of < SHARES && here < (of_w ? rows : tokens) && begin < chunks;
        pieces[i].from = (of_w ? weights : x)
                         + ((static_cast<unsigned>(here) * chunks + begin) * in_row + piece % in_row) * 4;
        pieces[i].to = of * PART + (of_w ? 0 : ROWS * W_ROW) + row * (in_row * 16) + piece % in_row * 16;
        pieces[i].chunks = !there ? 0 : begin + steps < chunks ? steps : chunks - begin;
    }
    Shared filled = memory, taken = memory;  // the slot that comes next
    auto after = [&](Shared slot) { return slot == memory + (SLOTS - 1) * SLOT ? memory : slot + SLOT; };
    auto fetch = [&](int step) {
#pragma unroll
        for (int i = 0; i < W_COPIES + X_COPIES; ++i) {
            if (step < pieces[i].chunks) copy_async(filled + pieces[i].to, pieces[i].from);
            pieces[i].from += i < W_COPIES ? W_ROW / 4 : X_ROW / 4;
        }
        commit_copies();
        filled = after(filled);
    };
#pragma unroll
    for (int step = 0; step < SLOTS - 1; ++step) fetch(step);

    // The lane's rows of W are 8 apart. Scales are read a group ahead; beyond the last row, its.
    constexpr int EACH = SCALES == FINE ? 2 : 1;
    const int first_chunk = part * steps;
    const int last_chunk = first_chunk + steps < chunks ? first_chunk + steps : chunks;
    const int inside = (1 << shift) / CHUNK - 1;  // a chunk's place in its group, as a mask
    const float* scale_of[2 * W_TILES];
    float next[W_TILES][2][EACH];
#pragma unroll
    for (int i = 0; i < 2 * W_TILES; ++i) {
        const int row = first_row + (down * W_TILES * 2 + i) * 8 + g;
        scale_of[i] = scales + (row < rows ? row : rows - 1) * row_groups + (first_chunk * CHUNK >> shift);
    }
    auto load_scales = [&] {
#pragma unroll
        for (int i = 0; i < 2 * W_TILES; ++i) {
#pragma unroll
            for (int j = 0; j < EACH; ++j) next[i / 2][i % 2][j] = scale_of[i][j];
            scale_of[i] += EACH;
        }
    };
    if (SCALES != BY_ROW && first_chunk < last_chunk) load_scales();

    int sums[W_TILES][X_TILES][4] = {};
    float totals[W_TILES][X_TILES][SCALES == BY_ROW ? 1 : 4] = {};
    auto fold = [&](int (&sum)[4], float (&total)[SCALES == BY_ROW ? 1 : 4], int tile, int each) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            total[i] = __fmaf_rn(static_cast<float>(sum[i]), next[tile][i / 2][each], total[i]);
            sum[i] = 0;
        }
    };
    for (int step = 0; step < steps; ++step) {
        wait_copies<SLOTS - 2>();
        __syncthreads();  // all copies are there, and all have read the slot that comes next
        fetch(step + SLOTS - 1);
        const int chunk = first_chunk + step;
        const Shared slot = taken + part * PART;
        taken = after(taken);
        if (chunk >= last_chunk) continue;
        // A tile of W: of row g and g + 8, the bytes that meet words 0 to 3 of a lane's X.
        unsigned w[W_TILES][2][4];
#pragma unroll
        for (int i = 0; i < 2 * W_TILES; ++i) {
            const Shared from = slot + ((down * W_TILES * 2 + i) * 8 + g) * W_ROW;
            unsigned (&to)[4] = w[i / 2][i % 2];
            if constexpr (BITS == 8 && SCALES != FINE) {
                load_shared(from + t * 16, to);
            } else if constexpr (BITS == 8) {
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    unsigned some[2];
                    load_shared(from + j * 32 + t * 8, some);
                    to[2 * j] = some[0], to[2 * j + 1] = some[1];
                }
            } else {
                unsigned words[2];
                if constexpr (SCALES != FINE) {
                    load_shared(from + t * 8, words);
                } else {
#pragma unroll
                    for (int j = 0; j < 2; ++j) {
                        unsigned one[1];
                        load_shared(from + j * 16 + t * 4, one);
                        words[j] = one[0];
                    }
                }
                look_up(words[0], values, to[0], to[1]);
                look_up(words[1], values, to[2], to[3]);
            }
        }
#pragma unroll
        for (int i = 0; i < X_TILES; ++i) {
            const Shared from = slot + ROWS * W_ROW + ((across * X_TILES + i) * 8 + g) * X_ROW;
            unsigned columns[4];
            if constexpr (SCALES != FINE) {
                load_shared(from + t * 16, columns);
            } else {
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    unsigned some[2];
                    load_shared(from + j * 32 + t * 8, some);
                    columns[2 * j] = some[0], columns[2 * j + 1] = some[1];
                }
            }
#pragma unroll
            for (int j = 0; j < 2; ++j)
#pragma unroll
                for (int tile = 0; tile < W_TILES; ++tile) {
                    const unsigned(&low)[4] = w[tile][0], (&high)[4] = w[tile][1];
                    const unsigned a[4] = {low[2 * j], high[2 * j], low[2 * j + 1], high[2 * j + 1]};
                    const unsigned b[2] = {columns[2 * j], columns[2 * j + 1]};
                    mma_int8(sums[tile][i], a, b);
                    if constexpr (SCALES == FINE) fold(sums[tile][i], totals[tile][i], tile, j);
                }
        }
        const bool ends = chunk + 1 == last_chunk || (chunk + 1 & inside) == 0;
        if constexpr (SCALES == BY_GROUP)
            if (ends)
#pragma unroll
                for (int i = 0; i < X_TILES; ++i)
#pragma unroll
                    for (int tile = 0; tile < W_TILES; ++tile)
                        fold(sums[tile][i], totals[tile][i], tile, 0);
        if (SCALES == FINE || (SCALES == BY_GROUP && ends))
            if (chunk + 1 < last_chunk) load_scales();
    }

    wait_copies<0>();
    __syncthreads();  // the ring becomes a place for sums: of each share, token and row
#pragma unroll
    for (int i = 0; i < X_TILES; ++i)
#pragma unroll
        for (int tile = 0; tile < W_TILES; ++tile)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int token = (across * X_TILES + i) * 8 + 2 * t + j % 2;
                const int row = (down * W_TILES + tile) * 16 + j / 2 * 8 + g;
                const float sum = SCALES == BY_ROW ? __uint_as_float(sums[tile][i][j])
                                                : totals[tile][i][SCALES == BY_ROW ? 0 : j];
                store_shared(memory + ((part * TOKENS + token) * PITCH + row) * 4, sum);
            }
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * TOKENS; i += INTEGER_THREADS) {
        const int in_tile = i % ROWS, token = first_token + i / ROWS, row = first_row + in_tile;
        if (token >= tokens || row >= rows) continue;
        int sum = 0;
        float total = 0.0f;
#pragma unroll
        for (int of = 0; of < SHARES; ++of) {
            const Shared at = memory + ((of * TOKENS + i / ROWS) * PITCH + in_tile) * 4;
            unsigned some[1];
            load_shared(at, some);
            if (SCALES == BY_ROW)
                sum += static_cast<int>(some[0]);
            else
                total = __fadd_rn(total, __uint_as_float(some[0]));
        }
        if (SCALES == BY_ROW) total = __fmul_rn(static_cast<float>(sum), scales[row * row_groups]);
        total = __fmul_rn(total, x_scales[token]);
        if (bias) total = __fadd_rn(total, bias[row]);
        const long long at = static_cast<long long>(token) * rows + row;
        if (type == 0)
            reinterpret_cast<float*>(y)[at] = total;
        else if (type == 1)
            reinterpret_cast<F16*>(y)[at] = narrow<F16>(total);
        else
            reinterpret_cast<BF16*>(y)[at] = narrow<BF16>(total);
    }
}
