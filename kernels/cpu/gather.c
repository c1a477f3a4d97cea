/* SPDX-License-Identifier: MIT */
/* Single rows of a frozen matrix: embedding lookup, and its counterpart for sparse gradients of an output matrix. */
#include "config.h"

#include "base/err.h"
#include "kernels/cpu/device.h"
#include "kernels/cpu/weight.h"

#include <string.h>

struct rows {
    struct kernels *k;
    const struct kernels_weight *w;
    size_t n;
    const float *coef;
    const int32_t *ids;
    float *y;
    size_t y_pitch;
    int accumulate;
};

static int check_ids(size_t n, const int32_t *ids, size_t out, int32_t least, struct claas_error *err)
{
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < least || (ids[i] >= 0 && (size_t)ids[i] >= out)) {
            return err_set(err, CLAAS_ERR_INVALID, NULL, "cannot read row %d of a matrix: it has %zu rows", (int)ids[i],
                           out);
        }
    }
    return 0;
}

static void row_into(const struct rows *job, int32_t id, float *dst)
{
    const struct weight_part *part = weight_part_of(job->w, (size_t)id);
    job->k->simd->dequantise(part->type, weight_row(part, (size_t)id), 0, job->w->in, dst);
}

static void gather_range(void *context, size_t thread, size_t first, size_t end)
{
    (void)thread;
    struct rows *job = context;
    for (size_t i = first; i < end; i++) {
        row_into(job, job->ids[i], job->y + i * job->y_pitch);
    }
}

int kernels_gather(struct kernels *k, const struct kernels_weight *w, size_t n, const int32_t *ids,
                   float *y, size_t y_pitch, struct claas_error *err)
{
    int rc = check_ids(n, ids, w->out, 0, err);
    if (rc == 0) {
        struct rows job = { .k = k, .w = w, .ids = ids, .y = y, .y_pitch = y_pitch };
        device_rows(k, n, w->in, gather_range, &job);
    }
    return rc;
}

static void combine_range(void *context, size_t thread, size_t first, size_t end)
{
    struct rows *job = context;
    float *row = job->k->own[thread].data;
    for (size_t i = first; i < end; i++) {
        float *dx = job->y + i * job->y_pitch;
        if (!job->accumulate) {
            memset(dx, 0, job->w->in * sizeof *dx);
        }
        for (size_t j = 0; j < job->n; j++) {
            int32_t id = job->ids[i * job->n + j];
            if (id >= 0) {
                row_into(job, id, row);
                job->k->simd->axpy(job->w->in, job->coef[i * job->n + j], row, dx);
            }
        }
    }
}

int kernels_combine(struct kernels *k, const struct kernels_weight *w, size_t m, size_t n, const float *coef,
                    const int32_t *ids, float *dx, size_t dx_pitch, int accumulate, struct claas_error *err)
{
    if (n > 0 && m > SIZE_MAX / n) {
        return err_set(err, CLAAS_ERR_INVALID, NULL, "cannot combine %zu x %zu rows: sizes overflow", m, n);
    }
    int rc = check_ids(m * n, ids, w->out, -1, err);
    if (rc != 0) {
        return rc;
    }
    kernels_turn_begin(k, KERNELS_SERVE);
    rc = device_scratch(k, 0, w->in, err);
    if (rc == 0) {
        struct rows job = { k, w, n, coef, ids, dx, dx_pitch, accumulate };
        device_rows(k, m, w->in * (n + 1), combine_range, &job);
    }
    kernels_turn_end(k);
    return rc;
}
