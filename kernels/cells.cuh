// Attention over keys and values in cells, with a running maximum and sum (Milakov and Gimelshein, 2018).
//
// A *cell* is one block of 32 positions of one key-value head in halves: keys as (position, dimension), values as
// (dimension, position). Both are then read in runs of 16 bytes that are, without a detour through shared memory, the
// right factors of the tensor cores' products:
//
//   scores   lane (g, t) has the dimensions 32 c + 8 t .. + 8 of a key: two products' share. Column g of tile n stands
//            for position 8 (g / 2) + 2 n + g % 2 of the block, so that what a lane holds of the scores is
//   values   the positions 8 t .. 8 t + 8, which are 16 bytes of a dimension's row.

#pragma once
#include "common.cuh"

constexpr u32 BLOCK = 32;
constexpr float NONE = -1e30f;

// The state of 16 rows of queries: what was summed up to now.
template <u32 D>
struct Sums {
    float out[D / 8][4];
    float top[2];
    float weight[2];

    DEVICE void clear() {
        UNROLL
        for (u32 n = 0; n < D / 8; n++) {
            UNROLL
            for (u32 i = 0; i < 4; i++) out[n][i] = 0;
        }
        top[0] = top[1] = NONE;
        weight[0] = weight[1] = 0;
    }
};

// The scores of 8 N more positions, NONE where a query sees none, become weights, and what was summed up to now fades to
// their measure.
template <u32 D, u32 N>
DEVICE void absorb(Sums<D>& sums, float (&scores)[N][4]) {
    float best[2] = {sums.top[0], sums.top[1]};
    UNROLL
    for (u32 n = 0; n < N; n++) {
        UNROLL
        for (u32 i = 0; i < 4; i++) best[i / 2] = fmaxf(best[i / 2], scores[n][i]);
    }
    UNROLL
    for (u32 r = 0; r < 2; r++) {
        best[r] = fmaxf(best[r], shuffle_xor(best[r], 1));
        best[r] = fmaxf(best[r], shuffle_xor(best[r], 2));
        const float kept = power_of_two(sums.top[r] - best[r]);
        sums.top[r] = best[r];
        sums.weight[r] *= kept;
        UNROLL
        for (u32 n = 0; n < D / 8; n++) {
            sums.out[n][2 * r] *= kept;
            sums.out[n][2 * r + 1] *= kept;
        }
    }
    UNROLL
    for (u32 n = 0; n < N; n++) {
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            // Where nothing was seen yet the maximum is no maximum.
            scores[n][i] = scores[n][i] <= NONE ? 0.0f : power_of_two(scores[n][i] - best[i / 2]);
            sums.weight[i / 2] += scores[n][i];
        }
    }
}

// Each row's weight over all lanes that have a part of it.
template <u32 D>
DEVICE void finish(Sums<D>& sums) {
    UNROLL
    for (u32 r = 0; r < 2; r++) {
        sums.weight[r] += shuffle_xor(sums.weight[r], 1);
        sums.weight[r] += shuffle_xor(sums.weight[r], 2);
    }
}

// The sums of WARPS warps, a power of two, which had some positions each, become those of the first warp: half of the warps
// that are left give theirs to the other half.
template <u32 D, u32 WARPS>
DEVICE void gather(Sums<D>& sums) {
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    SHARED float given[WARPS / 2][16][D + 4];
    SHARED float tops[WARPS / 2][16], weights[WARPS / 2][16];
    for (u32 half = WARPS / 2; half > 0; half /= 2) {
        if (warp >= half && warp < 2 * half) {
            UNROLL
            for (u32 r = 0; r < 2; r++) {
                UNROLL
                for (u32 n = 0; n < D / 8; n++) {
                    float* to = &given[warp - half][g + 8 * r][8 * n + 2 * t];
                    to[0] = sums.out[n][2 * r];
                    to[1] = sums.out[n][2 * r + 1];
                }
                tops[warp - half][g + 8 * r] = sums.top[r];
                weights[warp - half][g + 8 * r] = sums.weight[r];
            }
        }
        barrier();
        if (warp < half) {
            UNROLL
            for (u32 r = 0; r < 2; r++) {
                const float other = tops[warp][g + 8 * r], best = fmaxf(sums.top[r], other);
                const float own = power_of_two(sums.top[r] - best), by = power_of_two(other - best);
                sums.top[r] = best;
                sums.weight[r] = sums.weight[r] * own + weights[warp][g + 8 * r] * by;
                UNROLL
                for (u32 n = 0; n < D / 8; n++) {
                    const float* from = &given[warp][g + 8 * r][8 * n + 2 * t];
                    sums.out[n][2 * r] = sums.out[n][2 * r] * own + from[0] * by;
                    sums.out[n][2 * r + 1] = sums.out[n][2 * r + 1] * own + from[1] * by;
                }
            }
        }
        barrier();
    }
}

