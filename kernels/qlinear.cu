// y = x W^T for weights in the files' own precisions, from one row to a few dozen: one to three rows by products of bytes,
// more on the tensor cores.
//
// Weights lie in tiles of 16 outputs by 128 or 256 inputs (`src/ops/gpu/tiles.rs` makes them and has the table). A
// *unit* is 16 by 128. In it lane (g, t) of a warp, g = lane / 4 and t = lane % 4, has the inputs 32 t .. 32 t + 32 of
// the outputs g and g + 8: one run of bytes for each, so that a warp reads 512 consecutive bytes at a time. Weights
// become halves in registers, just as the tensor cores want their left factor: in which order the inputs are
// multiplied is free as long as both factors agree, so product i of a unit takes from each lane the inputs
// 32 t + 4 i .. + 4.
//
// On the tensor cores activations are divided by 64 before they become halves: some models' reach past 65,504, and what the smallest lose
// is below 1e-6. Sums are f32. A row's result does not depend on the rows beside it within one kernel.

#include "common.cuh"
#include "round.cuh"

constexpr float SHRINK = 1.0f / 64;
constexpr float GROW = 64;
constexpr u32 LANES = 32;

enum Format : u32 { Q4K, Q5K, Q6K, Q8_0, Q4_1, Q5_1, F16 };

// One matrix of those that share their input.
struct Part {
    const u8* weights;
    u32 format;
    // Of 16 outputs.
    u32 tiles;
    u32 outputs;
    // Column of the result where it begins.
    u32 column;
};

struct Matrices {
    Part parts[4];
    u32 count;
    u32 inputs;
    u32 rows;
    u32 columns;
};

DEVICE constexpr u32 units_of(u32 format) { return format <= Q6K ? 2 : 1; }

DEVICE constexpr u32 tile_bytes(u32 format) {
    switch (format) {
        case Q4K: return 2304;
        case Q5K: return 2816;
        case Q6K: return 3360;
        case Q8_0: return 2176;
        case Q4_1: return 1280;
        case Q5_1: return 1536;
        default: return 4096;
    }
}

// A lane's 32 weights of one output in a unit.
template <u32 F>
struct Weights {
    // Codes of 4 bits, their higher bits; of 8 bits, in `codes` and `more`.
    uint4 codes, more;
    uint2 high;
    // Weights are (code - offset) * scale + base; both halves alike.
    u32 scale, base;
    const uint4* floats;

    // `half` tells the output: g, or g + 8.
    DEVICE void load(const u8* tile, u32 unit, u32 half, u32 lane);
    // The halves of products 2 j and 2 j + 1.
    DEVICE void pair(u32 j, u32 (&out)[4]) const;
};

DEVICE u32 twice(float value) { return halves(value, value); }

