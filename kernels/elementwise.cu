// What follows a product in one pass over its rows: the bias is added, then the activation applied.

#include "common.cuh"

enum Behind : u32 { NOTHING, GELU, RELU };

// The exact GELU.
DEVICE float exact_gelu(float x) { return 0.5f * x * (1.0f + error_function(x * 0.70710678f)); }

DEVICE float behind(float x, u32 activation) {
    if (activation == GELU) return exact_gelu(x);
    // What is no number stays none.
    return activation == RELU && x < 0 ? 0.0f : x;
}

// `count` and `width`, that of a row, are in groups of 4. `bias` may be null; `out` may be `x`.
KERNEL(256) elementwise(const float4* x, const float4* bias, float4* out, u32 width, u32 count, u32 activation) {
    follow();
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float4 v = x[i];
    if (bias) {
        const float4 b = bias[i % width];
        v = {v.x + b.x, v.y + b.y, v.z + b.z, v.w + b.w};
    }
    out[i] = {behind(v.x, activation), behind(v.y, activation), behind(v.z, activation), behind(v.w, activation)};
}
