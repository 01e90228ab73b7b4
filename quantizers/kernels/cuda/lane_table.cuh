// Look-ups of packed codes without bank conflicts, for the products with a packed matrix.

DYNAMIC_SHARED(dynamic_memory);

// The table holds a copy of each entry for every lane that reads at the same time, in banks of its
// own. Where a whole byte of the stream is looked up (k = 2, 4, 8, if shared memory has room), entries
// lie 256 bytes apart: one instruction makes the address. Else an entry is a pair of codes up to 4
// bit, and a single one above.
template <int K> struct LaneTable {
    static constexpr bool BYTE = BYTE_TABLES && 8 % K == 0;
    static constexpr int WIDTH = BYTE ? 8 / K : K <= 4 ? 2 : 1;  // codes of a look-up
    static constexpr int STRIDE = BYTE ? 256 : 128;
    static constexpr int BYTES = (1 << K * WIDTH) * STRIDE;
    static constexpr int COPIES = STRIDE / (4 * WIDTH);

    // A multiple of its size: then an address is put together of bits, and nothing is added.
    static __device__ __forceinline__ Shared place() {
        return (shared_address(dynamic_memory) / BYTES + 1) * BYTES;
    }

    static __device__ __forceinline__ void fill(const float* codebook, long long n_codes) {
#pragma unroll 4
        for (int i = threadIdx.x; i < BYTES / 16; i += blockDim.x) {
            float values[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int code = i / (STRIDE / 16) >> j % WIDTH * K & ((1 << K) - 1);
                values[j] = code < n_codes ? codebook[code] : __uint_as_float(0x7fc00000u);
            }
            store_shared(place() + i * 16, values);
        }
    }

    // Likewise of values of T, two a word, 32 copies of a word. Of four codes a look-up the last two
    // have words of their own after those of the first two; of one code both halves are its value.
    template <typename T>
    static __device__ __forceinline__ void fill_pairs(const float* codebook, long long n_codes) {
        constexpr int STORES = WIDTH == 4 ? 16 : 8, MASK = (1 << K) - 1;  // of 16 bytes an entry
        auto value = [&](int code) {
            return code < n_codes ? codebook[code] : __uint_as_float(0x7fc00000u);
        };
#pragma unroll 4
        for (int i = threadIdx.x; i < BYTES / STRIDE * STORES; i += blockDim.x) {
            const int low = i / STORES >> (i % STORES / 8 * 2 * K), high = WIDTH == 1 ? low : low >> K;
            const unsigned pair = narrow_pair<T>(value(low & MASK), value(high & MASK));
            const unsigned pairs[4] = {pair, pair, pair, pair};
            store_shared(place() + i / STORES * STRIDE + i % STORES * 16, pairs);
        }
    }

    // Where the entry of look-up p of a lane's words lies; copy: where its copy of entry 0 does.
    template <int N>
    static __device__ __forceinline__ Shared at(const unsigned (&word)[N], int p, Shared copy) {
        if constexpr (BYTE) {
            return with_byte(copy, word[p / 4], p % 4);
        } else {
            constexpr int BITS = K * WIDTH;
            constexpr unsigned MASK = ((1u << BITS) - 1) << 7;
            const int first = p * BITS / 32, bit = p * BITS % 32;
            const unsigned field = bit + BITS > 32
                ? __funnelshift_r(word[first], word[first + 1 < N ? first + 1 : first], bit - 7)
                : bit < 7 ? word[first] << (7 - bit) : word[first] >> (bit - 7);
            return and_or(field, MASK, copy);
        }
    }

    // The values of N codes of a lane's words, from code `first` on; N is WIDTH or a multiple.
    template <int N>
    static __device__ __forceinline__ void look_up(const unsigned (&word)[K], int first, Shared copy,
                                                   float (&values)[N]) {
#pragma unroll
        for (int i = 0; i < N; i += WIDTH) {
            float some[WIDTH];
            load_shared(at(word, (first + i) / WIDTH, copy), some);
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) values[i + j] = some[j];
        }
    }

    // Pairs of the values of four codes of a lane's words, from code `first` on, a multiple of 4.
    template <int N>
    static __device__ __forceinline__ void look_up_pairs(const unsigned (&word)[N], int first, Shared copy,
                                                         unsigned (&pairs)[2]) {
        if constexpr (WIDTH == 4) {
            const Shared entry = at(word, first / 4, copy);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                unsigned some[1];
                load_shared(entry + i * 128, some);
                pairs[i] = some[0];
            }
        } else {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                unsigned low[1], high[1];
                load_shared(at(word, (first + 2 * i) / WIDTH, copy), low);
                if constexpr (WIDTH == 1) {
                    load_shared(at(word, first + 2 * i + 1, copy), high);
                    low[0] = permute(low[0], high[0], 0x5410);
                }
                pairs[i] = low[0];
            }
        }
    }
};

// N words of shared memory, WIDE at a time.
template <int WIDE, int N> __device__ __forceinline__ void load_words(Shared from, unsigned (&word)[N]) {
#pragma unroll
    for (int i = 0; i < N; i += WIDE) {
        unsigned some[WIDE];
        load_shared(from + i * 4, some);
#pragma unroll
        for (int j = 0; j < WIDE; ++j) word[i + j] = some[j];
    }
}
