/* SPDX-License-Identifier: MIT */
/* Products on the processor's tile registers (AMX). They multiply bfloat16 and add in float32; here each float32 operand is
 * split into two bfloat16 parts, x = hi + lo, and hi hi + hi lo + lo hi is summed: that leaves out less than 3 * 2^-16 of
 * a product. How fast it is beside float32 vectors: tests/bench/RESULTS.md. Blocks are 32 x 32: rows of A or columns of B
 * by depth, both parts. */
#ifndef KERNELS_CPU_TILES_H
#define KERNELS_CPU_TILES_H

#include <stddef.h>

#define TILES_SIDE 32
#define TILES_BLOCK 1024 /* floats that a packed block takes: 4 KiB, aligned to 64 bytes */

struct tiles {
    /* Around multiplications, in the thread that makes them. */
    void (*begin)(void);
    void (*end)(void);
    /* A block of A from rows <= 32 of depth <= 32 floats; zeros in the rest. */
    void (*pack_a)(const float *src, size_t pitch, size_t rows, size_t depth, float *dst);
    /* A block of B from a panel [depth <= 32][32], `pitch` floats between its rows; zeros in the rest. */
    void (*pack_b)(const float *panel, size_t pitch, size_t depth, float *dst);
    /* c[rows <= 32][cols <= 32] (+)= alpha * sum over blocks of a[i] b[i]; blocks lie one behind the other. */
    void (*multiply)(size_t blocks, const float *a, const float *b, float *c, size_t c_pitch, float alpha,
                     int accumulate, size_t rows, size_t cols);
};

/* Null unless this processor has them and the system lets the process use them; `isa` as for simd_choose. */
const struct tiles *tiles_choose(const char *isa);

#endif
