// Keys and values into the paged cache of cells, and attention straight over it.
//
// Queries that share a key-value head are rows of the same products, 16 at a time: row p is query p / group, head
// p % group of the group.

#include "common.cuh"
#include "cells.cuh"

// What a step's tokens are, in one buffer of the device; `src/ops/paged/cuda.rs` fills it.
struct Step {
    const u32* positions;  // of each token
    const u32* slots;      // of each token: block * 32 + offset
    const u32* rows;       // of each row: first token, tokens, position of the first
    const u32* tables;     // of each row: `width` blocks
    u32 width;
};

struct Cache {
    u16* keys;
    u16* values;
    u32 heads;
};

// From the projection to queries in place and keys and values in the cache: the norm of each head, the rotation, the
// cache's halves. A warp a head of a token: blocks are (query, key and value heads / 4, tokens) of 4 warps. D is the
// head's size.
struct Heads {
    u32 queries;
    u32 columns;
    // Of queries and of keys, D each, or null.
    const float* query_norm;
    const float* key_norm;
    float eps;
    // (context, pairs) each.
    const float* cosines;
    const float* sines;
    u32 pairs;
    // Pairs lie side by side, not half of the turned dimensions apart.
    u32 interleaved;
};

template <u32 D>
DEVICE void place(const Heads& h, const Cache& cache, const Step& step, float* qkv) {
    const u32 lane = threadIdx.x % 32, head = blockIdx.x * 4 + threadIdx.x / 32, token = blockIdx.y;
    if (head >= h.queries + 2 * cache.heads) return;
    float* x = qkv + u64(token) * h.columns + head * D;
    const bool query = head < h.queries, value = head >= h.queries + cache.heads;
    const u32 slot = step.slots[token], at = slot / BLOCK, offset = slot % BLOCK;
    if (value) {
        u16* cell = cache.values + (u64(at) * cache.heads + head - h.queries - cache.heads) * (D * BLOCK);
        for (u32 i = lane; i < D; i += 32) cell[i * BLOCK + offset] = float_to_half(x[i]);
        return;
    }
    const float* norm = query ? h.query_norm : h.key_norm;
    float by = 1;
    if (norm) {
        float squares = 0;
        for (u32 i = lane; i < D; i += 32) squares += x[i] * x[i];
        by = inverse_root(warp_sum(squares) / D + h.eps);
    }
    const u64 turn = u64(step.positions[token]) * h.pairs;
    u16* cell = query ? nullptr : cache.keys + (u64(at) * cache.heads + head - h.queries) * (D * BLOCK) + offset * D;
    auto put = [&](u32 i, float v) {
        if (query) {
            x[i] = v;
        } else {
            cell[i] = float_to_half(v);
        }
    };
    for (u32 p = lane; p < h.pairs; p += 32) {
        const u32 i = h.interleaved ? 2 * p : p, j = h.interleaved ? 2 * p + 1 : p + h.pairs;
        const float a = x[i] * by * (norm ? norm[i] : 1.0f), b = x[j] * by * (norm ? norm[j] : 1.0f);
        const float cosine = h.cosines[turn + p], sine = h.sines[turn + p];
        put(i, a * cosine - b * sine);
        put(j, a * sine + b * cosine);
    }
    for (u32 i = 2 * h.pairs + lane; i < D; i += 32) put(i, x[i] * by * (norm ? norm[i] : 1.0f));
}

// What attention is over, and where it goes.
struct Attention {
    const float* qkv;
    u32 columns;
    // Query heads of a key-value head, and of all.
    u32 group;
    // Scores in powers of two: the model's scale times log2(e).
    float scale;
    // Positions a query sees at most.
    u32 window;
    float* out;
    // Rows of the step that this launch is for.
    const u32* chosen;
    // Parts that a row's positions are shared out to; with more than one, `partial` takes each part's sums (D), maximum
    // and weight, of (query, part) in turn.
    u32 parts;
    float* partial;
};

// A warp's 16 queries of a row and what they see.
template <u32 D>
struct Sight {
    const u32* table;
    // Positions of the two queries of this lane; -1 where there is none.
    int low, high;
    // Of the token whose heads they are, and which.
    u32 low_token, low_head, high_token, high_head;
    // The latest of all, and the blocks that any of them sees.
    u32 last, begin, end;
    Queries<D> queries;

    DEVICE void find(const Attention& a, const Step& step, u32 row, u32 first) {
        const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, head = blockIdx.y;
        const u32 *info = step.rows + 3 * row, count = info[1] * a.group;
        table = step.tables + u64(row) * step.width;
        auto one = [&](u32 p, int& position, u32& token, u32& at) -> const float* {
            position = -1;
            token = at = 0;
            if (p >= count) return nullptr;
            token = info[0] + p / a.group;
            at = head * a.group + p % a.group;
            position = int(info[2] + p / a.group);
            return a.qkv + u64(token) * a.columns + at * D;
        };
        const float* low_row = one(first + g, low, low_token, low_head);
        const float* high_row = one(first + g + 8, high, high_token, high_head);
        queries.load(low_row, high_row, a.scale, t);
        last = info[2] + min(first + 15, count - 1) / a.group;
        const u32 earliest = info[2] + first / a.group;
        begin = earliest >= a.window ? (earliest + 1 - a.window) / BLOCK : 0;
        end = last / BLOCK + 1;
    }
};

