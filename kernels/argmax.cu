// The largest value of each row: what greedy decoding takes, so that logits need not leave the device.

#include "common.cuh"

// Of each part of a row: blocks are (parts, rows) of 256 threads, `found` is (rows, parts).
KERNEL(256) argmax_parts(const float* x, u32 width, Largest* found) {
    follow();
    SHARED Largest scratch[32];
    const u32 each = (width + gridDim.x - 1) / gridDim.x, first = min(blockIdx.x * each, width);
    const float* row = x + u64(blockIdx.y) * width + first;
    Largest best = block_largest(row, min(each, width - first), scratch);
    if (best.at != nothing().at) best.at += first;
    if (threadIdx.x == 0) found[blockIdx.y * gridDim.x + blockIdx.x] = best;
}

// Of the parts: a warp a row, at most 32 parts. A row without a number above -infinity gives 0.
KERNEL(32) argmax_join(const Largest* found, u32 parts, u32* out) {
    follow();
    Largest best = threadIdx.x < parts ? found[blockIdx.x * parts + threadIdx.x] : nothing();
    best = warp_largest(best);
    if (threadIdx.x == 0) out[blockIdx.x] = best.at == nothing().at ? 0 : best.at;
}
