/* SPDX-License-Identifier: MIT */
/* Products of float32 on the processor's tile registers (AMX), about as good as float32 itself. The registers multiply
 * whole numbers of 8 bits and add them, exactly, in 32. So each row of A and each column of B is made whole numbers of 24
 * bits beside one scale, these are cut into three digits (hi, mid, lo), and six products of digits are summed: hi hi;
 * hi mid + mid hi; hi lo + mid mid + lo hi. Beside the greatest element of its row or column an element is off by 2^-24 at
 * most, as a float32 beside itself is, and mid lo, which is left out, is as small. (With it, for a tenth more time,
 * log-probabilities of SmolLM2 were 5.6e-5 off PyTorch's instead of 1.1e-4; 4.9e-5 with vectors.) Two parts of bfloat16
 * take nearly as long and leave 2^-16. After K. Ozaki et al., "Error-free transformations of matrix multiplication" (2012),
 * with whole numbers as in H. Ootomo et al., "DGEMM on integer matrix multiplication unit" (2024). How fast it is beside
 * float32 vectors: tests/bench/RESULTS.md. */
#ifndef KERNELS_CPU_TILES_H
#define KERNELS_CPU_TILES_H

#include <stddef.h>

#define TILES_SIDE 32   /* rows of A, or columns of B, that are packed together */
#define TILES_DEPTH 64  /* of a block: 32 x 64 elements in three digits */
#define TILES_BLOCK 1536 /* floats that a block takes: 6 KiB */
/* Sums of digits stay below 2^31: 3 * 2^14 * depth. */
#define TILES_DEEPEST 32768

/* Floats of a packed piece: one scale for each row (or column), then blocks one behind the other. Aligned to 64 bytes. */
static inline size_t tiles_floats(size_t depth)
{
    return TILES_SIDE + (depth + TILES_DEPTH - 1) / TILES_DEPTH * TILES_BLOCK;
}

struct tiles {
    /* Around multiplications, in the thread that makes them. */
    void (*begin)(void);
    void (*end)(void);
    /* A piece of A from rows <= 32 of `depth` floats. A row with an infinity or a NaN gives NaN in all its results. */
    void (*pack_a)(const float *src, size_t pitch, size_t rows, size_t depth, float *dst);
    /* A piece of B from a panel [depth][32], `pitch` floats between its rows. Likewise for its columns. */
    void (*pack_b)(const float *panel, size_t pitch, size_t depth, float *dst);
    /* c[rows <= 32][cols <= 32] (+)= alpha a b, for pieces of the same depth. */
    void (*multiply)(size_t depth, const float *a, const float *b, float *c, size_t c_pitch, float alpha,
                     int accumulate, size_t rows, size_t cols);
};

/* Null unless this processor has them and the system lets the process use them; `isa` as for simd_choose. */
const struct tiles *tiles_choose(const char *isa);

#endif
