/* SPDX-License-Identifier: MIT */
/* The low-rank term of adapted linear layers that share an input (k and v; gate and up), forward and backward. Products
 * always go through the rank; W + scaling B A is never formed. */
#ifndef LOCAL_LOWRANK_H
#define LOCAL_LOWRANK_H

#include "plugins/local/lora.h"

struct lowrank {
    const struct lora *lora; /* null: no adapter, everything below does nothing */
    size_t layer;
    enum lora_module first; /* the group is first .. last; its outputs stand side by side in y and dy, all of them as */
    enum lora_module last;  /* wide as `width`, targeted or not */
    size_t width;
    size_t in;
};

/* Columns of s: rank times the number of targeted modules of the group; 0: nothing to do. */
size_t lowrank_cols(const struct lowrank *l);
/* s[rows][cols] = x A^T, y += scaling s B^T. y null: s only. */
int lowrank_forward(const struct lowrank *l, size_t rows, const float *x, size_t x_pitch, float *s, float *y,
                    size_t y_pitch, struct claas_error *err);
/* Adds to the gradient (laid out as the adapter): dB += scaling dy^T s, dA += ds^T x, with ds = scaling dy B in the
 * scratch ds[rows][cols]; and dx += ds A unless dx is null. */
int lowrank_backward(const struct lowrank *l, size_t rows, const float *x, size_t x_pitch, const float *s,
                     const float *dy, size_t dy_pitch, float *ds, float *grad, float *dx, size_t dx_pitch,
                     struct claas_error *err);

#endif
