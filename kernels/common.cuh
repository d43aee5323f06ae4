// What every kernel file begins with: names, halves, tensor-core products and the reductions of a warp.
//
// No header of the toolkit is included: NVRTC then needs none beside it, and `host.hpp` can define the same names on
// a CPU, where tests run the kernels that are here.

#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifdef STENTOR_HOST
#include "host.hpp"
#else

#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)
#define CROWDED(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define DEVICE __device__ __forceinline__
#define SHARED __shared__
// A structure among the arguments that is read where it lies, not copied to the stack.
#define ARGUMENT const __grid_constant__
#define UNROLL _Pragma("unroll")

// Two halves in 32 bits, the first in the low ones.
DEVICE u32 halves(float first, float second) {
    u32 both;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
#else
    asm("{ .reg .b16 a, b; cvt.rn.f16.f32 a, %1; cvt.rn.f16.f32 b, %2; mov.b32 %0, {a, b}; }"
        : "=r"(both) : "f"(first), "f"(second));
#endif
    return both;
}

DEVICE float half_to_float(u16 half) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(half));
    return wide;
}

DEVICE u16 float_to_half(float wide) {
    u16 half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(wide));
    return half;
}

DEVICE u32 halves_sub(u32 a, u32 b) {
    u32 out;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
    return out;
}

DEVICE u32 halves_fma(u32 a, u32 b, u32 c) {
    u32 out;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
    return out;
}

// c += a b for a (16, 16) and b (16, 8) halves, c (16, 8) floats, each lane holding its part as PTX's
// mma.m16n8k16 lays it out. Turing has half the depth, so there it is two products.
DEVICE void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(b0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a2), "r"(a3), "r"(b1));
#endif
}

// Four matrices of 8 by 8 halves from shared memory: lane 8 i + r names row r of matrix i, 16 bytes. Of each, lane (g, t) =
// (lane / 4, lane % 4) gets values 2 t and 2 t + 1 of row g.
DEVICE void load_matrices(u32 (&to)[4], const uint4* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(u32(__cvta_generic_to_shared(row)))
                 : "memory");
}

// The same of the matrices' transposes: rows 2 t and 2 t + 1 of column g.
DEVICE void load_transposed(u32 (&to)[4], const uint4* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(u32(__cvta_generic_to_shared(row)))
                 : "memory");
}

// The bytes of two words that `selector` names, a digit each.
DEVICE u32 bytes_of(u32 low, u32 high, u32 selector) { return __byte_perm(low, high, selector); }

DEVICE int nearest(float x) { return __float2int_rn(x); }

// c plus the products of four signed bytes each.
DEVICE int dot4(u32 a, u32 b, int c) { return __dp4a(int(a), int(b), c); }

DEVICE float shuffle_xor(float value, int lanes) { return __shfl_xor_sync(0xffffffffu, value, lanes); }
DEVICE u32 shuffle_xor(u32 value, int lanes) { return __shfl_xor_sync(0xffffffffu, value, lanes); }
DEVICE u64 shuffle_xor(u64 value, int lanes) { return __shfl_xor_sync(0xffffffffu, value, lanes); }
DEVICE void barrier() { __syncthreads(); }
DEVICE float inverse_root(float x) { return rsqrtf(x); }
DEVICE float power_of_two(float x) { return exp2f(x); }
DEVICE float natural_power(float x) { return __expf(x); }
DEVICE float error_function(float x) { return erff(x); }

// Rounded once each, whatever the compiler is told of speed: what has to come out as on a CPU.
DEVICE float product(float a, float b) { return __fmul_rn(a, b); }
DEVICE float quotient(float a, float b) { return __fdiv_rn(a, b); }
DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }

DEVICE u32 bits_of(float x) { return __float_as_uint(x); }
DEVICE float float_of(u32 bits) { return __uint_as_float(bits); }

