/* SPDX-License-Identifier: MIT */
/* A sequence being answered, and scoring for the serving side. */
#include "config.h"

#include "plugins/local/decode.h"

#include "plugins/local/forward.h"
#include "plugins/local/head.h"
#include "plugins/local/score.h"

#include "base/err.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PREFILL_CHUNK = 128 }; /* tokens in one serving turn: others wait no longer than that */

struct decode {
    const struct model *model;
    const struct lora *lora;
    struct forward_cache cache;
    struct forward_space space; /* one row */
    struct head head;           /* one row */
    float *logits;              /* host, [vocab] */
    float lse;
};

static size_t rank_of(const struct lora *lora)
{
    return lora ? lora->spec.rank : 0;
}

int decode_open(const struct model *m, const struct lora *lora, struct decode **out, struct claas_error *err)
{
    struct decode *d = calloc(1, sizeof *d);
    if (!d) {
        return err_oom(err, "starting an answer");
    }
    d->model = m;
    d->lora = lora;
    d->cache.model = m;
    d->logits = mem_array(m->geometry.vocab, sizeof *d->logits);
    int rc = d->logits ? 0 : err_oom(err, "starting an answer");
    if (rc == 0) {
        rc = forward_space_open(m, 1, rank_of(lora), &d->space, err);
    }
    if (rc == 0) {
        rc = head_open(m, 1, 0, &d->head, err);
    }
    if (rc != 0) {
        decode_close(d);
        return rc;
    }
    *out = d;
    return 0;
}

void decode_close(struct decode *d)
{
    if (!d) {
        return;
    }
    head_close(&d->head);
    forward_space_close(&d->space);
    forward_cache_free(&d->cache);
    free(d->logits);
    free(d);
}

/* One turn: n tokens, and the logits behind the last of them if it is the last chunk. */
static int feed_chunk(struct decode *d, struct forward_space *space, const int32_t *ids, size_t n, int last,
                      struct pulse *pulse, struct claas_error *err)
{
    const struct model *m = d->model;
    const float *hidden = NULL;
    kernels_turn_begin(m->kernels, KERNELS_SERVE);
    int rc = forward_run(m, d->lora, &d->cache, space, ids, n, last ? 1 : 0, pulse, &hidden, err);
    if (rc == 0 && last) {
        rc = head_logits(&d->head, hidden, 1, &d->lse, err);
    }
    if (rc == 0 && last) {
        rc = kernels_copy_out(m->kernels, d->logits, d->head.logits, m->geometry.vocab * sizeof *d->logits, err);
    }
    kernels_turn_end(m->kernels);
    return rc;
}

int decode_feed(struct decode *d, const int32_t *ids, size_t n, const struct claas_call *call,
                struct claas_error *err)
{
    const struct model *m = d->model;
    size_t room = m->geometry.context - d->cache.rows;
    if (n == 0 || n > room) {
        return err_set(err, CLAAS_ERR_INVALID, "prompt",
                       n == 0 ? "nothing to read: %zu tokens of at most %zu"
                              : "%zu tokens are longer than the context of the model, %zu",
                       d->cache.rows + n, m->geometry.context);
    }
    int rc = score_check_ids(m, ids, n, "prompt", err);
    struct pulse pulse = { .kernels = m->kernels, .call = call, .what = "reading the prompt" };
    struct forward_space wide = { 0 };
    size_t chunk = n < PREFILL_CHUNK ? n : PREFILL_CHUNK;
    if (rc == 0 && n > 1) {
        rc = forward_cache_reserve(&d->cache, d->cache.rows + n, err);
        rc = rc != 0 ? rc : forward_space_open(m, chunk, rank_of(d->lora), &wide, err);
    }
    for (size_t i = 0; i < n && rc == 0; i += chunk) {
        size_t run = n - i < chunk ? n - i : chunk;
        rc = feed_chunk(d, n > 1 ? &wide : &d->space, ids + i, run, i + run == n, &pulse, err);
    }
    forward_space_close(&wide);
    return rc;
}

size_t decode_length(const struct decode *d)
{
    return d->cache.rows;
}

const float *decode_logits(const struct decode *d)
{
    return d->logits;
}

float decode_logprob(const struct decode *d, int32_t id)
{
    float logprob = d->logits[id] - d->lse;
    return logprob < 0 ? logprob : 0; /* rounding may lift a certain token above 0 */
}