template <u32 F>
DEVICE void Weights<F>::load(const u8* tile, u32 unit, u32 half, u32 lane) {
    const u32 at = 2 * unit + half;
    if constexpr (F == Q4K || F == Q5K) {
        const u32 row = lane / 4 + 8 * half, t = lane % 4;
        codes = load_once(reinterpret_cast<const uint4*>(tile + 256 + 512 * at) + lane);
        if constexpr (F == Q5K) high.x = load_once(reinterpret_cast<const u32*>(tile + 2304 + 128 * at) + lane);
        const uint4 head = reinterpret_cast<const uint4*>(tile)[row];
        const u32 byte = (unit == 0 ? head.y : head.z) >> (8 * t) & 0xff;
        const u32 more = head.w >> (16 * unit + 4 * t) & 15;
        const u32 minimum = byte >> 6 | more << 2;
        scale = twice(half_to_float(u16(head.x)) * float(byte & 63));
        base = twice(half_to_float(u16(head.x >> 16)) * -float(minimum));
    } else if constexpr (F == Q6K) {
        codes = load_once(reinterpret_cast<const uint4*>(tile + 512 * at) + lane);
        high = load_once(reinterpret_cast<const uint2*>(tile + 2048 + 256 * at) + lane);
        const u32 both = reinterpret_cast<const u16*>(tile + 3072 + 64 * at)[lane];
        const float d = half_to_float(reinterpret_cast<const u16*>(tile + 3328)[lane / 4 + 8 * half]);
        // Of the first 16 weights and of the others.
        scale = twice(d * float(static_cast<signed char>(both & 0xff)));
        base = twice(d * float(static_cast<signed char>(both >> 8)));
    } else if constexpr (F == Q8_0) {
        const uint4* from = reinterpret_cast<const uint4*>(tile + 1024 * half) + lane;
        codes = load_once(from);
        more = load_once(from + LANES);
        const u32 d = reinterpret_cast<const u16*>(tile + 2048 + 64 * half)[lane];
        scale = d | d << 16;
        base = 0;
    } else if constexpr (F == Q4_1 || F == Q5_1) {
        codes = load_once(reinterpret_cast<const uint4*>(tile + 512 * half) + lane);
        const u32 both = reinterpret_cast<const u32*>(tile + 1024 + 128 * half)[lane];
        if constexpr (F == Q5_1) high.x = load_once(reinterpret_cast<const u32*>(tile + 1280 + 128 * half) + lane);
        scale = (both & 0xffff) | both << 16;
        base = both >> 16 | (both & 0xffff0000);
    } else {
        floats = reinterpret_cast<const uint4*>(tile + 2048 * half) + lane;
    }
}

DEVICE u32 word(const uint4& four, u32 i) { return i == 0 ? four.x : i == 1 ? four.y : i == 2 ? four.z : four.w; }

// Bits from `at` on, and from 16 higher, to bits 4 and 20.
DEVICE u32 to_four(u32 bits, int at, u32 mask) { return (at < 4 ? bits << (4 - at) : bits >> (at - 4)) & mask; }

template <u32 F>
DEVICE void Weights<F>::pair(u32 j, u32 (&out)[4]) const {
    if constexpr (F == F16) {
        const uint4 four = load_once(floats + LANES * j);
        out[0] = four.x;
        out[1] = four.y;
        out[2] = four.z;
        out[3] = four.w;
        return;
    }
    // The bits of a code below 1024 over the half 1024 are their sum.
    constexpr u32 BASE = 0x64006400;
    if constexpr (F == Q8_0) {
        const uint4& source = j < 2 ? codes : more;
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            const u32 four = word(source, 2 * (j % 2) + i / 2);
            // 1024 + 128: bytes are above their codes by 128.
            const u32 code = halves_sub(bytes_of(four, BASE, i % 2 == 0 ? 0x7170 : 0x7372), 0x64806480);
            out[i] = halves_fma(code, scale, base);
        }
        return;
    }
    const u32 eight = word(codes, j);
    UNROLL
    for (u32 i = 0; i < 4; i++) {
        u32 code = (eight >> (4 * i) & 0x000f000f) | BASE;
        const int p = int(4 * j + i);
        if constexpr (F == Q5K || F == Q5_1) code |= to_four(high.x, p, 0x00100010);
        if constexpr (F == Q6K) {
            code |= to_four(p < 8 ? high.x : high.y, 2 * (p % 8), 0x00300030);
            // 1024 + 32
            out[i] = halves_fma(halves_sub(code, 0x64206420), j < 2 ? scale : base, 0);
        } else {
            out[i] = halves_fma(halves_sub(code, BASE), scale, base);
        }
    }
}

// The halves of four activations.
DEVICE uint2 shrunk(const float4& x) {
    return {halves(x.x * SHRINK, x.y * SHRINK), halves(x.z * SHRINK, x.w * SHRINK)};
}

// Where a block's tile lies, and its matrix.
struct Place {
    const Part& part;
    u32 tile;
};

