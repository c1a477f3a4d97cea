/* SPDX-License-Identifier: MIT */
/* One run of tokens through all layers, behind what the cache holds. */
#include "config.h"

#include "plugins/local/forward.h"

#include "plugins/local/lowrank.h"

#include "base/err.h"

#include <math.h>

enum { CACHE_BLOCK = 256 }; /* positions */

static size_t layer_floats(const struct model *m, size_t cap)
{
    return cap * 2 * m->kv_width;
}

int forward_cache_reserve(struct forward_cache *c, size_t rows, struct claas_error *err)
{
    const struct model *m = c->model;
    if (rows <= c->cap) {
        return 0;
    }
    size_t cap = c->rows > 0 ? rows + c->cap / 2 : rows; /* a sequence that grows gets room to grow */
    cap = (cap + CACHE_BLOCK - 1) / CACHE_BLOCK * CACHE_BLOCK;
    cap = cap > m->geometry.context && rows <= m->geometry.context ? m->geometry.context : cap;
    void *data = NULL;
    int rc = kernels_alloc_raw(m->kernels, m->geometry.layers * layer_floats(m, cap) * sizeof *c->data, &data, err);
    for (size_t i = 0; i < m->geometry.layers && rc == 0 && c->rows > 0; i++) {
        size_t n = layer_floats(m, c->rows);
        rc = kernels_copy_rows(m->kernels, 1, n, c->data + i * layer_floats(m, c->cap), n,
                               (float *)data + i * layer_floats(m, cap), n, err);
    }
    if (rc != 0) {
        kernels_free(m->kernels, data);
        return rc;
    }
    kernels_free(m->kernels, c->data);
    c->data = data;
    c->cap = cap;
    return 0;
}

void forward_cache_free(struct forward_cache *c)
{
    if (c->model) {
        kernels_free(c->model->kernels, c->data);
    }
    c->data = NULL;
    c->cap = 0;
    c->rows = 0;
}

static void space_take(const struct model *m, size_t rows, size_t rank, struct forward_space *out)
{
    out->x = arena_take(&out->arena, rows * m->geometry.hidden);
    out->h = arena_take(&out->arena, rows * m->geometry.hidden);
    out->q = arena_take(&out->arena, rows * m->q_width);
    out->o = arena_take(&out->arena, rows * m->q_width);
    out->gate_up = arena_take(&out->arena, rows * 2 * m->geometry.intermediate);
    out->act = arena_take(&out->arena, rows * m->geometry.intermediate);
    out->s = arena_take(&out->arena, rows * 2 * rank);
}

int forward_space_open(const struct model *m, size_t rows, size_t rank, struct forward_space *out,
                       struct claas_error *err)
{
    *out = (struct forward_space){ .arena = { .kernels = m->kernels }, .rows = rows };
    space_take(m, rows, rank, out);
    int rc = arena_alloc(&out->arena, err);
    if (rc == 0) {
        space_take(m, rows, rank, out);
    }
    return rc;
}

void forward_space_close(struct forward_space *space)
{
    if (space->arena.kernels) {
        arena_free(&space->arena);
    }
}

/* A run in progress: what the steps of a layer share. */
struct run {
    const struct model *m;
    const struct lora *lora;
    struct forward_space *space;
    size_t start; /* position of the first row */
    size_t n;
};

static int adapted(const struct run *r, const struct kernels_weight *w, size_t layer, enum lora_module first,
                   enum lora_module last, size_t rows, const float *x, float *y, size_t y_pitch, int accumulate,
                   struct claas_error *err)
{
    size_t in = kernels_weight_in(w);
    struct lowrank l = { .lora = r->lora,
                         .layer = layer,
                         .first = first,
                         .last = last,
                         .width = kernels_weight_out(w) / (size_t)(last - first + 1),
                         .in = in };
    int rc = kernels_linear(r->m->kernels, w, rows, x, in, y, y_pitch, accumulate, err);
    return rc != 0 ? rc : lowrank_forward(&l, rows, x, in, r->space->s, y, y_pitch, err);
}

static int keys_and_values(const struct run *r, size_t i, float *kv, struct claas_error *err)
{
    const struct model *m = r->m;
    const struct model_geometry *g = &m->geometry;
    size_t pitch = 2 * m->kv_width;
    float *rows = kv + r->start * pitch;
    int rc = kernels_rmsnorm(m->kernels, r->n, g->hidden, r->space->x, g->hidden, m->layers[i].attention_norm,
                             (float)g->eps, r->space->h, g->hidden, NULL, err);
    if (rc == 0) {
        rc = adapted(r, m->layers[i].kv, i, LORA_K, LORA_V, r->n, r->space->h, rows, pitch, 0, err);
    }
    if (rc == 0) {
        rc = model_add_bias(m, m->layers[i].kv_bias, r->n, pitch, rows, pitch, err);
    }
    if (rc == 0) {
        rc = kernels_rope(m->kernels, r->n, g->kv_heads, g->head_dim / 2, r->start, m->cos_table, m->sin_table, rows,
                          pitch, 0, err);
    }
    return rc;
}

