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

    // Where the entry of look-up p of a lane's words lies; copy: where its copy of entry 0 does.
    static __device__ __forceinline__ Shared at(const unsigned (&word)[K], int p, Shared copy) {
        if constexpr (BYTE) {
            return with_byte(copy, word[p / 4], p % 4);
        } else {
            constexpr int BITS = K * WIDTH;
            constexpr unsigned MASK = ((1u << BITS) - 1) << 7;
            const int first = p * BITS / 32, bit = p * BITS % 32;
            const unsigned field = bit + BITS > 32
                ? __funnelshift_r(word[first], word[first + 1 < K ? first + 1 : first], bit - 7)
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
};
