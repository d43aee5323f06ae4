// The names of CUDA that the kernels use, on a CPU, for tests: every thread of a block is a fiber, all of one OS
// thread, and hands over to the next while it waits at a barrier or for the lanes of its warp. Blocks of whole warps run
// one after the other.
//
// Needs glibc's contexts and a processor with F16C.

#pragma once
#include <immintrin.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

using std::max;
using std::min;

struct uint2 { u32 x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
struct dim3 { u32 x, y, z; };

#define KERNEL(threads) extern "C" void
#define CROWDED(threads, blocks) extern "C" void
#define DEVICE inline
// One block at a time, so one copy does.
#define SHARED static
#define ARGUMENT
#define UNROLL

namespace host {

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool done = false;
};

inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline u32 current = 0;
inline std::function<void()> body;
// What the lanes of each warp show each other.
inline std::vector<u32> posted;
// Written by one thread at a time, read by all after a barrier.
inline dim3 thread_index, block_index, block_size, grid_size;

inline void enter() {
    body();
    fibers[current].done = true;
    swapcontext(&fibers[current].context, &scheduler);
}

// Where `size` threads wait for each other: a block, or the lanes of a warp.
struct Gate {
    u32 arrived = 0, opened = 0;

    void wait(u32 size) {
        const u32 before = opened;
        if (++arrived == size) {
            arrived = 0;
            opened++;
        }
        while (opened == before) swapcontext(&fibers[current].context, &scheduler);
    }
};

inline Gate block_gate;
inline std::vector<Gate> warp_gates;

inline void meet_warp() { warp_gates[thread_index.x / 32].wait(32); }

constexpr size_t STACK = 256 * 1024;
constexpr u32 WORDS = 8;

inline void run_block() {
    for (u32 i = 0; i < fibers.size(); i++) {
        Fiber& fiber = fibers[i];
        if (!fiber.stack) fiber.stack.reset(new char[STACK]);
        fiber.done = false;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, enter, 0);
    }
    for (bool any = true; any;) {
        any = false;
        for (u32 i = 0; i < fibers.size(); i++) {
            if (fibers[i].done) continue;
            any = true;
            current = i;
            thread_index = {i, 0, 0};
            swapcontext(&scheduler, &fibers[i].context);
        }
    }
}

inline void launch(dim3 grid, u32 threads, std::function<void()> each) {
    body = std::move(each);
    fibers.resize(threads);
    posted.assign(threads * WORDS, 0);
    block_gate = {};
    warp_gates.assign(threads / 32, {});
    grid_size = grid;
    block_size = {threads, 1, 1};
    for (u32 z = 0; z < grid.z; z++)
        for (u32 y = 0; y < grid.y; y++)
            for (u32 x = 0; x < grid.x; x++) {
                block_index = {x, y, z};
                run_block();
            }
}

// As cuLaunchKernel takes them: one pointer for each argument.
template <class... Args, size_t... I>
void call(void (*kernel)(Args...), void** args, std::index_sequence<I...>) {
    kernel(*static_cast<Args*>(args[I])...);
}

template <class... Args>
void launch(void (*kernel)(Args...), const u32* grid, u32 threads, void** args) {
    launch(dim3{grid[0], grid[1], grid[2]}, threads,
           [=] { call(kernel, args, std::index_sequence_for<Args...>{}); });
}

}  // namespace host

#define threadIdx host::thread_index
#define blockIdx host::block_index
#define blockDim host::block_size
#define gridDim host::grid_size

