/* SPDX-License-Identifier: MIT */
/* Chunk by chunk through the model; rows that predict response tokens go on to the output matrix. */
#include "config.h"

#include "plugins/local/score.h"

#include "plugins/local/head.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

int score_check_ids(const struct model *m, const int32_t *ids, size_t n, const char *what, struct claas_error *err)
{
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= m->geometry.vocab) {
            return err_set(err, CLAAS_ERR_INVALID, what, "token %zu of the %s is %d: the vocabulary has %zu ids", i,
                           what, (int)ids[i], m->geometry.vocab);
        }
    }
    return 0;
}

/* Rows `first` ... of the response, whose hidden states are at hand. */
static int score_rows(const struct score *score, struct head *head, const float *hidden, size_t first, size_t rows,
                      float *lse, struct claas_error *err)
{
    const struct decode_score *job = &score->job;
    size_t width = head->model->geometry.hidden;
    int rc = 0;
    for (size_t i = 0; i < rows && rc == 0; i += head->rows) {
        size_t n = rows - i < head->rows ? rows - i : head->rows;
        size_t at = first + i;
        rc = head_logits(head, hidden + i * width, n, lse, err);
        if (rc == 0 && job->logprobs) {
            rc = head_pick(head, n, 1, job->response + at, job->logprobs + at, err);
        }
        for (size_t j = 0; j < n && rc == 0 && job->logprobs; j++) {
            job->logprobs[at + j] -= lse[j];
        }
        if (rc == 0 && job->n_top > 0) {
            rc = head_top(head, n, job->n_top, lse, job->top_ids + at * job->n_top,
                          job->top_logprobs + at * job->n_top, err);
        }
    }
    return rc;
}

static int score_chunks(const struct model *m, const struct score *score, const int32_t *tokens, size_t n,
                        struct forward_cache *cache, struct forward_space *space, struct head *head, float *lse,
                        struct pulse *pulse, struct claas_error *err)
{
    size_t first_row = score->job.n_prompt - 1; /* the position that predicts response token 0 */
    int rc = 0;
    while (cache->rows < n && rc == 0) {
        size_t at = cache->rows;
        size_t run = n - at < score->chunk ? n - at : score->chunk;
        size_t from = at > first_row ? at : first_row;
        size_t wanted = at + run > from ? at + run - from : 0;
        const float *hidden = NULL;
        if (score->serve) {
            kernels_turn_begin(m->kernels, KERNELS_SERVE);
        }
        rc = forward_run(m, score->lora, cache, space, tokens + at, run, wanted, pulse, &hidden, err);
        if (rc == 0 && wanted > 0) {
            rc = score_rows(score, head, hidden, from - first_row, wanted, lse, err);
        }
        if (score->serve) {
            kernels_turn_end(m->kernels);
        }
    }
    return rc;
}

int score_run(const struct model *m, const struct score *score, struct forward_cache *cache, struct pulse *pulse,
              struct claas_error *err)
{
    const struct decode_score *job = &score->job;
    size_t n = job->n_prompt + job->n_response - 1;
    size_t chunk = n < score->chunk ? n : score->chunk;
    struct forward_space space = { 0 };
    struct head head = { 0 };
    int32_t *tokens = mem_array(n + 1, sizeof *tokens);
    float *lse = mem_array(job->n_response, sizeof *lse);
    int rc = tokens && lse ? 0 : err_oom(err, "scoring a response");
    if (rc == 0) {
        memcpy(tokens, job->prompt, job->n_prompt * sizeof *tokens);
        memcpy(tokens + job->n_prompt, job->response, job->n_response * sizeof *tokens);
        rc = forward_cache_reserve(cache, n, err);
    }
    if (rc == 0) {
        rc = forward_space_open(m, chunk, score->lora ? score->lora->spec.rank : 0, &space, err);
    }
    if (rc == 0) {
        rc = head_open(m, chunk < job->n_response ? chunk : job->n_response, job->n_top, &head, err);
    }
    if (rc == 0) {
        rc = score_chunks(m, score, tokens, n, cache, &space, &head, lse, pulse, err);
    }
    head_close(&head);
    forward_space_close(&space);
    free(lse);
    free(tokens);
    return rc;
}
