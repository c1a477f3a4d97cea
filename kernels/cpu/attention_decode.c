/* SPDX-License-Identifier: MIT */
/* Attention of few query rows over a long cache: bound by reading keys and values, so each stretch of keys is read once
 * for all query heads that share it, stretches go to all threads, and their partial results are merged in order. */
#include "config.h"

#include "kernels/cpu/attention.h"

#include <math.h>
#include <string.h>

#define STRETCH 256 /* keys of one task: depends on nothing, so results do not either */

#define AHEAD 8 /* keys or values that are asked for before they are read: the processor does not guess their pitch */

struct decode {
    struct kernels *k;
    const struct kernels_attention *a;
    size_t group;     /* query heads of one key-value head */
    size_t stretches; /* of the longest row */
    float *partial;   /* [row][head][stretch][max, sum, dim values] */
};

static float *partial_of(const struct decode *d, size_t row, size_t head, size_t stretch)
{
    return d->partial + ((row * d->a->heads + head) * d->stretches + stretch) * (d->a->head_dim + 2);
}

static void ask_for(const float *row, size_t dim)
{
    for (size_t i = 0; i < dim; i += 16) {
        __builtin_prefetch(row + i); /* past the end is no fault */
    }
}

static void stretch_task(void *context, size_t thread, size_t task)
{
    struct decode *d = context;
    const struct kernels_attention *a = d->a;
    const struct simd *simd = d->k->simd;
    size_t stretch = task % d->stretches;
    size_t kv_head = task / d->stretches % a->kv_heads;
    size_t row = task / d->stretches / a->kv_heads;
    size_t end = min_size((stretch + 1) * STRETCH, a->start + row + 1);
    size_t first = stretch * STRETCH;
    if (first >= end) {
        return; /* a shorter row */
    }
    size_t n = end - first;
    size_t dim = a->head_dim;
    float *s = d->k->own[thread].data; /* [group][STRETCH] */
    const float *q = a->q + row * a->q_pitch + kv_head * d->group * dim;
    const float *keys = a->k + first * a->k_pitch + kv_head * dim;
    for (size_t j = 0; j < n; j++) {
        ask_for(keys + (j + AHEAD) * a->k_pitch, dim);
        simd->dots(KERNELS_F32, keys + j * a->k_pitch, dim, q, dim, d->group, s + j, STRETCH, 0);
    }
    for (size_t g = 0; g < d->group; g++) {
        float *out = partial_of(d, row, kv_head * d->group + g, stretch);
        float *scores = s + g * STRETCH;
        simd->scale(n, a->scale, scores);
        out[0] = simd->max(n, scores);
        out[1] = simd->exp_sum(n, scores, out[0], scores);
        simd->weighted_rows(scores, n, a->v + first * a->v_pitch + kv_head * dim, a->v_pitch, dim, out + 2);
    }
}

static void merge_head(const struct decode *d, size_t row, size_t head, float *o, float *lse)
{
    size_t stretches = ceil_div(d->a->start + row + 1, STRETCH);
    size_t dim = d->a->head_dim;
    float max = -INFINITY;
    float sum = 0;
    for (size_t s = 0; s < stretches; s++) {
        max = fmaxf(max, partial_of(d, row, head, s)[0]);
    }
    memset(o, 0, dim * sizeof *o);
    for (size_t s = 0; s < stretches; s++) {
        const float *part = partial_of(d, row, head, s);
        float factor = expf(part[0] - max);
        sum += factor * part[1];
        d->k->simd->axpy(dim, factor, part + 2, o);
    }
    d->k->simd->scale(dim, 1.0f / sum, o);
    if (lse) {
        *lse = max + logf(sum);
    }
}

int attention_decode(struct kernels *k, const struct kernels_attention *a, float *o, size_t o_pitch, float *lse,
                     struct claas_error *err)
{
    struct decode d = { .k = k,
                        .a = a,
                        .group = a->heads / a->kv_heads,
                        .stretches = ceil_div(a->start + a->rows, STRETCH) };
    kernels_turn_begin(k, KERNELS_SERVE);
    int rc = device_scratch(k, a->rows * a->heads * d.stretches * (a->head_dim + 2), d.group * STRETCH, err);
    if (rc == 0) {
        d.partial = k->shared.data;
        pool_run(k->pool, a->rows * a->kv_heads * d.stretches, stretch_task, &d);
        for (size_t i = 0; i < a->rows; i++) {
            for (size_t h = 0; h < a->heads; h++) {
                merge_head(&d, i, h, o + i * o_pitch + h * a->head_dim, lse ? lse + i * a->heads + h : NULL);
            }
        }
    }
    kernels_turn_end(k);
    return rc;
}
