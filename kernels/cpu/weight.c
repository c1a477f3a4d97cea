/* SPDX-License-Identifier: MIT */
/* Frozen matrices made of borrowed rows: checked here once, read in place ever after. */
#include "config.h"

#include "kernels/cpu/weight.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    size_t elements;
    size_t bytes;
} blocks[KERNELS_TYPES] = {
    [KERNELS_F32] = { 1, 4 },    [KERNELS_F16] = { 1, 2 },    [KERNELS_BF16] = { 1, 2 },
    [KERNELS_Q8_0] = { 32, 34 }, [KERNELS_Q4_0] = { 32, 18 }, [KERNELS_Q4_1] = { 32, 20 },
};

size_t kernels_row_bytes(enum kernels_type type, size_t cols)
{
    if ((unsigned)type >= KERNELS_TYPES || cols % blocks[type].elements != 0) {
        return 0;
    }
    size_t n = cols / blocks[type].elements;
    return n > SIZE_MAX / blocks[type].bytes ? 0 : n * blocks[type].bytes;
}

static int check_segment(const struct kernels_segment *s, size_t i, size_t cols, struct claas_error *err)
{
    size_t bytes = kernels_row_bytes(s->type, s->cols);
    if (s->cols != cols || bytes == 0) {
        return err_set(err, CLAAS_ERR_INVALID, NULL,
                       "cannot make a matrix of %zu columns: part %zu has %zu columns of type %d", cols, i, s->cols,
                       (int)s->type);
    }
    if (s->rows > SIZE_MAX / bytes || s->rows > UINT32_MAX || (s->rows > 0 && !s->data)) {
        return err_set(err, CLAAS_ERR_INVALID, NULL, "cannot make a matrix: part %zu has %zu rows of %zu bytes%s", i,
                       s->rows, bytes, s->data ? "" : " and no data");
    }
    for (size_t r = 0; s->order && r < s->rows; r++) {
        if (s->order[r] >= s->rows) {
            return err_set(err, CLAAS_ERR_INVALID, NULL, "cannot make a matrix: part %zu has row %u of %zu", i,
                           s->order[r], s->rows);
        }
    }
    return 0;
}

static int add_part(struct kernels_weight *w, const struct kernels_segment *s, struct claas_error *err)
{
    struct weight_part *p = &w->parts[w->parts_len];
    p->type = s->type;
    p->first = w->out;
    p->rows = s->rows;
    p->row_bytes = kernels_row_bytes(s->type, s->cols);
    p->data = s->data;
    if (s->order && s->rows > 0) {
        p->order = mem_array(s->rows, sizeof *p->order);
        if (!p->order) {
            return err_oom(err, "the row order of a matrix");
        }
        memcpy(p->order, s->order, s->rows * sizeof *p->order);
    }
    w->parts_len++;
    w->out += s->rows;
    return 0;
}

int kernels_weight_create(struct kernels *k, const struct kernels_segment *segments, size_t n,
                          struct kernels_weight **out, struct claas_error *err)
{
    (void)k;
    if (n == 0) {
        return err_set(err, CLAAS_ERR_INVALID, NULL, "cannot make a matrix of no parts");
    }
    struct kernels_weight *w = calloc(1, sizeof *w);
    if (!w) {
        return err_oom(err, "a matrix");
    }
    w->in = segments[0].cols;
    w->parts = mem_array(n, sizeof *w->parts);
    int rc = w->parts ? 0 : err_oom(err, "a matrix");
    for (size_t i = 0; rc == 0 && i < n; i++) {
        rc = check_segment(&segments[i], i, w->in, err);
        if (rc == 0) {
            rc = add_part(w, &segments[i], err);
        }
    }
    if (rc != 0) {
        kernels_weight_free(k, w);
        return rc;
    }
    *out = w;
    return 0;
}

void kernels_weight_free(struct kernels *k, struct kernels_weight *w)
{
    (void)k;
    if (!w) {
        return;
    }
    for (size_t i = 0; i < w->parts_len; i++) {
        free(w->parts[i].order);
    }
    free(w->parts);
    free(w);
}

size_t kernels_weight_out(const struct kernels_weight *w)
{
    return w->out;
}

size_t kernels_weight_in(const struct kernels_weight *w)
{
    return w->in;
}