// The upper half of a product.
DEVICE u64 high_product(u64 a, u64 b) { return __umul64hi(a, b); }

// Adds to what threads share, one after the other; what was there before.
DEVICE u32 add_to(u32* at, u32 value) { return atomicAdd(at, value); }

// What every kernel begins with. From Hopper on the launch that follows may come onto the card now, while this one still
// waits for those before it; behind this line everything that they write is there. In front of it a kernel may fetch
// weights ahead, and must neither read nor write anything else.
DEVICE void follow() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Has the 128 bytes around an address of the card's memory brought into its second-level cache, where kernels overlap.
DEVICE void fetch_ahead(const void* at) {
#if __CUDA_ARCH__ >= 900
    asm volatile("prefetch.global.L2 [%0];" :: "l"(at));
#endif
}

// Copies 16 bytes to shared memory, from Ampere on without waiting for them; there for this thread after `copies_done`, and
// for others after a barrier behind that.
DEVICE void copy_ahead(uint4* to, const uint4* from) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(u32(__cvta_generic_to_shared(to))), "l"(from) : "memory");
#else
    *to = *from;
#endif
}
DEVICE void copies_done() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// Between what a thread writes and its word to other blocks that it is there; and between that word and reading it.
DEVICE void publish() { __threadfence(); }
// What other blocks have written within this launch.
DEVICE float4 load_others(const float4* from) { return __ldcg(from); }

// Read once, kept out of the way of what is read again.
DEVICE uint4 load_once(const uint4* from) { return __ldcs(from); }
DEVICE u32 load_once(const u32* from) { return __ldcs(from); }
DEVICE uint2 load_once(const uint2* from) { return __ldcs(from); }
#endif

template <class T>
DEVICE T warp_sum(T value) {
    for (int lanes = 16; lanes > 0; lanes /= 2) value += shuffle_xor(value, lanes);
    return value;
}

// Over all threads of a block of whole warps; `scratch` has room for 32 values. Every thread gets the sum.
DEVICE float block_sum(float value, float* scratch) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    value = warp_sum(value);
    if (lane == 0) scratch[warp] = value;
    barrier();
    value = lane < warps ? scratch[lane] : 0.0f;
    value = warp_sum(value);
    barrier();
    return value;
}

// A value and where it stands.
struct Largest {
    float value;
    u32 at;
};

// Nothing: no value is lower, none stands behind it.
DEVICE Largest nothing() { return {float_of(0xff800000), 0xffffffff}; }

// The larger of both, of two that are alike the first; what is no number never wins.
DEVICE Largest warp_largest(Largest best) {
    for (u32 lanes = 16; lanes > 0; lanes /= 2) {
        const Largest other = {shuffle_xor(best.value, lanes), shuffle_xor(best.at, lanes)};
        if (other.value > best.value || (other.value == best.value && other.at < best.at)) best = other;
    }
    return best;
}

// The first of the largest of a row, for every thread of a block of whole warps; `nothing` where all is -infinity or no
// number. `scratch` has room for 32.
DEVICE Largest block_largest(const float* row, u32 width, Largest* scratch) {
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Largest best = nothing();
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        const float v = row[i];
        if (v > best.value) best = {v, i};
    }
    best = warp_largest(best);
    if (lane == 0) scratch[warp] = best;
    barrier();
    best = warp_largest(lane < blockDim.x / 32 ? scratch[lane] : nothing());
    barrier();
    return best;
}

// The largest over all threads, as `block_sum`.
DEVICE float block_max(float value, float* scratch) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    for (int lanes = 16; lanes > 0; lanes /= 2) value = fmaxf(value, shuffle_xor(value, lanes));
    if (lane == 0) scratch[warp] = value;
    barrier();
    value = scratch[lane < warps ? lane : 0];
    for (int lanes = 16; lanes > 0; lanes /= 2) value = fmaxf(value, shuffle_xor(value, lanes));
    barrier();
    return value;
}
