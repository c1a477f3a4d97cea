/* SPDX-License-Identifier: MIT */
/* /v1/rollouts: what was asked and answered, exactly. */
#include "config.h"

#include "server/app.h"

#include "base/err.h"

#include <string.h>

static cJSON *rollout_text(const char *s)
{
    return s ? app_text(s, strlen(s)) : cJSON_CreateNull();
}

static cJSON *rollout_body(const struct state_rollout *s)
{
    cJSON *o = cJSON_CreateObject();
    int failed = app_put(o, "id", cJSON_CreateString(s->id)) | app_put(o, "kind", cJSON_CreateString(s->kind)) |
                 app_put(o, "created", app_time(s->time_ns)) | app_put(o, "model", rollout_text(s->model)) |
                 app_put(o, "user", s->user[0] ? cJSON_CreateString(s->user) : cJSON_CreateNull()) |
                 app_put(o, "adapter", cJSON_CreateString(s->adapter)) |
                 app_put(o, "version", app_number(s->version)) | app_put(o, "digest", app_digest(&s->serve)) |
                 app_put(o, "finish_reason", rollout_text(s->finish)) | app_put(o, "rated", app_number(s->rated)) |
                 app_put(o, "prompt_tokens", app_number(s->n_prompt)) |
                 app_put(o, "completion_tokens", app_number(s->n_response)) |
                 app_put(o, "prompt", rollout_text(s->prompt)) | app_put(o, "text", rollout_text(s->text)) |
                 app_put(o, "visible", rollout_text(s->visible)) | app_put(o, "hash", app_digest(&s->hash));
    if (failed) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

static cJSON *rollout_floats(const float *v, uint32_t n)
{
    cJSON *list = v ? cJSON_CreateArray() : cJSON_CreateNull();
    for (uint32_t i = 0; v && i < n; i++) {
        if (app_push(list, cJSON_CreateNumber((double)v[i]))) {
            cJSON_Delete(list);
            return NULL;
        }
    }
    return list;
}


static cJSON *rollout_ids(const int32_t *ids, uint32_t n)
{
    return ids ? cJSON_CreateIntArray(ids, (int)n) : cJSON_CreateArray();
}

static cJSON *rollout_whole(const struct state_rollout *s)
{
    cJSON *o = rollout_body(s);
    int failed = !o;
    if (!failed) {
        failed = app_put(o, "messages", s->messages_json ? app_parsed(s->messages_json) : cJSON_CreateNull()) |
                 app_put(o, "sampler", app_parsed(s->sampler_json)) |
                 app_put(o, "prompt_ids", rollout_ids(s->prompt_ids, s->n_prompt)) |
                 app_put(o, "response_ids", rollout_ids(s->response_ids, s->n_response)) |
                 app_put(o, "logprobs", rollout_floats(s->logprobs, s->n_response)) |
                 app_put(o, "end_tokens", app_number(s->end_tokens));
    }
    if (failed) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

/* What ?adapter= means: the base's name is "", an alias its adapter, else as it is written (it may have been deleted). */
static const char *rollout_adapter(struct app *app, struct http_request *r, const char *asked, struct adapter_name *name)
{
    struct claas_error ignored = ERR_INIT;
    struct serving *s = atomic_load(&app->serving);
    struct adapters *a = atomic_load(&app->adapters);
    if (s && strcmp(asked, serving_model_name(s)) == 0) {
        return "";
    }
    if (a && asked[0] && adapter_resolve(a, asked, NULL, http_call(r), name, &ignored) == 0) {
        return name->id;
    }
    return asked;
}

void rollout_list(void *ctx, struct http_request *r)
{
    struct app *app = ctx;
    struct check c = CHECK_INIT("query");
    struct claas_error err = ERR_INIT;
    const char *adapter = NULL;
    int64_t limit = 50;
    int64_t before = 0;
    struct adapter_name name;
    struct state_rollouts page = { 0 };
    check_query_text(&c, http_query(r, "adapter"), "adapter", 0, &adapter);
    check_query_int(&c, http_query(r, "limit"), "limit", 1, 1000, &limit);
    check_query_int(&c, http_query(r, "before"), "before", 1, 1LL << 53, &before);
    if (app_refused(r, &c)) {
        return;
    }
    if (adapter) {
        adapter = rollout_adapter(app, r, adapter, &name);
    }
    if (state_rollout_list(app->state, adapter, access_sees(http_caller(r)), (uint64_t)before, (uint32_t)limit, &page,
                           &err)) {
        http_fail(r, &err);
        return;
    }
    cJSON *o = cJSON_CreateObject();
    cJSON *list = cJSON_CreateArray();
    int failed = 0;
    for (size_t i = 0; i < page.n && !failed; i++) {
        failed = app_push(list, rollout_body(page.at[i]));
    }
    failed |= app_put(o, "rollouts", list);
    failed |= app_put(o, "next", page.next ? app_number(page.next) : cJSON_CreateNull());
    if (failed) {
        cJSON_Delete(o);
        o = NULL;
    }
    state_rollouts_clear(&page);
    http_answer(r, 200, o);
}

void rollout_show(void *ctx, struct http_request *r)
{
    struct app *app = ctx;
    struct claas_error err = ERR_INIT;
    struct state_rollout *s = NULL;
    if (state_rollout_get(app->state, http_path_id(r), access_sees(http_caller(r)), &s, &err)) {
        http_fail(r, &err);
        return;
    }
    http_answer(r, 200, rollout_whole(s));
    state_rollout_free(s);
}

/* ---- forgetting ------------------------------------------------------------------------------------------------------------ */

static cJSON *forgotten_trained(const struct state_trained *t)
{
    cJSON *o = cJSON_CreateObject();
    if (app_put(o, "adapter", cJSON_CreateString(t->adapter)) || app_put(o, "version", app_number(t->version)) ||
        app_put(o, "feedback", cJSON_CreateString(t->feedback))) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

static cJSON *forgotten_body(const struct state_forgotten *f)
{
    cJSON *o = cJSON_CreateObject();
    cJSON *jobs = cJSON_CreateArray();
    cJSON *versions = cJSON_CreateArray();
    int failed = 0;
    for (size_t i = 0; i < f->n_cancelled && !failed; i++) {
        failed = app_push(jobs, cJSON_CreateString(f->cancelled[i]));
    }
    for (size_t i = 0; i < f->n_trained && !failed; i++) {
        failed = app_push(versions, forgotten_trained(&f->trained[i]));
    }
    failed |= app_put(o, "deleted", cJSON_CreateBool(f->rollouts + f->feedback > 0)) |
              app_put(o, "rollouts", app_number(f->rollouts)) | app_put(o, "feedback_records", app_number(f->feedback));
    failed |= app_put(o, "jobs_cancelled", jobs) | app_put(o, "versions_trained", versions);
    failed |= app_put(o, "more_versions", cJSON_CreateBool(f->more));
    if (failed) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

static void rollout_forget(struct app *app, struct http_request *r, const struct state_forget *what)
{
    struct claas_error err = ERR_INIT;
    struct state_forgotten f;
    struct jobs *jobs = atomic_load(&app->jobs); /* without them nothing runs */
    int rc = jobs ? jobs_forget(jobs, what, &f, &err) : state_forget(app->state, what, &f, &err);
    if (rc) {
        http_fail(r, &err);
        return;
    }
    http_answer(r, 200, forgotten_body(&f));
    state_forgotten_clear(&f);
}

void rollout_delete_all(void *app, struct http_request *r)
{
    struct check c = CHECK_INIT("query");
    const char *own = access_sees(http_caller(r));
    struct state_forget what = { 0 };
    struct claas_error err = ERR_INIT;
    check_query_text(&c, http_query(r, "user"), "user", 0, &what.user);
    check_query_text(&c, http_query(r, "owner"), "owner", 0, &what.owner);
    if (!what.user && !what.owner) {
        check_fail(&c, "user", "missing", "Say whose: user, owner, or both", NULL);
    } else if (what.user && !what.user[0]) {
        check_fail(&c, "user", "string_too_short", "String should have at least 1 character", NULL);
    }
    if (app_refused(r, &c)) {
        return;
    }
    if (own && what.owner && strcmp(own, what.owner) != 0) {
        (void)err_set(&err, CLAAS_ERR_FORBIDDEN, "owner", "the key '%s' may delete its own data only", own);
        http_fail(r, &err);
        return;
    }
    what.owner = own ? own : what.owner;
    rollout_forget(app, r, &what);
}

void rollout_delete(void *app, struct http_request *r)
{
    const struct state_forget what = { .id = http_path_id(r), .owner = access_sees(http_caller(r)) };
    rollout_forget(app, r, &what);
}
