// Attention of whole rows of queries over their own keys and values, in both directions or causal: an encoder's.
//
// A warp has 16 queries of one head, and its block as many of one row as its warps do. Keys and values pass by 64 at a
// time, as halves in shared memory, and no score leaves a warp (FlashAttention-2: Dao, 2023). Queries are scaled before they
// are rounded to halves; sums are f32. A query's result does not depend on the rows beside its own, nor on how many warps a block
// has.

#include "common.cuh"
#include "cells.cuh"

// Keys in shared memory.
constexpr u32 KEYS = 64;

struct EncoderRow {
    // Where the row begins in each tensor, in groups of 4 floats.
    u32 q, k, v, out;
    u32 queries, keys;
    // Number of its first block along x.
    u32 block;
};

struct Encoder {
    const float* q;
    const float* k;
    const float* v;
    float* out;
    // Floats between neighbouring tokens.
    u32 q_stride, k_stride, v_stride, out_stride;
    // Scores in powers of two: the model's scale times log2(e).
    float scale;
    // Query i sees keys up to keys - queries + i, not all.
    u32 causal;
    // Rows that there are, each with at least one query.
    u32 count;
    EncoderRow rows[128];
};

// Eight dimensions of a key, `chunk` of them from its first: placed so that eight keys' lie in different banks.
template <u32 D>
DEVICE u32 chunk_at(u32 key, u32 chunk) {
    return key * (D / 8) + (chunk ^ (D == 32 ? key / 2 % 4 : key % 8));
}

// Keys or values `from` .. `from` + KEYS as halves, zeros from `end` on.
template <u32 D>
DEVICE void fill(uint4* to, const float* rows, u32 stride, u32 from, u32 end) {
    for (u32 i = threadIdx.x; i < KEYS * (D / 8); i += blockDim.x) {
        const u32 key = i / (D / 8), chunk = i % (D / 8);
        uint4 eight = {0, 0, 0, 0};
        if (from + key < end) {
            const float4* x = reinterpret_cast<const float4*>(rows + u64(from + key) * stride + 8 * chunk);
            const float4 a = x[0], b = x[1];
            eight = {halves(a.x, a.y), halves(a.z, a.w), halves(b.x, b.y), halves(b.z, b.w)};
        }
        to[chunk_at<D>(key, chunk)] = eight;
    }
}

// Two registers of row g and of row g + 8 for each product of 16 dimensions, as `mma` wants its left factor.
template <u32 D>
DEVICE void load_queries(u32 (&to)[D / 16][4], const float* low, const float* high, float scale) {
    const u32 t = threadIdx.x % 4;
    UNROLL
    for (u32 i = 0; i < D / 8; i++) {
        const u32 at = 8 * i + 2 * t;
        to[i / 2][i % 2 * 2] = low ? halves(low[at] * scale, low[at + 1] * scale) : 0;
        to[i / 2][i % 2 * 2 + 1] = high ? halves(high[at] * scale, high[at + 1] * scale) : 0;
    }
}

