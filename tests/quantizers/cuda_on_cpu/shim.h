// CUDA's words in C++, so that a kernel's source runs on a CPU: each thread of a block is a fiber,
// and barriers, shuffles and tensor-core products switch between them. Blocks run one by one. What
// depends on the order in which threads run is a race: `thread_order` chooses among some.
#include <setjmp.h>
#include <ucontext.h>

// Small headers only: with <cmath>, <functional> and <vector> they take longer than most kernels.
#include <cstdlib>
#include <cstring>
#include <utility>

#define __device__
#define __global__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct Index {
    unsigned x;
};
static Index threadIdx, blockIdx, blockDim, gridDim;
struct float2 {
    float x, y;
};

// --- fibers: a thread number's, for all blocks and launches ---
constexpr int MOST_THREADS = 1024, STACK = 1 << 15;
static ucontext_t fiber[MOST_THREADS];
static jmp_buf scheduler, paused[MOST_THREADS];  // switches that spare swapcontext's system calls
static bool begun[MOST_THREADS], done[MOST_THREADS];
static void (*body)();

__attribute__((noinline)) static void pause() {
    if (!_setjmp(paused[threadIdx.x])) _longjmp(scheduler, 1);
}

static void entry() {
    for (;;) {
        body();
        done[threadIdx.x] = true;
        pause();
    }
}

__attribute__((noinline)) static void resume(int thread) {
    threadIdx.x = thread;
    if (_setjmp(scheduler)) return;
    if (begun[thread]) _longjmp(paused[thread], 1);
    begun[thread] = true;
    setcontext(&fiber[thread]);
}

static void begin(int thread) {
    alignas(16) static char stacks[MOST_THREADS][STACK];
    done[thread] = false;
    if (begun[thread]) return;
    getcontext(&fiber[thread]);
    fiber[thread].uc_stack.ss_sp = stacks[thread];
    fiber[thread].uc_stack.ss_size = STACK;
    fiber[thread].uc_link = nullptr;
    makecontext(&fiber[thread], entry, 0);
}

struct Barrier {
    int arrived = 0, generation = 0;
    void wait(int size);
};
static Barrier block_barrier, warp_barrier[MOST_THREADS / 32];
static int block_threads;
// What a paused thread waits for: that the barrier's generation is another.
static struct {
    const Barrier* barrier;
    int generation;
} awaited[MOST_THREADS];

void Barrier::wait(int size) {
    if (++arrived == size) {
        arrived = 0;
        ++generation;
        return;
    }
    awaited[threadIdx.x] = {this, generation};
    pause();
}

// 0: all threads from one barrier to the next; 1: likewise, the last one first; 2: each warp as far as
// it can before another moves; 3: likewise, the last one first.
extern "C" int thread_order;
int thread_order;

// Each of some threads once, as far as it can. How many of them could move.
static int step(int first, int last) {
    int moved = 0;
    for (int i = first; i < last; ++i) {
        const int me = thread_order % 2 ? first + last - 1 - i : i;
        const auto& wait = awaited[me];
        if (done[me] || (wait.barrier && wait.barrier->generation == wait.generation)) continue;
        awaited[me].barrier = nullptr;
        resume(me);
        ++moved;
    }
    return moved;
}

static void run_block(int threads) {
    for (int i = 0; i < threads; ++i) begin(i);
    for (int moved = 1; moved;) {
        moved = 0;
        if (thread_order < 2) {
            moved = step(0, threads);
            continue;
        }
        for (int warp = 0; warp < threads; warp += 32) {
            const int first = thread_order % 2 ? threads - 32 - warp : warp;
            while (const int some = step(first, first + 32)) moved += some;
        }
    }
    for (int i = 0; i < threads; ++i)
        if (!done[i]) std::abort();  // at a barrier that the others do not come to
}

static void __syncthreads() { block_barrier.wait(block_threads); }
static void __syncwarp() { warp_barrier[threadIdx.x / 32].wait(32); }

// A value from another lane. Two places, taken in turns, so that one barrier will do: no lane is two
// ahead of another.
template <typename X> static X exchange(X value, int from) {
    static X given[2][MOST_THREADS];
    const int me = threadIdx.x, turn = warp_barrier[me / 32].generation % 2;
    given[turn][me] = value;
    __syncwarp();
    return given[turn][from];
}
template <typename X> static X __shfl_xor_sync(unsigned, X value, int mask) {
    return exchange(value, threadIdx.x ^ mask);
}
static unsigned __shfl_sync(unsigned, unsigned value, int lane) {
    return exchange(value, threadIdx.x / 32 * 32 + lane);
}
static unsigned __shfl_up_sync(unsigned, unsigned value, unsigned by) {
    return exchange(value, threadIdx.x - (threadIdx.x % 32 < by ? 0 : by));
}