int decode_top(const struct decode *d, size_t n, int32_t *ids, float *logprobs, struct claas_error *err)
{
    const struct model *m = d->model;
    size_t vocab = m->geometry.vocab;
    if (n > vocab || n > KERNELS_TOP_MAX) {
        return err_set(err, CLAAS_ERR_INVALID, "top_logprobs", "cannot tell the best %zu of %zu tokens", n, vocab);
    }
    void *found = NULL;
    int rc = n == 0 ? 0 : kernels_alloc(m->kernels, n * (sizeof *ids + sizeof *logprobs), &found, err);
    if (rc != 0 || n == 0) {
        return rc;
    }
    float *values = (float *)((int32_t *)found + n);
    rc = kernels_row_top(m->kernels, 1, vocab, d->head.logits, vocab, n, found, values, err);
    if (rc == 0) {
        rc = kernels_copy_out(m->kernels, ids, found, n * sizeof *ids, err);
    }
    if (rc == 0) {
        rc = kernels_copy_out(m->kernels, logprobs, values, n * sizeof *logprobs, err);
    }
    for (size_t i = 0; i < n && rc == 0; i++) {
        logprobs[i] = decode_logprob(d, ids[i]);
    }
    kernels_free(m->kernels, found);
    return rc;
}

static int score_check(const struct model *m, const struct decode_score *job, struct claas_error *err)
{
    if (job->n_prompt == 0 || job->n_response == 0) {
        return err_set(err, CLAAS_ERR_INVALID, job->n_prompt == 0 ? "prompt" : "response",
                       "cannot score: the %s is empty", job->n_prompt == 0 ? "prompt" : "response");
    }
    if (job->n_prompt > m->geometry.context || job->n_response > m->geometry.context - job->n_prompt) {
        return err_set(err, CLAAS_ERR_INVALID, "prompt",
                       "%zu tokens of prompt and %zu of response are longer than the context of the model, %zu",
                       job->n_prompt, job->n_response, m->geometry.context);
    }
    if (job->n_top > m->geometry.vocab || job->n_top > KERNELS_TOP_MAX) {
        return err_set(err, CLAAS_ERR_INVALID, "top_logprobs", "cannot tell the best %zu of %zu tokens", job->n_top,
                       m->geometry.vocab);
    }
    int rc = score_check_ids(m, job->prompt, job->n_prompt, "prompt", err);
    return rc != 0 ? rc : score_check_ids(m, job->response, job->n_response, "response", err);
}

/* Rounding may lift a certain token above 0; what is not a number comes from a model or adapter that is broken. */
static int score_finish(float *logprobs, size_t n, struct claas_error *err)
{
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(logprobs[i])) {
            return err_set(err, CLAAS_ERR_INTERNAL, NULL, "cannot score: a log-probability is %g", (double)logprobs[i]);
        }
        logprobs[i] = logprobs[i] < 0 ? logprobs[i] : 0;
    }
    return 0;
}

/* The caller's arrays are written at the end only: a failure leaves them as they were. */
int decode_score(const struct model *m, const struct lora *lora, const struct decode_score *job,
                 const struct claas_call *call, struct claas_error *err)
{
    int rc = score_check(m, job, err);
    if (rc != 0) {
        return rc;
    }
    struct score score = { .lora = lora, .job = *job, .chunk = PREFILL_CHUNK, .serve = 1 };
    struct pulse pulse = { .kernels = m->kernels, .call = call, .what = "scoring" };
    struct forward_cache cache = { .model = m };
    size_t n = job->logprobs ? job->n_response : 0;
    size_t cells = job->n_response * job->n_top;
    float *logprobs = mem_array(n + cells, sizeof *logprobs);
    int32_t *ids = mem_array(cells, sizeof *ids);
    score.job.logprobs = n ? logprobs : NULL;
    score.job.top_ids = ids;
    score.job.top_logprobs = logprobs + n;
    rc = logprobs && ids ? score_run(m, &score, &cache, &pulse, err) : err_oom(err, "scoring a response");
    forward_cache_free(&cache);
    rc = rc != 0 ? rc : score_finish(logprobs, n + cells, err);
    if (rc == 0 && n) {
        memcpy(job->logprobs, logprobs, n * sizeof *logprobs);
    }
    if (rc == 0 && cells) {
        memcpy(job->top_ids, ids, cells * sizeof *ids);
        memcpy(job->top_logprobs, logprobs + n, cells * sizeof *logprobs);
    }
    free(logprobs);
    free(ids);
    return rc;
}
