// Attention of a decoder's rows over what an encoder heard, which lies in cells: a head's blocks one after the other, zeros
// behind the last position.
//
// Up to 16 rows that look at one slot are rows of the same products, so the slot is read once for them all. Where these
// alone would not fill a card, the positions are shared out to parts, which are joined.

#include "common.cuh"
#include "cells.cuh"

// What a block works for: `count` rows from `first` on, at most 16, over one layer of a slot.
struct HeardRows {
    const u16* keys;
    const u16* values;
    u32 first;
    u32 count;
};

struct Heard {
    const float* q;
    float* out;
    // With more than one part, what each has of (row, head, part) in turn.
    float* partial;
    // Floats of a row.
    u32 width;
    // Positions that count, and how many a slot has.
    u32 seen, length;
    u32 parts;
    // Scores in powers of two: the model's scale times log2(e).
    float scale;
    u32 unused;
    HeardRows rows[128];
};

// Heads whose weights are wanted.
struct Wanted {
    u32 heads[64];
};

// No query looks back less far.
constexpr int EVERYTHING = 0x3fffffff;

DEVICE u32 blocks_of(u32 positions) { return (positions + BLOCK - 1) / BLOCK; }

// Keys beside values, (length, 2 heads D) f32, into cells. Blocks are (blocks of the length, heads of keys and of values).
template <u32 D>
DEVICE void place_heard(const float* kv, u32 length, u32 heads, u16* keys, u16* values) {
    SHARED float part[BLOCK][D + 1];
    const u32 first = blockIdx.x * BLOCK;
    const bool value = blockIdx.y >= heads;
    const float* from = kv + blockIdx.y * D;
    for (u32 i = threadIdx.x; i < BLOCK * D; i += blockDim.x) {
        const u32 at = first + i / D;
        part[i / D][i % D] = at < length ? from[u64(at) * 2 * heads * D + i % D] : 0.0f;
    }
    barrier();
    u16* cell = (value ? values : keys) + (u64(blockIdx.y % heads) * gridDim.x + blockIdx.x) * (D * BLOCK);
    for (u32 i = threadIdx.x; i < BLOCK * D; i += blockDim.x) {
        cell[i] = float_to_half(value ? part[i % BLOCK][i / BLOCK] : part[i / D][i % D]);
    }
}

template <u32 D>
DEVICE void load_rows(Queries<D>& queries, const Heard& a, const HeardRows& rows, u32 head) {
    const u32 g = threadIdx.x % 32 / 4;
    const float* q = a.q + u64(rows.first) * a.width + head * D;
    queries.load(g < rows.count ? q + u64(g) * a.width : nullptr,
                 g + 8 < rows.count ? q + u64(g + 8) * a.width : nullptr, a.scale, threadIdx.x % 4);
}

// Blocks are (parts, heads, up to 16 rows each) of 4 warps, which share out the positions of their part.
template <u32 D>
DEVICE void attend_heard(const Heard& a) {
    constexpr u32 WARPS = 4;
    const HeardRows& rows = a.rows[blockIdx.z];
    const u32 warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, head = blockIdx.y, blocks = blocks_of(a.length);
    Queries<D> queries;
    load_rows<D>(queries, a, rows, head);
    Sums<D> sums;
    sums.clear();
    const int last = int(a.seen) - 1, low = g < rows.count ? last : -1, high = g + 8 < rows.count ? last : -1;
    // Parts of whole blocks, no smaller than one block a warp.
    const u32 all = blocks_of(a.seen), share = max((all + a.parts - 1) / a.parts, WARPS);
    const u32 begin = min(blockIdx.x * share, all), end = min(begin + share, all);
    for (u32 b = begin + warp; b < end; b += WARPS) {
        const u64 cell = (u64(head) * blocks + b) * (D * BLOCK);
        see<D>(sums, queries, rows.keys + cell, rows.values + cell, int(b * BLOCK), low, high, last, EVERYTHING);
    }
    finish<D>(sums);
    gather<D, WARPS>(sums);
    if (warp > 0) return;
    const u32 heads = gridDim.y;
    UNROLL
    for (u32 r = 0; r < 2; r++) {
        if (g + 8 * r >= rows.count) continue;
        const u64 query = u64(rows.first + g + 8 * r) * heads + head;
        const bool whole = a.parts == 1;
        put<D>(sums, r, whole ? a.out + query * D : a.partial + (query * a.parts + blockIdx.x) * (D + 2), whole);
    }
}

// Scores of wanted heads in powers of two: (heads, rows, seen). Blocks are (blocks of the positions / 4, wanted heads, up to
// 16 rows each) of 4 warps; `base` is the first row of all, of which there are `count`.
template <u32 D>
DEVICE void score_heard(const Heard& a, const Wanted& wanted, u32 base, u32 count) {
    const HeardRows& rows = a.rows[blockIdx.z];
    const u32 g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, head = wanted.heads[blockIdx.y];
    const u32 block = blockIdx.x * 4 + threadIdx.x / 32;
    if (block * BLOCK >= a.seen) return;
    Queries<D> queries;
    load_rows<D>(queries, a, rows, head);
    float scores[4][4] = {};
    score<D>(scores, queries, rows.keys + (u64(head) * blocks_of(a.length) + block) * (D * BLOCK));
    UNROLL
    for (u32 n = 0; n < 4; n++) {
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            const u32 row = g + i / 2 * 8, position = block * BLOCK + 8 * t + 2 * n + i % 2;
            if (row >= rows.count || position >= a.seen) continue;
            a.out[(u64(blockIdx.y) * count + rows.first - base + row) * a.seen + position] = scores[n][i];
        }
    }
}

KERNEL(128) cross_place_64(const float* kv, u32 length, u32 heads, u16* keys, u16* values) {
    follow();
    place_heard<64>(kv, length, heads, keys, values);
}
KERNEL(128) cross_attend_64(ARGUMENT Heard a) { follow(); attend_heard<64>(a); }
KERNEL(128) cross_score_64(ARGUMENT Heard a, ARGUMENT Wanted wanted, u32 base, u32 count) {
    follow();
    score_heard<64>(a, wanted, base, count);
}

// Joins the parts of each query: a block a (row, head), of as many threads as a head has dimensions.
KERNEL(128) cross_join(const float* partial, u32 parts, float* out) {
    follow();
    const u32 dims = blockDim.x, d = threadIdx.x;
    out[u64(blockIdx.x) * dims + d] = joined(partial + u64(blockIdx.x) * parts * (dims + 2), parts, dims, d);
}

// Scores in powers of two become weights, in place: a block a row of `width`.
KERNEL(256) cross_weights(float* scores, u32 width) {
    follow();
    SHARED float scratch[32];
    float* row = scores + u64(blockIdx.x) * width;
    float best = NONE;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) best = fmaxf(best, row[i]);
    best = block_max(best, scratch);
    float sum = 0;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        const float weight = power_of_two(row[i] - best);
        row[i] = weight;
        sum += weight;
    }
    const float by = 1.0f / block_sum(sum, scratch);
    // Each thread goes over what it wrote itself.
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) row[i] *= by;
}
