/* SPDX-License-Identifier: MIT */
/* Causal grouped-query attention, forward: softmax kept running over blocks of keys, blocks above the diagonal left out. */
#include "config.h"

#include "kernels/cpu/attention.h"

#include "base/err.h"

#include <math.h>
#include <string.h>

int attention_check(const struct kernels_attention *a, struct claas_error *err)
{
    if (a->kv_heads == 0 || a->head_dim == 0 || a->heads % a->kv_heads != 0) {
        return err_set(err, CLAAS_ERR_INVALID, NULL,
                       "cannot compute attention of %zu heads of %zu over %zu key-value heads", a->heads, a->head_dim,
                       a->kv_heads);
    }
    return 0;
}

struct forward {
    struct kernels *k;
    const struct kernels_attention *a;
    float *o;
    size_t o_pitch;
    float *lse;
    size_t keys;
    float *columns; /* packed keys, one stretch for each key-value head */
    float *rows;    /* packed values */
};

static void pack_task(void *context, size_t thread, size_t task)
{
    (void)thread;
    struct forward *f = context;
    const struct kernels_attention *a = f->a;
    size_t head = task / 2;
    if (task % 2 == 0) {
        attention_pack_columns(f->k, a->k + head * a->head_dim, a->k_pitch, f->keys, a->head_dim,
                               f->columns + head * attention_columns_floats(f->k, f->keys, a->head_dim));
    } else {
        attention_pack_rows(f->k, a->v + head * a->head_dim, a->v_pitch, f->keys, a->head_dim,
                            f->rows + head * attention_rows_floats(f->k, f->keys, a->head_dim));
    }
}

/* One head, ATT_Q queries; the last queries, which see most, come first. */
static void block_task(void *context, size_t thread, size_t task)
{
    struct forward *f = context;
    const struct kernels_attention *a = f->a;
    const struct simd *simd = f->k->simd;
    size_t dim = a->head_dim;
    size_t head = task % a->heads;
    size_t kv_head = head / (a->heads / a->kv_heads);
    size_t i0 = (ceil_div(a->rows, ATT_Q) - 1 - task / a->heads) * ATT_Q;
    size_t queries = min_size(ATT_Q, a->rows - i0);
    size_t halves = ceil_div(queries, TILE_N);
    const float *columns = f->columns + kv_head * attention_columns_floats(f->k, f->keys, dim);
    const float *rows = f->rows + kv_head * attention_rows_floats(f->k, f->keys, dim);
    float *qt = f->k->own[thread].data;
    float *out = qt + attention_turned_floats(f->k, dim);
    float *s = out + dim * ATT_Q;
    float *max = s + ATT_KEYS * ATT_Q;
    float *sum = max + ATT_Q;
    attention_begin(f->k);
    attention_turn_in(f->k, a->q + i0 * a->q_pitch + head * dim, a->q_pitch, queries, dim, qt);
    memset(out, 0, dim * ATT_Q * sizeof *out);
    for (size_t l = 0; l < ATT_Q; l++) {
        max[l] = -INFINITY;
        sum[l] = 0;
    }
    size_t end = a->start + i0 + queries;
    for (size_t j0 = 0; j0 < end; j0 += ATT_KEYS) {
        size_t keys = min_size(ATT_KEYS, end - j0);
        attention_scores(f->k, columns, j0, keys, dim, qt, halves, a->scale, s);
        simd->attention_forward(keys, (ptrdiff_t)(a->start + i0) - (ptrdiff_t)j0, s, max, sum, dim, out);
        attention_mix(f->k, rows, f->keys, j0, keys, dim, s, halves, out);
    }
    attention_end(f->k);
    for (size_t l = 0; l < queries; l++) {
        if (f->lse) {
            f->lse[(i0 + l) * a->heads + head] = max[l] + logf(sum[l]);
        }
    }
    float *o = f->o + i0 * f->o_pitch + head * dim;
    attention_turn_out(simd, out, queries, dim, o, f->o_pitch);
    for (size_t l = 0; l < queries; l++) {
        simd->scale(dim, 1.0f / sum[l], o + l * f->o_pitch);
    }
}

int kernels_attention(struct kernels *k, const struct kernels_attention *a, float *o, size_t o_pitch, float *lse,
                      struct claas_error *err)
{
    int rc = attention_check(a, err);
    if (rc != 0 || a->rows == 0 || a->heads == 0) {
        return rc;
    }
    if (a->rows <= ATT_FEW) {
        return attention_decode(k, a, o, o_pitch, lse, err);
    }
    struct forward f = { .k = k, .a = a, .o = o, .o_pitch = o_pitch, .lse = lse, .keys = a->start + a->rows };
    size_t columns = a->kv_heads * attention_columns_floats(k, f.keys, a->head_dim);
    size_t rows = a->kv_heads * attention_rows_floats(k, f.keys, a->head_dim);
    kernels_turn_begin(k, KERNELS_SERVE);
    rc = device_scratch(k, columns + rows,
                        attention_turned_floats(k, a->head_dim) + (a->head_dim + ATT_KEYS + 2) * ATT_Q, err);
    if (rc == 0) {
        f.columns = k->shared.data;
        f.rows = f.columns + columns;
        pool_run(k->pool, 2 * a->kv_heads, pack_task, &f);
        pool_run(k->pool, a->heads * ceil_div(a->rows, ATT_Q), block_task, &f);
    }
    kernels_turn_end(k);
    return rc;
}
