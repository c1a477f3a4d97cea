/* SPDX-License-Identifier: MIT */
/* The blocked product on tile registers. As in product.c: A is packed once for all threads, each task makes some panels
 * of B and sweeps all rows of A past them, so that a panel of B stays in the first-level cache and A in the second; narrow
 * and shallow results are cut along the rows instead. Every element of C is summed over the depth in the same pieces,
 * whatever the cut. */
#include "config.h"

#include "kernels/cpu/product.h"

#include <string.h>

#define ROWS 1024 /* of A packed at a time */
#define DEEP 3072 /* depth of A packed at a time: 12.6 MB with ROWS */
#define STAY 288  /* depth of B that stays in the first-level cache beside a block of A: 36 KiB */
#define PIECE 96  /* depth of a panel that is made as floats before it is packed */
#define SPARE (16 * PIECE + PRODUCT_PANELS * TILE_N) /* scratch of the pack function */

_Static_assert(TILE_N == TILES_SIDE, "panels of B are as wide as a block");

struct chunk {
    struct kernels *k;
    const struct product *p;
    size_t row;
    size_t m;
    size_t first;
    size_t depth;
    int accumulate;
    size_t strips; /* of 32 rows */
    size_t panels; /* of 32 columns */
    size_t blocks; /* of 32 in depth */
    size_t group;  /* panels of one task */
    float *a;      /* packed: strip i, block d at (i * blocks + d) * TILES_BLOCK */
    float *b;      /* packed, when cut along the rows: panel j alike */
};

static void pack_strip(const struct chunk *c, size_t strip, float *spare, float *dst)
{
    const struct product *p = c->p;
    const struct tiles *tiles = c->k->tiles;
    size_t row = c->row + strip * TILES_SIDE;
    size_t rows = min_size(TILES_SIDE, c->m - strip * TILES_SIDE);
    for (size_t d = 0; d < c->depth; d += TILES_SIDE, dst += TILES_BLOCK) {
        size_t depth = min_size(TILES_SIDE, c->depth - d);
        if (!p->a_transposed) {
            tiles->pack_a(p->a + row * p->a_pitch + c->first + d, p->a_pitch, rows, depth, dst);
            continue;
        }
        for (size_t i = 0; i < depth; i += 16) {
            c->k->simd->transpose(p->a + (c->first + d + i) * p->a_pitch + row, p->a_pitch, min_size(16, depth - i),
                                  rows, spare + i, TILES_SIDE);
        }
        tiles->pack_a(spare, TILES_SIDE, rows, depth, dst);
    }
}

/* Panels first .. first + n - 1, depths [from, from + depth) of the chunk, as blocks: panel j at dst + j * stride. */
static void pack_panels(const struct chunk *c, size_t first, size_t n, size_t from, size_t depth, float *spare,
                        float *dst, size_t stride)
{
    const struct product *p = c->p;
    float *floats = spare + SPARE;
    for (size_t d = 0; d < depth; d += PIECE) {
        size_t piece = min_size(PIECE, depth - d);
        p->pack(c->k->simd, p->pack_context, first * TILE_N, n, c->first + from + d, piece, floats, PIECE * TILE_N,
                spare);
        for (size_t j = 0; j < n; j++) {
            for (size_t i = 0; i < piece; i += TILES_SIDE) {
                c->k->tiles->pack_b(floats + (j * PIECE + i) * TILE_N, TILE_N, min_size(TILES_SIDE, piece - i),
                                    dst + j * stride + (d + i) / TILES_SIDE * TILES_BLOCK);
            }
        }
    }
}

static void multiply(const struct chunk *c, size_t strip, size_t panel, size_t blocks, const float *a, const float *b,
                     int accumulate)
{
    const struct product *p = c->p;
    c->k->tiles->multiply(blocks, a, b, p->c + (c->row + strip * TILES_SIDE) * p->c_pitch + panel * TILE_N, p->c_pitch,
                          p->alpha, accumulate, min_size(TILES_SIDE, c->m - strip * TILES_SIDE),
                          min_size(TILE_N, p->n - panel * TILE_N));
}

static void pack_strip_task(void *context, size_t thread, size_t strip)
{
    struct chunk *c = context;
    pack_strip(c, strip, c->k->own[thread].data, c->a + strip * c->blocks * TILES_BLOCK);
}

static void pack_panel_task(void *context, size_t thread, size_t panel)
{
    struct chunk *c = context;
    pack_panels(c, panel, 1, 0, c->depth, c->k->own[thread].data, c->b + panel * c->blocks * TILES_BLOCK, 0);
}

