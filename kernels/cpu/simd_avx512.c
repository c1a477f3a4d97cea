/* SPDX-License-Identifier: MIT */
/* The inner loops with AVX-512 (F, BW, DQ, VL). */
#include "config.h"

#if defined(__x86_64__)

#include "kernels/cpu/half.h"
#include "kernels/cpu/simd.h"

#include <immintrin.h>

#define VW 16
#define SUB_M 12
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define SIMD_TABLE simd_avx512
#define SIMD_NAME "avx512"

typedef float vf __attribute__((vector_size(VW * 4)));
typedef int32_t vi __attribute__((vector_size(VW * 4)));

TARGET static inline vf v_fma(vf a, vf b, vf c)
{
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}

TARGET static inline vf v_sqrt(vf a)
{
    return (vf)_mm512_sqrt_ps((__m512)a);
}

/* Halves onto halves. */
TARGET static inline float v_sum(vf v)
{
    __m256 y = _mm256_add_ps(_mm512_castps512_ps256((__m512)v), _mm512_extractf32x8_ps((__m512)v, 1));
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
}

TARGET static inline int v_any(vi mask)
{
    return _mm512_movepi32_mask((__m512i)mask) != 0;
}

TARGET static inline __m128i bytes16(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

TARGET static inline __m256i bytes32(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

TARGET static inline __m512 one_half(const uint8_t *p)
{
    return _mm512_set1_ps(load_half(p));
}

/* 32 elements of a row; `p` is the start of a block. The sixteen values a 4-bit block can have are made once, exactly
 * (product rounded, then sum rounded), and looked up: the permutation reads the low four bits of each index. */
TARGET static inline __attribute__((always_inline)) void load32(enum kernels_type type, const uint8_t *p,
                                                                vf out[32 / VW])
{
    if (type == KERNELS_F32) {
        out[0] = (vf)_mm512_loadu_ps(p);
        out[1] = (vf)_mm512_loadu_ps(p + 64);
    } else if (type == KERNELS_F16) {
        out[0] = (vf)_mm512_cvtph_ps(bytes32(p));
        out[1] = (vf)_mm512_cvtph_ps(bytes32(p + 32));
    } else if (type == KERNELS_BF16) {
        out[0] = (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bytes32(p)), 16);
        out[1] = (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bytes32(p + 32)), 16);
    } else if (type == KERNELS_Q8_0) {
        __m512 d = one_half(p);
        out[0] = (vf)_mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes16(p + 2))));
        out[1] = (vf)_mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes16(p + 18))));
    } else {
        __m512 values = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        if (type == KERNELS_Q4_1) {
            values = _mm512_add_ps(_mm512_mul_ps(one_half(p), values), one_half(p + 2));
        } else {
            values = _mm512_mul_ps(one_half(p), _mm512_sub_ps(values, _mm512_set1_ps(8)));
        }
        __m512i q = _mm512_cvtepu8_epi32(bytes16(p + (type == KERNELS_Q4_1 ? 4 : 2)));
        out[0] = (vf)_mm512_permutexvar_ps(q, values);
        out[1] = (vf)_mm512_permutexvar_ps(_mm512_srli_epi32(q, 4), values);
    }
}

/* Columns j .. j+15 (those below n) of 16 row vectors, stored as 16 vectors of `rows` lanes. */
TARGET static inline void transpose16(__m512 r[16], size_t n, float *dst, size_t step, __mmask16 lanes)
{
    __m512 t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* r[4i + c]: columns c, c+4, c+8, c+12 of rows 4i .. 4i+3 */
        r[4 * i] = _mm512_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        r[4 * i + 1] = _mm512_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
        r[4 * i + 2] = _mm512_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        r[4 * i + 3] = _mm512_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        __m512 a = _mm512_shuffle_f32x4(r[c], r[c + 4], 0x88);      /* columns c, c+8 of rows 0-3, 4-7 */
        __m512 b = _mm512_shuffle_f32x4(r[c + 8], r[c + 12], 0x88); /* of rows 8-15 */
        __m512 d = _mm512_shuffle_f32x4(r[c], r[c + 4], 0xdd);      /* columns c+4, c+12 */
        __m512 e = _mm512_shuffle_f32x4(r[c + 8], r[c + 12], 0xdd);
        t[c] = _mm512_shuffle_f32x4(a, b, 0x88);
        t[c + 8] = _mm512_shuffle_f32x4(a, b, 0xdd);
        t[c + 4] = _mm512_shuffle_f32x4(d, e, 0x88);
        t[c + 12] = _mm512_shuffle_f32x4(d, e, 0xdd);
    }
#pragma GCC unroll 16
    for (size_t j = 0; j < 16; j++) {
        if (j < n) {
            _mm512_mask_storeu_ps(dst + j * step, lanes, t[j]);
        }
    }
}

TARGET static void simd_transpose(const float *src, size_t pitch, size_t rows, size_t n, float *dst, size_t step)
{
    __mmask16 lanes = (__mmask16)(rows >= 16 ? 0xffff : (1u << rows) - 1);
    for (size_t j = 0; j < n; j += 16) {
        size_t left = n - j < 16 ? n - j : 16;
        __mmask16 columns = (__mmask16)(left >= 16 ? 0xffff : (1u << left) - 1);
        __m512 r[16];
#pragma GCC unroll 16
        for (size_t i = 0; i < 16; i++) {
            r[i] = i < rows ? _mm512_maskz_loadu_ps(columns, src + i * pitch + j) : _mm512_setzero_ps();
        }
        transpose16(r, left, dst + j * step, step, lanes);
    }
}

#include "kernels/cpu/simd_body.h"

#endif
