/* SPDX-License-Identifier: MIT */
/* The inner loops with AVX2, FMA and F16C. */
#include "config.h"

#if defined(__x86_64__)

#include "kernels/cpu/half.h"
#include "kernels/cpu/simd.h"

#include <immintrin.h>

#define VW 8
#define SUB_M 6
#define TARGET __attribute__((target("avx2,fma,f16c")))
#define SIMD_TABLE simd_avx2
#define SIMD_NAME "avx2"

typedef float vf __attribute__((vector_size(VW * 4)));
typedef int32_t vi __attribute__((vector_size(VW * 4)));

TARGET static inline vf v_fma(vf a, vf b, vf c)
{
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}

TARGET static inline vf v_sqrt(vf a)
{
    return (vf)_mm256_sqrt_ps((__m256)a);
}

/* Halves onto halves. */
TARGET static inline float v_sum(vf v)
{
    __m128 x = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
}

TARGET static inline int v_any(vi mask)
{
    return _mm256_movemask_epi8((__m256i)mask) != 0;
}

TARGET static inline __m256 half8(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

TARGET static inline __m256 one_half(const uint8_t *p)
{
    return _mm256_set1_ps(load_half(p));
}

TARGET static inline __m256i bytes8(const uint8_t *p)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
}

/* The nibbles of 8 bytes; those of byte j are elements j (low) and j + 16 (high). */
TARGET static inline void nibbles(const uint8_t *p, __m256i *low, __m256i *high)
{
    __m256i b = bytes8(p);
    *low = _mm256_and_si256(b, _mm256_set1_epi32(15));
    *high = _mm256_srli_epi32(b, 4);
}

/* 32 elements of a row; `p` is the start of a block. */
TARGET static inline __attribute__((always_inline)) void load32(enum kernels_type type, const uint8_t *p,
                                                                vf out[32 / VW])
{
    if (type == KERNELS_F32) {
        for (int i = 0; i < 4; i++) {
            out[i] = (vf)_mm256_loadu_ps((const float *)(const void *)(p + 32 * i));
        }
    } else if (type == KERNELS_F16) {
        for (int i = 0; i < 4; i++) {
            out[i] = (vf)half8(p + 16 * i);
        }
    } else if (type == KERNELS_BF16) {
        for (int i = 0; i < 4; i++) {
            __m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p + 16 * i)));
            out[i] = (vf)_mm256_slli_epi32(w, 16);
        }
    } else if (type == KERNELS_Q8_0) {
        __m256 d = one_half(p);
        for (int i = 0; i < 4; i++) {
            __m256i q = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p + 2 + 8 * i)));
            out[i] = (vf)_mm256_mul_ps(d, _mm256_cvtepi32_ps(q));
        }
    } else {
        int has_min = type == KERNELS_Q4_1;
        __m256 d = one_half(p);
        __m256 least = has_min ? one_half(p + 2) : _mm256_setzero_ps();
        for (int i = 0; i < 2; i++) {
            __m256i q[2];
            nibbles(p + (has_min ? 4 : 2) + 8 * i, &q[0], &q[1]);
            for (int half = 0; half < 2; half++) {
                __m256i v = has_min ? q[half] : _mm256_sub_epi32(q[half], _mm256_set1_epi32(8));
                __m256 f = _mm256_mul_ps(d, _mm256_cvtepi32_ps(v));
                out[i + 2 * half] = (vf)(has_min ? _mm256_add_ps(f, least) : f);
            }
        }
    }
}

/* 8 rows by 8 columns. */
TARGET static inline void transpose8(const float *src, size_t pitch, float *dst, size_t step)
{
    __m256 r[8];
    __m256 t[8];
    for (int i = 0; i < 8; i++) {
        r[i] = _mm256_loadu_ps(src + (size_t)i * pitch);
    }
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
        r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(dst + (size_t)i * step, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(dst + (size_t)(i + 4) * step, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

TARGET static void simd_transpose(const float *src, size_t pitch, size_t rows, size_t n, float *dst, size_t step)
{
    size_t i = 0;
    for (; i + 8 <= rows; i += 8) {
        size_t j = 0;
        for (; j + 8 <= n; j += 8) {
            transpose8(src + i * pitch + j, pitch, dst + j * step + i, step);
        }
        for (; j < n; j++) {
            for (size_t r = i; r < i + 8; r++) {
                dst[j * step + r] = src[r * pitch + j];
            }
        }
    }
    for (; i < rows; i++) {
        for (size_t j = 0; j < n; j++) {
            dst[j * step + i] = src[i * pitch + j];
        }
    }
}

#include "kernels/cpu/simd_body.h"

#endif
