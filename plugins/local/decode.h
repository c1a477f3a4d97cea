/* SPDX-License-Identifier: MIT */
/* One sequence being answered: a key-value cache, fed with a prompt and then token by token, and the logits of what
 * comes next. Each fed chunk takes one serving turn of the device. One thread at a time per sequence; the model and the
 * adapter are borrowed and must outlive it. */
#ifndef LOCAL_DECODE_H
#define LOCAL_DECODE_H

#include "plugins/local/lora.h"
#include "plugins/local/model.h"

#include <claas/host.h>

struct decode;

/* lora: the version that answers; null for the base model. */
int decode_open(const struct model *m, const struct lora *lora, struct decode **out, struct claas_error *err);
void decode_close(struct decode *d); /* null is fine */

/* Appends n >= 1 tokens. INVALID when an id is none, or "longer than the context"; CANCELLED when the call (may be null)
 * has no time left: what was fed so far stays, but there are no logits until the next success. */
int decode_feed(struct decode *d, const int32_t *ids, size_t n, const struct claas_call *call,
                struct claas_error *err);

size_t decode_length(const struct decode *d); /* tokens fed */

/* Of the token after the last fed one, natural, of the unmodified distribution: */
const float *decode_logits(const struct decode *d);              /* host, [vocab], until the next feed */
float decode_logprob(const struct decode *d, int32_t id);        /* <= 0 */
int decode_top(const struct decode *d, size_t n, int32_t *ids, float *logprobs, struct claas_error *err);

/* Log-probabilities of a given response after a prompt (n_prompt >= 1), and the best n_top of each row. */
struct decode_score {
    const int32_t *prompt;
    size_t n_prompt;
    const int32_t *response;
    size_t n_response;
    size_t n_top;        /* at most the vocabulary and KERNELS_TOP_MAX */
    float *logprobs;     /* [n_response]; null: not wanted */
    int32_t *top_ids;    /* [n_response][n_top] */
    float *top_logprobs;
};
int decode_score(const struct model *m, const struct lora *lora, const struct decode_score *job,
                 const struct claas_call *call, struct claas_error *err);

#endif
