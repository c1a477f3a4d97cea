/* SPDX-License-Identifier: MIT */
/* POST /v1/feedback and POST /v1/lora/init: what makes versions. */
#include "config.h"

#include "server/app.h"

#include "base/err.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "server/errors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- feedback ------------------------------------------------------------------------------------------------------------ */

/* Either the answer is named by completion_id, or found by what was asked and answered. */
static void feedback_item_parse(struct check *c, const cJSON *item, struct feedback_item *out)
{
    check_text(c, item, "lora_id", 1, 1, &out->lora_id);
    int named = check_text(c, item, "completion_id", 0, 1, &out->completion_id);
    check_text(c, item, "prompt", !named, 1, &out->prompt);
    check_text(c, item, "response", !named, 1, &out->response);
    check_text(c, item, "feedback", 1, 1, &out->feedback);
    check_object(c, item, "training", 0, &out->training);
}

/* A request may only switch off what the configuration says; what was paused is always resumed. */
static void feedback_orchestration(struct check *c, const cJSON *body, struct feedback_request *q)
{
    const cJSON *o = NULL;
    int ignored = 0;
    int sleeps = 1;
    int64_t level = 1;
    if (!check_object(c, body, "orchestration", 0, &o)) {
        return;
    }
    size_t was = check_enter(c, "orchestration", 0);
    check_bool(c, o, "sleep_before", &sleeps);
    check_bool(c, o, "wake_after", &ignored);
    check_bool(c, o, "wake_on_failure", &ignored);
    check_int(c, o, "sleep_level", 1, 2, &level);
    check_leave(c, was);
    q->no_pause = !sleeps;
}

static struct feedback_item *feedback_parse(struct check *c, const cJSON *body, const struct config *config,
                                            struct feedback_request *q)
{
    const cJSON *list = NULL;
    const cJSON *item;
    feedback_orchestration(c, body, q);
    check_bool(c, body, "strict", &q->strict);
    if (!check_list(c, body, "requests", 1, 1, &list)) {
        return NULL;
    }
    int n = cJSON_GetArraySize(list);
    if (n > config->limits.batch_items) {
        char text[96];
        (void)snprintf(text, sizeof text, "List should have at most %lld items after validation, not %d",
                       (long long)config->limits.batch_items, n);
        check_fail(c, "requests", "too_long", text, list);
        return NULL;
    }
    struct feedback_item *items = mem_array((size_t)n, sizeof *items);
    if (!items) {
        c->failed = 1;
        return NULL;
    }
    long i = 0;
    size_t was = check_enter(c, "requests", 0);
    cJSON_ArrayForEach(item, list)
    {
        size_t inner = check_enter(c, NULL, i);
        if (cJSON_IsObject(item)) {
            feedback_item_parse(c, item, &items[i]);
        } else {
            check_fail(c, "", "model_attributes_type",
                       "Input should be a valid dictionary or object to extract fields from", item);
        }
        check_leave(c, inner);
        i++;
    }
    check_leave(c, was);
    q->items = items;
    q->n_items = (size_t)n;
    q->items_json = list;
    return items;
}

/* What a repeat under the same Idempotency-Key must have the same. */
static int feedback_digest(const cJSON *body, struct claas_digest *out, struct claas_error *err)
{
    char *text = json_print(body);
    if (!text) {
        return err_oom(err, "a feedback request");
    }
    int rc = sha256_of(text, strlen(text), out, err);
    free(text);
    return rc;
}

/* 1 to 200 visible characters; null: none was sent, or *bad. */
static const char *feedback_key(const struct http_request *r, int *bad)
{
    const char *key = http_asked(r, "Idempotency-Key");
    size_t n = key ? strlen(key) : 0;
    *bad = 0;
    for (size_t i = 0; i < n; i++) {
        *bad |= key[i] < '!' || key[i] > '~';
    }
    *bad |= key && (n < 1 || n > 200);
    return *bad ? NULL : key;
}

static int feedback_is_gone(void *ctx)
{
    return http_gone(ctx);
}

static void feedback_refused(struct app *app, struct http_request *r, const struct feedback_request *q,
                             const struct claas_error *err)
{
    struct claas_error ignored = ERR_INIT;
    const struct state_audit row = { .owner = q->owner, .action = "refused", .adapter = q->items[0].lora_id, .job = "",
                                     .code = err->code, .reason = err->message };
    log_line(LOG_WARNING, "server", "feedback %s refused: %s", http_request_id(r), err->message);
    if (state_audit_add(app->state, &row, &ignored)) {
        log_line(LOG_WARNING, "server", "the audit cannot be written: %s", ignored.message);
    }
    if (feedback_is_mixed(err)) {
        http_answer(r, 400, error_body(400, err_name(err->code), err->message, err->what));
    } else {
        http_fail(r, err);
    }
}

/* The caller who waits is answered as if there were no job. */
static void feedback_wait(struct app *app, struct http_request *r, int may_drop)
{
    struct claas_error err = ERR_INIT;
    struct jobs_view v;
    struct jobs *jobs = atomic_load(&app->jobs);
    const char *id = http_note(r);
    int rc = jobs_wait(jobs, id, may_drop, feedback_is_gone, r, &err);
    if (rc == 0) {
        rc = jobs_look(jobs, id, NULL, &v, &err);
    }
    if (rc) {
        http_fail(r, &err);
        return;
    }
    if (v.job->error_code) {
        (void)err_set(&err, v.job->error_code, v.job->error_what, "%s", v.job->error ? v.job->error : "");
        log_line(LOG_WARNING, "server", "feedback %s failed: %s", http_request_id(r), err.message);
        http_fail(r, &err);
    } else {
        http_answer(r, 200, v.job->result_json ? app_parsed(v.job->result_json) : NULL);
    }
    jobs_view_clear(&v);
}

