// The gate of a gated feed-forward layer: activation(gate) * up, from the two halves of one projection's rows.

#include "common.cuh"
#include "round.cuh"

DEVICE float silu(float g) { return g / (1.0f + natural_power(-g)); }

// The usual approximation of GELU: (1 + tanh(z)) / 2 = 1 / (1 + e^-2z).
DEVICE float gelu(float g) { return g / (1.0f + natural_power(-1.595769f * (0.044715f * g * g * g + g))); }

// `width` of the result is in groups of 4; threads along it, a row for each block of y. Where `codes` is not null the
// result is rounded too, and the width is a multiple of 8 groups.
KERNEL(256) gate(const float4* x, float4* out, u32 width, u32 tanh_form, u8* codes, float4* scales) {
    follow();
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    const bool there = i < width;
    float4 y = {0, 0, 0, 0};
    if (there) {
        const float4 g = x[u64(blockIdx.y) * 2 * width + i], u = x[(u64(blockIdx.y) * 2 + 1) * width + i];
        if (tanh_form) {
            y = {gelu(g.x) * u.x, gelu(g.y) * u.y, gelu(g.z) * u.z, gelu(g.w) * u.w};
        } else {
            y = {silu(g.x) * u.x, silu(g.y) * u.y, silu(g.z) * u.z, silu(g.w) * u.w};
        }
        out[u64(blockIdx.y) * width + i] = y;
    }
    if (codes) round_four(y, (u64(blockIdx.y) * width + i) * 4, there, codes, scales);
}
