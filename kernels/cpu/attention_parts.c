/* SPDX-License-Identifier: MIT */
/* The products that the passes of attention are made of, and the packing for them: on tile registers, or with vectors. */
#include "config.h"

#include "kernels/cpu/attention.h"

#include <string.h>

static size_t blocks_of(size_t n)
{
    return ceil_div(n, TILES_SIDE);
}

void attention_begin(const struct kernels *k)
{
    if (k->tiles) {
        k->tiles->begin();
    }
}

void attention_end(const struct kernels *k)
{
    if (k->tiles) {
        k->tiles->end();
    }
}

/* ---- what stays the same for all queries ---- */

/* Tiles: strips of 32 keys, blocks along the dimensions. Vectors: tile t holds keys 12 t .. as [dim][12]. */
size_t attention_columns_floats(const struct kernels *k, size_t keys, size_t dim)
{
    return k->tiles ? blocks_of(keys) * blocks_of(dim) * TILES_BLOCK : ceil_div(keys, TILE_M) * TILE_M * dim;
}

void attention_pack_columns(const struct kernels *k, const float *src, size_t pitch, size_t keys, size_t dim, float *dst)
{
    if (!k->tiles) {
        for (size_t j = 0; j < keys; j += TILE_M) {
            k->simd->transpose(src + j * pitch, pitch, min_size(TILE_M, keys - j), dim, dst + j * dim, TILE_M);
        }
        return;
    }
    for (size_t j = 0; j < keys; j += TILES_SIDE) {
        for (size_t c = 0; c < dim; c += TILES_SIDE, dst += TILES_BLOCK) {
            k->tiles->pack_a(src + j * pitch + c, pitch, min_size(TILES_SIDE, keys - j), min_size(TILES_SIDE, dim - c),
                             dst);
        }
    }
}

/* Tiles: strips of 32 dimensions, blocks along the keys. Vectors: tile t holds dimensions 12 t .. as [keys][12]. */
size_t attention_rows_floats(const struct kernels *k, size_t keys, size_t dim)
{
    return k->tiles ? blocks_of(dim) * blocks_of(keys) * TILES_BLOCK : ceil_div(dim, TILE_M) * TILE_M * keys;
}

static void pack_rows_tiles(const struct kernels *k, const float *src, size_t pitch, size_t keys, size_t dim, float *dst)
{
    float turned[TILES_SIDE * TILES_SIDE];
    for (size_t c = 0; c < dim; c += TILES_SIDE) {
        size_t cols = min_size(TILES_SIDE, dim - c);
        for (size_t j = 0; j < keys; j += TILES_SIDE, dst += TILES_BLOCK) {
            size_t depth = min_size(TILES_SIDE, keys - j);
            for (size_t i = 0; i < depth; i += 16) {
                k->simd->transpose(src + (j + i) * pitch + c, pitch, min_size(16, depth - i), cols, turned + i,
                                   TILES_SIDE);
            }
            k->tiles->pack_a(turned, TILES_SIDE, cols, depth, dst);
        }
    }
}

void attention_pack_rows(const struct kernels *k, const float *src, size_t pitch, size_t keys, size_t dim, float *dst)
{
    if (k->tiles) {
        pack_rows_tiles(k, src, pitch, keys, dim, dst);
        return;
    }
    for (size_t c = 0; c < dim; c += TILE_M) {
        size_t cols = min_size(TILE_M, dim - c);
        for (size_t j = 0; j < keys; j++) {
            memcpy(dst + c * keys + j * TILE_M, src + j * pitch + c, cols * sizeof *dst);
        }
    }
}

/* ---- one block of queries ---- */

/* Tiles: two panels of 32 queries, blocks along the dimensions. Vectors: [dim][ATT_Q]. */
size_t attention_turned_floats(const struct kernels *k, size_t dim)
{
    return k->tiles ? ATT_Q / TILES_SIDE * blocks_of(dim) * TILES_BLOCK : dim * ATT_Q;
}

static void turn_vectors(const struct kernels *k, const float *src, size_t pitch, size_t queries, size_t dim, float *dst)
{
    if (queries < ATT_Q) {
        memset(dst, 0, dim * ATT_Q * sizeof *dst);
    }
    for (size_t i = 0; i < queries; i += 16) {
        k->simd->transpose(src + i * pitch, pitch, min_size(16, queries - i), dim, dst + i, ATT_Q);
    }
}

void attention_turn_in(const struct kernels *k, const float *src, size_t pitch, size_t queries, size_t dim, float *dst)
{
    float turned[TILES_SIDE * ATT_Q];
    if (!k->tiles) {
        turn_vectors(k, src, pitch, queries, dim, dst);
        return;
    }
    for (size_t c = 0; c < dim; c += TILES_SIDE) {
        size_t depth = min_size(TILES_SIDE, dim - c);
        turn_vectors(k, src + c, pitch, queries, depth, turned);
        for (size_t h = 0; h < ATT_Q / TILES_SIDE; h++) {
            k->tiles->pack_b(turned + h * TILES_SIDE, ATT_Q, depth,
                             dst + (h * blocks_of(dim) + c / TILES_SIDE) * TILES_BLOCK);
        }
    }
}

