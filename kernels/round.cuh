// Activations rounded to 8 bits, on their way out of whatever makes them: of each 32 the largest is 127.
//
// `codes` has the inputs of each 8 in the order 0 4 1 5 2 6 3 7, as the nibbles of two words of weights come apart;
// `scales`, for each 32, the scale, and with it the sums of the first 16 codes and of the others.

#pragma once
#include "common.cuh"

// Four values a lane, of which the first is number `at` of its row of `codes`, a multiple of 4; 8 lanes have 32. All lanes
// of a warp come here, those without values with `there` false.
DEVICE void round_four(const float4& v, u64 at, bool there, u8* codes, float4* scales) {
    float largest = fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
    UNROLL
    for (u32 lanes = 1; lanes < 8; lanes *= 2) largest = fmaxf(largest, shuffle_xor(largest, lanes));
    const float by = largest > 0 ? 127.0f / largest : 0.0f, scale = largest / 127.0f;
    const float four[4] = {v.x, v.y, v.z, v.w};
    // What is no finite number makes the sum none, and with it every product of the group.
    float sum = (v.x - v.x) + (v.y - v.y) + (v.z - v.z) + (v.w - v.w);
    u8* to = codes + at / 8 * 8 + at / 4 % 2;
    UNROLL
    for (u32 i = 0; i < 4; i++) {
        const int code = nearest(four[i] * by);
        sum += float(code);
        if (there) to[2 * i] = u8(code);
    }
    sum += shuffle_xor(sum, 1);
    sum += shuffle_xor(sum, 2);
    const float other = shuffle_xor(sum, 4);
    if (there && at % 32 == 0) scales[at / 32] = {scale, sum * scale, other * scale, 0};
}
