/* SPDX-License-Identifier: MIT */
/* The inner loops in plain C over small vectors, which every compiler turns into what the machine has. */
#include "config.h"

#include "kernels/cpu/half.h"
#include "kernels/cpu/simd.h"

#define VW 4
#define SUB_M 4
#define TARGET
#define SIMD_TABLE simd_portable
#define SIMD_NAME "portable"

typedef float vf __attribute__((vector_size(VW * 4)));
typedef int32_t vi __attribute__((vector_size(VW * 4)));

static inline vf v_fma(vf a, vf b, vf c)
{
    return a * b + c;
}

static inline vf v_sqrt(vf a)
{
    for (int i = 0; i < VW; i++) {
        a[i] = __builtin_sqrtf(a[i]);
    }
    return a;
}

static inline float v_sum(vf v)
{
    return (v[0] + v[2]) + (v[1] + v[3]);
}

static inline int v_any(vi mask)
{
    return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
}

/* 32 elements of a row; `p` is the start of a block. */
static inline void load32(enum kernels_type type, const uint8_t *p, vf out[32 / VW])
{
    float v[32];
    switch (type) {
    case KERNELS_F16:
        for (int j = 0; j < 32; j++) {
            v[j] = load_half(p + 2 * j);
        }
        break;
    case KERNELS_BF16:
        for (int j = 0; j < 32; j++) {
            v[j] = bfloat_to_float(load_u16(p + 2 * j));
        }
        break;
    case KERNELS_Q8_0:
        for (int j = 0; j < 32; j++) {
            v[j] = load_half(p) * (float)(int8_t)p[2 + j];
        }
        break;
    case KERNELS_Q4_0:
        for (int j = 0; j < 16; j++) {
            float d = load_half(p);
            v[j] = d * (float)((p[2 + j] & 15) - 8);
            v[j + 16] = d * (float)((p[2 + j] >> 4) - 8);
        }
        break;
    case KERNELS_Q4_1:
        for (int j = 0; j < 16; j++) {
            float d = load_half(p);
            float m = load_half(p + 2);
            v[j] = d * (float)(p[4 + j] & 15) + m;
            v[j + 16] = d * (float)(p[4 + j] >> 4) + m;
        }
        break;
    default:
        memcpy(v, p, sizeof v);
        break;
    }
    memcpy(out, v, sizeof v);
}

static void simd_transpose(const float *src, size_t pitch, size_t rows, size_t n, float *dst, size_t step)
{
    for (size_t j = 0; j < n; j++) {
        for (size_t i = 0; i < rows; i++) {
            dst[j * step + i] = src[i * pitch + j];
        }
    }
}

#include "kernels/cpu/simd_body.h"
