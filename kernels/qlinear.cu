// y = x W^T for weights in the files' own precisions, of which reading the weights is the most: one to three rows by products
// of bytes, more on the tensor cores; and what products by whole matrices of halves take. Sums are f32. A row's result does
// not depend on the rows beside it within one kernel.

#include "common.cuh"
#include "round.cuh"
#include "tiles.cuh"
#include "shared.cuh"

// Rounds `count` groups of 4 values, whole groups of 32.
KERNEL(256) qlinear_round(const float4* x, u8* codes, float4* scales, u32 count) {
    follow();
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

// What a block of so many tiles reads first of its weights, while others still write the activations.
DEVICE void fetch_first(const Matrices& m, u32 tiles) {
    // Of each tile: with the blocks that come next, what the second-level cache has room for.
    constexpr u32 LINE = 128, TIMES = 2;
    const Place at = place(m, blockIdx.x, tiles);
    const u32 depth = 128 * units_of(at.part.format), deep = (m.inputs + depth - 1) / depth, warps = blockDim.x / LANES;
    // Tiles lie one after the other, and in them what is deeper.
    const u32 bytes = tile_bytes(at.part.format), past = min(at.tile + tiles, at.part.tiles);
    for (u32 tile = at.tile; tile < past; tile++) {
        const u8* from = at.part.weights + u64(tile) * deep * bytes;
        const u32 first = min(TIMES * warps / tiles, deep) * bytes;
        for (u32 byte = threadIdx.x * LINE; byte < first; byte += blockDim.x * LINE) fetch_ahead(from + byte);
    }
}

#define FEW(R)                                                                                               \
    KERNEL(512) qlinear_few_##R(ARGUMENT Matrices m, const float* x, const u8* codes, const float4* scales,  \
                                const float* bias, float* out) {                                             \
        fetch_first(m, 1);                                                                                   \
        follow();                                                                                            \
        few<R>(m, x, codes, scales, bias, out);                                                              \
    }

FEW(1)
FEW(2)
FEW(3)

// Activations as halves in the order in which the products below read them: for each unit of 128 inputs and each 8
// rows, 4 pairs of products by 32 lanes by 16 bytes. Rows and inputs that are not there are zeros. One warp a unit and
// 8 rows.
KERNEL(32) qlinear_pack(const float* x, uint4* packed, u32 rows, u32 inputs, u32 groups) {
    follow();
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

// For matrices of many outputs, whose blocks share what they read of the activations, and for those of few, which fill a
// card only if their blocks are small. Of many outputs and more rows: kernels/shared.cuh.
#define OF_MANY(rows, N)                                                                                         \
    KERNEL(256) qlinear_##rows##_wide(ARGUMENT Matrices m, const uint4* x, const float* bias, float* out) {     \
        fetch_first(m, 4);                                                                                      \
        follow();                                                                                               \
        many_rows<N, 2, 2, 4>(m, x, bias, out);                                                                 \
    }
#define OF_FEW(rows, N, TILES)                                                                                 \
    KERNEL(256) qlinear_##rows##_narrow(ARGUMENT Matrices m, const uint4* x, const float* bias, float* out) {   \
        fetch_first(m, TILES);                                                                                  \
        follow();                                                                                               \
        many_rows<N, TILES, 1, 8>(m, x, bias, out);                                                             \
    }

OF_MANY(8, 1)
OF_MANY(16, 2)
OF_FEW(8, 1, 1)
OF_FEW(16, 2, 1)
OF_FEW(32, 4, 2)
OF_FEW(64, 8, 2)

// CROWD blocks at a time on one multiprocessor at least: src/ops/qlinear/launch.rs starts as many.
#define SHARED_OUT(rows, N, CROWD)                                                                              \
    CROWDED(THREADS, CROWD) qlinear_##rows##_shared(ARGUMENT Matrices m, const uint4* x, const float* bias,     \
                                                    float* out, float4* partial, u32* arrived) {                \
        fetch_step(m);                                                                                          \
        follow();                                                                                               \
        batch<N>(m, x, bias, out, partial, arrived);                                                            \
    }

SHARED_OUT(32, 4, 3)
SHARED_OUT(64, 8, 2)

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
    follow();
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
    follow();
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
    follow();
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = shrunk(x[i]);
}
