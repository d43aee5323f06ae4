// y = x W^T for weights in the files' own precisions, from one row to a few dozen.
//
// Weights lie in tiles of 16 outputs by 128 or 256 inputs (`src/ops/gpu/tiles.rs` makes them and has the table). A
// *unit* is 16 by 128. In it lane (g, t) of a warp, g = lane / 4 and t = lane % 4, has the inputs 32 t .. 32 t + 32 of
// the outputs g and g + 8: one run of bytes for each, so that a warp reads 512 consecutive bytes at a time. Weights
// become halves in registers, just as the tensor cores want their left factor: in which order the inputs are
// multiplied is free as long as both factors agree, so product i of a unit takes from each lane the inputs
// 32 t + 4 i .. + 4.
//
// Activations are divided by 64 before they become halves: some models' reach past 65,504, and what the smallest lose
// is below 1e-6. Sums are f32. A row's result does not depend on the rows beside it within one kernel.

#include "common.cuh"

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

// Up to 8 rows straight from f32: one tile a block, whose warps share out the inputs.
template <u32 F>
DEVICE void few(const Matrices& m, const Place& at, const float* x, float (&sums)[4]) {
    constexpr u32 DEPTH = 128 * units_of(F);
    const u32 lane = threadIdx.x % LANES, g = lane / 4, t = lane % 4, warps = blockDim.x / LANES;
    const u32 deep = (m.inputs + DEPTH - 1) / DEPTH;
    const u8* tiles = at.part.weights + u64(at.tile) * deep * tile_bytes(F);
    const float* row = x + u64(g) * m.inputs;
    for (u32 k = threadIdx.x / LANES; k < deep; k += warps) {
        const u8* tile = tiles + u64(k) * tile_bytes(F);
        Weights<F> low[units_of(F)], high[units_of(F)];
        UNROLL
        for (u32 unit = 0; unit < units_of(F); unit++) {
            low[unit].load(tile, unit, 0, lane);
            high[unit].load(tile, unit, 1, lane);
        }
        UNROLL
        for (u32 unit = 0; unit < units_of(F); unit++) {
            const u32 input = k * DEPTH + 128 * unit + 32 * t;
            // Inputs are a multiple of 32.
            const bool there = g < m.rows && input < m.inputs;
            UNROLL
            for (u32 j = 0; j < 4; j++) {
                uint2 b[2] = {};
                if (there) {
                    b[0] = shrunk(*reinterpret_cast<const float4*>(row + input + 8 * j));
                    b[1] = shrunk(*reinterpret_cast<const float4*>(row + input + 8 * j + 4));
                }
                u32 a[4], c[4];
                low[unit].pair(j, a);
                high[unit].pair(j, c);
                mma(sums, a[0], c[0], a[1], c[1], b[0].x, b[0].y);
                mma(sums, a[2], c[2], a[3], c[3], b[1].x, b[1].y);
            }
        }
    }
}

KERNEL(512) qlinear_few(ARGUMENT Matrices m, const float* x, const float* bias, float* out) {
    const Place at = place(m, blockIdx.x, 1);
    float sums[4] = {};
    switch (at.part.format) {
        case Q4K: few<Q4K>(m, at, x, sums); break;
        case Q5K: few<Q5K>(m, at, x, sums); break;
        case Q6K: few<Q6K>(m, at, x, sums); break;
        case Q8_0: few<Q8_0>(m, at, x, sums); break;
        case Q4_1: few<Q4_1>(m, at, x, sums); break;
        case Q5_1: few<Q5_1>(m, at, x, sums); break;
        default: few<F16>(m, at, x, sums);
    }
    // (warp, row, output)
    SHARED float parts[16][8][16];
    const u32 lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, warps = blockDim.x / LANES;
    const u32 g = lane / 4, t = lane % 4;
    UNROLL
    for (u32 i = 0; i < 4; i++) parts[warp][2 * t + i % 2][g + i / 2 * 8] = sums[i];
    barrier();
    for (u32 i = threadIdx.x; i < 16 * m.rows; i += blockDim.x) {
        const u32 row = i / 16, output = at.tile * 16 + i % 16;
        if (output >= at.part.outputs) continue;
        float sum = 0;
        for (u32 w = 0; w < warps; w++) sum += parts[w][row][i % 16];
        const u32 column = at.part.column + output;
        out[u64(row) * m.columns + column] = sum * GROW + (bias ? bias[column] : 0.0f);
    }
}

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

constexpr u32 DOWN = 2;    // tiles of a warp
constexpr u32 BESIDE = 2;  // warps of a block along the outputs
constexpr u32 DEEP = 4;    // and along the inputs

// 8 N rows of packed activations: DOWN tiles a warp.
template <u32 F, u32 N>
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

template <u32 N>
DEVICE void many_rows(const Matrices& m, const uint4* x, const float* bias, float* out) {
    const Place at = place(m, blockIdx.x, DOWN * BESIDE);
    float sums[DOWN][N][4] = {};
    switch (at.part.format) {
        case Q4K: many<Q4K, N>(m, at, x, sums); break;
        case Q5K: many<Q5K, N>(m, at, x, sums); break;
        case Q6K: many<Q6K, N>(m, at, x, sums); break;
        case Q8_0: many<Q8_0, N>(m, at, x, sums); break;
        case Q4_1: many<Q4_1, N>(m, at, x, sums); break;
        case Q5_1: many<Q5_1, N>(m, at, x, sums); break;
        default: many<F16, N>(m, at, x, sums);
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

KERNEL(256) qlinear_16(ARGUMENT Matrices m, const uint4* x, const float* bias, float* out) { many_rows<2>(m, x, bias, out); }
KERNEL(256) qlinear_32(ARGUMENT Matrices m, const uint4* x, const float* bias, float* out) { many_rows<4>(m, x, bias, out); }
KERNEL(256) qlinear_64(ARGUMENT Matrices m, const uint4* x, const float* bias, float* out) { many_rows<8>(m, x, bias, out); }

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
