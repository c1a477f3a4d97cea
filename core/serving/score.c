/* SPDX-License-Identifier: MIT */
/* Log-probabilities of a completion somebody hands in: prompt ids, the completion's ids and the end of the turn, joined. */
#include "config.h"

#include "serving/internal.h"

#include "base/err.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Two turns, to see with which token the template ends one. */
static const char probe[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"}]}";

static int is_stop(const struct claas_model *model, int32_t id)
{
    for (uint32_t i = 0; i < model->n_stop; i++) {
        if (model->stop_ids[i] == id) {
            return 1;
        }
    }
    return 0;
}

/* The last stop token of a rendered assistant turn; where the template shows none, the model's first one; -1: none. */
static int end_token(struct serving *s, int32_t *out, struct claas_error *err)
{
    (void)pthread_mutex_lock(&s->end_mutex);
    int known = s->end_known;
    int32_t token = s->end_token;
    (void)pthread_mutex_unlock(&s->end_mutex);
    if (known) {
        *out = token;
        return 0;
    }
    struct claas_model model = { .size = sizeof model };
    struct host_ids ids = { 0 };
    int rc = host_model(s->inference, &model, err);
    if (rc == 0) {
        rc = host_text_render(s->text, probe, 0, &ids, err);
    }
    if (rc == 0) {
        token = model.n_stop > 0 ? model.stop_ids[0] : -1;
        for (size_t i = ids.n; i > 0; i--) {
            if (is_stop(&model, ids.ids[i - 1])) {
                token = ids.ids[i - 1];
                break;
            }
        }
        (void)pthread_mutex_lock(&s->end_mutex);
        s->end_known = 1;
        s->end_token = token;
        (void)pthread_mutex_unlock(&s->end_mutex);
        *out = token;
    }
    host_ids_clear(&ids);
    return rc;
}

void serving_score_clear(struct serving_score *out)
{
    free(out->ids);
    free(out->logprobs);
    free(out->top_ids);
    free(out->top_logprobs);
    *out = (struct serving_score){ .n = 0 };
}

/* Appends completion and end of turn to the prompt. */
static int join(struct serving *s, const struct serving_score_request *r, struct host_ids *ids,
                struct claas_error *err)
{
    int rc = host_text_encode(s->text, r->completion, r->completion_bytes, 0, ids, err);
    int32_t end = -1;
    if (rc == 0 && !r->without_end) {
        rc = end_token(s, &end, err);
    }
    if (rc == 0 && end >= 0) {
        if (mem_grow((void **)&ids->ids, &ids->cap, ids->n + 1, sizeof *ids->ids) != 0) {
            return err_oom(err, "a completion to score");
        }
        ids->ids[ids->n++] = end;
    }
    return rc;
}

static int arrays_make(struct serving_score *out, const int32_t *ids, uint32_t n, uint32_t n_top,
                       struct claas_error *err)
{
    out->n = n;
    out->n_top = n_top;
    out->ids = mem_array(n, sizeof *out->ids);
    out->logprobs = mem_array(n, sizeof *out->logprobs);
    if (n_top > 0) {
        out->top_ids = mem_array((size_t)n * n_top, sizeof *out->top_ids);
        out->top_logprobs = mem_array((size_t)n * n_top, sizeof *out->top_logprobs);
    }
    if (out->ids == NULL || out->logprobs == NULL ||
        (n_top > 0 && (out->top_ids == NULL || out->top_logprobs == NULL))) {
        return err_oom(err, "a score");
    }
    memcpy(out->ids, ids, (size_t)n * sizeof *ids);
    return 0;
}

static int ask(struct serving *s, const struct serving_score_request *r, const struct host_ids *all,
               const struct lease *lease, struct serving_score *out, struct claas_error *err)
{
    const struct claas_score score = {
        .size = sizeof score, .n_prompt = out->n_prompt, .n_response = out->n, .n_top = out->n_top,
        .tokens = all->ids, .version = lease_abi(lease), .out_logprobs = out->logprobs,
        .out_top_ids = out->top_ids, .out_top_logprobs = out->top_logprobs,
    };
    int rc = host_inference_score(s->inference, &score, r->call, err);
    for (uint32_t i = 0; rc == 0 && i < out->n; i++) {
        if (!isfinite(out->logprobs[i])) {
            rc = err_set(err, CLAAS_ERR_INTERNAL, NULL, "the inference plugin gave a score that is not a number");
        }
        out->sum += (double)out->logprobs[i];
    }
    return rc;
}

static int score_ids(struct serving *s, const struct serving_score_request *r, const struct host_ids *all,
                     size_t n_prompt, struct serving_score *out, struct claas_error *err)
{
    struct lease lease = { .n = 0 };
    uint32_t room = 0;
    size_t n = all->n - n_prompt;
    int rc = room_for(s, n_prompt, -1, "messages", &room, err);
    struct claas_model model = { .size = sizeof model };
    if (rc == 0 && host_model(s->inference, &model, NULL) == 0 && model.context > 0 && all->n > model.context) {
        rc = err_set(err, CLAAS_ERR_INVALID, "completion",
                     "prompt (%zu tokens) and completion (%zu) do not fit into the model's context of %u", n_prompt, n,
                     model.context);
    }
    if (rc == 0) {
        rc = arrays_make(out, all->ids + n_prompt, (uint32_t)n, r->n_top, err);
    }
    if (rc == 0) {
        rc = lease_take(s, r->model, r->prefix, r->call, &lease, err);
    }
    if (rc != 0) {
        return rc;
    }
    out->n_prompt = (uint32_t)n_prompt;
    out->version = lease.n;
    out->serve = lease.serve;
    memcpy(out->adapter, lease.adapter, sizeof out->adapter);
    if (n > 0) {
        rc = ask(s, r, all, &lease, out, err);
    }
    lease_release(s, &lease);
    return rc;
}

int serving_score(struct serving *s, const struct serving_score_request *r, struct serving_score *out,
                  struct claas_error *err)
{
    struct serving_params p;
    serving_params_default(&p);
    p.n_top = r->n_top;
    int rc = serving_ready(s, err);
    if (rc == 0) {
        rc = params_check(s, &p, "top_logprobs", err);
    }
    if (rc != 0) {
        return rc;
    }
    struct host_ids ids = { 0 };
    struct serving_score score = { .n = 0 };
    cJSON *chat = NULL;
    size_t n_prompt = 0;
    atomic_fetch_add(&s->n_requests, 1);
    rc = messages_normalise(r->messages, &chat, err);
    if (rc == 0) {
        rc = messages_render(s, chat, &ids, err);
    }
    if (rc == 0) {
        n_prompt = ids.n;
        rc = r->completion_bytes > 0 ? join(s, r, &ids, err) : 0;
    }
    if (rc == 0) {
        rc = score_ids(s, r, &ids, n_prompt, &score, err);
    }
    if (rc == 0) {
        *out = score;
    } else {
        serving_score_clear(&score);
    }
    cJSON_Delete(chat);
    host_ids_clear(&ids);
    atomic_fetch_sub(&s->n_requests, 1);
    return rc;
}
