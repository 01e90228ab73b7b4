// Log-probabilities of given tokens: one block a row of logits, which it reads once, adding up
// powers over the largest logit so far. Nothing of the vocabulary's size is written.
//
// Bound by memory, and by what the matrix product has just left in the L2 cache.

constexpr float LOG2_E = 1.44269504f, LN_2 = 0.693147181f, LEAST = -3.402823466e38f;

// What a thread has read of a row, in powers of two: they take one instruction less than those of e.
// It begins at the least finite number, since minus infinity less itself would be NaN.
struct Read {
    float top = LEAST, level = LEAST;  // the largest logit, and the same times log2 e
    float sum = 0.0f;                  // of 2^(logit log2 e - level); NaN after NaN or infinity
    bool beaten = false;               // the target: by a larger logit, or an equal one before it

    template <int N>
    __device__ __forceinline__ void take(const float (&x)[N], long long first, float aim,
                                         long long target) {
        float most = x[0];
#pragma unroll
        for (int i = 1; i < N; ++i) most = fmaxf(most, x[i]);
        if (!beaten && most >= aim) {
#pragma unroll
            for (int i = 0; i < N; ++i) beaten |= x[i] > aim || (x[i] == aim && first + i < target);
        }
        if (most > top) {
            const float before = level;
            top = most;
            level = __fmul_rn(top, LOG2_E);
            sum *= power_of_two(before - level);
        }
#pragma unroll
        for (int i = 0; i < N; ++i) sum += power_of_two(__fmaf_rn(x[i], LOG2_E, -level));
    }

    __device__ __forceinline__ void merge(float other_level, float other_sum) {
        const float most = fmaxf(level, other_level);
        sum = sum * power_of_two(level - most) + other_sum * power_of_two(other_level - most);
        level = most;
    }
};

template <typename T>
__global__ void __launch_bounds__(LOGPROB_THREADS, LOGPROB_RESIDENT)
logprob(const T* __restrict__ logits, const long long* __restrict__ targets,
        float* __restrict__ logprobs, unsigned char* __restrict__ greedy, long long columns) {
    constexpr int EACH = 16 / sizeof(T), WARPS = LOGPROB_THREADS / 32;
    __shared__ float levels[WARPS], sums[WARPS];
    __shared__ int lost;
    const int thread = threadIdx.x;
    if (thread == 0) lost = 0;
    const T* row = logits + blockIdx.x * columns;
    const long long target = targets[blockIdx.x];
    const bool inside = target >= 0 && target < columns;
    const float aim = inside ? widen(row[target]) : __uint_as_float(0x7fc00000u);
    Read read;
    read.beaten = !inside;

    // Rows of an odd length begin anywhere: vectors from the first whole one on, the rest singly.
    const long long off = reinterpret_cast<unsigned long long>(row) / sizeof(T) % EACH;
    long long lead = (EACH - off) % EACH;
    if (lead > columns) lead = columns;
    const long long vectors = (columns - lead) / EACH, tail = lead + vectors * EACH;
    const Vector* whole = reinterpret_cast<const Vector*>(row + lead);
    auto take_vector = [&](const Vector& vector, long long place) {
        T values[EACH];
        float x[EACH];
        *reinterpret_cast<Vector*>(values) = vector;
#pragma unroll
        for (int i = 0; i < EACH; ++i) x[i] = widen(values[i]);
        read.take(x, lead + place * EACH, aim, target);
    };
    long long place = thread;
    for (; place + LOGPROB_THREADS < vectors; place += 2 * LOGPROB_THREADS) {
        const Vector first = whole[place], second = whole[place + LOGPROB_THREADS];
        take_vector(first, place);
        take_vector(second, place + LOGPROB_THREADS);
    }
    if (place < vectors) take_vector(whole[place], place);
    const long long single = thread < lead ? thread : tail + thread - lead;
    if (single < lead || (single >= tail && single < columns)) {
        const float x[1] = {widen(row[single])};
        read.take(x, single, aim, target);
    }

    for (int mask = 16; mask; mask /= 2) {
        const float level = __shfl_xor_sync(0xffffffffu, read.level, mask);
        const float sum = __shfl_xor_sync(0xffffffffu, read.sum, mask);
        read.merge(level, sum);
    }
    if (thread % 32 == 0) {
        levels[thread / 32] = read.level;
        sums[thread / 32] = read.sum;
    }
    __syncthreads();
    Read all;
    for (int warp = 0; warp < WARPS; ++warp) all.merge(levels[warp], sums[warp]);
    const float result = LN_2 * (__fmaf_rn(aim, LOG2_E, -all.level) - log2f(all.sum));
    if (greedy) {
        if (result != result) {  // comparisons above miss NaN, which counts as the largest
            read.beaten = !inside;
            for (long long i = thread; i < columns; i += LOGPROB_THREADS) {
                const float x = widen(row[i]);
                const bool alike = x == aim || (x != x && aim != aim);
                read.beaten |= alike ? i < target : x != x || x > aim;
            }
        }
        if (read.beaten) lost = 1;
        __syncthreads();
        if (thread == 0) greedy[blockIdx.x] = !lost;
    }
    if (thread == 0) logprobs[blockIdx.x] = result;
}
