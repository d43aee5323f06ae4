// Root-mean-square norm of rows, alone and after the residual is added: a block a row.

#include "common.cuh"
#include "round.cuh"

DEVICE float square_sum(const float4& v) { return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w; }

DEVICE float4 scaled(const float4& v, float by, const float4& w) {
    return {v.x * by * w.x, v.y * by * w.y, v.z * by * w.z, v.w * by * w.w};
}

// `width` is in groups of 4. `sum` may be null, and `residual` is then too: x is normalised as it is. Where `codes` is not
// null the norm is rounded too, and the width is a multiple of 8 groups.
KERNEL(512) rms_norm(const float4* x, const float4* residual, const float4* weight, float4* sum, float4* out, u32 width,
                     float eps, u8* codes, float4* scales) {
    follow();
    SHARED float scratch[32];
    const u64 first = u64(blockIdx.x) * width;
    float squares = 0;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        float4 v = x[first + i];
        if (sum) {
            const float4 r = residual[first + i];
            v = {v.x + r.x, v.y + r.y, v.z + r.z, v.w + r.w};
            sum[first + i] = v;
        }
        squares += square_sum(v);
    }
    squares = block_sum(squares, scratch);
    const float by = inverse_root(squares / float(4 * width) + eps);
    const float4* values = sum ? sum : x;
    // Each thread reads back what it wrote itself; whole warps stay together.
    for (u32 i = threadIdx.x; i - threadIdx.x % 32 < width; i += blockDim.x) {
        const bool there = i < width;
        float4 v = {0, 0, 0, 0};
        if (there) {
            v = scaled(values[first + i], by, weight[i]);
            out[first + i] = v;
        }
        if (codes) round_four(v, (first + i) * 4, there, codes, scales);
    }
}
