// Products of kernels/qlinear.cu whose work blocks share: those of matrices of many outputs and 17 to 64 rows, which keep the
// tensor cores busier than the memory. Sums are f32.
//
// All products of 128 outputs by 128 inputs, a *step* each, lie in one line: a group of outputs after the other, and in it
// the inputs. Blocks take equal stretches of the line, as many as the card holds at once, whatever the matrix' shape
// ("stream-K", Osama et al. 2023). Where a group ends up with several blocks each leaves its sums in `partial`, and the
// last to come adds them, in the order of the blocks: the result is the same every time, and a row's does not depend on
// the rows beside it within one kernel.
//
// Activations are packed by `qlinear_pack`. A step's are copied to shared memory, and its weights to registers, while the
// one before it is computed.

#pragma once
#include "common.cuh"
#include "tiles.cuh"

// Warps of a block, side by side along the outputs, and tiles of each.
constexpr u32 WARPS = 4, DOWN = 2, WIDE = WARPS * DOWN, THREADS = WARPS * LANES;

// The products of one group of tiles with 8 N rows, over units `begin` to `end` of the inputs.
template <u32 F, u32 N>
DEVICE void stretch(const Place& at, u32 units, u32 begin, u32 end, const uint4* x, uint4 (&staged)[2][N * 4 * LANES],
                    float (&sums)[DOWN][N][4]) {
    constexpr u32 UNITS = units_of(F);
    // Halves take the registers of two steps as they are.
    constexpr bool AHEAD = F != F16;
    const u32 lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, deep = (units + UNITS - 1) / UNITS;
    Weights<F> next[DOWN][2];
    const auto fetch = [&](u32 unit) {
        UNROLL
        for (u32 d = 0; d < DOWN; d++) {
            // The last tile again where there are none: what comes of it is not written.
            const u32 tile = min(at.tile + warp * DOWN + d, at.part.tiles - 1);
            const u8* from = at.part.weights + (u64(tile) * deep + unit / UNITS) * tile_bytes(F);
            UNROLL
            for (u32 half = 0; half < 2; half++) next[d][half].fetch(from, unit % UNITS, half, lane);
        }
    };
    const auto stage = [&](u32 unit) {
        const uint4* from = x + u64(unit) * N * 4 * LANES;
        UNROLL
        for (u32 i = 0; i < N; i++) copy_ahead(&staged[unit % 2][i * THREADS + threadIdx.x], from + i * THREADS + threadIdx.x);
    };
    if (AHEAD) fetch(begin);
    stage(begin);
    for (u32 unit = begin; unit < end; unit++) {
        if (!AHEAD) fetch(unit);
        Weights<F> now[DOWN][2];
        UNROLL
        for (u32 d = 0; d < DOWN; d++) {
            UNROLL
            for (u32 half = 0; half < 2; half++) now[d][half] = next[d][half];
        }
        if (AHEAD && unit + 1 < end) fetch(unit + 1);
        copies_done();
        // Behind it all have what was copied, and none reads what the step before had.
        barrier();
        if (unit + 1 < end) stage(unit + 1);
        UNROLL
        for (u32 d = 0; d < DOWN; d++) {
            UNROLL
            for (u32 half = 0; half < 2; half++) now[d][half].ready(unit % UNITS, lane);
        }
        const uint4* b = staged[unit % 2] + lane;
        UNROLL
        for (u32 j = 0; j < 4; j++) {
            u32 left[DOWN][2][4];
            UNROLL
            for (u32 d = 0; d < DOWN; d++) {
                now[d][0].pair(j, left[d][0]);
                now[d][1].pair(j, left[d][1]);
            }
            UNROLL
            for (u32 n = 0; n < N; n++) {
                const uint4 right = b[(n * 4 + j) * LANES];
                UNROLL
                for (u32 d = 0; d < DOWN; d++) {
                    const u32(&a)[4] = left[d][0], (&c)[4] = left[d][1];
                    mma(sums[d][n], a[0], c[0], a[1], c[1], right.x, right.y);
                    mma(sums[d][n], a[2], c[2], a[3], c[3], right.z, right.w);
                }
            }
        }
    }
    // Before another stretch is staged.
    barrier();
}

// What a thread has of a group, in fours: where block and stretch leave it.
template <u32 N>
DEVICE float4* left_at(float4* partial, u32 block, bool begins) {
    return partial + (u64(block) * 2 + begins) * DOWN * N * THREADS + threadIdx.x;
}

