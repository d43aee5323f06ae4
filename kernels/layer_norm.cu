// Layer norm of rows, alone and after the residual is added: a block a row, whose values stay in registers.

#include "common.cuh"

// Groups of 4 values that a thread holds at most.
constexpr u32 HELD = 4;

DEVICE float four_sum(const float4& v) { return v.x + v.y + v.z + v.w; }

DEVICE float4 moved(const float4& v, float by) { return {v.x + by, v.y + by, v.z + by, v.w + by}; }

// `width` is in groups of 4, at most HELD a thread. `residual` may be null: nothing is added then. `sum` may be null too:
// what was added is not kept.
KERNEL(512) layer_norm(const float4* x, const float4* residual, const float4* weight, const float4* bias, float4* sum,
                       float4* out, u32 width, float eps) {
    follow();
    SHARED float scratch[32];
    const u64 first = u64(blockIdx.x) * width;
    float4 held[HELD];
    float total = 0;
    UNROLL
    for (u32 j = 0; j < HELD; j++) {
        const u32 i = threadIdx.x + j * blockDim.x;
        held[j] = {0, 0, 0, 0};
        if (i >= width) continue;
        float4 v = x[first + i];
        if (residual) {
            const float4 r = residual[first + i];
            v = {v.x + r.x, v.y + r.y, v.z + r.z, v.w + r.w};
        }
        if (sum) sum[first + i] = v;
        held[j] = v;
        total += four_sum(v);
    }
    const float mean = block_sum(total, scratch) / float(4 * width);
    float squares = 0;
    UNROLL
    for (u32 j = 0; j < HELD; j++) {
        if (threadIdx.x + j * blockDim.x >= width) continue;
        held[j] = moved(held[j], -mean);
        const float4 v = held[j];
        squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    }
    const float by = inverse_root(block_sum(squares, scratch) / float(4 * width) + eps);
    UNROLL
    for (u32 j = 0; j < HELD; j++) {
        const u32 i = threadIdx.x + j * blockDim.x;
        if (i >= width) continue;
        const float4 v = held[j], w = weight[i], b = bias[i];
        out[first + i] = {v.x * by * w.x + b.x, v.y * by * w.y + b.y, v.z * by * w.z + b.z, v.w * by * w.w + b.w};
    }
}
