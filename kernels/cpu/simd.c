/* SPDX-License-Identifier: MIT */
/* Chooses the instruction set by CPUID (which includes what the operating system saves). */
#include "config.h"

#include "kernels/cpu/simd.h"

#include "kernels/cpu/half.h"

#include <pthread.h>
#include <string.h>

float half_table[65536];

static void fill_half_table(void)
{
    for (uint32_t i = 0; i < 65536; i++) {
        half_table[i] = half_to_float((uint16_t)i);
    }
}

#if defined(__x86_64__)
static int has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

static int has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
#endif

const struct simd *simd_choose(const char *name)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, fill_half_table);
    if (name && strcmp(name, "portable") == 0) {
        return &simd_portable;
    }
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (has_avx512() && has_avx2() && !(name && strcmp(name, "avx2") == 0)) {
        return &simd_avx512;
    }
    if (has_avx2()) {
        return &simd_avx2;
    }
#endif
    return &simd_portable;
}
