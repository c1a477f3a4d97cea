/* SPDX-License-Identifier: MIT */
/* Scoring a given response behind a prompt: log-probabilities, and the best ids of each row. It is what `score` answers
 * with, and what the teacher and the base model do in a training step. */
#ifndef LOCAL_SCORE_H
#define LOCAL_SCORE_H

#include "plugins/local/decode.h"
#include "plugins/local/forward.h"

struct score {
    const struct lora *lora;   /* null: base */
    struct decode_score job;   /* sizes and ids already checked against the model */
    size_t chunk;              /* tokens in one run */
    int serve;                 /* each chunk takes its own serving turn; 0: the caller holds a turn */
};

/* The cache may hold the start of the prompt already (fewer than n_prompt positions); it holds all but the last token
 * of prompt and response afterwards. */
int score_run(const struct model *m, const struct score *score, struct forward_cache *cache, struct pulse *pulse,
              struct claas_error *err);

/* INVALID unless every id is a row of the model's vocabulary; `what` names the list. */
int score_check_ids(const struct model *m, const int32_t *ids, size_t n, const char *what, struct claas_error *err);

#endif