static void feedback_wait_first(void *app, struct http_request *r)
{
    feedback_wait(app, r, 1);
}

/* Somebody else knows of the job. */
static void feedback_wait_again(void *app, struct http_request *r)
{
    feedback_wait(app, r, 0);
}

static void feedback_submit(struct app *app, struct http_request *r, struct jobs *jobs, struct feedback_request *q)
{
    struct claas_error err = ERR_INIT;
    struct jobs_submit s = { .request = q };
    char id[STATE_ID_CAP];
    int repeated = 0;
    int bad = 0;
    const char *prefer = http_asked(r, "Prefer");
    s.acknowledged = prefer && strstr(prefer, "respond-async") != NULL;
    s.key = feedback_key(r, &bad);
    int rc = bad ? err_set(&err, CLAAS_ERR_INVALID, "Idempotency-Key",
                           "the Idempotency-Key must be 1 to 200 visible characters of ASCII")
                 : feedback_digest(http_body(r), &s.body, &err);
    if (rc == 0 && !s.acknowledged) {
        rc = http_wait_take(r, &err);
    }
    if (rc == 0) {
        rc = jobs_submit(jobs, &s, id, &repeated, &err);
    }
    if ((rc || repeated) && app->access) {
        access_step_back(app->access, http_caller(r));
    }
    if (rc) {
        feedback_refused(app, r, q, &err);
    } else if (s.acknowledged) {
        job_accepted(app, r, jobs, id);
    } else {
        http_wait_then(r, repeated ? feedback_wait_again : feedback_wait_first, id);
    }
}

/* The adapters must be the caller's, and its quota of steps not used up. */
static int feedback_admit(struct app *app, struct http_request *r, const struct feedback_request *q,
                          struct claas_error *err)
{
    struct adapters *a = atomic_load(&app->adapters);
    int rc = 0;
    for (size_t i = 0; rc == 0 && a && http_caller(r)->prefix[0] && i < q->n_items; i++) {
        struct adapter_name name;
        rc = app_name(a, r, "lora_id", q->items[i].lora_id, &name, err);
    }
    return rc || !app->access ? rc : access_step(app->access, http_caller(r), err);
}

void train_feedback(void *ctx, struct http_request *r)
{
    struct app *app = ctx;
    struct check c = CHECK_INIT("body");
    const struct access_caller *caller = http_caller(r);
    struct feedback_request q = { .call = http_call(r), .owner = caller->key, .anybodys = !access_sees(caller) };
    struct feedback_item *items = feedback_parse(&c, http_body(r), app_config(app, r), &q);
    struct jobs *jobs = app_refused(r, &c) ? NULL : app_jobs(app, r);
    if (jobs && items) {
        struct claas_error err = ERR_INIT;
        if (feedback_admit(app, r, &q, &err)) {
            feedback_refused(app, r, &q, &err);
        } else {
            feedback_submit(app, r, jobs, &q);
        }
    }
    free(items);
}

/* ---- init ------------------------------------------------------------------------------------------------------------------ */

/* The id that is answered is the one existing clients go on with; -init means the adapter's head. */
static cJSON *init_body(const struct feedback_created *made)
{
    char id[ADAPTER_ID_CAP + 8];
    (void)snprintf(id, sizeof id, "%s-init", made->lora_id);
    cJSON *o = cJSON_CreateObject();
    if (app_put(o, "lora_id", cJSON_CreateString(id)) || app_put(o, "id", cJSON_CreateString(made->lora_id)) ||
        app_put(o, "version", app_number(made->version)) || app_put(o, "digest", app_digest(&made->serve)) ||
        app_put(o, "serves", cJSON_CreateBool(made->serves))) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

void train_init(void *ctx, struct http_request *r)
{
    struct app *app = ctx;
    struct check c = CHECK_INIT("body");
    struct feedback_create q = { .call = http_call(r), .owner = http_caller(r)->key };
    check_text(&c, http_body(r), "lora_id", 1, 1, &q.lora_id);
    check_text(&c, http_body(r), "base_model", 0, 0, &q.base_model);
    struct feedback *f = app_refused(r, &c) ? NULL : app_feedback(app, r);
    if (!f) {
        return;
    }
    struct claas_error err = ERR_INIT;
    struct feedback_created made = { 0 };
    cJSON *spec = cJSON_Duplicate(http_body(r), 1);
    if (!spec) {
        http_answer(r, 500, NULL);
        return;
    }
    cJSON_DeleteItemFromObjectCaseSensitive(spec, "lora_id");
    cJSON_DeleteItemFromObjectCaseSensitive(spec, "base_model");
    q.spec = spec;
    http_deadline(r, app_config(app, r)->limits.train_timeout_ms);
    char id[ADAPTER_ID_CAP];
    int rc = adapter_id_strip(q.lora_id, id, &err);
    rc = rc ? rc : app_may_make(r, "lora_id", id, &err);
    if (rc == 0 && feedback_create(f, &q, &made, &err) == 0) {
        http_answer(r, 200, init_body(&made));
    } else {
        http_fail(r, &err);
    }
    cJSON_Delete(spec);
}
