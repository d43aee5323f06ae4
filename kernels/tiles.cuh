// Weights in the files' own precisions, in tiles of 16 outputs by 128 or 256 inputs (`src/ops/gpu/tiles.rs` makes them and
// has the table), and what products are told of them.
//
// A *unit* is 16 by 128. In it lane (g, t) of a warp, g = lane / 4 and t = lane % 4, has the inputs 32 t .. 32 t + 32 of
// the outputs g and g + 8: one run of bytes for each, so that a warp reads 512 consecutive bytes at a time. Weights become
// halves in registers, just as the tensor cores want their left factor: in which order the inputs are multiplied is free as
// long as both factors agree, so product i of a unit takes from each lane the inputs 32 t + 4 i .. + 4.
//
// Activations are divided by 64 before they become halves: some models' reach past 65,504, and what the smallest lose is
// below 1e-6.

#pragma once
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
    // Codes of 4 bits, their higher bits; of 8 bits, in `codes` and `more`; halves, in `codes`, `more`, `head` and `last`.
    uint4 codes, more, last;
    uint2 high;
    // What scales are made of, as it lies in the tile.
    uint4 head;
    // Weights are (code - offset) * scale + base; both halves alike.
    u32 scale, base;

    // Reads them; `half` tells the output: g, or g + 8.
    DEVICE void fetch(const u8* tile, u32 unit, u32 half, u32 lane);
    // Makes the scales of what was read: waits for it.
    DEVICE void ready(u32 unit, u32 lane);
    // The halves of products 2 j and 2 j + 1.
    DEVICE void pair(u32 j, u32 (&out)[4]) const;

    DEVICE void load(const u8* tile, u32 unit, u32 half, u32 lane) {
        fetch(tile, unit, half, lane);
        ready(unit, lane);
    }
};

DEVICE u32 twice(float value) { return halves(value, value); }

template <u32 F>
DEVICE void Weights<F>::fetch(const u8* tile, u32 unit, u32 half, u32 lane) {
    const u32 at = 2 * unit + half;
    if constexpr (F == Q4K || F == Q5K) {
        codes = load_once(reinterpret_cast<const uint4*>(tile + 256 + 512 * at) + lane);
        if constexpr (F == Q5K) high.x = load_once(reinterpret_cast<const u32*>(tile + 2304 + 128 * at) + lane);
        head = reinterpret_cast<const uint4*>(tile)[lane / 4 + 8 * half];
    } else if constexpr (F == Q6K) {
        codes = load_once(reinterpret_cast<const uint4*>(tile + 512 * at) + lane);
        high = load_once(reinterpret_cast<const uint2*>(tile + 2048 + 256 * at) + lane);
        head.x = reinterpret_cast<const u16*>(tile + 3072 + 64 * at)[lane];
        head.y = reinterpret_cast<const u16*>(tile + 3328)[lane / 4 + 8 * half];
    } else if constexpr (F == Q8_0) {
        const uint4* from = reinterpret_cast<const uint4*>(tile + 1024 * half) + lane;
        codes = load_once(from);
        more = load_once(from + LANES);
        head.x = reinterpret_cast<const u16*>(tile + 2048 + 64 * half)[lane];
    } else if constexpr (F == Q4_1 || F == Q5_1) {
        codes = load_once(reinterpret_cast<const uint4*>(tile + 512 * half) + lane);
        head.x = reinterpret_cast<const u32*>(tile + 1024 + 128 * half)[lane];
        if constexpr (F == Q5_1) high.x = load_once(reinterpret_cast<const u32*>(tile + 1280 + 128 * half) + lane);
    } else {
        const uint4* from = reinterpret_cast<const uint4*>(tile + 2048 * half) + lane;
        codes = load_once(from);
        more = load_once(from + LANES);
        head = load_once(from + 2 * LANES);
        last = load_once(from + 3 * LANES);
    }
}

template <u32 F>
DEVICE void Weights<F>::ready(u32 unit, u32 lane) {
    if constexpr (F == Q4K || F == Q5K) {
        const u32 t = lane % 4;
        const u32 byte = (unit == 0 ? head.y : head.z) >> (8 * t) & 0xff;
        const u32 minimum = byte >> 6 | (head.w >> (16 * unit + 4 * t) & 15) << 2;
        scale = twice(half_to_float(u16(head.x)) * float(byte & 63));
        base = twice(half_to_float(u16(head.x >> 16)) * -float(minimum));
    } else if constexpr (F == Q6K) {
        const float d = half_to_float(u16(head.y));
        // Of the first 16 weights and of the others.
        scale = twice(d * float(static_cast<signed char>(head.x & 0xff)));
        base = twice(d * float(static_cast<signed char>(head.x >> 8)));
    } else if constexpr (F == Q8_0) {
        scale = head.x | head.x << 16;
        base = 0;
    } else if constexpr (F == Q4_1 || F == Q5_1) {
        scale = (head.x & 0xffff) | head.x << 16;
        base = head.x >> 16 | (head.x & 0xffff0000);
    }
}

DEVICE u32 word(const uint4& four, u32 i) { return i == 0 ? four.x : i == 1 ? four.y : i == 2 ? four.z : four.w; }

// Bits from `at` on, and from 16 higher, to bits 4 and 20.
DEVICE u32 to_four(u32 bits, int at, u32 mask) { return (at < 4 ? bits << (4 - at) : bits >> (at - 4)) & mask; }

template <u32 F>
DEVICE void Weights<F>::pair(u32 j, u32 (&out)[4]) const {
    if constexpr (F == F16) {
        const uint4& four = j == 0 ? codes : j == 1 ? more : j == 2 ? head : last;
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
