/* SPDX-License-Identifier: MIT */
/* Scaled addition of rows, scaling, sums of squares and the search for what is not finite. Flat arrays are cut into
 * pieces of fixed length, so that sums do not depend on the number of threads. */
#include "config.h"

#include "kernels/cpu/device.h"

#include <string.h>

#define PIECE 16384

struct vectors {
    const struct simd *simd;
    size_t n;
    float alpha;
    const float *x;
    size_t x_pitch;
    float *y;
    size_t y_pitch;
    double *sums;
    int *finite;
};

static void add_range(void *context, size_t thread, size_t first, size_t end)
{
    (void)thread;
    struct vectors *job = context;
    for (size_t i = first; i < end; i++) {
        job->simd->axpy(job->n, job->alpha, job->x + i * job->x_pitch, job->y + i * job->y_pitch);
    }
}

int kernels_add(struct kernels *k, size_t m, size_t n, float alpha, const float *x, size_t x_pitch,
                float *y, size_t y_pitch, struct claas_error *err)
{
    (void)err;
    struct vectors job = { .simd = k->simd, .n = n, .alpha = alpha, .x = x, .x_pitch = x_pitch, .y = y,
                           .y_pitch = y_pitch };
    device_rows(k, m, n, add_range, &job);
    return 0;
}

static void scale_range(void *context, size_t thread, size_t first, size_t end)
{
    (void)thread;
    struct vectors *job = context;
    size_t from = first * PIECE;
    job->simd->scale(min_size(job->n, end * PIECE) - from, job->alpha, job->y + from);
}

int kernels_scale(struct kernels *k, size_t n, float alpha, float *x, struct claas_error *err)
{
    (void)err;
    struct vectors job = { .simd = k->simd, .n = n, .alpha = alpha, .y = x };
    device_rows(k, ceil_div(n, PIECE), PIECE, scale_range, &job);
    return 0;
}

static void squares_range(void *context, size_t thread, size_t first, size_t end)
{
    (void)thread;
    struct vectors *job = context;
    for (size_t i = first; i < end; i++) {
        job->sums[i] = job->simd->sum_squares(min_size(PIECE, job->n - i * PIECE), job->x + i * PIECE);
    }
}

int kernels_sum_squares(struct kernels *k, size_t n, const float *x, double *out, struct claas_error *err)
{
    size_t pieces = ceil_div(n, PIECE);
    kernels_turn_begin(k, KERNELS_SERVE);
    int rc = device_scratch(k, 2 * pieces, 0, err);
    if (rc == 0) {
        struct vectors job = { .simd = k->simd, .n = n, .x = x, .sums = (double *)(void *)k->shared.data };
        device_rows(k, pieces, PIECE, squares_range, &job);
        double sum = 0;
        for (size_t i = 0; i < pieces; i++) {
            sum += job.sums[i];
        }
        *out = sum;
    }
    kernels_turn_end(k);
    return rc;
}

static void finite_range(void *context, size_t thread, size_t first, size_t end)
{
    (void)thread;
    struct vectors *job = context;
    for (size_t i = first; i < end; i++) {
        job->finite[i] = job->simd->all_finite(min_size(PIECE, job->n - i * PIECE), job->x + i * PIECE);
    }
}

int kernels_all_finite(struct kernels *k, size_t n, const float *x, int *out, struct claas_error *err)
{
    size_t pieces = ceil_div(n, PIECE);
    kernels_turn_begin(k, KERNELS_SERVE);
    int rc = device_scratch(k, pieces, 0, err);
    if (rc == 0) {
        struct vectors job = { .simd = k->simd, .n = n, .x = x, .finite = (int *)(void *)k->shared.data };
        device_rows(k, pieces, PIECE, finite_range, &job);
        int all = 1;
        for (size_t i = 0; i < pieces; i++) {
            all &= job.finite[i];
        }
        *out = all;
    }
    kernels_turn_end(k);
    return rc;
}
