/* SPDX-License-Identifier: MIT */
/* Chunks of logits and row statistics over them. */
#include "config.h"

#include "plugins/local/head.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdlib.h>

enum { CHUNK_BYTES = 64 << 20 }; /* of logits: large enough for whole answers of small models */

static void head_take(struct head *h)
{
    size_t top = h->top > 0 ? h->top : 1;
    h->logits = arena_take(&h->arena, h->rows * h->model->geometry.vocab);
    h->lse = arena_take(&h->arena, h->rows);
    h->picked = arena_take(&h->arena, h->rows * top);
    h->coef = arena_take(&h->arena, h->rows * top);
}

int head_open(const struct model *m, size_t rows, size_t top, struct head *out, struct claas_error *err)
{
    size_t most = CHUNK_BYTES / (m->geometry.vocab * sizeof *out->logits);
    most = most > 0 ? most : 1;
    if (rows > most) { /* equal chunks instead of a small last one */
        size_t chunks = (rows + most - 1) / most;
        rows = (rows + chunks - 1) / chunks;
    }
    *out = (struct head){ .model = m, .arena = { .kernels = m->kernels }, .rows = rows, .top = top };
    head_take(out);
    int rc = arena_alloc(&out->arena, err);
    if (rc == 0) {
        head_take(out);
    }
    return rc;
}

void head_close(struct head *h)
{
    if (h->arena.kernels) {
        arena_free(&h->arena);
    }
}

int head_logits(struct head *h, const float *hidden, size_t n, float *host_lse, struct claas_error *err)
{
    const struct model *m = h->model;
    size_t vocab = m->geometry.vocab;
    int rc = kernels_linear(m->kernels, m->output, n, hidden, m->geometry.hidden, h->logits, vocab, 0, err);
    if (rc == 0) {
        rc = kernels_row_lse(m->kernels, n, vocab, h->logits, vocab, h->lse, err);
    }
    if (rc == 0 && host_lse) {
        rc = kernels_copy_out(m->kernels, host_lse, h->lse, n * sizeof *host_lse, err);
    }
    return rc;
}

int head_pick(struct head *h, size_t n, size_t count, const int32_t *ids, float *out, struct claas_error *err)
{
    const struct model *m = h->model;
    size_t vocab = m->geometry.vocab;
    int rc = kernels_row_pick(m->kernels, n, vocab, h->logits, vocab, count, ids, h->picked, err);
    return rc != 0 ? rc : kernels_copy_out(m->kernels, out, h->picked, n * count * sizeof *out, err);
}

int head_top(struct head *h, size_t n, size_t top, const float *host_lse, int32_t *ids, float *logprobs,
             struct claas_error *err)
{
    const struct model *m = h->model;
    size_t vocab = m->geometry.vocab;
    void *found = NULL;
    int rc = kernels_alloc(m->kernels, n * top * sizeof *ids, &found, err);
    if (rc == 0) {
        rc = kernels_row_top(m->kernels, n, vocab, h->logits, vocab, top, found, h->picked, err);
    }
    if (rc == 0) {
        rc = kernels_copy_out(m->kernels, ids, found, n * top * sizeof *ids, err);
    }
    if (rc == 0) {
        rc = kernels_copy_out(m->kernels, logprobs, h->picked, n * top * sizeof *logprobs, err);
    }
    kernels_free(m->kernels, found);
    for (size_t i = 0; i < n * top && rc == 0; i++) {
        logprobs[i] -= host_lse[i / top];
    }
    return rc;
}
