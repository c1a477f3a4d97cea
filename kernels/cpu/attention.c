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

size_t attention_columns_floats(size_t keys, size_t dim)
{
    return ceil_div(keys, TILE_M) * TILE_M * dim;
}

size_t attention_rows_floats(size_t keys, size_t dim)
{
    return ceil_div(dim, TILE_M) * TILE_M * keys;
}

void attention_pack_columns(const struct simd *simd, const float *src, size_t pitch, size_t keys, size_t dim, float *dst)
{
    for (size_t j = 0; j < keys; j += TILE_M) {
        simd->transpose(src + j * pitch, pitch, min_size(TILE_M, keys - j), dim, dst + j * dim, TILE_M);
    }
}

void attention_pack_rows(const float *src, size_t pitch, size_t keys, size_t dim, float *dst)
{
    for (size_t c = 0; c < dim; c += TILE_M) {
        size_t cols = min_size(TILE_M, dim - c);
        for (size_t j = 0; j < keys; j++) {
            memcpy(dst + c * keys + j * TILE_M, src + j * pitch + c, cols * sizeof *dst);
        }
    }
}

void attention_scores(const struct simd *simd, const float *columns, size_t j0, size_t keys, size_t dim,
                      const float *qt, size_t halves, float scale, float *s)
{
    for (size_t j = 0; j < keys; j += TILE_M) {
        for (size_t h = 0; h < halves; h++) {
            simd->tile(dim, columns + (j0 + j) * dim, TILE_M, qt + h * TILE_N, ATT_Q, s + j * ATT_Q + h * TILE_N, ATT_Q,
                       scale, 0, min_size(TILE_M, keys - j), TILE_N);
        }
    }
}

void attention_mix(const struct simd *simd, const float *rows, size_t all_keys, size_t j0, size_t keys, size_t dim,
                   const float *p, size_t halves, float *out)
{
    for (size_t c = 0; c < dim; c += TILE_M) {
        for (size_t h = 0; h < halves; h++) {
            simd->tile(keys, rows + c * all_keys + j0 * TILE_M, TILE_M, p + h * TILE_N, ATT_Q,
                       out + c * ATT_Q + h * TILE_N, ATT_Q, 1, 1, min_size(TILE_M, dim - c), TILE_N);
        }
    }
}

void attention_turn_in(const struct simd *simd, const float *src, size_t pitch, size_t queries, size_t dim, float *dst)
{
    if (queries < ATT_Q) {
        memset(dst, 0, dim * ATT_Q * sizeof *dst);
    }
    for (size_t i = 0; i < queries; i += 16) {
        simd->transpose(src + i * pitch, pitch, min_size(16, queries - i), dim, dst + i, ATT_Q);
    }
}

void attention_turn_out(const struct simd *simd, const float *src, size_t queries, size_t dim, float *dst, size_t pitch)
{
    for (size_t c = 0; c < dim; c += 16) {
        simd->transpose(src + c * ATT_Q, ATT_Q, min_size(16, dim - c), queries, dst + c, pitch);
    }
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
        attention_pack_columns(f->k->simd, a->k + head * a->head_dim, a->k_pitch, f->keys, a->head_dim,
                               f->columns + head * attention_columns_floats(f->keys, a->head_dim));
    } else {
        attention_pack_rows(a->v + head * a->head_dim, a->v_pitch, f->keys, a->head_dim,
                            f->rows + head * attention_rows_floats(f->keys, a->head_dim));
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
    const float *columns = f->columns + kv_head * attention_columns_floats(f->keys, dim);
    const float *rows = f->rows + kv_head * attention_rows_floats(f->keys, dim);
    float *qt = f->k->own[thread].data;
    float *out = qt + dim * ATT_Q;
    float *s = out + dim * ATT_Q;
    float *max = s + ATT_KEYS * ATT_Q;
    float *sum = max + ATT_Q;
    attention_turn_in(simd, a->q + i0 * a->q_pitch + head * dim, a->q_pitch, queries, dim, qt);
    memset(out, 0, dim * ATT_Q * sizeof *out);
    for (size_t l = 0; l < ATT_Q; l++) {
        max[l] = -INFINITY;
        sum[l] = 0;
    }
    size_t end = a->start + i0 + queries;
    for (size_t j0 = 0; j0 < end; j0 += ATT_KEYS) {
        size_t keys = min_size(ATT_KEYS, end - j0);
        attention_scores(simd, columns, j0, keys, dim, qt, halves, a->scale, s);
        simd->attention_forward(keys, (ptrdiff_t)(a->start + i0) - (ptrdiff_t)j0, s, max, sum, dim, out);
        attention_mix(simd, rows, f->keys, j0, keys, dim, s, halves, out);
    }
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
    size_t columns = a->kv_heads * attention_columns_floats(f.keys, a->head_dim);
    size_t rows = a->kv_heads * attention_rows_floats(f.keys, a->head_dim);
    kernels_turn_begin(k, KERNELS_SERVE);
    rc = device_scratch(k, columns + rows, (2 * a->head_dim + ATT_KEYS + 2) * ATT_Q, err);
    if (rc == 0) {
        f.columns = k->shared.data;
        f.rows = f.columns + columns;
        pool_run(k->pool, 2 * a->kv_heads, pack_task, &f);
        pool_run(k->pool, a->heads * ceil_div(a->rows, ATT_Q), block_task, &f);
    }
    kernels_turn_end(k);
    return rc;
}