/* Blocks of depth that stay in the cache: equal shares instead of a small last one. */
static size_t stay_depth(size_t depth)
{
    size_t shares = ceil_div(depth, STAY);
    return ceil_div(ceil_div(depth, shares), TILES_SIDE) * TILES_SIDE;
}

/* Some panels of B against all of A. */
static void columns_task(void *context, size_t thread, size_t task)
{
    struct chunk *c = context;
    float *spare = c->k->own[thread].data;
    float *b = spare + SPARE + PRODUCT_PANELS * PIECE * TILE_N;
    size_t first = task * c->group;
    size_t panels = min_size(c->group, c->panels - first);
    size_t stay = stay_depth(c->depth);
    c->k->tiles->begin();
    for (size_t d = 0; d < c->depth; d += stay) {
        size_t depth = min_size(stay, c->depth - d);
        size_t blocks = ceil_div(depth, TILES_SIDE);
        const float *a = c->a + d / TILES_SIDE * TILES_BLOCK;
        pack_panels(c, first, panels, d, depth, spare, b, blocks * TILES_BLOCK);
        for (size_t j = 0; j < panels; j++) {
            for (size_t i = 0; i < c->strips; i++) {
                multiply(c, i, first + j, blocks, a + i * c->blocks * TILES_BLOCK, b + j * blocks * TILES_BLOCK,
                         c->accumulate || d > 0);
            }
        }
    }
    c->k->tiles->end();
}

/* One strip of A against all of B; sums are cut along the depth as in columns_task. */
static void strip_task(void *context, size_t thread, size_t strip)
{
    struct chunk *c = context;
    float *spare = c->k->own[thread].data;
    float *a = spare + TILES_BLOCK;
    size_t stay = stay_depth(c->depth) / TILES_SIDE;
    pack_strip(c, strip, spare, a);
    c->k->tiles->begin();
    for (size_t j = 0; j < c->panels; j++) {
        for (size_t d = 0; d < c->blocks; d += stay) {
            multiply(c, strip, j, min_size(stay, c->blocks - d), a + d * TILES_BLOCK,
                     c->b + (j * c->blocks + d) * TILES_BLOCK, c->accumulate || d > 0);
        }
    }
    c->k->tiles->end();
}

static int run_chunk(struct chunk *c, struct claas_error *err)
{
    struct kernels *k = c->k;
    int by_rows = (c->panels < 2 * k->threads && c->strips > c->panels) ||
                  (c->depth <= 2 * TILES_SIDE && c->strips >= 4 * k->threads);
    size_t making = SPARE + PRODUCT_PANELS * PIECE * TILE_N;
    size_t own = by_rows ? max_size((1 + c->blocks) * TILES_BLOCK, making)
                         : making + PRODUCT_PANELS * (STAY / TILES_SIDE) * TILES_BLOCK;
    int rc = device_scratch(k, (by_rows ? c->panels : c->strips) * c->blocks * TILES_BLOCK, own, err);
    if (rc != 0) {
        return rc;
    }
    if (by_rows) {
        c->b = k->shared.data;
        pool_run(k->pool, c->panels, pack_panel_task, c);
        pool_run(k->pool, c->strips, strip_task, c);
    } else {
        c->a = k->shared.data;
        c->group = product_group(c->panels, k->threads);
        pool_run(k->pool, c->strips, pack_strip_task, c);
        pool_run(k->pool, ceil_div(c->panels, c->group), columns_task, c);
    }
    return 0;
}

int product_tiles(struct kernels *k, const struct product *p, struct claas_error *err)
{
    int rc = 0;
    for (size_t row = 0; rc == 0 && row < p->m; row += ROWS) {
        for (size_t first = 0; rc == 0 && first < p->depth; first += DEEP) {
            struct chunk c = { .k = k,
                               .p = p,
                               .row = row,
                               .m = min_size(ROWS, p->m - row),
                               .first = first,
                               .depth = min_size(DEEP, p->depth - first),
                               .accumulate = p->accumulate || first > 0,
                               .strips = ceil_div(min_size(ROWS, p->m - row), TILES_SIDE),
                               .panels = ceil_div(p->n, TILE_N),
                               .blocks = ceil_div(min_size(DEEP, p->depth - first), TILES_SIDE) };
            rc = run_chunk(&c, err);
        }
    }
    return rc;
}