// Keys `from` .. `from` + KEYS and their values for 16 queries, of which this lane's see the keys below `seen`.
template <u32 D>
DEVICE void see_keys(Sums<D>& sums, const u32 (&q)[D / 16][4], const uint4* keys, const uint4* values, u32 from,
                     const u32 (&seen)[2]) {
    const u32 lane = threadIdx.x % 32, t = lane % 4;
    float scores[KEYS / 8][4] = {};
    UNROLL
    for (u32 n = 0; n < KEYS / 8; n++) {
        UNROLL
        for (u32 c = 0; c < D / 32; c++) {
            u32 k[4];
            load_matrices(k, keys + chunk_at<D>(8 * n + lane % 8, 4 * c + lane / 8));
            const u32(&a)[4] = q[2 * c];
            const u32(&b)[4] = q[2 * c + 1];
            mma(scores[n], a[0], a[1], a[2], a[3], k[0], k[1]);
            mma(scores[n], b[0], b[1], b[2], b[3], k[2], k[3]);
        }
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            if (from + 8 * n + 2 * t + i % 2 >= seen[i / 2]) scores[n][i] = NONE;
        }
    }
    absorb<D, KEYS / 8>(sums, scores);
    UNROLL
    for (u32 j = 0; j < KEYS / 16; j++) {
        const float(&s)[4] = scores[2 * j];
        const float(&r)[4] = scores[2 * j + 1];
        const u32 p[4] = {halves(s[0], s[1]), halves(s[2], s[3]), halves(r[0], r[1]), halves(r[2], r[3])};
        UNROLL
        for (u32 n = 0; n < D / 8; n += 2) {
            u32 v[4];
            load_transposed(v, values + chunk_at<D>(16 * j + lane % 16, n + lane / 16));
            mma(sums.out[n], p[0], p[1], p[2], p[3], v[0], v[1]);
            mma(sums.out[n + 1], p[0], p[1], p[2], p[3], v[2], v[3]);
        }
    }
}

// Blocks are (16 queries for each of their warps, heads); a row has blocks of its own.
template <u32 D>
DEVICE void attend(const Encoder& a) {
    SHARED uint4 keys[KEYS * D / 8], values[KEYS * D / 8];
    u32 at = 0;
    for (u32 last = a.count - 1; at < last;) {
        const u32 middle = (at + last + 1) / 2;
        if (a.rows[middle].block <= blockIdx.x) {
            at = middle;
        } else {
            last = middle - 1;
        }
    }
    const EncoderRow& row = a.rows[at];
    const u32 warps = blockDim.x / 32, warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const u32 begin = (blockIdx.x - row.block) * 16 * warps, first = begin + 16 * warp, head = blockIdx.y * D;
    auto seen_by = [&](u32 query) -> u32 {
        if (query >= row.queries) return 0;
        return a.causal ? u32(max(int(row.keys) - int(row.queries) + int(query) + 1, 0)) : row.keys;
    };
    auto query = [&](u32 i) -> const float* {
        return i < row.queries ? a.q + 4 * u64(row.q) + u64(i) * a.q_stride + head : nullptr;
    };
    u32 q[D / 16][4];
    load_queries<D>(q, query(first + g), query(first + g + 8), a.scale);
    const u32 seen[2] = {seen_by(first + g), seen_by(first + g + 8)};
    // Of the block's queries and of the warp's the last see the most.
    const u32 end = seen_by(min(begin + 16 * warps, row.queries) - 1);
    const u32 own = first < row.queries ? seen_by(min(first + 16, row.queries) - 1) : 0;
    Sums<D> sums;
    sums.clear();
    for (u32 from = 0; from < end; from += KEYS) {
        barrier();
        fill<D>(keys, a.k + 4 * u64(row.k) + head, a.k_stride, from, end);
        fill<D>(values, a.v + 4 * u64(row.v) + head, a.v_stride, from, end);
        barrier();
        if (from < own) see_keys<D>(sums, q, keys, values, from, seen);
    }
    finish<D>(sums);
    UNROLL
    for (u32 r = 0; r < 2; r++) {
        const u32 i = first + g + 8 * r;
        if (i >= row.queries) continue;
        float* out = a.out + 4 * u64(row.out) + u64(i) * a.out_stride + head + 2 * t;
        // Zeros where no key was seen.
        const float by = sums.weight[r] == 0 ? 0.0f : 1.0f / sums.weight[r];
        UNROLL
        for (u32 n = 0; n < D / 8; n++) {
            out[8 * n] = sums.out[n][2 * r] * by;
            out[8 * n + 1] = sums.out[n][2 * r + 1] * by;
        }
    }
}

KERNEL(256) attention_32(ARGUMENT Encoder a) { follow(); attend<32>(a); }
KERNEL(256) attention_64(ARGUMENT Encoder a) { follow(); attend<64>(a); }
KERNEL(256) attention_128(ARGUMENT Encoder a) { follow(); attend<128>(a); }
