// The largest value of each row: what greedy decoding takes, so that logits need not leave the device.

#include "common.cuh"

// A block of 1024 threads a row. A row without a number above -infinity gives 0.
KERNEL(1024) argmax(const float* x, u32 width, u32* out) {
    follow();
    SHARED Largest scratch[32];
    const Largest best = block_largest(x + u64(blockIdx.x) * width, width, scratch);
    if (threadIdx.x == 0) out[blockIdx.x] = best.at == 0xffffffff ? 0 : best.at;
}
