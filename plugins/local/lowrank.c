/* SPDX-License-Identifier: MIT */
/* The A of a group lie one below the other, so that one product makes s for all of its modules. */
#include "config.h"

#include "plugins/local/lowrank.h"

static size_t targeted(const struct lowrank *l)
{
    size_t n = 0;
    for (enum lora_module m = l->first; m <= l->last; m++) {
        n += (size_t)lora_has(l->lora, m);
    }
    return n;
}

size_t lowrank_cols(const struct lowrank *l)
{
    return l->lora ? targeted(l) * l->lora->spec.rank : 0;
}

static float *group_a(const struct lowrank *l, float *flat)
{
    enum lora_module m = l->first;
    while (!lora_has(l->lora, m)) {
        m++;
    }
    return lora_a(l->lora, flat, l->layer, m);
}

int lowrank_forward(const struct lowrank *l, size_t rows, const float *x, size_t x_pitch, float *s, float *y,
                    size_t y_pitch, struct claas_error *err)
{
    size_t cols = lowrank_cols(l);
    if (cols == 0) {
        return 0;
    }
    const struct lora *lora = l->lora;
    struct kernels *k = lora->kernels;
    size_t rank = lora->spec.rank;
    int rc = kernels_gemm(k, 0, 1, rows, cols, l->in, 1, x, x_pitch, group_a(l, lora->flat), l->in, s, cols, 0, err);
    size_t at = 0;
    for (enum lora_module m = l->first; m <= l->last && rc == 0 && y; m++) {
        if (lora_has(lora, m)) {
            rc = kernels_gemm(k, 0, 1, rows, l->width, rank, lora->scaling, s + at, cols,
                              lora_b(lora, lora->flat, l->layer, m), rank, y + (m - l->first) * l->width, y_pitch, 1,
                              err);
            at += rank;
        }
    }
    return rc;
}

int lowrank_backward(const struct lowrank *l, size_t rows, const float *x, size_t x_pitch, const float *s,
                     const float *dy, size_t dy_pitch, float *ds, float *grad, float *dx, size_t dx_pitch,
                     struct claas_error *err)
{
    size_t cols = lowrank_cols(l);
    if (cols == 0) {
        return 0;
    }
    const struct lora *lora = l->lora;
    struct kernels *k = lora->kernels;
    size_t rank = lora->spec.rank;
    size_t at = 0;
    int rc = 0;
    for (enum lora_module m = l->first; m <= l->last && rc == 0; m++) {
        if (!lora_has(lora, m)) {
            continue;
        }
        const float *dy_m = dy + (m - l->first) * l->width;
        rc = kernels_gemm(k, 0, 0, rows, rank, l->width, lora->scaling, dy_m, dy_pitch,
                          lora_b(lora, lora->flat, l->layer, m), rank, ds + at, cols, 0, err);
        if (rc == 0) {
            rc = kernels_gemm(k, 1, 0, l->width, rank, rows, lora->scaling, dy_m, dy_pitch, s + at, cols,
                              lora_b(lora, grad, l->layer, m), rank, 1, err);
        }
        at += rank;
    }
    if (rc == 0) {
        rc = kernels_gemm(k, 1, 0, cols, l->in, rows, 1, ds, cols, x, x_pitch, group_a(l, grad), l->in, 1, err);
    }
    if (rc == 0 && dx) {
        rc = kernels_gemm(k, 0, 0, rows, l->in, cols, 1, ds, cols, group_a(l, lora->flat), l->in, dx, dx_pitch, 1,
                          err);
    }
    return rc;
}