template <u32 N>
DEVICE void write_group(const Matrices& m, const Place& at, const float* bias, float* out, const float (&sums)[DOWN][N][4]) {
    const u32 lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, g = lane / 4, t = lane % 4;
    UNROLL
    for (u32 d = 0; d < DOWN; d++) {
        UNROLL
        for (u32 n = 0; n < N; n++) {
            UNROLL
            for (u32 i = 0; i < 4; i++) {
                const u32 output = (at.tile + warp * DOWN + d) * 16 + g + i / 2 * 8, row = n * 8 + 2 * t + i % 2;
                if (row >= m.rows || output >= at.part.outputs) continue;
                const u32 column = at.part.column + output;
                out[u64(row) * m.columns + column] = sums[d][n][i] * GROW + (bias ? bias[column] : 0.0f);
            }
        }
    }
}

DEVICE u32 groups_of(const Matrices& m) {
    u32 groups = 0;
    for (u32 i = 0; i < m.count; i++) groups += (m.parts[i].tiles + WIDE - 1) / WIDE;
    return groups;
}

// Blocks are at most as many as steps. `partial` has 2 stretches a block; `arrived`, of each group, is 0 before and after.
template <u32 N>
DEVICE void batch(const Matrices& m, const uint4* x, const float* bias, float* out, float4* partial, u32* arrived) {
    SHARED uint4 staged[2][N * 4 * LANES];
    SHARED u32 came;
    const u32 units = (m.inputs + 127) / 128;
    const u64 steps = u64(groups_of(m)) * units, blocks = gridDim.x;
    const u32 past = u32(steps * (blockIdx.x + 1) / blocks);
    for (u32 step = u32(steps * blockIdx.x / blocks); step < past;) {
        const u32 group = step / units, begin = step % units, end = min(units, begin + past - step);
        step += end - begin;
        const Place at = place(m, group, WIDE);
        float sums[DOWN][N][4] = {};
        switch (at.part.format) {
            case Q4K: stretch<Q4K, N>(at, units, begin, end, x, staged, sums); break;
            case Q5K: stretch<Q5K, N>(at, units, begin, end, x, staged, sums); break;
            case Q6K: stretch<Q6K, N>(at, units, begin, end, x, staged, sums); break;
            case Q8_0: stretch<Q8_0, N>(at, units, begin, end, x, staged, sums); break;
            case Q4_1: stretch<Q4_1, N>(at, units, begin, end, x, staged, sums); break;
            case Q5_1: stretch<Q5_1, N>(at, units, begin, end, x, staged, sums); break;
            default: stretch<F16, N>(at, units, begin, end, x, staged, sums);
        }
        if (end - begin < units) {
            float4* mine = left_at<N>(partial, blockIdx.x, begin == 0);
            UNROLL
            for (u32 d = 0; d < DOWN; d++) {
                UNROLL
                for (u32 n = 0; n < N; n++) {
                    const float(&four)[4] = sums[d][n];
                    mine[(d * N + n) * THREADS] = {four[0], four[1], four[2], four[3]};
                }
            }
            // The block that has a step: the last whose first step is not behind it.
            const auto block_of = [&](u64 one) { return u32(((one + 1) * blocks - 1) / steps); };
            const u32 first = block_of(u64(group) * units), last = block_of(u64(group) * units + units - 1);
            publish();
            barrier();
            if (threadIdx.x == 0) came = add_to(&arrived[group], 1);
            barrier();
            if (came != last - first) continue;
            publish();
            UNROLL
            for (u32 i = 0; i < DOWN * N * 4; i++) sums[i / (4 * N)][i / 4 % N][i % 4] = 0;
            for (u32 block = first; block <= last; block++) {
                const float4* theirs = left_at<N>(partial, block, block == first);
                UNROLL
                for (u32 i = 0; i < DOWN * N; i++) {
                    const float4 four = load_others(theirs + i * THREADS);
                    float(&sum)[4] = sums[i / N][i % N];
                    sum[0] += four.x;
                    sum[1] += four.y;
                    sum[2] += four.z;
                    sum[3] += four.w;
                }
            }
            if (threadIdx.x == 0) arrived[group] = 0;
        }
        write_group<N>(m, at, bias, out, sums);
    }
}

// The weights that each warp begins with, while others still write the activations.
DEVICE void fetch_step(const Matrices& m) {
    constexpr u32 LINE = 128;
    const u32 units = (m.inputs + 127) / 128, step = u32(u64(groups_of(m)) * units * blockIdx.x / gridDim.x);
    const Place at = place(m, step / units, WIDE);
    const u32 each = units_of(at.part.format), deep = (units + each - 1) / each, bytes = tile_bytes(at.part.format);
    UNROLL
    for (u32 d = 0; d < DOWN; d++) {
        const u32 tile = min(at.tile + threadIdx.x / LANES * DOWN + d, at.part.tiles - 1);
        const u8* from = at.part.weights + (u64(tile) * deep + step % units / each) * bytes;
        for (u32 byte = threadIdx.x % LANES * LINE; byte < bytes; byte += LANES * LINE) fetch_ahead(from + byte);
    }
}
