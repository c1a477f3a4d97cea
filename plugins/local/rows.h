/* SPDX-License-Identifier: MIT */
/* Rows of frozen matrices as floats, on the host and exactly, for what is small or read once: norms, adapters, tests.
 * The kernels have their own fast ways. */
#ifndef LOCAL_ROWS_H
#define LOCAL_ROWS_H

#include "kernels/kernels.h"

#include <stddef.h>
#include <stdint.h>

const char *row_type_name(enum kernels_type type); /* "Q4_1" */
/* Bytes of cols elements; 0 when they are not a whole number of blocks. What kernels_row_bytes says, without a device. */
size_t row_bytes(enum kernels_type type, size_t cols);

/* cols elements at `data` (any alignment) as floats. */
void row_floats(enum kernels_type type, const void *data, size_t cols, float *out);
/* Row `row` of the matrix, its order respected. */
void row_of_segment(const struct kernels_segment *s, size_t row, float *out);

float row_f16_value(uint16_t h);

#endif