static unsigned __reduce_max_sync(unsigned, unsigned value) {
    for (int mask = 1; mask < 32; mask *= 2) {
        const unsigned other = __shfl_xor_sync(0xffffffffu, value, mask);
        value = other > value ? other : value;
    }
    return value;
}

// --- arithmetic ---
extern "C" {
float fabsf(float) noexcept;
float fmaxf(float, float) noexcept;
float fminf(float, float) noexcept;
float log2f(float) noexcept;
}
static unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    const unsigned long long both = static_cast<unsigned long long>(high) << 32 | low;
    return static_cast<unsigned>(both >> (shift & 31));
}
template <typename To, typename From> static To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
static float __uint_as_float(unsigned x) { return bits_as<float>(x); }
static unsigned __float_as_uint(float x) { return bits_as<unsigned>(x); }
static float __fmul_rn(float a, float b) { return a * b; }
static float __fadd_rn(float a, float b) { return a + b; }
static float __fsub_rn(float a, float b) { return a - b; }
static float __fdiv_rn(float a, float b) { return a / b; }

struct F16 {
    unsigned short bits;
};
struct BF16 {
    unsigned short bits;
};
static float widen(float x) { return x; }
static float widen(F16 x) { return bits_as<_Float16>(x.bits); }
static float widen(BF16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

template <typename T> static T narrow(float x);
template <> float narrow<float>(float x) { return x; }
template <> F16 narrow<F16>(float x) {
    return {bits_as<unsigned short>(static_cast<_Float16>(x))};
}
template <> BF16 narrow<BF16>(float x) {
    if (x != x) return {0x7fff};
    const unsigned bits = __float_as_uint(x);
    return {static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
template <typename T> static unsigned narrow_pair(float low, float high) {
    return narrow<T>(low).bits | static_cast<unsigned>(narrow<T>(high).bits) << 16;
}

// mma.m16n8 with k = 16 of 2 bytes or 32 of 1, the fragment layout of the PTX manual: element (row,
// k) of a, (k, column) of b. `part` reads one of the elements of a word. The warp's last lane to come
// computes for all.
template <typename Sum> struct Fragments {
    const unsigned *a, *b;
    Sum* c;
};
template <int K, typename Sum, typename Part>
__attribute__((optimize("O3"))) static void product(const Fragments<Sum>* lanes, Part part) {
    constexpr int HALF = K / 2, A_WORD = K / 8;
    Sum a[16][K], b[K][8];
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < A_WORD; ++i) {
            const int k = lane % 4 * A_WORD + i;
            for (int j = 0; j < 4; ++j)
                a[lane / 4 + j % 2 * 8][k + j / 2 * HALF] = part(lanes[lane].a[j], i);
            for (int j = 0; j < 2; ++j) b[k + j * HALF][lane / 4] = part(lanes[lane].b[j], i);
        }
    for (int row = 0; row < 16; ++row) {
        Sum sums[8];
        for (int i = 0; i < 8; ++i) sums[i] = lanes[row % 8 * 4 + i / 2].c[row / 8 * 2 + i % 2];
        for (int k = 0; k < K; ++k)
            for (int i = 0; i < 8; ++i) sums[i] += a[row][k] * b[k][i];
        for (int i = 0; i < 8; ++i) lanes[row % 8 * 4 + i / 2].c[row / 8 * 2 + i % 2] = sums[i];
    }
}
template <int K, typename Sum, typename Part>
static void mma_of(Sum (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], Part part) {
    static Fragments<Sum> given[MOST_THREADS];
    const int me = threadIdx.x;
    given[me] = {a, b, c};
    if (warp_barrier[me / 32].arrived == 31) product<K>(given + me / 32 * 32, part);
    __syncwarp();
}
template <typename T> static float half_of(unsigned word, int which) {
    return widen(T{static_cast<unsigned short>(word >> 16 * which)});
}
static int byte_of(unsigned word, int which) { return static_cast<signed char>(word >> 8 * which); }
template <typename T>
static void mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    mma_of<16>(c, a, b, half_of<T>);
}
static void mma_int8(int (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    mma_of<32>(c, a, b, byte_of);
}
static unsigned permute(unsigned low, unsigned high, unsigned which) {
    const unsigned long long both = static_cast<unsigned long long>(high) << 32 | low;
    unsigned y = 0;
    for (int i = 0; i < 4; ++i) {
        const unsigned digit = which >> 4 * i & 15;
        if (digit > 7) std::abort();  // the hardware would copy a sign
        y |= static_cast<unsigned>(both >> 8 * digit & 0xff) << 8 * i;
    }
    return y;
}
static int nearest(float x) { return static_cast<int>(__builtin_rintf(x)); }

// --- dynamic shared memory: given by the caller, with a fence behind it ---
extern "C" unsigned char* shared_memory;
unsigned char* shared_memory;
extern "C" unsigned long shared_bytes;
unsigned long shared_bytes;
#define DYNAMIC_SHARED(name) static unsigned char*& name = shared_memory
using Shared = unsigned long;
constexpr int MOST_RESERVED = 1024;

static Shared shared_address(const void* p) { return reinterpret_cast<Shared>(p); }
template <typename X> static X kept(X x) { return x; }
static Shared with_byte(Shared address, unsigned word, int i) {
    return (address & ~0xff00ul) | (word >> 8 * i & 0xff) << 8;
}
static Shared and_or(unsigned a, unsigned b, Shared c) { return (a & b) | c; }
template <typename X, int N> static void load_shared(Shared from, X (&x)[N]) {
    if (from % sizeof x) std::abort();  // as a GPU would
    std::memcpy(x, reinterpret_cast<const void*>(from), sizeof x);
}
template <typename X> static void store_shared(Shared to, const X& x) {
    if (to % sizeof x) std::abort();
    std::memcpy(reinterpret_cast<void*>(to), &x, sizeof x);
}
static void store_shared_zeros(Shared to) { std::memset(reinterpret_cast<void*>(to), 0, 16); }

// Copies arrive as late as they may, when they are waited for, or in odd orders as early.
struct Copy {
    Shared to;
    const void* from;
    int group;
};
static Copy copies[MOST_THREADS][256];
static struct {
    int pending, committed;  // copies, and groups of them
} copies_of[MOST_THREADS];
static void copy_async(Shared to, const void* from) {
    if (to % 16 || reinterpret_cast<Shared>(from) % 16) std::abort();
    if (thread_order % 2) {
        std::memcpy(reinterpret_cast<void*>(to), from, 16);
        return;
    }
    auto& mine = copies_of[threadIdx.x];
    if (mine.pending == 256) std::abort();
    copies[threadIdx.x][mine.pending++] = {to, from, mine.committed};
}
static void commit_copies() { ++copies_of[threadIdx.x].committed; }
template <int PENDING> static void wait_copies() {
    auto& mine = copies_of[threadIdx.x];
    int kept = 0;
    for (int i = 0; i < mine.pending; ++i) {
        const Copy copy = copies[threadIdx.x][i];
        if (copy.group + PENDING < mine.committed)
            std::memcpy(reinterpret_cast<void*>(copy.to), copy.from, 16);
        else
            copies[threadIdx.x][kept++] = copy;
    }
    mine.pending = kept;
}

// --- launch: every argument is 8 bytes, a pointer or an integer ---
static void* launched;
static const long long* arguments_of;
template <typename... A, std::size_t... I> static void call(std::index_sequence<I...>) {
    reinterpret_cast<void (*)(A...)>(launched)((A)arguments_of[I]...);
}
template <typename... A>
static void launch(void (*kernel)(A...), const long long* arguments, int blocks, int threads) {
    launched = reinterpret_cast<void*>(kernel);
    arguments_of = arguments;
    body = [] { call<A...>(std::index_sequence_for<A...>()); };
    block_threads = blockDim.x = threads;
    gridDim.x = blocks;
    for (int i = 0; i < blocks; ++i) {
        blockIdx.x = i;
        std::memset(copies_of, 0, sizeof copies_of);
        std::memset(shared_memory, 0xA5, shared_bytes);  // what was there before is anybody's
        run_block(threads);
    }
}

// --- what the quantizer needs besides ---
static float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static float reciprocal(float x) {  // an ulp off, as the hardware's may be, and no subnormals
    return x < 0x1p-126f ? __builtin_inff() : x > 0x1p126f ? 0 : __builtin_nextafterf(1 / x, 2 / x);
}
static float power_of_two(float x) {
    const float y = __builtin_exp2f(x);
    return y < 0x1p-126f ? 0 : y;
}
static float greatest(float a, float b) { return a != a || a > b ? a : b; }
static unsigned toward_zero(float x) {
    const F16 near = narrow<F16>(x);
    const bool away = fabsf(widen(near)) > fabsf(x);  // infinity too, of a finite x
    return near.bits - away;
}
static unsigned truncate_pair(float low, float high) {
    return toward_zero(low) | toward_zero(high) << 16;
}
static unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    const unsigned long long both = static_cast<unsigned long long>(high) << 32 | low;
    return static_cast<unsigned>(both << (shift & 31) >> 32);
}
