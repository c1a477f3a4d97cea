/* SPDX-License-Identifier: MIT */
/* Frozen matrices: where each row lies. */
#ifndef KERNELS_CPU_WEIGHT_H
#define KERNELS_CPU_WEIGHT_H

#include "kernels/kernels.h"

struct weight_part {
    enum kernels_type type;
    size_t first; /* row of the matrix its first row is */
    size_t rows;
    size_t row_bytes;
    const uint8_t *data;
    uint32_t *order; /* null: in file order */
};

struct kernels_weight {
    size_t out;
    size_t in;
    size_t parts_len;
    struct weight_part *parts;
};

/* The part that holds row r < out. */
static inline const struct weight_part *weight_part_of(const struct kernels_weight *w, size_t r)
{
    const struct weight_part *p = w->parts;
    while (r - p->first >= p->rows) {
        p++;
    }
    return p;
}

static inline const void *weight_row(const struct weight_part *p, size_t r)
{
    size_t i = r - p->first;
    return p->data + (p->order ? p->order[i] : i) * p->row_bytes;
}

#endif