DEVICE Place place(const Matrices& m, u32 group, u32 tiles_a_group) {
    u32 i = 0, first = 0;
    while (i + 1 < m.count) {
        const u32 groups = (m.parts[i].tiles + tiles_a_group - 1) / tiles_a_group;
        if (group < first + groups) break;
        first += groups;
        i++;
    }
    return {m.parts[i], (group - first) * tiles_a_group};
}

// Rounds `count` groups of 4 values, whole groups of 32.
KERNEL(256) qlinear_round(const float4* x, u8* codes, float4* scales, u32 count) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    const bool there = i < count;
    float4 v = {0, 0, 0, 0};
    if (there) v = x[i];
    round_four(v, u64(i) * 4, there, codes, scales);
}

// A lane's 32 weights of one output in a unit, as codes of bytes in the order of the activations'.
template <u32 F>
struct Bytes {
    Weights<F> weights;
    // Of the first 16 inputs and of the others: weights are code * scale + base.
    float scale[2], base[2];

    DEVICE void load(const u8* tile, u32 unit, u32 half, u32 lane) {
        weights.load(tile, unit, half, lane);
        scale[0] = scale[1] = half_to_float(u16(weights.scale));
        base[0] = base[1] = half_to_float(u16(weights.base));
        if constexpr (F == Q6K) {
            scale[1] = base[1];
            base[0] = -32 * scale[0];
            base[1] = -32 * scale[1];
        }
        if constexpr (F == Q8_0) base[0] = base[1] = 0;
    }

    // Eight codes from 8 j on.
    DEVICE void eight(u32 j, u32& first, u32& second) const {
        if constexpr (F == Q8_0) {
            const u32 a = word(j < 2 ? weights.codes : weights.more, 2 * (j % 2)) ^ 0x80808080;
            const u32 b = word(j < 2 ? weights.codes : weights.more, 2 * (j % 2) + 1) ^ 0x80808080;
            first = bytes_of(a, b, 0x5140);
            second = bytes_of(a, b, 0x7362);
            return;
        }
        const u32 nibbles = word(weights.codes, j);
        first = nibbles & 0x0f0f0f0f;
        second = nibbles >> 4 & 0x0f0f0f0f;
        if constexpr (F == Q5K || F == Q5_1) {
            // Bits 4 j .. 4 j + 4 are the even inputs', those 16 further the odd ones'.
            const u32 bits = weights.high.x >> (4 * j);
            first |= (bits << 4 & 0x00100010) | (bits << 10 & 0x10001000);
            second |= (bits << 3 & 0x00100010) | (bits << 9 & 0x10001000);
        }
        if constexpr (F == Q6K) {
            const u32 bits = (j < 2 ? weights.high.x : weights.high.y) >> (8 * (j % 2));
            first |= (bits << 4 & 0x00300030) | (bits << 8 & 0x30003000);
            second |= (bits << 2 & 0x00300030) | (bits << 6 & 0x30003000);
        }
    }
};

