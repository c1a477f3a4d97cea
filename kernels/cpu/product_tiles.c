/* SPDX-License-Identifier: MIT */
/* The blocked product on tile registers. As in product.c: A is packed once for all threads, each task makes some panels
 * of B and sweeps all rows of A past them, so that a panel of B stays in the first-level cache and A in the second; narrow
 * and shallow results are cut along the rows instead. Every element of C is summed over the depth in the same pieces,
 * whatever the cut. */
#include "config.h"

#include "kernels/cpu/product.h"

#include <string.h>

#define ROWS 1024 /* of A packed at a time */
#define DEEP 3072 /* depth of A packed at a time: 9.5 MB with ROWS */
#define STAY 256  /* depth of B that stays in the first-level cache beside a block of A: 24 KiB */
#define SPARE (16 * STAY + PRODUCT_PANELS * TILE_N) /* scratch of the pack function */
#define PANEL (STAY * TILE_N) /* a panel of floats */

_Static_assert(TILE_N == TILES_SIDE, "panels of B are as wide as a block");
_Static_assert(STAY <= TILES_DEEPEST, "sums of digits fit their 32 bits");

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
    size_t group;  /* panels of one task */
    size_t stay;   /* depth of a piece: equal shares of the whole instead of a small last one */
    size_t pieces; /* along the depth */
    float *a;      /* packed: strip i, piece d at (i * pieces + d) * tiles_floats(stay) */
    float *b;      /* packed, when cut along the rows: panel j alike */
};

static size_t piece_depth(const struct chunk *c, size_t piece)
{
    return min_size(c->stay, c->depth - piece * c->stay);
}

/* All pieces of a strip of A. `spare`: PANEL floats. */
static void pack_strip(const struct chunk *c, size_t strip, float *spare, float *dst)
{
    const struct product *p = c->p;
    size_t row = c->row + strip * TILES_SIDE;
    size_t rows = min_size(TILES_SIDE, c->m - strip * TILES_SIDE);
    for (size_t d = 0; d < c->pieces; d++, dst += tiles_floats(c->stay)) {
        size_t first = c->first + d * c->stay;
        size_t depth = piece_depth(c, d);
        if (!p->a_transposed) {
            c->k->tiles->pack_a(p->a + row * p->a_pitch + first, p->a_pitch, rows, depth, dst);
            continue;
        }
        for (size_t i = 0; i < depth; i += 16) {
            c->k->simd->transpose(p->a + (first + i) * p->a_pitch + row, p->a_pitch, min_size(16, depth - i), rows,
                                  spare + i, STAY);
        }
        c->k->tiles->pack_a(spare, STAY, rows, depth, dst);
    }
}

/* One piece of the panels first .. first + n - 1: panel j at dst + j * stride. `spare`: SPARE + n * PANEL floats. */
static void pack_panels(const struct chunk *c, size_t first, size_t n, size_t piece, float *spare, float *dst,
                        size_t stride)
{
    const struct product *p = c->p;
    float *floats = spare + SPARE;
    size_t depth = piece_depth(c, piece);
    p->pack(c->k->simd, p->pack_context, first * TILE_N, n, c->first + piece * c->stay, depth, floats, PANEL, spare);
    for (size_t j = 0; j < n; j++) {
        c->k->tiles->pack_b(floats + j * PANEL, TILE_N, depth, dst + j * stride);
    }
}

static void multiply(const struct chunk *c, size_t strip, size_t panel, size_t piece, const float *a, const float *b)
{
    const struct product *p = c->p;
    c->k->tiles->multiply(piece_depth(c, piece), a, b,
                          p->c + (c->row + strip * TILES_SIDE) * p->c_pitch + panel * TILE_N, p->c_pitch, p->alpha,
                          c->accumulate || piece > 0, min_size(TILES_SIDE, c->m - strip * TILES_SIDE),
                          min_size(TILE_N, p->n - panel * TILE_N));
}

static void pack_strip_task(void *context, size_t thread, size_t strip)
{
    struct chunk *c = context;
    pack_strip(c, strip, c->k->own[thread].data, c->a + strip * c->pieces * tiles_floats(c->stay));
}

static void pack_panel_task(void *context, size_t thread, size_t panel)
{
    struct chunk *c = context;
    float *dst = c->b + panel * c->pieces * tiles_floats(c->stay);
    for (size_t d = 0; d < c->pieces; d++) {
        pack_panels(c, panel, 1, d, c->k->own[thread].data, dst + d * tiles_floats(c->stay), 0);
    }
}

/* Some panels of B against all of A. */
static void columns_task(void *context, size_t thread, size_t task)
{
    struct chunk *c = context;
    float *spare = c->k->own[thread].data;
    float *b = spare + SPARE + PRODUCT_PANELS * PANEL;
    size_t floats = tiles_floats(c->stay);
    size_t first = task * c->group;
    size_t panels = min_size(c->group, c->panels - first);
    c->k->tiles->begin();
    for (size_t d = 0; d < c->pieces; d++) {
        pack_panels(c, first, panels, d, spare, b, floats);
        for (size_t j = 0; j < panels; j++) {
            for (size_t i = 0; i < c->strips; i++) {
                multiply(c, i, first + j, d, c->a + (i * c->pieces + d) * floats, b + j * floats);
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
    float *a = spare + PANEL;
    size_t floats = tiles_floats(c->stay);
    pack_strip(c, strip, spare, a);
    c->k->tiles->begin();
    for (size_t j = 0; j < c->panels; j++) {
        for (size_t d = 0; d < c->pieces; d++) {
            multiply(c, strip, j, d, a + d * floats, c->b + (j * c->pieces + d) * floats);
        }
    }
    c->k->tiles->end();
}

static int run_chunk(struct chunk *c, struct claas_error *err)
{
    struct kernels *k = c->k;
    int by_rows = (c->panels < 2 * k->threads && c->strips > c->panels) ||
                  (c->depth <= TILES_DEPTH && c->strips >= 4 * k->threads);
    size_t piece = tiles_floats(c->stay);
    size_t own = by_rows ? max_size(PANEL + c->pieces * piece, SPARE + PANEL)
                         : SPARE + PRODUCT_PANELS * (PANEL + piece);
    int rc = device_scratch(k, (by_rows ? c->panels : c->strips) * c->pieces * piece, own, err);
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

static void cut(struct chunk *c)
{
    c->strips = ceil_div(c->m, TILES_SIDE);
    c->panels = ceil_div(c->p->n, TILE_N);
    c->stay = ceil_div(ceil_div(c->depth, ceil_div(c->depth, STAY)), TILES_DEPTH) * TILES_DEPTH;
    c->pieces = ceil_div(c->depth, c->stay);
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
                               .accumulate = p->accumulate || first > 0 };
            cut(&c);
            rc = run_chunk(&c, err);
        }
    }
    return rc;
}
