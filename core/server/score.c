/* SPDX-License-Identifier: MIT */
/* POST /v1/score and GET /v1/models. */
#include "config.h"

#include "server/app.h"

#include "base/buf.h"
#include "base/err.h"

#include <stdlib.h>
#include <string.h>

static cJSON *score_body(struct serving *s, const struct serving_score *score)
{
    cJSON *o = cJSON_CreateObject();
    cJSON *logprobs = cJSON_AddArrayToObject(o, "logprobs");
    cJSON *tokens = cJSON_AddArrayToObject(o, "tokens");
    int ok = logprobs && tokens;
    for (uint32_t i = 0; ok && i < score->n; i++) {
        struct claas_error ignored = ERR_INIT;
        struct buf text = BUF_INIT;
        (void)serving_token_text(s, score->ids[i], &text, &ignored); /* an id nobody can spell has no text */
        cJSON *token = app_text(buf_str(&text), text.len);
        cJSON *value = cJSON_CreateNumber((double)score->logprobs[i]);
        int a = cJSON_AddItemToArray(tokens, token);
        int b = cJSON_AddItemToArray(logprobs, value);
        if (!a) {
            cJSON_Delete(token);
        }
        if (!b) {
            cJSON_Delete(value);
        }
        ok = a && b;
        buf_clear(&text);
    }
    cJSON *receipt = cJSON_AddObjectToObject(o, "claas");
    cJSON *digest = app_digest(&score->serve);
    ok = ok && cJSON_AddNumberToObject(o, "prompt_tokens", score->n_prompt) &&
         cJSON_AddNumberToObject(o, "completion_tokens", score->n) &&
         cJSON_AddNumberToObject(o, "logprob_sum", score->sum) &&
         cJSON_AddStringToObject(receipt, "adapter", score->adapter) &&
         cJSON_AddNumberToObject(receipt, "version", (double)score->version);
    if (!cJSON_AddItemToObject(receipt, "digest", digest)) {
        cJSON_Delete(digest);
        ok = 0;
    }
    if (!ok) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

void score_answer(void *ctx, struct http_request *r)
{
    struct app *app = ctx;
    const cJSON *body = http_body(r);
    struct check c = CHECK_INIT("body");
    struct serving_score_request q = { .call = http_call(r),
                                       .owner = http_caller(r)->key,
                                       .prefix = http_caller(r)->prefix };
    const cJSON *messages = NULL;
    check_text(&c, body, "model", 1, 0, &q.model);
    check_list(&c, body, "messages", 1, 1, &messages);
    check_text(&c, body, "completion", 1, 0, &q.completion);
    struct serving *s = app_refused(r, &c) ? NULL : app_serving(app, r);
    if (!s) {
        return;
    }
    struct claas_error err = ERR_INIT;
    struct serving_score score = { 0 };
    q.messages = messages;
    q.completion_bytes = strlen(q.completion);
    http_deadline(r, app_config(app, r)->limits.request_timeout_ms);
    if (serving_score(s, &q, &score, &err)) {
        http_fail(r, &err);
        return;
    }
    http_answer(r, 200, score_body(s, &score));
    serving_score_clear(&score);
}

static cJSON *models_row(const struct app *app, const struct serving_model *m)
{
    cJSON *o = cJSON_CreateObject();
    const char *plugin = app->config->inference.plugin[0] ? app->config->inference.plugin : app->config->engine.plugin;
    int ok = cJSON_AddStringToObject(o, "id", m->id) && cJSON_AddStringToObject(o, "object", "model") &&
             cJSON_AddNumberToObject(o, "created", (double)(m->created_ns / 1000000000)) &&
             cJSON_AddStringToObject(o, "owned_by", m->version ? "claas" : plugin) &&
             cJSON_AddStringToObject(o, "adapter", m->adapter) &&
             cJSON_AddNumberToObject(o, "version", (double)m->version);
    if (!ok) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

void models_list(void *ctx, struct http_request *r)
{
    struct app *app = ctx;
    struct serving *s = app_serving(app, r);
    if (!s) {
        return;
    }
    struct claas_error err = ERR_INIT;
    struct serving_models models = { 0 };
    if (serving_models(s, http_call(r), &models, &err)) {
        http_fail(r, &err);
        return;
    }
    cJSON *o = cJSON_CreateObject();
    cJSON *data = cJSON_AddStringToObject(o, "object", "list") ? cJSON_AddArrayToObject(o, "data") : NULL;
    for (size_t i = 0; data && i < models.n; i++) {
        if (models.at[i].adapter[0] && !access_owns(http_caller(r), models.at[i].adapter)) {
            continue;
        }
        cJSON *row = models_row(app, &models.at[i]);
        if (!cJSON_AddItemToArray(data, row)) {
            cJSON_Delete(row);
            data = NULL;
        }
    }
    free(models.at);
    if (!data) {
        cJSON_Delete(o);
        o = NULL;
    }
    http_answer(r, 200, o);
}
