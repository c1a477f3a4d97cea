/* SPDX-License-Identifier: MIT */
/* The forward pass without gradient: a run of tokens goes through the model behind a key-value cache, for prefill,
 * decoding, scoring, the teacher and the base model. */
#ifndef LOCAL_FORWARD_H
#define LOCAL_FORWARD_H

#include "plugins/local/arena.h"
#include "plugins/local/lora.h"
#include "plugins/local/model.h"
#include "plugins/local/pulse.h"

/* Keys and values of one sequence: for each layer cap rows, each K then V, rotated. Grows by blocks. */
struct forward_cache {
    const struct model *model;
    float *data; /* device, [layers][cap][2 * kv_width] */
    size_t cap;
    size_t rows; /* positions filled; may be lowered to forget the tail */
};

int forward_cache_reserve(struct forward_cache *c, size_t rows, struct claas_error *err);
void forward_cache_free(struct forward_cache *c);

/* Scratch for runs of at most `rows` tokens with adapters of at most `rank`. */
struct forward_space {
    struct arena arena;
    size_t rows;
    float *x;       /* [rows][hidden] */
    float *h;       /* [rows][hidden] */
    float *q;       /* [rows][q_width] */
    float *o;       /* [rows][q_width] */
    float *gate_up; /* [rows][2 * intermediate] */
    float *act;     /* [rows][intermediate] */
    float *s;       /* [rows][2 * rank] */
};

int forward_space_open(const struct model *m, size_t rows, size_t rank, struct forward_space *out,
                       struct claas_error *err);
void forward_space_close(struct forward_space *space);

/* Appends n ids (<= space->rows) to the cache. *hidden: the last `wanted` (<= n) rows after the final norm, in the space;
 * in the last layer only these go beyond the keys and values. lora: null = base. One beat for each layer. On failure the
 * cache has the rows it had. */
int forward_run(const struct model *m, const struct lora *lora, struct forward_cache *cache,
                struct forward_space *space, const int32_t *ids, size_t n, size_t wanted, struct pulse *pulse,
                const float **hidden, struct claas_error *err);

#endif
