/* SPDX-License-Identifier: MIT */
/* Causal grouped-query attention, backward. Scores are recomputed from q, k and the kept log-sum-exp. A task is a part of
 * the query blocks of one head and has its own sums for dk and dv; these are added up in fixed order afterwards, so that
 * nothing depends on timing. The number of parts follows from the number of heads only. */
#include "config.h"

#include "kernels/cpu/attention.h"

#include <string.h>

#define TASKS 24 /* wanted at least: enough for a few threads to share evenly */

struct backward {
    struct kernels *k;
    const struct kernels_attention *a;
    const float *o;
    size_t o_pitch;
    const float *lse;
    const float *d_o;
    size_t do_pitch;
    float *dq;
    size_t dq_pitch;
    float *dk;
    size_t dk_pitch;
    float *dv;
    size_t dv_pitch;
    size_t keys;
    size_t padded; /* head_dim up to whole vectors of TILE_N */
    size_t parts;
    size_t columns_floats;
    size_t rows_floats;
    float *k_columns;
    float *v_columns;
    float *k_rows;
    float *sums; /* [head][part][dk, dv][keys][padded] */
};

/* One thread's space: a block of queries turned and as a right side, two tiles, and what belongs to each lane. */
struct space {
    float *qt;
    float *gt;
    float *dqt;
    float *q;
    float *g;
    float *spare;
    float *s;
    float *dp;
    float *lse;
    float *d;
};

static size_t space_floats(const struct kernels *k, size_t dim, size_t padded)
{
    return 2 * attention_turned_floats(k, dim) + 2 * attention_right_floats(k, padded) +
           (dim + padded + 2 * ATT_KEYS + 2) * ATT_Q;
}

static struct space space_of(const struct kernels *k, float *p, size_t dim, size_t padded)
{
    struct space sp;
    sp.qt = p;
    sp.gt = sp.qt + attention_turned_floats(k, dim);
    sp.dqt = sp.gt + attention_turned_floats(k, dim);
    sp.q = sp.dqt + dim * ATT_Q;
    sp.g = sp.q + attention_right_floats(k, padded);
    sp.spare = sp.g + attention_right_floats(k, padded);
    sp.s = sp.spare + padded * ATT_Q;
    sp.dp = sp.s + ATT_KEYS * ATT_Q;
    sp.lse = sp.dp + ATT_KEYS * ATT_Q;
    sp.d = sp.lse + ATT_Q;
    return sp;
}

static void pack_task(void *context, size_t thread, size_t task)
{
    (void)thread;
    struct backward *b = context;
    const struct kernels_attention *a = b->a;
    size_t head = task / 3;
    const float *k = a->k + head * a->head_dim;
    const float *v = a->v + head * a->head_dim;
    if (task % 3 == 0) {
        attention_pack_columns(b->k, k, a->k_pitch, b->keys, a->head_dim, b->k_columns + head * b->columns_floats);
    } else if (task % 3 == 1) {
        attention_pack_columns(b->k, v, a->v_pitch, b->keys, a->head_dim, b->v_columns + head * b->columns_floats);
    } else {
        attention_pack_rows(b->k, k, a->k_pitch, b->keys, a->head_dim, b->k_rows + head * b->rows_floats);
    }
}

/* Brings in the queries i0 .. of a head, their output gradients, and d = the dot of each with its output. */
static void load_block(const struct backward *b, size_t head, size_t i0, size_t queries, const struct space *sp)
{
    const struct kernels_attention *a = b->a;
    size_t dim = a->head_dim;
    const float *q = a->q + i0 * a->q_pitch + head * dim;
    const float *g = b->d_o + i0 * b->do_pitch + head * dim;
    attention_turn_in(b->k, q, a->q_pitch, queries, dim, sp->qt);
    attention_turn_in(b->k, g, b->do_pitch, queries, dim, sp->gt);
    attention_pack_right(b->k, q, a->q_pitch, queries, dim, b->padded, sp->spare, sp->q);
    attention_pack_right(b->k, g, b->do_pitch, queries, dim, b->padded, sp->spare, sp->g);
    memset(sp->dqt, 0, dim * ATT_Q * sizeof *sp->dqt);
    memset(sp->lse, 0, 2 * ATT_Q * sizeof *sp->lse);
    for (size_t l = 0; l < queries; l++) {
        sp->lse[l] = b->lse[(i0 + l) * a->heads + head];
        b->k->simd->dots(KERNELS_F32, g + l * b->do_pitch, dim, b->o + (i0 + l) * b->o_pitch + head * dim, 0, 1,
                         &sp->d[l], 0, 0);
    }
}

