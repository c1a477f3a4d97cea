/* SPDX-License-Identifier: MIT */
/* The products that the passes of attention are made of, and the packing for them: on tile registers, or with vectors. */
#include "config.h"

#include "kernels/cpu/attention.h"

#include <string.h>

/* ---- what tile registers need: pieces of 32 keys, dimensions or queries, each with its own scales ---- */

static size_t strips_of(size_t n)
{
    return ceil_div(n, TILES_SIDE);
}

/* Keys packed as depth come in pieces of ATT_KEYS. */
static size_t keys_floats(size_t keys)
{
    return ceil_div(keys, ATT_KEYS) * tiles_floats(ATT_KEYS);
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

/* Tiles: pieces of 32 keys, dimensions as depth. Vectors: tile t holds keys 12 t .. as [dim][12]. */
size_t attention_columns_floats(const struct kernels *k, size_t keys, size_t dim)
{
    return k->tiles ? strips_of(keys) * tiles_floats(dim) : ceil_div(keys, TILE_M) * TILE_M * dim;
}

void attention_pack_columns(const struct kernels *k, const float *src, size_t pitch, size_t keys, size_t dim, float *dst)
{
    if (!k->tiles) {
        for (size_t j = 0; j < keys; j += TILE_M) {
            k->simd->transpose(src + j * pitch, pitch, min_size(TILE_M, keys - j), dim, dst + j * dim, TILE_M);
        }
        return;
    }
    for (size_t j = 0; j < keys; j += TILES_SIDE, dst += tiles_floats(dim)) {
        k->tiles->pack_a(src + j * pitch, pitch, min_size(TILES_SIDE, keys - j), dim, dst);
    }
}

/* Tiles: for each 32 dimensions, pieces of ATT_KEYS keys as depth. Vectors: tile t holds dimensions 12 t .. as [keys][12]. */
size_t attention_rows_floats(const struct kernels *k, size_t keys, size_t dim)
{
    return k->tiles ? strips_of(dim) * keys_floats(keys) : ceil_div(dim, TILE_M) * TILE_M * keys;
}

static void pack_rows_tiles(const struct kernels *k, const float *src, size_t pitch, size_t keys, size_t dim, float *dst)
{
    float turned[TILES_SIDE * ATT_KEYS];
    for (size_t c = 0; c < dim; c += TILES_SIDE) {
        size_t cols = min_size(TILES_SIDE, dim - c);
        for (size_t j = 0; j < keys; j += ATT_KEYS, dst += tiles_floats(ATT_KEYS)) {
            size_t depth = min_size(ATT_KEYS, keys - j);
            for (size_t i = 0; i < depth; i += 16) {
                k->simd->transpose(src + (j + i) * pitch + c, pitch, min_size(16, depth - i), cols, turned + i,
                                   ATT_KEYS);
            }
            k->tiles->pack_a(turned, ATT_KEYS, cols, depth, dst);
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

/* Tiles: two pieces of 32 queries, dimensions as depth, then space to make them. Vectors: [dim][ATT_Q]. */
size_t attention_turned_floats(const struct kernels *k, size_t dim)
{
    return dim * ATT_Q + (k->tiles ? ATT_Q / TILES_SIDE * tiles_floats(dim) : 0);
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
    if (!k->tiles) {
        turn_vectors(k, src, pitch, queries, dim, dst);
        return;
    }
    float *turned = dst + ATT_Q / TILES_SIDE * tiles_floats(dim);
    turn_vectors(k, src, pitch, queries, dim, turned);
    for (size_t h = 0; h < ATT_Q / TILES_SIDE; h++) {
        k->tiles->pack_b(turned + h * TILES_SIDE, ATT_Q, dim, dst + h * tiles_floats(dim));
    }
}

void attention_scores(const struct kernels *k, const float *columns, size_t j0, size_t keys, size_t dim,
                      const float *turned, size_t halves, float scale, float *s)
{
    size_t step = k->tiles ? TILES_SIDE : TILE_M;
    for (size_t j = 0; j < keys; j += step) {
        for (size_t h = 0; h < halves; h++) {
            size_t rows = min_size(step, keys - j);
            float *to = s + j * ATT_Q + h * TILE_N;
            if (k->tiles) {
                k->tiles->multiply(dim, columns + (j0 + j) / TILES_SIDE * tiles_floats(dim),
                                   turned + h * tiles_floats(dim), to, ATT_Q, scale, 0, rows, TILE_N);
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
    _Alignas(64) float right[TILES_SIDE + ATT_KEYS / TILES_DEPTH * TILES_BLOCK];
    for (size_t h = 0; h < halves; h++) {
        k->tiles->pack_b(p + h * TILES_SIDE, ATT_Q, keys, right);
        for (size_t c = 0; c < dim; c += TILES_SIDE) {
            const float *left = rows + c / TILES_SIDE * keys_floats(all_keys) + j0 / ATT_KEYS * tiles_floats(ATT_KEYS);
            k->tiles->multiply(keys, left, right, out + c * ATT_Q + h * TILES_SIDE, ATT_Q, 1, 1,
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

/* Tiles: pieces of 32 columns, queries as depth. Vectors: [queries][padded]. */
size_t attention_right_floats(const struct kernels *k, size_t padded)
{
    return k->tiles ? strips_of(padded) * tiles_floats(ATT_Q) : padded * ATT_Q;
}

void attention_pack_right(const struct kernels *k, const float *src, size_t pitch, size_t queries, size_t dim,
                          size_t padded, float *spare, float *dst)
{
    if (!k->tiles) {
        straight(src, pitch, queries, dim, padded, dst);
        return;
    }
    straight(src, pitch, queries, dim, padded, spare);
    for (size_t c = 0; c < padded; c += TILES_SIDE, dst += tiles_floats(ATT_Q)) {
        k->tiles->pack_b(spare + c, padded, queries, dst);
    }
}

static void add_tiles(const struct kernels *k, const float *tile, const float *right, size_t keys, size_t queries,
                      size_t padded, float *sums)
{
    _Alignas(64) float left[TILES_SIDE + ATT_Q / TILES_DEPTH * TILES_BLOCK];
    for (size_t j = 0; j < keys; j += TILES_SIDE) {
        size_t rows = min_size(TILES_SIDE, keys - j);
        k->tiles->pack_a(tile + j * ATT_Q, ATT_Q, rows, queries, left);
        for (size_t c = 0; c < padded; c += TILES_SIDE) {
            k->tiles->multiply(queries, left, right + c / TILES_SIDE * tiles_floats(ATT_Q), sums + j * padded + c,
                               padded, 1, 1, rows, TILES_SIDE);
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
