/* SPDX-License-Identifier: MIT */
/* The output matrix: logits of a chunk of rows at a time, never of a whole sequence, and what is read from them. */
#ifndef LOCAL_HEAD_H
#define LOCAL_HEAD_H

#include "plugins/local/arena.h"
#include "plugins/local/model.h"

struct head {
    const struct model *model;
    struct arena arena;
    size_t rows;   /* of a chunk */
    size_t top;    /* most ids per row */
    float *logits; /* device, [rows][vocab] */
    float *lse;    /* device, [rows] */
    float *picked; /* device, [rows][max(top, 1)] */
    float *coef;   /* device, [rows][max(top, 1)] */
};

/* For at most `rows` rows (chunks are smaller when the vocabulary is large) and `top` ids of each. */
int head_open(const struct model *m, size_t rows, size_t top, struct head *out, struct claas_error *err);
void head_close(struct head *h);

/* logits and lse of n (<= h->rows) rows of hidden[n][hidden] (device); lse to the host as well when asked. */
int head_logits(struct head *h, const float *hidden, size_t n, float *host_lse, struct claas_error *err);
/* Of the rows head_logits made: the logits at ids[n][count] (host), to the host. */
int head_pick(struct head *h, size_t n, size_t count, const int32_t *ids, float *out, struct claas_error *err);
/* The best `top` of each row as log-probabilities, to the host. */
int head_top(struct head *h, size_t n, size_t top, const float *host_lse, int32_t *ids, float *logprobs,
             struct claas_error *err);

#endif