void attention_scores(const struct kernels *k, const float *columns, size_t j0, size_t keys, size_t dim,
                      const float *turned, size_t halves, float scale, float *s)
{
    size_t blocks = blocks_of(dim);
    size_t step = k->tiles ? TILES_SIDE : TILE_M;
    for (size_t j = 0; j < keys; j += step) {
        for (size_t h = 0; h < halves; h++) {
            size_t rows = min_size(step, keys - j);
            float *to = s + j * ATT_Q + h * TILE_N;
            if (k->tiles) {
                k->tiles->multiply(blocks, columns + (j0 + j) / TILES_SIDE * blocks * TILES_BLOCK,
                                   turned + h * blocks * TILES_BLOCK, to, ATT_Q, scale, 0, rows, TILE_N);
            } else {
                k->simd->tile(dim, columns + (j0 + j) * dim, TILE_M, turned + h * TILE_N, ATT_Q, to, ATT_Q, scale, 0,
                              rows, TILE_N);
            }
        }
    }
}

static void mix_tiles(const struct kernels *k, const float *rows, size_t all_keys, size_t j0, size_t keys, size_t dim,
                      const float *p, size_t halves, float *out)
{
    _Alignas(64) float right[ATT_KEYS / TILES_SIDE * TILES_BLOCK];
    size_t blocks = blocks_of(keys);
    for (size_t h = 0; h < halves; h++) {
        for (size_t i = 0; i < blocks; i++) {
            k->tiles->pack_b(p + i * TILES_SIDE * ATT_Q + h * TILES_SIDE, ATT_Q,
                             min_size(TILES_SIDE, keys - i * TILES_SIDE), right + i * TILES_BLOCK);
        }
        for (size_t c = 0; c < dim; c += TILES_SIDE) {
            const float *left = rows + (c / TILES_SIDE * blocks_of(all_keys) + j0 / TILES_SIDE) * TILES_BLOCK;
            k->tiles->multiply(blocks, left, right, out + c * ATT_Q + h * TILES_SIDE, ATT_Q, 1, 1,
                               min_size(TILES_SIDE, dim - c), TILES_SIDE);
        }
    }
}

void attention_mix(const struct kernels *k, const float *rows, size_t all_keys, size_t j0, size_t keys, size_t dim,
                   const float *p, size_t halves, float *out)
{
    if (k->tiles) {
        mix_tiles(k, rows, all_keys, j0, keys, dim, p, halves, out);
        return;
    }
    for (size_t c = 0; c < dim; c += TILE_M) {
        for (size_t h = 0; h < halves; h++) {
            k->simd->tile(keys, rows + c * all_keys + j0 * TILE_M, TILE_M, p + h * TILE_N, ATT_Q,
                          out + c * ATT_Q + h * TILE_N, ATT_Q, 1, 1, min_size(TILE_M, dim - c), TILE_N);
        }
    }
}

/* ---- sums over queries ---- */

static void straight(const float *src, size_t pitch, size_t queries, size_t dim, size_t padded, float *dst)
{
    for (size_t l = 0; l < queries; l++) {
        memcpy(dst + l * padded, src + l * pitch, dim * sizeof *dst);
        memset(dst + l * padded + dim, 0, (padded - dim) * sizeof *dst);
    }
}

/* Tiles: panels of 32 columns, two blocks along the queries. Vectors: [queries][padded]. */
void attention_pack_right(const struct kernels *k, const float *src, size_t pitch, size_t queries, size_t dim,
                          size_t padded, float *spare, float *dst)
{
    if (!k->tiles) {
        straight(src, pitch, queries, dim, padded, dst);
        return;
    }
    straight(src, pitch, queries, dim, padded, spare);
    for (size_t c = 0; c < padded; c += TILES_SIDE) {
        for (size_t l = 0; l < queries; l += TILES_SIDE) {
            k->tiles->pack_b(spare + l * padded + c, padded, min_size(TILES_SIDE, queries - l),
                             dst + (c / TILES_SIDE * (ATT_Q / TILES_SIDE) + l / TILES_SIDE) * TILES_BLOCK);
        }
    }
}

static void add_tiles(const struct kernels *k, const float *tile, const float *right, size_t keys, size_t queries,
                      size_t padded, float *sums)
{
    _Alignas(64) float left[ATT_Q / TILES_SIDE * TILES_BLOCK];
    for (size_t j = 0; j < keys; j += TILES_SIDE) {
        size_t rows = min_size(TILES_SIDE, keys - j);
        for (size_t l = 0; l < queries; l += TILES_SIDE) {
            k->tiles->pack_a(tile + j * ATT_Q + l, ATT_Q, rows, min_size(TILES_SIDE, queries - l),
                             left + l / TILES_SIDE * TILES_BLOCK);
        }
        for (size_t c = 0; c < padded; c += TILES_SIDE) {
            k->tiles->multiply(blocks_of(queries), left, right + c / TILES_SIDE * (ATT_Q / TILES_SIDE) * TILES_BLOCK,
                               sums + j * padded + c, padded, 1, 1, rows, TILES_SIDE);
        }
    }
}

void attention_add(const struct kernels *k, const float *tile, const float *right, size_t keys, size_t queries,
                   size_t padded, float *sums)
{
    if (k->tiles) {
        add_tiles(k, tile, right, keys, queries, padded, sums);
        return;
    }
    for (size_t c = 0; c < padded; c += TILE_N) {
        for (size_t j = 0; j < keys; j += TILE_M) {
            k->simd->tile_wide(queries, tile + j * ATT_Q, right + c, padded, sums + j * padded + c, padded, 1, 1,
                               min_size(TILE_M, keys - j), TILE_N);
        }
    }
}

void attention_turn_out(const struct simd *simd, const float *src, size_t queries, size_t dim, float *dst, size_t pitch)
{
    for (size_t c = 0; c < dim; c += 16) {
        simd->transpose(src + c * ATT_Q, ATT_Q, min_size(16, dim - c), queries, dst + c, pitch);
    }
}
