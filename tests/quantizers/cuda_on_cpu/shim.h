// CUDA's words in C++, so that a kernel's source runs on a CPU: each thread of a block is a fiber,
// and barriers, shuffles and tensor-core products switch between them. Blocks run one by one. What
// depends on the order in which threads run is a race: `thread_order` chooses among some.
#include <setjmp.h>
#include <ucontext.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

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

// --- fibers ---
constexpr int MOST_THREADS = 1024, STACK = 1 << 15;
static ucontext_t fiber[MOST_THREADS];
static jmp_buf scheduler, paused[MOST_THREADS];  // switches that spare swapcontext's system calls
static bool begun[MOST_THREADS], done[MOST_THREADS];
static std::function<void()> body;

static void entry() {
    body();
    done[threadIdx.x] = true;
    _longjmp(scheduler, 1);
}

__attribute__((noinline)) static void resume(int thread) {
    threadIdx.x = thread;
    if (_setjmp(scheduler)) return;
    if (begun[thread]) _longjmp(paused[thread], 1);
    begun[thread] = true;
    setcontext(&fiber[thread]);
}

__attribute__((noinline)) static void pause() {
    if (!_setjmp(paused[threadIdx.x])) _longjmp(scheduler, 1);
}

// 0: all threads from one barrier to the next; 1: likewise, the last one first; 2: each warp as far as
// it can before another moves; 3: likewise, the last one first.
extern "C" int thread_order;
int thread_order;
static bool moved;  // whether a thread has got past something since it was last asked

static bool step(int first, int last) {
    bool alive = false;
    for (int i = first; i < last; ++i) {
        const int me = thread_order % 2 ? first + last - 1 - i : i;
        if (done[me]) continue;
        resume(me);
        alive = true;
    }
    return alive;
}

static void run_block(int threads) {
    static std::unique_ptr<char[]> stacks(new char[MOST_THREADS * STACK]);
    for (int i = 0; i < threads; ++i) {
        getcontext(&fiber[i]);
        fiber[i].uc_stack.ss_sp = stacks.get() + i * STACK;
        fiber[i].uc_stack.ss_size = STACK;
        fiber[i].uc_link = nullptr;
        makecontext(&fiber[i], entry, 0);
        begun[i] = done[i] = false;
    }
    if (thread_order < 2) {
        while (step(0, threads)) {
        }
        return;
    }
    for (bool alive = true; alive;) {
        alive = false;
        for (int warp = 0; warp < threads; warp += 32) {
            const int first = thread_order % 2 ? threads - 32 - warp : warp;
            do {
                moved = false;
                alive |= step(first, first + 32);
            } while (moved);
        }
    }
}

struct Barrier {
    int arrived = 0, generation = 0;
    void wait(int size) {
        const int mine = generation;
        moved = true;
        if (++arrived == size) {
            arrived = 0;
            ++generation;
        }
        while (mine == generation) pause();
        moved = true;
    }
};
static Barrier block_barrier, warp_barrier[MOST_THREADS / 32];
static int block_threads;

static void __syncthreads() { block_barrier.wait(block_threads); }
static void __syncwarp() { warp_barrier[threadIdx.x / 32].wait(32); }

template <typename X> static X __shfl_xor_sync(unsigned, X value, int mask) {
    static X given[MOST_THREADS];
    given[threadIdx.x] = value;
    __syncwarp();
    const X taken = given[threadIdx.x ^ mask];
    __syncwarp();
    return taken;
}

static unsigned __shfl_sync(unsigned, unsigned value, int lane) {
    static unsigned given[MOST_THREADS];
    given[threadIdx.x] = value;
    __syncwarp();
    const unsigned taken = given[threadIdx.x / 32 * 32 + lane];
    __syncwarp();
    return taken;
}

static unsigned __reduce_max_sync(unsigned, unsigned value) {
    for (int mask = 1; mask < 32; mask *= 2) {
        const unsigned other = __shfl_xor_sync(0xffffffffu, value, mask);
        value = other > value ? other : value;
    }
    return value;
}

