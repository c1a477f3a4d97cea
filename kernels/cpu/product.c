/* SPDX-License-Identifier: MIT */
/* Blocked matrix product. A is packed once for all threads into panels of TILE_M rows; each task makes some panels of B
 * (dequantising on the way) of PRODUCT_DEPTH in its own scratch and sweeps all rows of A past them, so that a panel of B
 * stays in the first-level cache, a block of A in the second, and a weight is dequantised once for up to ROWS rows.
 * Narrow results are cut along m instead. Every element of C is summed over k in blocks of PRODUCT_DEPTH in order,
 * whatever the cut. */
#include "config.h"

#include "kernels/cpu/product.h"

#include <string.h>

#define ROWS 1020  /* of A packed at a time, a multiple of TILE_M */
#define DEEP 3072  /* depth of A packed at a time, a multiple of PRODUCT_DEPTH: 12.5 MB with ROWS */
#define SHALLOW 96 /* depth up to which C, not the arithmetic, is the limit */
#define TILES 8    /* of A packed in one task */
#define NARROW 32  /* side up to which tile registers do not pay */

/* One chunk: rows [row, row + m) and depths [first, first + depth) of the whole. */
struct chunk {
    struct kernels *k;
    const struct product *p;
    size_t row;
    size_t m;
    size_t first;
    size_t depth;
    int accumulate;
    size_t tiles;
    size_t panels;
    size_t group; /* panels of one task */
    float *a;     /* packed: tile i at i * depth * TILE_M */
    float *b;     /* packed, when cut along m: panel j, depth block d at (j * depth + d) * TILE_N */
};

/* Tiles first .. of A, each as [depth][TILE_M], one behind the other. */
static void pack_a_tiles(const struct chunk *c, size_t first, size_t tiles, float *dst)
{
    const struct product *p = c->p;
    size_t row = c->row + first * TILE_M;
    size_t rows = min_size(tiles * TILE_M, c->m - first * TILE_M);
    if (!p->a_transposed) {
        for (size_t r = 0; r < rows; r += TILE_M) {
            c->k->simd->transpose(p->a + (row + r) * p->a_pitch + c->first, p->a_pitch, min_size(TILE_M, rows - r),
                                  c->depth, dst + r * c->depth, TILE_M);
        }
        return;
    }
    size_t whole = rows / TILE_M * TILE_M;
    for (size_t d = 0; d < c->depth; d++) { /* along the rows as they are stored */
        const float *src = p->a + (c->first + d) * p->a_pitch + row;
        for (size_t r = 0; r < whole; r += TILE_M) {
            memcpy(dst + r * c->depth + d * TILE_M, src + r, TILE_M * sizeof *dst);
        }
        if (whole < rows) {
            memcpy(dst + whole * c->depth + d * TILE_M, src + whole, (rows - whole) * sizeof *dst);
        }
    }
}

static void pack_a_task(void *context, size_t thread, size_t task)
{
    (void)thread;
    struct chunk *c = context;
    size_t first = task * TILES;
    pack_a_tiles(c, first, min_size(TILES, c->tiles - first), c->a + first * c->depth * TILE_M);
}

static void pack_b_task(void *context, size_t thread, size_t task)
{
    struct chunk *c = context;
    size_t blocks = ceil_div(c->depth, PRODUCT_DEPTH);
    size_t panel = task / blocks;
    size_t d = task % blocks * PRODUCT_DEPTH;
    float *dst = c->b + (panel * c->depth + d) * TILE_N;
    c->p->pack(c->k->simd, c->p->pack_context, panel * TILE_N, 1, c->first + d,
               min_size(PRODUCT_DEPTH, c->depth - d), dst, 0, c->k->own[thread].data);
}

static void prefetch_c(const float *c, size_t pitch, size_t rows)
{
    for (size_t i = 0; i < rows; i++) {
        __builtin_prefetch(c + i * pitch, 1);
        __builtin_prefetch(c + i * pitch + 16, 1);
    }
}

/* c (+)= alpha a b for one tile and depths [d, d + depth) of the chunk. */
static void one_tile(const struct chunk *c, size_t i, size_t panel, size_t d, size_t depth, const float *a,
                     const float *b)
{
    const struct product *p = c->p;
    size_t rows = min_size(TILE_M, c->m - i * TILE_M);
    size_t cols = min_size(TILE_N, p->n - panel * TILE_N);
    float *dst = p->c + (c->row + i * TILE_M) * p->c_pitch + panel * TILE_N;
    prefetch_c(dst, p->c_pitch, rows);
    c->k->simd->tile(depth, a + d * TILE_M, TILE_M, b, TILE_N, dst, p->c_pitch, p->alpha, c->accumulate || d > 0, rows,
                     cols);
}