// R rows of rounded activations: one tile a block, whose warps share out the inputs.
template <u32 F, u32 R>
DEVICE void bytes(const Matrices& m, const Place& at, const u8* codes, const float4* scales, float (&sums)[R][2]) {
    constexpr u32 UNITS = units_of(F), DEPTH = 128 * UNITS;
    const u32 lane = threadIdx.x % LANES, t = lane % 4, warps = blockDim.x / LANES;
    const u32 deep = (m.inputs + DEPTH - 1) / DEPTH;
    const u8* tiles = at.part.weights + u64(at.tile) * deep * tile_bytes(F);
    for (u32 k = threadIdx.x / LANES; k < deep; k += warps) {
        const u8* tile = tiles + u64(k) * tile_bytes(F);
        Bytes<F> both[UNITS][2];
        UNROLL
        for (u32 unit = 0; unit < UNITS; unit++) {
            both[unit][0].load(tile, unit, 0, lane);
            both[unit][1].load(tile, unit, 1, lane);
        }
        UNROLL
        for (u32 unit = 0; unit < UNITS; unit++) {
            const u32 input = k * DEPTH + 128 * unit + 32 * t;
            // Inputs are a multiple of 32.
            if (input >= m.inputs) continue;
            UNROLL
            for (u32 r = 0; r < R; r++) {
                const uint4* from = reinterpret_cast<const uint4*>(codes + u64(r) * m.inputs + input);
                const uint4 x[2] = {from[0], from[1]};
                const float4 scale = scales[(u64(r) * m.inputs + input) / 32];
                UNROLL
                for (u32 half = 0; half < 2; half++) {
                    const Bytes<F>& w = both[unit][half];
                    int dots[2] = {};
                    UNROLL
                    for (u32 j = 0; j < 4; j++) {
                        u32 first, second;
                        w.eight(j, first, second);
                        dots[j / 2] = dot4(first, word(x[j / 2], 2 * (j % 2)), dots[j / 2]);
                        dots[j / 2] = dot4(second, word(x[j / 2], 2 * (j % 2) + 1), dots[j / 2]);
                    }
                    if constexpr (F == Q6K) {
                        sums[r][half] += scale.x * (w.scale[0] * float(dots[0]) + w.scale[1] * float(dots[1]));
                        sums[r][half] += w.base[0] * scale.y + w.base[1] * scale.z;
                    } else {
                        sums[r][half] += scale.x * w.scale[0] * float(dots[0] + dots[1]);
                        sums[r][half] += w.base[0] * (scale.y + scale.z);
                    }
                }
            }
        }
    }
}

// Halves have no bytes: their products with the activations as they are.
template <u32 R>
DEVICE void floats(const Matrices& m, const Place& at, const float* x, float (&sums)[R][2]) {
    const u32 lane = threadIdx.x % LANES, t = lane % 4, warps = blockDim.x / LANES;
    const u32 deep = (m.inputs + 127) / 128;
    const u8* tiles = at.part.weights + u64(at.tile) * deep * tile_bytes(F16);
    for (u32 k = threadIdx.x / LANES; k < deep; k += warps) {
        const u32 input = k * 128 + 32 * t;
        if (input >= m.inputs) continue;
        UNROLL
        for (u32 half = 0; half < 2; half++) {
            Weights<F16> w;
            w.load(tiles + u64(k) * tile_bytes(F16), 0, half, lane);
            UNROLL
            for (u32 j = 0; j < 4; j++) {
                u32 pairs[4];
                w.pair(j, pairs);
                UNROLL
                for (u32 r = 0; r < R; r++) {
                    const float* row = x + u64(r) * m.inputs + input + 8 * j;
                    UNROLL
                    for (u32 i = 0; i < 4; i++) {
                        sums[r][half] += half_to_float(u16(pairs[i])) * row[2 * i];
                        sums[r][half] += half_to_float(u16(pairs[i] >> 16)) * row[2 * i + 1];
                    }
                }
            }
        }
    }
}

template <u32 R>
DEVICE void few(const Matrices& m, const float* x, const u8* codes, const float4* scales, const float* bias, float* out) {
    const Place at = place(m, blockIdx.x, 1);
    float sums[R][2] = {};
    switch (at.part.format) {
        case Q4K: bytes<Q4K, R>(m, at, codes, scales, sums); break;
        case Q5K: bytes<Q5K, R>(m, at, codes, scales, sums); break;
        case Q6K: bytes<Q6K, R>(m, at, codes, scales, sums); break;
        case Q8_0: bytes<Q8_0, R>(m, at, codes, scales, sums); break;
        case Q4_1: bytes<Q4_1, R>(m, at, codes, scales, sums); break;
        case Q5_1: bytes<Q5_1, R>(m, at, codes, scales, sums); break;
        default: floats<R>(m, at, x, sums);
    }
    // (warp, row, output)
    SHARED float parts[16][R][16];
    const u32 lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, warps = blockDim.x / LANES;
    UNROLL
    for (u32 r = 0; r < R; r++) {
        UNROLL
        for (u32 half = 0; half < 2; half++) {
            float sum = sums[r][half];
            sum += shuffle_xor(sum, 1);
            sum += shuffle_xor(sum, 2);
            if (lane % 4 == 0) parts[warp][r][lane / 4 + 8 * half] = sum;
        }
    }
    barrier();
    for (u32 i = threadIdx.x; i < 16 * R; i += blockDim.x) {
        const u32 row = i / 16, output = at.tile * 16 + i % 16;
        if (output >= at.part.outputs) continue;
        float sum = 0;
        for (u32 w = 0; w < warps; w++) sum += parts[w][row][i % 16];
        const u32 column = at.part.column + output;
        out[u64(row) * m.columns + column] = sum + (bias ? bias[column] : 0.0f);
    }
}