// --- arithmetic ---
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
// k) of a, (k, column) of b. `part` reads one of the elements of a word.
template <int K, typename Sum, typename Part>
static void mma_of(Sum (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], Part part) {
    static unsigned all_a[MOST_THREADS][4], all_b[MOST_THREADS][2];
    constexpr int HALF = K / 2, A_WORD = K / 8;
    const int me = threadIdx.x, warp = me / 32 * 32, lane = me % 32;
    std::memcpy(all_a[me], a, sizeof a);
    std::memcpy(all_b[me], b, sizeof b);
    __syncwarp();
    for (int j = 0; j < 4; ++j) {
        const int row = lane / 4 + j / 2 * 8, column = lane % 4 * 2 + j % 2;
        for (int k = 0; k < K; ++k) {
            const int from = k % HALF / A_WORD;
            const unsigned word_a = all_a[warp + row % 8 * 4 + from][row / 8 + k / HALF * 2];
            const unsigned word_b = all_b[warp + column * 4 + from][k / HALF];
            c[j] += part(word_a, k % A_WORD) * part(word_b, k % A_WORD);
        }
    }
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
};
static std::vector<std::vector<Copy>> copies_of[MOST_THREADS];
static void copy_async(Shared to, const void* from) {
    if (to % 16 || reinterpret_cast<Shared>(from) % 16) std::abort();
    if (thread_order % 2) {
        std::memcpy(reinterpret_cast<void*>(to), from, 16);
        return;
    }
    auto& groups = copies_of[threadIdx.x];
    if (groups.empty()) groups.emplace_back();
    groups.back().push_back({to, from});
}
static void commit_copies() {
    auto& groups = copies_of[threadIdx.x];
    if (groups.empty()) groups.emplace_back();
    groups.emplace_back();
}
template <int PENDING> static void wait_copies() {
    auto& groups = copies_of[threadIdx.x];  // the last is not committed yet
    while (groups.size() > PENDING + 1) {
        for (const Copy& copy : groups.front())
            std::memcpy(reinterpret_cast<void*>(copy.to), copy.from, 16);
        groups.erase(groups.begin());
    }
}

// --- launch: every argument is 8 bytes, a pointer or an integer ---
template <typename... A, std::size_t... I>
static void call(void (*kernel)(A...), const long long* arguments, std::index_sequence<I...>) {
    kernel((A)arguments[I]...);
}
template <typename... A>
static void launch(void (*kernel)(A...), const long long* arguments, int blocks, int threads) {
    body = [=] { call(kernel, arguments, std::index_sequence_for<A...>()); };
    block_threads = blockDim.x = threads;
    gridDim.x = blocks;
    for (int i = 0; i < blocks; ++i) {
        blockIdx.x = i;
        for (auto& groups : copies_of) groups.clear();
        std::memset(shared_memory, 0xA5, shared_bytes);  // what was there before is anybody's
        run_block(threads);
    }
}

// --- what the quantizer needs besides ---
#include <cmath>
static float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
static float reciprocal(float x) {  // an ulp off, as the hardware's may be, and no subnormals
    return x < 0x1p-126f ? INFINITY : x > 0x1p126f ? 0 : std::nextafter(1 / x, 2 / x);
}
static float power_of_two(float x) {
    const float y = std::exp2(x);
    return y < 0x1p-126f ? 0 : y;
}
static float greatest(float a, float b) { return a != a || a > b ? a : b; }
static unsigned toward_zero(float x) {
    const F16 near = narrow<F16>(x);
    const bool away = std::fabs(widen(near)) > std::fabs(x);  // infinity too, of a finite x
    return near.bits - away;
}
static unsigned truncate_pair(float low, float high) {
    return toward_zero(low) | toward_zero(high) << 16;
}
static unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    const unsigned long long both = static_cast<unsigned long long>(high) << 32 | low;
    return static_cast<unsigned>(both << (shift & 31) >> 32);
}
static unsigned __shfl_up_sync(unsigned, unsigned value, unsigned by) {
    static unsigned given[MOST_THREADS];
    given[threadIdx.x] = value;
    __syncwarp();
    const unsigned lane = threadIdx.x % 32, taken = given[threadIdx.x - (lane < by ? 0 : by)];
    __syncwarp();
    return taken;
}