DEVICE float half_to_float(u16 half) { return _cvtsh_ss(half); }
DEVICE u16 float_to_half(float wide) { return _cvtss_sh(wide, 0); }
DEVICE u32 halves(float first, float second) {
    return float_to_half(first) | u32(float_to_half(second)) << 16;
}
// Exact before the one rounding, but for the way from double through float.
template <class F>
static u32 each_half(F f) {
    return float_to_half(float(f(0))) | u32(float_to_half(float(f(16)))) << 16;
}
DEVICE double part(u32 both, int shift) { return half_to_float(u16(both >> shift)); }
DEVICE u32 halves_sub(u32 a, u32 b) {
    return each_half([=](int s) { return part(a, s) - part(b, s); });
}
DEVICE u32 halves_fma(u32 a, u32 b, u32 c) {
    return each_half([=](int s) { return part(a, s) * part(b, s) + part(c, s); });
}
DEVICE u32 bytes_of(u32 low, u32 high, u32 selector) {
    u64 all = low | u64(high) << 32;
    u32 out = 0;
    for (int i = 0; i < 4; i++) out |= u32(all >> (8 * ((selector >> (4 * i)) & 7)) & 0xff) << (8 * i);
    return out;
}
DEVICE int nearest(float x) { return int(std::nearbyint(x)); }
DEVICE int dot4(u32 a, u32 b, int c) {
    for (int i = 0; i < 32; i += 8) c += int(int8_t(a >> i)) * int(int8_t(b >> i));
    return c;
}
DEVICE void barrier() { host::block_gate.wait(blockDim.x); }
DEVICE float inverse_root(float x) { return 1.0f / std::sqrt(x); }
DEVICE float power_of_two(float x) { return std::exp2(x); }
DEVICE float natural_power(float x) { return std::exp(x); }
DEVICE float product(float a, float b) { return a * b; }
DEVICE float quotient(float a, float b) { return a / b; }
DEVICE float fused(float a, float b, float c) { return std::fma(a, b, c); }
DEVICE u32 bits_of(float x) {
    u32 bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
DEVICE float float_of(u32 bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
DEVICE u64 high_product(u64 a, u64 b) { return u64((unsigned __int128)a * b >> 64); }
DEVICE u32 add_to(u32* at, u32 value) {
    const u32 before = *at;
    *at += value;
    return before;
}
DEVICE float error_function(float x) { return std::erf(x); }
template <class T>
DEVICE T load_once(const T* from) { return *from; }
// Launches run one after the other.
DEVICE void follow() {}
DEVICE void fetch_ahead(const void*) {}
DEVICE void copy_ahead(uint4* to, const uint4* from) { *to = *from; }
DEVICE void copies_done() {}
DEVICE void publish() {}
DEVICE float4 load_others(const float4* from) { return *from; }

DEVICE u32 own_word(u32 lane, u32 word) { return (threadIdx.x / 32 * 32 + lane) * host::WORDS + word; }

template <class T>
DEVICE T shuffle_xor(T value, int lanes) {
    const u32 lane = threadIdx.x % 32;
    static_assert(sizeof(T) <= 4 * host::WORDS, "a lane has no room for it");
    std::memcpy(&host::posted[own_word(lane, 0)], &value, sizeof(T));
    host::meet_warp();
    std::memcpy(&value, &host::posted[own_word(lane ^ u32(lanes), 0)], sizeof(T));
    host::meet_warp();
    return value;
}

DEVICE void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const u32 words[6] = {a0, a1, a2, a3, b0, b1};
    for (u32 i = 0; i < 6; i++) host::posted[own_word(lane, i)] = words[i];
    host::meet_warp();
    // Value (row, k) of a and (k, column) of b lie in these lanes and words, by the tables of the PTX manual.
    auto value = [](u32 lane, u32 word, u32 k) { return float(part(host::posted[own_word(lane, word)], k % 2 * 16)); };
    for (u32 i = 0; i < 4; i++) {
        const u32 row = g + i / 2 * 8, column = 2 * t + i % 2;
        float sum = 0;
        for (u32 k = 0; k < 16; k++) {
            const u32 deep = k / 8, from = k % 8 / 2;
            sum += value(row % 8 * 4 + from, row / 8 + 2 * deep, k) * value(column * 4 + from, 4 + deep, k);
        }
        c[i] += sum;
    }
    host::meet_warp();
}

// What lane (g, t) gets of four matrices is told by each one's eight rows, which lanes 8 i .. 8 i + 8 post.
template <class Pick>
static void each_matrix(u32 (&to)[4], const uint4* row, Pick pick) {
    const u32 lane = threadIdx.x % 32;
    std::memcpy(&host::posted[own_word(lane, 0)], &row, sizeof row);
    host::meet_warp();
    for (u32 i = 0; i < 4; i++) {
        auto value = [=](u32 r, u32 column) -> u32 {
            const u16* from;
            std::memcpy(&from, &host::posted[own_word(8 * i + r, 0)], sizeof from);
            return from[column];
        };
        to[i] = pick(value, lane / 4, lane % 4);
    }
    host::meet_warp();
}
DEVICE void load_matrices(u32 (&to)[4], const uint4* row) {
    each_matrix(to, row, [](auto value, u32 g, u32 t) { return value(g, 2 * t) | value(g, 2 * t + 1) << 16; });
}
DEVICE void load_transposed(u32 (&to)[4], const uint4* row) {
    each_matrix(to, row, [](auto value, u32 g, u32 t) { return value(2 * t, g) | value(2 * t + 1, g) << 16; });
}
