/* SPDX-License-Identifier: MIT */
/* 16-bit floats to float32, exactly, without special instructions. */
#ifndef KERNELS_CPU_HALF_H
#define KERNELS_CPU_HALF_H

#include <stdint.h>
#include <string.h>

static inline float float_of_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint16_t load_u16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline float half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = (h >> 10) & 31u;
    uint32_t fraction = h & 1023u;
    if (exponent == 31) {
        uint32_t quiet = fraction ? 0x400000u : 0; /* as the processor's conversion does */
        return float_of_bits(sign | 0x7f800000u | fraction << 13 | quiet);
    }
    if (exponent == 0) {
        float f = (float)fraction * 0x1p-24f; /* exact, zero and subnormal */
        return sign ? -f : f;
    }
    return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

/* half_to_float of every number, filled by simd_choose. In the inner loops a load is cheaper than a conversion, which
 * competes with the products for the same execution units. */
extern float half_table[65536];

static inline float load_half(const void *p)
{
    return half_table[load_u16(p)];
}

static inline float bfloat_to_float(uint16_t b)
{
    return float_of_bits((uint32_t)b << 16);
}

#endif
