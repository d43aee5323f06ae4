// The largest value of each row: what greedy decoding takes, so that logits need not leave the device.

#include "common.cuh"

constexpr float LOWEST = -3.402823466e38f;

// Larger, or alike and before; what is no number never wins.
DEVICE bool wins(float value, u32 at, float best, u32 best_at) {
    return value > best || (value == best && at < best_at);
}

// A block of 1024 threads a row. A row without a number above -infinity gives 0.
KERNEL(1024) argmax(const float* x, u32 width, u32* out) {
    SHARED float values[32];
    SHARED u32 places[32];
    const float* row = x + u64(blockIdx.x) * width;
    float best = LOWEST;
    u32 at = 0xffffffff;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        const float v = row[i];
        if (v > best) {
            best = v;
            at = i;
        }
    }
    auto join = [&](u32 lanes) {
        const float other = shuffle_xor(best, lanes);
        const u32 other_at = shuffle_xor(at, lanes);
        if (wins(other, other_at, best, at)) {
            best = other;
            at = other_at;
        }
    };
    for (u32 lanes = 16; lanes > 0; lanes /= 2) join(lanes);
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (lane == 0) {
        values[warp] = best;
        places[warp] = at;
    }
    barrier();
    best = lane < blockDim.x / 32 ? values[lane] : LOWEST;
    at = lane < blockDim.x / 32 ? places[lane] : 0xffffffff;
    for (u32 lanes = 16; lanes > 0; lanes /= 2) join(lanes);
    if (threadIdx.x == 0) out[blockIdx.x] = at == 0xffffffff ? 0 : at;
}
