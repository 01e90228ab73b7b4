// y = W x (+ bias) for one row of x, straight from the packed W: time follows the bits it reads.
//
// A lane keeps its 32 columns of x in registers and goes down the rows of W, so that a weight costs
// a look-up and a multiply-add. The sum over a block of weights is scaled, not each weight; products
// and sums are fp32. Codes come through a ring in shared memory, some rows ahead of their use.

constexpr int GEMV_COLUMNS = 32 * 32;  // of a warp: its segment of the row
constexpr int GEMV_BATCH = 32;         // rows of a group between barriers: a lane adds up one

// x [d_in], y [d_out]; d_in a multiple of 128, d_in d_out < 2^31; block of 2^shift >= 32, shift < 32.
// `segments` warps share a row.
template <int K, typename T>
__global__ void __launch_bounds__(GEMV_THREADS, 1)
gemv(const T* __restrict__ x, const unsigned* __restrict__ stream, const T* __restrict__ absmax,
     const float* __restrict__ codebook, const T* __restrict__ bias, T* __restrict__ y,
     long long d_in, long long d_out, long long shift, long long n_codes, long long segments) {
    using Table = LaneTable<K>;
    constexpr int ROWS = 4;                // taken together
    constexpr bool RING = K > 2;           // two words a row can wait in registers
    constexpr int SLOTS = K == 8 ? 2 : 4;  // of a warp's ring; a divisor of ROWS
    constexpr int SLOT = 32 * 4 * K;          // bytes
    constexpr int PITCH = GEMV_BATCH;         // of a warp's sums
    const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int groups = warps / static_cast<int>(segments);  // rows the block works on at a time
    const int segment = warp % static_cast<int>(segments), group = warp / static_cast<int>(segments);
    // At 8 bit half of the lanes take their last 16 columns first: else their loads of 16 bytes, 32
    // bytes apart, would meet in the same banks.
    const int swap = K == 8 ? lane / 4 % 2 : 0;
    // What a lane copies to and reads from its warp's ring. As many rings as fit lie before the table.
    const Shared memory = shared_address(dynamic_memory), table = Table::place();
    constexpr int BYTES = SLOTS * SLOT, BEFORE = (Table::BYTES - MOST_RESERVED) / BYTES;
    const Shared after = table + Table::BYTES;
    const Shared ring = warp < BEFORE ? memory + warp * BYTES : after + (warp - BEFORE) * BYTES;
    const Shared to = kept(ring + lane * 16), from = kept(ring + lane * 4 * K + swap * 16);
    const Shared from_last = kept(from ^ 16);  // at 8 bit only
    const Shared sums = after + (warps < BEFORE ? 0 : warps - BEFORE) * BYTES;

    // A group's rows are `stride` apart: all blocks together read neighbours.
    const int rows = static_cast<int>(d_out), stride = gridDim.x * groups;
    const int block_row = blockIdx.x * groups, first_row = block_row + group;
    const int steps = (rows - block_row + stride - 1) / stride;  // of the block
    const int my_steps = (rows - first_row + stride - 1) / stride;
    const int row_words = static_cast<int>(d_in) / 32 * K, left = row_words - segment * 32 * K;

    // In words: fewer registers than a pointer.
    const unsigned source_step = static_cast<unsigned>(stride) * row_words;
    unsigned source = static_cast<unsigned>(first_row) * row_words + segment * 32 * K
                      + lane * (RING ? 4 : K);
    auto fetch = [&](int step, int slot) {
#pragma unroll
        for (int i = 0; i < 8 * K; i += 32)  // pieces of 16 bytes
            if (step < my_steps && i + lane < 8 * K && (i + lane) * 4 < left)
                copy_async(to + slot * SLOT + i * 16, stream + source + i * 4);
        commit_copies();
        source += source_step;
    };
    if (RING) {
        // Codes beyond the row are zeros, which meet columns of zeros.
#pragma unroll
        for (int i = 0; i < 8 * K; i += 32)
            if (i + lane < 8 * K && (i + lane) * 4 >= left)
#pragma unroll
                for (int slot = 0; slot < SLOTS; ++slot)
                    store_shared_zeros(to + slot * SLOT + i * 16);
#pragma unroll
        for (int step = 0; step < SLOTS - 1; ++step) fetch(step, step);
    }

    const int first_column = segment * GEMV_COLUMNS + lane * 32;
    Vector loaded[4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int column = first_column + ((i / 2) ^ swap) * 16;
        if (column < d_in) loaded[i] = reinterpret_cast<const Vector*>(x + column)[i % 2];
    }
    float columns[32];
    auto widen_columns = [&] {
#pragma unroll
        for (int i = 0; i < 32; ++i)
            columns[i] = kept(
                widen(T{static_cast<unsigned short>(loaded[i / 8].word[i % 8 / 2] >> i % 2 * 16)}));
    };
    if (!RING) widen_columns();  // else when the table has been filled, while they were on their way

    // The scales of the next rows, and without a ring their codes. Beyond the last row, and beyond
    // the last column, others' are read.
    const unsigned last = static_cast<unsigned>(rows) * static_cast<unsigned>(d_in) - 1;
    const unsigned weight_step = static_cast<unsigned>(stride) * static_cast<unsigned>(d_in);
    unsigned weight = static_cast<unsigned>(first_row) * static_cast<unsigned>(d_in) + first_column;
    const unsigned last_words = static_cast<unsigned>(rows) * row_words - K;
    struct Row {
        T scale;
        unsigned word[RING ? 1 : K];
    } next[ROWS];
    auto load = [&](Row& row) {
        row.scale = absmax[(weight < last ? weight : last) >> shift];
        weight += weight_step;
        if constexpr (!RING) {
            struct alignas(4 * K) Words {
                unsigned word[K];
            };
            const unsigned* at = stream + (source < last_words ? source : last_words);
            const Words words = *reinterpret_cast<const Words*>(at);
#pragma unroll
            for (int j = 0; j < K; ++j) row.word[j] = words.word[j];
            source += source_step;
        }
    };
#pragma unroll
    for (int r = 0; r < ROWS; ++r) load(next[r]);
    Table::fill(codebook, n_codes);
    if (RING) widen_columns();
    __syncthreads();

    const Shared copy = kept(table + lane % Table::COPIES * (4 * Table::WIDTH));
    for (int begin = 0; begin < steps; begin += GEMV_BATCH) {
        const Shared batch = sums + begin / GEMV_BATCH % 2 * PITCH * warps * 4;
        for (int step = begin; step < begin + GEMV_BATCH && step < my_steps; step += ROWS) {
            float total[ROWS];
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                unsigned word[K];
                if constexpr (RING) {
                    wait_copies<SLOTS - 2>();
                    __syncwarp();  // all lanes' copies are there, and all have read the slot before
                    fetch(step + r + SLOTS - 1, (r + SLOTS - 1) % SLOTS);
                    constexpr int WIDE = K % 4 == 0 ? 4 : K % 2 == 0 ? 2 : 1;  // words of a load
#pragma unroll
                    for (int i = 0; i < K; i += WIDE) {
                        unsigned some[WIDE];
                        load_shared((K == 8 && i ? from_last : from + 4 * i) + r % SLOTS * SLOT, some);
#pragma unroll
                        for (int j = 0; j < WIDE; ++j) word[i + j] = some[j];
                    }
                } else {
#pragma unroll
                    for (int j = 0; j < K; ++j) word[j] = next[r].word[RING ? 0 : j];
                }
                float sum[2] = {};
#pragma unroll
                for (int i = 0; i < 32; i += Table::WIDTH) {
                    float values[Table::WIDTH];
                    Table::look_up(word, i, copy, values);
#pragma unroll
                    for (int j = 0; j < Table::WIDTH; ++j)
                        sum[(i + j) % 2] = __fmaf_rn(values[j], columns[i + j], sum[(i + j) % 2]);
                }
                total[r] = __fmul_rn(__fadd_rn(sum[0], sum[1]), widen(next[r].scale));
                load(next[r]);
            }
            // Four sums over 32 lanes in six shuffles: a lane goes on with two rows, then with one.
            const bool odd = lane & 1, second = lane & 2;
            float two[2];
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const float other = __shfl_xor_sync(0xffffffffu, odd ? total[r] : total[r + 2], 1);
                two[r] = __fadd_rn(odd ? total[r + 2] : total[r], other);
            }
            float one = __fadd_rn(second ? two[1] : two[0],
                                  __shfl_xor_sync(0xffffffffu, second ? two[0] : two[1], 2));
#pragma unroll
            for (int distance = 4; distance < 32; distance *= 2)
                one = __fadd_rn(one, __shfl_xor_sync(0xffffffffu, one, distance));
            if (lane < ROWS)
                store_shared(batch + (warp * PITCH + step - begin + odd * 2 + second) * 4, one);
        }
        __syncthreads();  // while some warps add up this batch, the others do the next rows
        if (warp < groups) {
            const int step = begin + lane, row = block_row + warp + step * stride;
            if (step < steps && row < rows) {
                float total = 0.0f;
#pragma unroll 1
                for (int s = 0; s < static_cast<int>(segments); ++s) {
                    float some[1];
                    load_shared(batch + ((warp * static_cast<int>(segments) + s) * PITCH + lane) * 4, some);
                    total = __fadd_rn(total, some[0]);
                }
                if (bias) total = __fadd_rn(total, widen(bias[row]));
                y[row] = narrow<T>(total);
            }
        }
    }
}