/* Attention of the last `rows` rows, added to their part of x. */
static int attend(const struct run *r, size_t i, const float *kv, size_t rows, struct claas_error *err)
{
    const struct model *m = r->m;
    const struct model_geometry *g = &m->geometry;
    struct forward_space *space = r->space;
    size_t skip = r->n - rows;
    struct kernels_attention a = {
        .rows = rows,
        .start = r->start + skip,
        .heads = g->heads,
        .kv_heads = g->kv_heads,
        .head_dim = g->head_dim,
        .scale = 1 / sqrtf((float)g->head_dim),
        .q = space->q,
        .q_pitch = m->q_width,
        .k = kv,
        .k_pitch = 2 * m->kv_width,
        .v = kv + m->kv_width,
        .v_pitch = 2 * m->kv_width,
    };
    float *x = space->x + skip * g->hidden;
    int rc = adapted(r, m->layers[i].q, i, LORA_Q, LORA_Q, rows, space->h + skip * g->hidden, space->q, m->q_width, 0,
                     err);
    if (rc == 0) {
        rc = model_add_bias(m, m->layers[i].q_bias, rows, m->q_width, space->q, m->q_width, err);
    }
    if (rc == 0) {
        rc = kernels_rope(m->kernels, rows, g->heads, g->head_dim / 2, a.start, m->cos_table, m->sin_table, space->q,
                          m->q_width, 0, err);
    }
    if (rc == 0) {
        rc = kernels_attention(m->kernels, &a, space->o, m->q_width, NULL, err);
    }
    if (rc == 0) {
        rc = adapted(r, m->layers[i].o, i, LORA_O, LORA_O, rows, space->o, x, g->hidden, 1, err);
    }
    return rc != 0 ? rc : model_add_bias(m, m->layers[i].o_bias, rows, g->hidden, x, g->hidden, err);
}

static int mlp(const struct run *r, size_t i, size_t rows, struct claas_error *err)
{
    const struct model *m = r->m;
    size_t hidden = m->geometry.hidden;
    size_t inner = m->geometry.intermediate;
    struct forward_space *space = r->space;
    float *x = space->x + (r->n - rows) * hidden;
    int rc = kernels_rmsnorm(m->kernels, rows, hidden, x, hidden, m->layers[i].mlp_norm, (float)m->geometry.eps,
                             space->h, hidden, NULL, err);
    if (rc == 0) {
        rc = adapted(r, m->layers[i].gate_up, i, LORA_GATE, LORA_UP, rows, space->h, space->gate_up, 2 * inner, 0,
                     err);
    }
    if (rc == 0) {
        rc = kernels_swiglu(m->kernels, rows, inner, space->gate_up, space->gate_up + inner, 2 * inner, space->act,
                            inner, err);
    }
    return rc != 0 ? rc
                   : adapted(r, m->layers[i].down, i, LORA_DOWN, LORA_DOWN, rows, space->act, x, hidden, 1, err);
}

int forward_run(const struct model *m, const struct lora *lora, struct forward_cache *cache,
                struct forward_space *space, const int32_t *ids, size_t n, size_t wanted, struct pulse *pulse,
                const float **hidden, struct claas_error *err)
{
    const struct model_geometry *g = &m->geometry;
    struct run r = { .m = m, .lora = lora, .space = space, .start = cache->rows, .n = n };
    if (n > g->context || cache->rows > g->context - n) {
        return err_set(err, CLAAS_ERR_INVALID, NULL, "%zu tokens are longer than the context of the model, %zu",
                       cache->rows + n, g->context);
    }
    int rc = forward_cache_reserve(cache, cache->rows + n, err);
    if (rc == 0) {
        rc = kernels_gather(m->kernels, m->embedding, n, ids, space->x, g->hidden, err);
    }
    for (size_t i = 0; i < g->layers && rc == 0; i++) {
        size_t rows = i + 1 < g->layers ? n : wanted;
        float *kv = cache->data + i * layer_floats(m, cache->cap);
        rc = keys_and_values(&r, i, kv, err);
        if (rc == 0 && rows > 0) {
            rc = attend(&r, i, kv, rows, err);
            rc = rc != 0 ? rc : mlp(&r, i, rows, err);
        }
        rc = rc != 0 ? rc : pulse_beat(pulse, err);
    }
    if (rc == 0 && wanted > 0) {
        float *x = space->x + (n - wanted) * g->hidden;
        rc = kernels_rmsnorm(m->kernels, wanted, g->hidden, x, g->hidden, m->final_norm, (float)g->eps, space->h,
                             g->hidden, NULL, err);
    }
    if (rc != 0) {
        return rc;
    }
    cache->rows += n;
    *hidden = space->h;
    return 0;
}
