// Every kernel as a function of one library, for tests on a CPU: NAME_host(grid, threads, arguments).

#include "argmax.cu"
#include "attention.cu"
#include "cross.cu"
#include "elementwise.cu"
#include "gate.cu"
#include "layer_norm.cu"
#include "paged.cu"
#include "qlinear.cu"
#include "rms_norm.cu"
#include "sample.cu"

#define EXPORT(name)                                                                      \
    extern "C" void name##_host(const u32* grid, u32 threads, void** args) {              \
        host::launch(name, grid, threads, args);                                          \
    }
#define EXPORT_PAGED(D) EXPORT(paged_place_##D) EXPORT(paged_short_##D) EXPORT(paged_long_##D)

EXPORT(argmax_join)
EXPORT(argmax_parts)
EXPORT(attention_32)
EXPORT(attention_64)
EXPORT(attention_128)
EXPORT(cross_attend_64)
EXPORT(cross_join)
EXPORT(cross_place_64)
EXPORT(cross_score_64)
EXPORT(cross_weights)
EXPORT(elementwise)
EXPORT(gate)
EXPORT(layer_norm)
EXPORT(paged_join)
EXPORT_PAGED(32)
EXPORT_PAGED(64)
EXPORT_PAGED(96)
EXPORT_PAGED(128)
EXPORT_PAGED(256)
EXPORT(qlinear_16_narrow)
EXPORT(qlinear_16_wide)
EXPORT(qlinear_32_narrow)
EXPORT(qlinear_32_shared)
EXPORT(qlinear_64_narrow)
EXPORT(qlinear_64_shared)
EXPORT(qlinear_8_narrow)
EXPORT(qlinear_8_wide)
EXPORT(qlinear_few_1)
EXPORT(qlinear_few_2)
EXPORT(qlinear_few_3)
EXPORT(qlinear_pack)
EXPORT(qlinear_round)
EXPORT(qlinear_unpack)
EXPORT(qlinear_rows)
EXPORT(qlinear_shrink)
EXPORT(rms_norm)
EXPORT(sample)