#define FEW(R)                                                                                               \
    KERNEL(512) qlinear_few_##R(ARGUMENT Matrices m, const float* x, const u8* codes, const float4* scales,  \
                                const float* bias, float* out) {                                             \
        few<R>(m, x, codes, scales, bias, out);                                                              \
    }

FEW(1)
FEW(2)
FEW(3)

// Activations as halves in the order in which the products below read them: for each unit of 128 inputs and each 8
// rows, 4 pairs of products by 32 lanes by 16 bytes. Rows and inputs that are not there are zeros. One warp a unit and
// 8 rows.
KERNEL(32) qlinear_pack(const float* x, uint4* packed, u32 rows, u32 inputs, u32 groups) {
    const u32 lane = threadIdx.x % LANES, g = lane / 4, t = lane % 4;
    const u32 row = blockIdx.y * 8 + g, input = blockIdx.x * 128 + 32 * t;
    uint4* out = packed + (u64(blockIdx.x) * groups + blockIdx.y) * 4 * LANES + lane;
    for (u32 j = 0; j < 4; j++) {
        uint2 a = {}, b = {};
        if (row < rows && input < inputs) {
            const float* from = x + u64(row) * inputs + input + 8 * j;
            a = shrunk(*reinterpret_cast<const float4*>(from));
            b = shrunk(*reinterpret_cast<const float4*>(from + 4));
        }
        out[j * LANES] = {a.x, a.y, b.x, b.y};
    }
}

// 8 N rows of packed activations: DOWN tiles a warp, BESIDE warps of a block along the outputs and DEEP along the inputs.
template <u32 F, u32 N, u32 DOWN, u32 BESIDE, u32 DEEP>
DEVICE void many(const Matrices& m, const Place& at, const uint4* x, float (&sums)[DOWN][N][4]) {
    constexpr u32 UNITS = units_of(F);
    const u32 lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const u32 deep = (m.inputs + 128 * UNITS - 1) / (128 * UNITS), units = (m.inputs + 127) / 128;
    const u32 first = at.tile + warp % BESIDE * DOWN;
    for (u32 k = warp / BESIDE; k < deep; k += DEEP) {
        for (u32 unit = 0; unit < UNITS; unit++) {
            // Inputs are padded to a whole tile, activations to a unit.
            if (k * UNITS + unit >= units) break;
            Weights<F> low[DOWN], high[DOWN];
            UNROLL
            for (u32 d = 0; d < DOWN; d++) {
                // The last tiles again where there are none: what comes of them is not written.
                const u32 tile = min(first + d, at.part.tiles - 1);
                const u8* from = at.part.weights + (u64(tile) * deep + k) * tile_bytes(F);
                low[d].load(from, unit, 0, lane);
                high[d].load(from, unit, 1, lane);
            }
            const uint4* b = x + u64(k * UNITS + unit) * N * 4 * LANES + lane;
            UNROLL
            for (u32 j = 0; j < 4; j++) {
                uint4 right[N];
                UNROLL
                for (u32 n = 0; n < N; n++) right[n] = b[(n * 4 + j) * LANES];
                UNROLL
                for (u32 d = 0; d < DOWN; d++) {
                    u32 a[4], c[4];
                    low[d].pair(j, a);
                    high[d].pair(j, c);
                    UNROLL
                    for (u32 n = 0; n < N; n++) {
                        mma(sums[d][n], a[0], c[0], a[1], c[1], right[n].x, right[n].y);
                        mma(sums[d][n], a[2], c[2], a[3], c[3], right[n].z, right[n].w);
                    }
                }
            }
        }
    }
}

