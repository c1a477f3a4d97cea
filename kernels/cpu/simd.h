/* SPDX-License-Identifier: MIT */
/* The inner loops, one table for each instruction set, chosen once at run time. The loops themselves are written once,
 * in simd_body.h, over a vector type; each simd_*.c supplies the type and what only its instructions can do.
 * Pointers need the alignment of their elements only. */
#ifndef KERNELS_CPU_SIMD_H
#define KERNELS_CPU_SIMD_H

#include "kernels/kernels.h"

#include <stddef.h>
#include <stdint.h>

#define TILE_M 12 /* rows of a tile of C: one packed panel of A is [depth][TILE_M] */
#define TILE_N 32 /* columns: one packed panel of B is [depth][TILE_N]; also the size of a quantised block */
#define ATT_Q 64  /* queries that attention handles at once: the lanes of its tiles */

struct adamw_floats {
    float decay, beta1, beta2, one_minus_beta1, one_minus_beta2, step, inv_sqrt_correction, eps, grad_scale;
};

struct simd {
    const char *name;

    /* c[rows <= TILE_M][cols <= TILE_N] (+)= alpha * sum over k of a(i, k) * b[k * b_step + j]. Reads all TILE_N columns of b.
     * tile: a(i, k) = a[k * a_step + i], a packed panel. tile_wide: a(i, k) = a[i * ATT_Q + k]. */
    void (*tile)(size_t depth, const float *a, size_t a_step, const float *b, size_t b_step, float *c, size_t c_pitch,
                 float alpha, int accumulate, size_t rows, size_t cols);
    void (*tile_wide)(size_t depth, const float *a, const float *b, size_t b_step, float *c, size_t c_pitch,
                      float alpha, int accumulate, size_t rows, size_t cols);
    /* dst[j * step + i] = src[i * pitch + j], i < rows <= 16, j < n. */
    void (*transpose)(const float *src, size_t pitch, size_t rows, size_t n, float *dst, size_t step);

    /* Elements first .. first+n-1 of a row; for block types first and n are multiples of 32. */
    void (*dequantise)(enum kernels_type type, const void *row, size_t first, size_t n, float *dst);
    /* out[i * out_pitch] (+)= dot of the row (n elements) with x[i], i < m. */
    void (*dots)(enum kernels_type type, const void *row, size_t n, const float *x, size_t x_pitch, size_t m,
                 float *out, size_t out_pitch, int accumulate);
    /* out[c] = sum over j < n of p[j] * rows[j * pitch + c], c < cols. */
    void (*weighted_rows)(const float *p, size_t n, const float *rows, size_t pitch, size_t cols, float *out);

    void (*axpy)(size_t n, float a, const float *x, float *y); /* y += a x */
    void (*scale)(size_t n, float a, float *x);
    float (*rmsnorm)(size_t n, const float *x, const float *weight, float eps, float *y); /* returns 1 / rms */
    void (*rmsnorm_backward)(size_t n, const float *x, const float *weight, float inv_rms, const float *dy, float *dx,
                             int accumulate);
    void (*rotate)(size_t half, const float *cosine, const float *sine, float sign, float *x);
    void (*swiglu)(size_t n, const float *gate, const float *up, float *y);
    void (*swiglu_backward)(size_t n, const float *gate, const float *up, const float *dy, float *dgate, float *dup);

    float (*max)(size_t n, const float *x); /* -inf for n = 0 */
    float (*exp_sum)(size_t n, const float *x, float max, float *out); /* sum of exp(x - max); kept in out unless null */
    void (*softmax_grad)(size_t n, float *x, float lse, float coef); /* x = -coef exp(x - lse) */
    size_t (*find_above)(size_t n, const float *x, size_t from, float bound); /* first index >= from with x > bound, or n */

    /* Attention tiles: s[keys][ATT_Q], one query a lane. Lane l sees key j when j <= l + visible.
     * forward: s becomes exp(s - new max); max, sum updated; out[dim][ATT_Q] rescaled to the new max.
     * backward: s becomes p = exp(s - lse), dp becomes p (dp - d) scale. */
    void (*attention_forward)(size_t keys, ptrdiff_t visible, float *s, float *max, float *sum, size_t dim, float *out);
    void (*attention_backward)(size_t keys, ptrdiff_t visible, float *s, float *dp, const float *lse, const float *d,
                               float scale);

    void (*adamw)(size_t n, const struct adamw_floats *f, const float *grad, float *theta, float *mean, float *var);
    double (*sum_squares)(size_t n, const float *x);
    int (*all_finite)(size_t n, const float *x);
};

extern const struct simd simd_portable;
#if defined(__x86_64__)
extern const struct simd simd_avx2;
extern const struct simd simd_avx512;
#endif

/* The best table this processor runs, or the one asked for by name if it is not better than that; null: best. */
const struct simd *simd_choose(const char *name);

#endif
