/* SPDX-License-Identifier: MIT */
/* What the passes of attention share: blocks, packed keys and values, checks. Tiles hold scores transposed, [key][query],
 * one query a lane: softmax then needs no sums across lanes, and its result is a ready right operand. */
#ifndef KERNELS_CPU_ATTENTION_H
#define KERNELS_CPU_ATTENTION_H

#include "kernels/cpu/device.h"

#define ATT_KEYS 96 /* keys handled at once: eight tiles */
#define ATT_FEW 8   /* query rows that go row by row (decoding) */

int attention_check(const struct kernels_attention *a, struct claas_error *err);

/* Floats of one head packed by attention_pack_columns or attention_pack_rows. */
size_t attention_columns_floats(size_t keys, size_t dim);
size_t attention_rows_floats(size_t keys, size_t dim);
/* For scores: tile t holds keys 12 t .. as [dim][12]. */
void attention_pack_columns(const struct simd *simd, const float *src, size_t pitch, size_t keys, size_t dim, float *dst);
/* For sums over keys: tile t holds dimensions 12 t .. as [keys][12]. */
void attention_pack_rows(const float *src, size_t pitch, size_t keys, size_t dim, float *dst);

/* s[keys][ATT_Q] = scale * (packed keys j0 .. j0+keys-1) (qt[dim][ATT_Q]) for `halves` times 32 queries. j0 % 12 = 0. */
void attention_scores(const struct simd *simd, const float *columns, size_t j0, size_t keys, size_t dim,
                      const float *qt, size_t halves, float scale, float *s);
/* out[dim][ATT_Q] += (packed rows, all_keys long)^T p[keys][ATT_Q] for keys j0 .. */
void attention_mix(const struct simd *simd, const float *rows, size_t all_keys, size_t j0, size_t keys, size_t dim,
                   const float *p, size_t halves, float *out);
/* dst[dim][ATT_Q] = src[queries][dim] turned, zeros in the lanes behind. */
void attention_turn_in(const struct simd *simd, const float *src, size_t pitch, size_t queries, size_t dim, float *dst);
/* dst[queries][dim] = src[dim][ATT_Q] turned. */
void attention_turn_out(const struct simd *simd, const float *src, size_t queries, size_t dim, float *dst, size_t pitch);

/* Few query rows over a long cache. */
int attention_decode(struct kernels *k, const struct kernels_attention *a, float *o, size_t o_pitch, float *lse,
                     struct claas_error *err);

#endif
