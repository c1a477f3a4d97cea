/* SPDX-License-Identifier: MIT */
/* Rows of logits: log-sum-exp, the greatest entries, single entries, and the dense gradient of a log-probability. */
#include "config.h"

#include "base/err.h"
#include "kernels/cpu/device.h"

#include <math.h>
#include <string.h>

struct logits {
    const struct simd *simd;
    size_t n;
    const float *x;
    size_t pitch;
    size_t count;
    const int32_t *ids;
    const float *coef;
    const float *lse;
    float *grad;
    int32_t *ids_out;
    float *out;
};

static void lse_range(void *context, size_t thread, size_t first, size_t end)
{
    (void)thread;
    struct logits *job = context;
    for (size_t i = first; i < end; i++) {
        const float *row = job->x + i * job->pitch;
        float max = job->simd->max(job->n, row);
        float base = max > -INFINITY ? max : 0;
        job->out[i] = base + logf(job->simd->exp_sum(job->n, row, base, NULL));
    }
}

int kernels_row_lse(struct kernels *k, size_t m, size_t n, const float *logits, size_t pitch, float *lse,
                    struct claas_error *err)
{
    (void)err;
    struct logits job = { .simd = k->simd, .n = n, .x = logits, .pitch = pitch, .out = lse };
    device_rows(k, m, 8 * n, lse_range, &job);
    return 0;
}

/* a stands behind b in the order: smaller, or equal with a higher id. */
static int behind(float a, int32_t a_id, float b, int32_t b_id)
{
    return a < b || (a == b && a_id > b_id);
}

/* Heap with the last in order at the root; entry `i` sinks to its place among n. */
static void sink(float *values, int32_t *ids, size_t n, size_t i)
{
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n) {
            return;
        }
        if (child + 1 < n && behind(values[child + 1], ids[child + 1], values[child], ids[child])) {
            child++;
        }
        if (!behind(values[child], ids[child], values[i], ids[i])) {
            return;
        }
        float v = values[i];
        int32_t id = ids[i];
        values[i] = values[child];
        ids[i] = ids[child];
        values[child] = v;
        ids[child] = id;
        i = child;
    }
}

static void top_of_row(const struct logits *job, const float *row, int32_t *ids, float *values)
{
    size_t top = job->count;
    for (size_t i = 0; i < top; i++) {
        ids[i] = (int32_t)i;
        values[i] = row[i] == row[i] ? row[i] : -INFINITY;
    }
    for (size_t i = top / 2; i > 0; i--) {
        sink(values, ids, top, i - 1);
    }
    /* Later entries must be greater to come in: of equal ones the lower id is in already. */
    size_t j = job->simd->find_above(job->n, row, top, values[0]);
    while (j < job->n) {
        values[0] = row[j];
        ids[0] = (int32_t)j;
        sink(values, ids, top, 0);
        j = job->simd->find_above(job->n, row, j + 1, values[0]);
    }
    for (size_t end = top; end > 1; end--) { /* the root goes to the end: descending order */
        float v = values[0];
        int32_t id = ids[0];
        values[0] = values[end - 1];
        ids[0] = ids[end - 1];
        values[end - 1] = v;
        ids[end - 1] = id;
        sink(values, ids, end - 1, 0);
    }
}

static void top_range(void *context, size_t thread, size_t first, size_t end)
{
    (void)thread;
    struct logits *job = context;
    for (size_t i = first; i < end; i++) {
        top_of_row(job, job->x + i * job->pitch, job->ids_out + i * job->count, job->out + i * job->count);
    }
}

int kernels_row_top(struct kernels *k, size_t m, size_t n, const float *logits, size_t pitch, size_t top,
                    int32_t *ids, float *values, struct claas_error *err)
{
    if (top > KERNELS_TOP_MAX || top > n || n > INT32_MAX) {
        return err_set(err, CLAAS_ERR_INVALID, NULL, "cannot find the %zu greatest of %zu: at most %d, and no more than there are",
                       top, n, KERNELS_TOP_MAX);
    }
    if (top > 0) {
        struct logits job = { .simd = k->simd, .n = n, .x = logits, .pitch = pitch, .count = top, .ids_out = ids,
                              .out = values };
        device_rows(k, m, 2 * n, top_range, &job);
    }
    return 0;
}

static void pick_range(void *context, size_t thread, size_t first, size_t end)
{
    (void)thread;
    struct logits *job = context;
    for (size_t i = first; i < end; i++) {
        for (size_t j = 0; j < job->count; j++) {
            job->out[i * job->count + j] = job->x[i * job->pitch + (size_t)job->ids[i * job->count + j]];
        }
    }
}

static int check_ids(size_t m, size_t count, const int32_t *ids, size_t n, struct claas_error *err)
{
    for (size_t i = 0; i < m * count; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= n) {
            return err_set(err, CLAAS_ERR_INVALID, NULL, "cannot read entry %d of a row of logits: it has %zu",
                           (int)ids[i], n);
        }
    }
    return 0;
}

int kernels_row_pick(struct kernels *k, size_t m, size_t n, const float *logits, size_t pitch, size_t count,
                     const int32_t *ids, float *values, struct claas_error *err)
{
    int rc = check_ids(m, count, ids, n, err);
    if (rc == 0) {
        struct logits job = { .x = logits, .pitch = pitch, .count = count, .ids = ids, .out = values };
        device_rows(k, m, 4 * count, pick_range, &job);
    }
    return rc;
}

static void grad_range(void *context, size_t thread, size_t first, size_t end)
{
    (void)thread;
    struct logits *job = context;
    for (size_t i = first; i < end; i++) {
        float *row = job->grad + i * job->pitch;
        if (job->coef[i] == 0) {
            memset(row, 0, job->n * sizeof *row);
            continue;
        }
        job->simd->softmax_grad(job->n, row, job->lse[i], job->coef[i]);
        row[job->ids[i]] += job->coef[i];
    }
}

int kernels_row_softmax_grad(struct kernels *k, size_t m, size_t n, float *logits, size_t pitch, const float *lse,
                             const int32_t *chosen, const float *coef, struct claas_error *err)
{
    int rc = check_ids(m, 1, chosen, n, err);
    if (rc == 0) {
        struct logits job = { .simd = k->simd, .n = n, .grad = logits, .pitch = pitch, .lse = lse, .ids = chosen,
                              .coef = coef };
        device_rows(k, m, 8 * n, grad_range, &job);
    }
    return rc;
}