static void block(const struct backward *b, size_t head, size_t i0, float *dk, float *dv, const struct space *sp)
{
    const struct kernels_attention *a = b->a;
    const struct simd *simd = b->k->simd;
    size_t dim = a->head_dim;
    size_t kv_head = head / (a->heads / a->kv_heads);
    size_t queries = min_size(ATT_Q, a->rows - i0);
    size_t halves = ceil_div(queries, TILE_N);
    size_t end = a->start + i0 + queries;
    load_block(b, head, i0, queries, sp);
    for (size_t j0 = 0; j0 < end; j0 += ATT_KEYS) {
        size_t keys = min_size(ATT_KEYS, end - j0);
        attention_scores(b->k, b->k_columns + kv_head * b->columns_floats, j0, keys, dim, sp->qt, halves, a->scale,
                         sp->s);
        attention_scores(b->k, b->v_columns + kv_head * b->columns_floats, j0, keys, dim, sp->gt, halves, 1, sp->dp);
        simd->attention_backward(keys, (ptrdiff_t)(a->start + i0) - (ptrdiff_t)j0, sp->s, sp->dp, sp->lse, sp->d,
                                 a->scale);
        attention_mix(b->k, b->k_rows + kv_head * b->rows_floats, b->keys, j0, keys, dim, sp->dp, halves, sp->dqt);
        attention_add(b->k, sp->s, sp->g, keys, queries, b->padded, dv + j0 * b->padded);
        attention_add(b->k, sp->dp, sp->q, keys, queries, b->padded, dk + j0 * b->padded);
    }
    attention_turn_out(simd, sp->dqt, queries, dim, b->dq + i0 * b->dq_pitch + head * dim, b->dq_pitch);
}

static void part_task(void *context, size_t thread, size_t task)
{
    struct backward *b = context;
    struct space sp = space_of(b->k, b->k->own[thread].data, b->a->head_dim, b->padded);
    float *dk = b->sums + task * 2 * b->keys * b->padded;
    float *dv = dk + b->keys * b->padded;
    memset(dk, 0, 2 * b->keys * b->padded * sizeof *dk);
    attention_begin(b->k);
    /* Blocks are dealt out like cards: all parts then have long and short ones. */
    for (size_t i = task % b->parts; i < ceil_div(b->a->rows, ATT_Q); i += b->parts) {
        block(b, task / b->parts, i * ATT_Q, dk, dv, &sp);
    }
    attention_end(b->k);
}

/* dk and dv of keys first .. end-1: the sums of all heads of the group, all parts, in order. */
static void reduce_range(void *context, size_t thread, size_t first, size_t end)
{
    (void)thread;
    struct backward *b = context;
    const struct kernels_attention *a = b->a;
    size_t slots = a->heads / a->kv_heads * b->parts;
    for (size_t j = first; j < end; j++) {
        for (size_t head = 0; head < a->kv_heads; head++) {
            float *dk = b->dk + j * b->dk_pitch + head * a->head_dim;
            float *dv = b->dv + j * b->dv_pitch + head * a->head_dim;
            for (size_t s = 0; s < slots; s++) {
                const float *from = b->sums + ((head * slots + s) * 2 * b->keys + j) * b->padded;
                const float *from_v = from + b->keys * b->padded;
                if (s == 0) {
                    memcpy(dk, from, a->head_dim * sizeof *dk);
                    memcpy(dv, from_v, a->head_dim * sizeof *dv);
                } else {
                    b->k->simd->axpy(a->head_dim, 1, from, dk);
                    b->k->simd->axpy(a->head_dim, 1, from_v, dv);
                }
            }
        }
    }
}

int kernels_attention_backward(struct kernels *k, const struct kernels_attention *a, const float *o, size_t o_pitch,
                               const float *lse, const float *d_o, size_t do_pitch, float *dq, size_t dq_pitch,
                               float *dk, size_t dk_pitch, float *dv, size_t dv_pitch, struct claas_error *err)
{
    int rc = attention_check(a, err);
    if (rc != 0 || a->rows == 0 || a->heads == 0) {
        return rc;
    }
    struct backward b = { .k = k, .a = a, .o = o, .o_pitch = o_pitch, .lse = lse, .d_o = d_o, .do_pitch = do_pitch,
                          .dq = dq, .dq_pitch = dq_pitch, .dk = dk, .dk_pitch = dk_pitch, .dv = dv,
                          .dv_pitch = dv_pitch, .keys = a->start + a->rows };
    b.padded = ceil_div(a->head_dim, TILE_N) * TILE_N;
    b.parts = min_size(ceil_div(TASKS, a->heads), ceil_div(a->rows, ATT_Q));
    b.columns_floats = attention_columns_floats(k, b.keys, a->head_dim);
    b.rows_floats = attention_rows_floats(k, b.keys, a->head_dim);
    size_t packed = a->kv_heads * (2 * b.columns_floats + b.rows_floats);
    size_t sums = a->heads * b.parts * 2 * b.keys * b.padded;
    kernels_turn_begin(k, KERNELS_SERVE);
    rc = device_scratch(k, packed + sums, space_floats(k, a->head_dim, b.padded), err);
    if (rc == 0) {
        b.k_columns = k->shared.data;
        b.v_columns = b.k_columns + a->kv_heads * b.columns_floats;
        b.k_rows = b.v_columns + a->kv_heads * b.columns_floats;
        b.sums = b.k_rows + a->kv_heads * b.rows_floats;
        pool_run(k->pool, 3 * a->kv_heads, pack_task, &b);
        pool_run(k->pool, a->heads * b.parts, part_task, &b);
        device_rows(k, b.keys, a->heads * b.parts * 2 * a->head_dim, reduce_range, &b);
    }
    kernels_turn_end(k);
    return rc;
}