template <u32 N, u32 DOWN, u32 BESIDE, u32 DEEP>
DEVICE void many_rows(const Matrices& m, const uint4* x, const float* bias, float* out) {
    const Place at = place(m, blockIdx.x, DOWN * BESIDE);
    float sums[DOWN][N][4] = {};
    switch (at.part.format) {
        case Q4K: many<Q4K, N, DOWN, BESIDE, DEEP>(m, at, x, sums); break;
        case Q5K: many<Q5K, N, DOWN, BESIDE, DEEP>(m, at, x, sums); break;
        case Q6K: many<Q6K, N, DOWN, BESIDE, DEEP>(m, at, x, sums); break;
        case Q8_0: many<Q8_0, N, DOWN, BESIDE, DEEP>(m, at, x, sums); break;
        case Q4_1: many<Q4_1, N, DOWN, BESIDE, DEEP>(m, at, x, sums); break;
        case Q5_1: many<Q5_1, N, DOWN, BESIDE, DEEP>(m, at, x, sums); break;
        default: many<F16, N, DOWN, BESIDE, DEEP>(m, at, x, sums);
    }
    // (depth, row, output) of 8 rows at a time
    constexpr u32 WIDE = 16 * DOWN * BESIDE;
    SHARED float parts[DEEP][8][WIDE];
    const u32 lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, g = lane / 4, t = lane % 4;
    for (u32 n = 0; n < N; n++) {
        UNROLL
        for (u32 d = 0; d < DOWN; d++) {
            UNROLL
            for (u32 i = 0; i < 4; i++) {
                const u32 output = (warp % BESIDE * DOWN + d) * 16 + g + i / 2 * 8;
                // Not indexed by n: the sums stay in registers.
                float sum = 0;
                UNROLL
                for (u32 each = 0; each < N; each++) sum = each == n ? sums[d][each][i] : sum;
                parts[warp / BESIDE][2 * t + i % 2][output] = sum;
            }
        }
        barrier();
        for (u32 i = threadIdx.x; i < 8 * WIDE; i += blockDim.x) {
            const u32 row = n * 8 + i / WIDE, output = at.tile * 16 + i % WIDE;
            if (row >= m.rows || output >= at.part.outputs) continue;
            float sum = 0;
            UNROLL
            for (u32 w = 0; w < DEEP; w++) sum += parts[w][i / WIDE][i % WIDE];
            const u32 column = at.part.column + output;
            out[u64(row) * m.columns + column] = sum * GROW + (bias ? bias[column] : 0.0f);
        }
        barrier();
    }
}

// Each number of rows in two forms: for matrices of many outputs, whose blocks share what they read of the activations,
// and for those of few, which fill a card only if their blocks are small.
#define MANY(rows, N, DOWN)                                                                                     \
    KERNEL(256) qlinear_##rows##_wide(ARGUMENT Matrices m, const uint4* x, const float* bias, float* out) {     \
        many_rows<N, 2, 2, 4>(m, x, bias, out);                                                                 \
    }                                                                                                           \
    KERNEL(256) qlinear_##rows##_narrow(ARGUMENT Matrices m, const uint4* x, const float* bias, float* out) {   \
        many_rows<N, DOWN, 1, 8>(m, x, bias, out);                                                              \
    }

MANY(8, 1, 1)
MANY(16, 2, 1)
MANY(32, 4, 2)
MANY(64, 8, 2)

