/* SPDX-License-Identifier: MIT */
/* The matrix product behind linear and gemm: C (+)= alpha op(A) B, with B handed over panel by panel. */
#ifndef KERNELS_CPU_PRODUCT_H
#define KERNELS_CPU_PRODUCT_H

#include "kernels/cpu/device.h"

#define PRODUCT_DEPTH 192 /* of a panel: 24 KiB of B stay in the first-level cache; a multiple of a quantised block */

/* Writes `panels` panels of B, columns [column, column + panels * TILE_N) and depths [first, first + depth): element
 * (k, j) of panel p at dst[p * stride + k * TILE_N + j], columns past the end as zeros. `spare`: product_spare floats. */
typedef void product_pack_fn(const struct simd *simd, const void *context, size_t column, size_t panels, size_t first,
                             size_t depth, float *dst, size_t stride, float *spare);

struct product {
    size_t m;
    size_t n;
    size_t depth;
    float alpha;
    const float *a; /* [m][depth], or [depth][m] when a_transposed */
    size_t a_pitch;
    int a_transposed;
    product_pack_fn *pack;
    const void *pack_context;
    float *c;
    size_t c_pitch;
    int accumulate;
};

/* Panels handed to `pack` at once, at most; and the scratch it gets. */
#define PRODUCT_PANELS 8
#define PRODUCT_SPARE (16 * PRODUCT_DEPTH + PRODUCT_PANELS * TILE_N)

int product_run(struct kernels *k, const struct product *p, struct claas_error *err);

/* The same on tile registers: k->tiles is not null, n is not 0; depth 0 adds nothing. */
int product_tiles(struct kernels *k, const struct product *p, struct claas_error *err);
/* Panels of one task: few enough that all threads have some, evenly. */
size_t product_group(size_t panels, size_t threads);

#endif
