/* SPDX-License-Identifier: MIT */
/* Frozen linear layers, forward and backward. Many rows: blocked product whose panels of B are dequantised as they are
 * packed. Few rows (decoding): each weight is read once and used from registers. */
#include "config.h"

#include "base/err.h"
#include "kernels/cpu/product.h"
#include "kernels/cpu/weight.h"

#include <string.h>

#define AHEAD 4096 /* bytes of weights asked for before they are read: memory, not arithmetic, is the limit */
#define FEW 8 /* rows for which reading the weights costs more than computing */

/* B of y = x W^T: element (k, j) is W[j][k]; 16 rows of W are dequantised, then turned. */
static void pack_forward(const struct simd *simd, const void *context, size_t column, size_t panels, size_t first,
                         size_t depth, float *dst, size_t stride, float *spare)
{
    const struct kernels_weight *w = context;
    for (size_t j = 0; j < panels * TILE_N; j += 16) {
        float *panel = dst + j / TILE_N * stride + j % TILE_N;
        for (size_t r = 0; r < 16; r++) {
            size_t row = column + j + r;
            if (row < w->out) {
                const struct weight_part *part = weight_part_of(w, row);
                simd->dequantise(part->type, weight_row(part, row), first, depth, spare + r * depth);
            } else {
                memset(spare + r * depth, 0, depth * sizeof *spare);
            }
        }
        simd->transpose(spare, depth, 16, depth, panel, TILE_N);
    }
}

/* B of dx = dy W: element (k, j) is W[k][j]; a piece of a row of W is cut into the panels. */
static void pack_backward(const struct simd *simd, const void *context, size_t column, size_t panels, size_t first,
                          size_t depth, float *dst, size_t stride, float *spare)
{
    const struct kernels_weight *w = context;
    size_t cols = min_size(panels * TILE_N, w->in - column);
    memset(spare, 0, panels * TILE_N * sizeof *spare);
    for (size_t d = 0; d < depth; d++) {
        const struct weight_part *part = weight_part_of(w, first + d);
        simd->dequantise(part->type, weight_row(part, first + d), column, cols, spare);
        for (size_t j = 0; j < panels; j++) {
            memcpy(dst + j * stride + d * TILE_N, spare + j * TILE_N, TILE_N * sizeof *dst);
        }
    }
}

struct few {
    struct kernels *k;
    const struct kernels_weight *w;
    size_t m;
    const float *x;
    size_t x_pitch;
    float *y;
    size_t y_pitch;
    int accumulate;
};

static void few_range(void *context, size_t thread, size_t first, size_t end)
{
    (void)thread;
    struct few *job = context;
    const struct simd *simd = job->k->simd;
    while (first < end) {
        const struct weight_part *part = weight_part_of(job->w, first);
        size_t stop = min_size(end, part->first + part->rows);
        for (; first < stop; first++) {
            const char *row = weight_row(part, first);
            for (size_t i = 0; i < part->row_bytes; i += 64) {
                __builtin_prefetch(row + AHEAD + i); /* past the end is no fault */
            }
            simd->dots(part->type, row, job->w->in, job->x, job->x_pitch, job->m,
                       job->y + first, job->y_pitch, job->accumulate);
        }
    }
}

int kernels_linear(struct kernels *k, const struct kernels_weight *w, size_t m, const float *x, size_t x_pitch,
                   float *y, size_t y_pitch, int accumulate, struct claas_error *err)
{
    if (m == 0 || w->out == 0) {
        return 0;
    }
    if (m <= FEW) {
        struct few job = { k, w, m, x, x_pitch, y, y_pitch, accumulate };
        device_rows(k, w->out, w->in * m, few_range, &job);
        return 0;
    }
    struct product p = { .m = m,
                         .n = w->out,
                         .depth = w->in,
                         .alpha = 1,
                         .a = x,
                         .a_pitch = x_pitch,
                         .pack = pack_forward,
                         .pack_context = w,
                         .c = y,
                         .c_pitch = y_pitch,
                         .accumulate = accumulate };
    return product_run(k, &p, err);
}

int kernels_linear_backward(struct kernels *k, const struct kernels_weight *w, size_t m, const float *dy,
                            size_t dy_pitch, float *dx, size_t dx_pitch, int accumulate, struct claas_error *err)
{
    if (m == 0) {
        return 0;
    }
    struct product p = { .m = m,
                         .n = w->in,
                         .depth = w->out,
                         .alpha = 1,
                         .a = dy,
                         .a_pitch = dy_pitch,
                         .pack = pack_backward,
                         .pack_context = w,
                         .c = dx,
                         .c_pitch = dx_pitch,
                         .accumulate = accumulate };
    return product_run(k, &p, err);
}