// Where one lane's weights of a unit go, row-major: `out` + row * stride + input.
template <u32 F>
DEVICE void unpack_unit(const u8* tile, u32 unit, u32 half, u32 lane, u32 (&out)[16]) {
    Weights<F> weights;
    weights.load(tile, unit, half, lane);
    UNROLL
    for (u32 j = 0; j < 4; j++) {
        u32 pair[4];
        weights.pair(j, pair);
        UNROLL
        for (u32 i = 0; i < 4; i++) out[4 * j + i] = pair[i];
    }
}

DEVICE void unpack_any(u32 format, const u8* tile, u32 unit, u32 half, u32 lane, u32 (&out)[16]) {
    switch (format) {
        case Q4K: return unpack_unit<Q4K>(tile, unit, half, lane, out);
        case Q5K: return unpack_unit<Q5K>(tile, unit, half, lane, out);
        case Q6K: return unpack_unit<Q6K>(tile, unit, half, lane, out);
        case Q8_0: return unpack_unit<Q8_0>(tile, unit, half, lane, out);
        case Q4_1: return unpack_unit<Q4_1>(tile, unit, half, lane, out);
        case Q5_1: return unpack_unit<Q5_1>(tile, unit, half, lane, out);
        default: return unpack_unit<F16>(tile, unit, half, lane, out);
    }
}

// A whole matrix as halves (outputs, inputs), row-major, for products with many rows. A warp a unit: blocks are
// (units / 4, tiles) of 4 warps.
KERNEL(128) qlinear_unpack(Part part, u32 inputs, u16* out) {
    const u32 lane = threadIdx.x % LANES, unit = blockIdx.x * 4 + threadIdx.x / LANES;
    const u32 units = units_of(part.format), depth = 128 * units, deep = (inputs + depth - 1) / depth;
    const u32 input = unit * 128 + lane % 4 * 32;
    if (input >= inputs) return;
    const u8* tile = part.weights + (u64(blockIdx.y) * deep + unit / units) * tile_bytes(part.format);
    for (u32 half = 0; half < 2; half++) {
        const u32 output = blockIdx.y * 16 + lane / 4 + 8 * half;
        if (output >= part.outputs) continue;
        u32 values[16];
        unpack_any(part.format, tile, unit % units, half, lane, values);
        uint4* to = reinterpret_cast<uint4*>(out + u64(output) * inputs + input);
        UNROLL
        for (u32 i = 0; i < 4; i++) to[i] = {values[4 * i], values[4 * i + 1], values[4 * i + 2], values[4 * i + 3]};
    }
}

// Rows of the matrix as f32, times `factor`: an embedding table's. Blocks are (units / 4, rows) of 4 warps.
KERNEL(128) qlinear_rows(Part part, u32 inputs, const u32* rows, float factor, float* out) {
    const u32 lane = threadIdx.x % LANES, unit = blockIdx.x * 4 + threadIdx.x / LANES;
    const u32 units = units_of(part.format), depth = 128 * units, deep = (inputs + depth - 1) / depth;
    const u32 input = unit * 128 + lane % 4 * 32, row = rows[blockIdx.y];
    if (input >= inputs || lane / 4 != row % 8) return;
    const u8* tile = part.weights + (u64(row / 16) * deep + unit / units) * tile_bytes(part.format);
    u32 values[16];
    unpack_any(part.format, tile, unit % units, row / 8 % 2, lane, values);
    float* to = out + u64(blockIdx.y) * inputs + input;
    UNROLL
    for (u32 i = 0; i < 16; i++) {
        to[2 * i] = half_to_float(u16(values[i])) * factor;
        to[2 * i + 1] = half_to_float(u16(values[i] >> 16)) * factor;
    }
}

// f32 to halves, as the products take them.
KERNEL(256) qlinear_shrink(const float4* x, uint2* out, u32 count) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = shrunk(x[i]);
}