/* Some panels of B against all of A. */
static void columns_task(void *context, size_t thread, size_t task)
{
    struct chunk *c = context;
    float *spare = c->k->own[thread].data;
    float *b = spare + PRODUCT_SPARE;
    size_t first = task * c->group;
    size_t panels = min_size(c->group, c->panels - first);
    for (size_t d = 0; d < c->depth; d += PRODUCT_DEPTH) {
        size_t depth = min_size(PRODUCT_DEPTH, c->depth - d);
        c->p->pack(c->k->simd, c->p->pack_context, first * TILE_N, panels, c->first + d, depth, b, depth * TILE_N, spare);
        for (size_t j = 0; j < panels; j++) {
            for (size_t i = 0; i < c->tiles; i++) {
                one_tile(c, i, first + j, d, depth, c->a + i * c->depth * TILE_M, b + j * depth * TILE_N);
            }
        }
    }
}

/* Some tiles of A against all of B. */
static void rows_task(void *context, size_t thread, size_t task)
{
    struct chunk *c = context;
    float *a = c->k->own[thread].data;
    size_t first = task * TILES;
    size_t tiles = min_size(TILES, c->tiles - first);
    pack_a_tiles(c, first, tiles, a);
    if (c->depth <= PRODUCT_DEPTH) { /* bound by C: along its rows */
        for (size_t i = 0; i < tiles; i++) {
            for (size_t j = 0; j < c->panels; j++) {
                one_tile(c, first + i, j, 0, c->depth, a + i * c->depth * TILE_M, c->b + j * c->depth * TILE_N);
            }
        }
        return;
    }
    for (size_t d = 0; d < c->depth; d += PRODUCT_DEPTH) {
        for (size_t j = 0; j < c->panels; j++) {
            for (size_t i = 0; i < tiles; i++) {
                one_tile(c, first + i, j, d, min_size(PRODUCT_DEPTH, c->depth - d), a + i * c->depth * TILE_M,
                         c->b + (j * c->depth + d) * TILE_N);
            }
        }
    }
}

size_t product_group(size_t panels, size_t threads)
{
    size_t tasks = ceil_div(ceil_div(panels, PRODUCT_PANELS), threads) * threads;
    if (tasks < 3 * threads) {
        tasks = 3 * threads; /* so that a thread that was held up costs little */
    }
    return max_size(1, ceil_div(panels, tasks));
}

static int run_chunk(struct chunk *c, struct claas_error *err)
{
    struct kernels *k = c->k;
    int by_rows = (c->panels < 2 * k->threads && c->tiles > c->panels) ||
                  (c->depth <= SHALLOW && c->tiles >= 4 * TILES);
    size_t own = by_rows ? max_size(c->depth * TILE_M * TILES, PRODUCT_SPARE)
                         : PRODUCT_SPARE + PRODUCT_PANELS * TILE_N * PRODUCT_DEPTH;
    size_t shared = by_rows ? c->panels * c->depth * TILE_N : c->tiles * c->depth * TILE_M;
    int rc = device_scratch(k, shared, own, err);
    if (rc != 0) {
        return rc;
    }
    if (by_rows) {
        c->b = k->shared.data;
        pool_run(k->pool, c->panels * ceil_div(c->depth, PRODUCT_DEPTH), pack_b_task, c);
        pool_run(k->pool, ceil_div(c->tiles, TILES), rows_task, c);
    } else {
        c->a = k->shared.data;
        c->group = product_group(c->panels, k->threads);
        pool_run(k->pool, ceil_div(c->tiles, TILES), pack_a_task, c);
        pool_run(k->pool, ceil_div(c->panels, c->group), columns_task, c);
    }
    return 0;
}

static void store_zeros(const struct product *p)
{
    for (size_t i = 0; i < p->m; i++) {
        for (size_t j = 0; j < p->n; j++) {
            p->c[i * p->c_pitch + j] = 0;
        }
    }
}

static int product_vectors(struct kernels *k, const struct product *p, struct claas_error *err)
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
                               .tiles = ceil_div(min_size(ROWS, p->m - row), TILE_M),
                               .panels = ceil_div(p->n, TILE_N) };
            rc = run_chunk(&c, err);
        }
    }
    return rc;
}

/* A product as narrow or as shallow as an adapter's costs mostly packing, which vectors do with less (bench_kernels g). */
static int worth_tiles(const struct product *p)
{
    return p->m > NARROW && p->n > NARROW && p->depth > NARROW;
}

int product_run(struct kernels *k, const struct product *p, struct claas_error *err)
{
    int rc = 0;
    kernels_turn_begin(k, KERNELS_SERVE);
    if (p->depth == 0 && !p->accumulate) {
        store_zeros(p);
    } else if (p->n > 0) {
        rc = k->tiles && worth_tiles(p) ? product_tiles(k, p, err) : product_vectors(k, p, err);
    }
    kernels_turn_end(k);
    return rc;
}
