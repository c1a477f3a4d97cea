/* SPDX-License-Identifier: MIT */
/* What the passes of attention share: blocks, packed keys and values, checks. Tiles hold scores transposed, [key][query],
 * one query a lane: softmax then needs no sums across lanes, and its result is a ready right operand. */
#ifndef KERNELS_CPU_ATTENTION_H
#define KERNELS_CPU_ATTENTION_H

#include "kernels/cpu/device.h"

#define ATT_KEYS 192 /* keys handled at once: sixteen tiles of vectors, three blocks of tile registers */
#define ATT_FEW 8   /* query rows that go row by row (decoding) */

int attention_check(const struct kernels_attention *a, struct claas_error *err);

/* The products of attention are made on tile registers where the device has them, else with vectors; what is packed for
 * them looks different then. Around scores, mix and add, in each thread: */
void attention_begin(const struct kernels *k);
void attention_end(const struct kernels *k);

/* Floats of one head packed by attention_pack_columns or attention_pack_rows. */
size_t attention_columns_floats(const struct kernels *k, size_t keys, size_t dim);
size_t attention_rows_floats(const struct kernels *k, size_t keys, size_t dim);
/* Keys for scores. */
void attention_pack_columns(const struct kernels *k, const float *src, size_t pitch, size_t keys, size_t dim, float *dst);
/* Values (or keys) for sums over keys. */
void attention_pack_rows(const struct kernels *k, const float *src, size_t pitch, size_t keys, size_t dim, float *dst);

/* Queries (at most ATT_Q) turned for scores, zeros in the lanes behind; and the floats that takes. */
size_t attention_turned_floats(const struct kernels *k, size_t dim);
void attention_turn_in(const struct kernels *k, const float *src, size_t pitch, size_t queries, size_t dim, float *dst);
/* s[keys][ATT_Q] = scale * (packed keys j0 .. j0+keys-1) (turned queries) for `halves` times 32 queries. j0 % ATT_KEYS = 0. */
void attention_scores(const struct kernels *k, const float *columns, size_t j0, size_t keys, size_t dim,
                      const float *turned, size_t halves, float scale, float *s);
/* out[dim][ATT_Q] += (packed rows, all_keys long)^T p[keys][ATT_Q] for keys j0 .. */
void attention_mix(const struct kernels *k, const float *rows, size_t all_keys, size_t j0, size_t keys, size_t dim,
                   const float *p, size_t halves, float *out);

/* padded: dim up to whole vectors of TILE_N. Queries as the right side of attention_add, attention_right_floats; `spare`
 * takes padded * ATT_Q. */
size_t attention_right_floats(const struct kernels *k, size_t padded);
void attention_pack_right(const struct kernels *k, const float *src, size_t pitch, size_t queries, size_t dim,
                          size_t padded, float *spare, float *dst);
/* sums[keys][padded] += tile[keys][ATT_Q] (packed right side), over `queries` lanes. */
void attention_add(const struct kernels *k, const float *tile, const float *right, size_t keys, size_t queries,
                   size_t padded, float *sums);

/* dst[queries][dim] = src[dim][ATT_Q] turned. */
void attention_turn_out(const struct simd *simd, const float *src, size_t queries, size_t dim, float *dst, size_t pitch);

/* Few query rows over a long cache. */
int attention_decode(struct kernels *k, const struct kernels_attention *a, float *o, size_t o_pitch, float *lse,
                     struct claas_error *err);

#endif