// Many queries: a warp for each 16, every one over all that it sees. Blocks are (64 queries, key-value heads, rows).
template <u32 D>
DEVICE void long_rows(const Attention& a, const Cache& cache, const Step& step) {
    const u32 row = a.chosen[blockIdx.z], first = (blockIdx.x * 4 + threadIdx.x / 32) * 16;
    if (first >= step.rows[3 * row + 1] * a.group) return;
    Sight<D> sight;
    sight.find(a, step, row, first);
    Sums<D> sums;
    sums.clear();
    for (u32 b = sight.begin; b < sight.end; b++) {
        const u64 cell = (u64(sight.table[b]) * cache.heads + blockIdx.y) * (D * BLOCK);
        see<D>(sums, sight.queries, cache.keys + cell, cache.values + cell, int(b * BLOCK), sight.low, sight.high,
               int(sight.last), int(a.window));
    }
    finish<D>(sums);
    const u32 t = threadIdx.x % 4, width = a.group * cache.heads * D;
    UNROLL
    for (u32 r = 0; r < 2; r++) {
        if ((r == 0 ? sight.low : sight.high) < 0) continue;
        const u32 token = r == 0 ? sight.low_token : sight.high_token, head = r == 0 ? sight.low_head : sight.high_head;
        float* out = a.out + u64(token) * width + head * D + 2 * t;
        const float by = 1.0f / sums.weight[r];
        UNROLL
        for (u32 n = 0; n < D / 8; n++) {
            out[8 * n] = sums.out[n][2 * r] * by;
            out[8 * n + 1] = sums.out[n][2 * r + 1] * by;
        }
    }
}

// At most 16 queries of a row: 4 warps share out what they see, and so do the parts. Blocks are (parts, key-value
// heads, rows).
template <u32 D>
DEVICE void short_rows(const Attention& a, const Cache& cache, const Step& step) {
    constexpr u32 WARPS = 4;
    const u32 row = a.chosen[blockIdx.z], warp = threadIdx.x / 32;
    Sight<D> sight;
    sight.find(a, step, row, 0);
    Sums<D> sums;
    sums.clear();
    // Parts of whole blocks, no smaller than one block a warp.
    const u32 seen = sight.end - sight.begin, share = max((seen + a.parts - 1) / a.parts, WARPS);
    const u32 begin = min(sight.begin + blockIdx.x * share, sight.end), end = min(begin + share, sight.end);
    for (u32 b = begin + warp; b < end; b += WARPS) {
        const u64 cell = (u64(sight.table[b]) * cache.heads + blockIdx.y) * (D * BLOCK);
        see<D>(sums, sight.queries, cache.keys + cell, cache.values + cell, int(b * BLOCK), sight.low, sight.high,
               int(sight.last), int(a.window));
    }
    finish<D>(sums);
    gather<D, WARPS>(sums);
    if (warp > 0) return;
    UNROLL
    for (u32 r = 0; r < 2; r++) {
        if ((r == 0 ? sight.low : sight.high) < 0) continue;
        const u32 token = r == 0 ? sight.low_token : sight.high_token, head = r == 0 ? sight.low_head : sight.high_head;
        const u64 query = u64(token) * a.group * cache.heads + head;
        const bool whole = a.parts == 1;
        put<D>(sums, r, whole ? a.out + query * D : a.partial + (query * a.parts + blockIdx.x) * (D + 2), whole);
    }
}

// Joins the parts of the queries of short rows: blocks are (heads, rows), of as many threads as a head has dimensions.
KERNEL(256) paged_join(ARGUMENT Attention a, ARGUMENT Step step, u32 dims) {
    follow();
    const u32 *info = step.rows + 3 * a.chosen[blockIdx.y], d = threadIdx.x;
    // Up to 16 / group tokens of the row, one after the other.
    for (u32 token = 0; token < info[1]; token++) {
        const u64 query = u64(info[0] + token) * gridDim.x + blockIdx.x;
        a.out[query * dims + d] = joined(a.partial + query * a.parts * (dims + 2), a.parts, dims, d);
    }
}

#define PAGED(D)                                                                                                    \
    KERNEL(128) paged_place_##D(ARGUMENT Heads h, ARGUMENT Cache cache, ARGUMENT Step step, float* qkv) {           \
        follow();                                                                                                   \
        place<D>(h, cache, step, qkv);                                                                              \
    }                                                                                                               \
    KERNEL(128) paged_short_##D(ARGUMENT Attention a, ARGUMENT Cache cache, ARGUMENT Step step) {                   \
        follow();                                                                                                   \
        short_rows<D>(a, cache, step);                                                                              \
    }                                                                                                               \
    KERNEL(128) paged_long_##D(ARGUMENT Attention a, ARGUMENT Cache cache, ARGUMENT Step step) {                    \
        follow();                                                                                                   \
        long_rows<D>(a, cache, step);                                                                               \
    }

PAGED(32)
PAGED(64)
PAGED(96)
PAGED(128)
PAGED(256)