// The result of row g + 8 r, or where there are other parts this one's sums, maximum and weight.
template <u32 D>
DEVICE void put(const Sums<D>& sums, u32 r, float* to, bool whole) {
    const u32 t = threadIdx.x % 4;
    const float by = whole ? 1.0f / sums.weight[r] : 1.0f;
    UNROLL
    for (u32 n = 0; n < D / 8; n++) {
        to[8 * n + 2 * t] = sums.out[n][2 * r] * by;
        to[8 * n + 2 * t + 1] = sums.out[n][2 * r + 1] * by;
    }
    if (!whole && t == 0) {
        to[D] = sums.top[r];
        to[D + 1] = sums.weight[r];
    }
}

// Dimension `d` of a query whose positions were shared out to `count` parts, each its sums, maximum and weight in turn.
DEVICE float joined(const float* parts, u32 count, u32 dims, u32 d) {
    float best = NONE, weight = 0, sum = 0;
    for (u32 p = 0; p < count; p++) best = fmaxf(best, parts[p * (dims + 2) + dims]);
    for (u32 p = 0; p < count; p++) {
        const float* part = parts + p * (dims + 2);
        const float by = part[dims] <= NONE ? 0.0f : power_of_two(part[dims] - best);
        weight += by * part[dims + 1];
        sum += by * part[d];
    }
    return sum / weight;
}

// The queries as left factors: two registers of each product for row g and two for g + 8.
template <u32 D>
struct Queries {
    u32 low[D / 16][2], high[D / 16][2];

    DEVICE void load(const float* low_row, const float* high_row, float scale, u32 t) {
        UNROLL
        for (u32 c = 0; c < D / 32; c++) {
            half_of(low_row, c, scale, t, low);
            half_of(high_row, c, scale, t, high);
        }
    }

    // A row that is not there is null.
    static DEVICE void half_of(const float* row, u32 c, float scale, u32 t, u32 (&out)[D / 16][2]) {
        float4 a = {0, 0, 0, 0}, b = {0, 0, 0, 0};
        if (row) {
            const float4* from = reinterpret_cast<const float4*>(row + 32 * c + 8 * t);
            a = from[0];
            b = from[1];
        }
        out[2 * c][0] = halves(a.x * scale, a.y * scale);
        out[2 * c][1] = halves(a.z * scale, a.w * scale);
        out[2 * c + 1][0] = halves(b.x * scale, b.y * scale);
        out[2 * c + 1][1] = halves(b.z * scale, b.w * scale);
    }
};

// The first `count` halves of eight.
DEVICE uint4 first_of(const uint4& eight, int count) {
    auto kept = [=](u32 word, int from) { return count >= from + 2 ? word : count > from ? word & 0xffff : 0; };
    return {kept(eight.x, 0), kept(eight.y, 2), kept(eight.z, 4), kept(eight.w, 6)};
}

// Adds the scores of one block of keys.
template <u32 D>
DEVICE void score(float (&scores)[4][4], const Queries<D>& q, const u16* keys) {
    const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    UNROLL
    for (u32 n = 0; n < 4; n++) {
        const u16* key = keys + (8 * (g / 2) + 2 * n + g % 2) * D + 8 * t;
        UNROLL
        for (u32 c = 0; c < D / 32; c++) {
            const uint4 k = *reinterpret_cast<const uint4*>(key + 32 * c);
            mma(scores[n], q.low[2 * c][0], q.high[2 * c][0], q.low[2 * c][1], q.high[2 * c][1], k.x, k.y);
            mma(scores[n], q.low[2 * c + 1][0], q.high[2 * c + 1][0], q.low[2 * c + 1][1], q.high[2 * c + 1][1], k.z,
                k.w);
        }
    }
}

// One block of positions, from `begin` on, for queries at `low` and `high` (-1: not there), none later than `last`.
template <u32 D>
DEVICE void see(Sums<D>& sums, const Queries<D>& q, const u16* keys, const u16* values, int begin, int low, int high,
                int last, int window) {
    const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    float scores[4][4] = {};
    score<D>(scores, q, keys);
    UNROLL
    for (u32 n = 0; n < 4; n++) {
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            const int position = begin + int(8 * t + 2 * n + i % 2), query = i < 2 ? low : high;
            if (position > query || position <= query - window) scores[n][i] = NONE;
        }
    }
    absorb<D, 4>(sums, scores);
    u32 p[4][2];
    UNROLL
    for (u32 n = 0; n < 4; n++) {
        p[n][0] = halves(scores[n][0], scores[n][1]);
        p[n][1] = halves(scores[n][2], scores[n][3]);
    }
    // What no query sees was perhaps written by another sequence, and zero times no number is none.
    const int there = last + 1 - begin - int(8 * t);
    UNROLL
    for (u32 n = 0; n < D / 8; n++) {
        uint4 v = *reinterpret_cast<const uint4*>(values + (8 * n + g) * BLOCK + 8 * t);
        if (there < 8) v = first_of(v, there);
        mma(sums.out[n], p[0][0], p[0][1], p[1][0], p[1][1], v.x, v.y);
        mma(sums.out[n], p[2][0], p[2][1], p[3][0], p[3][1], v.z, v.w);
    }
}
