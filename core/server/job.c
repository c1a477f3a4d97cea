/* SPDX-License-Identifier: MIT */
/* GET and DELETE of /v1/jobs: what became of feedback that was accepted. */
#include "config.h"

#include "server/app.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "server/errors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEARTBEAT_MS = 15000, LOOK_MS = 500 };

void job_ended(void *ctx, const struct feedback_timing *t)
{
    struct app *app = ctx;
    if (!t) {
        (void)atomic_fetch_add(&app->metrics.steps_failed, 1);
        return;
    }
    (void)atomic_fetch_add(&app->metrics.steps_ok, 1);
#define PHASE(name) metrics_took(&app->metrics.steps[METRICS_PHASE_##name], t->name * 1000000);
    METRICS_PHASES_TABLE(PHASE)
#undef PHASE
}

static cJSON *job_time(int64_t real_ns)
{
    return real_ns ? app_time(real_ns) : cJSON_CreateNull();
}

static cJSON *job_error(const struct state_job *j)
{
    cJSON *o = cJSON_CreateObject();
    if (app_put(o, "code", cJSON_CreateString(err_name(j->error_code))) ||
        app_put(o, "message", cJSON_CreateString(j->error ? j->error : "")) ||
        app_put(o, "param", j->error_what && j->error_what[0] ? cJSON_CreateString(j->error_what) : cJSON_CreateNull())) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

static cJSON *job_progress(const struct jobs_view *v)
{
    cJSON *o = cJSON_CreateObject();
    if (app_put(o, "done", app_number(v->done)) || app_put(o, "total", app_number(v->total))) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

static cJSON *job_body(const struct jobs_view *v)
{
    const struct state_job *j = v->job;
    cJSON *o = cJSON_CreateObject();
    int failed = app_put(o, "id", cJSON_CreateString(j->id)) | app_put(o, "object", cJSON_CreateString("job"));
    failed |= app_put(o, "lora_id", cJSON_CreateString(j->adapter));
    failed |= app_put(o, "state", cJSON_CreateString(v->state)) | app_put(o, "phase", cJSON_CreateString(v->phase));
    failed |= app_put(o, "progress", v->total ? job_progress(v) : cJSON_CreateNull());
    failed |= app_put(o, "attempts", app_number(j->attempts));
    failed |= app_put(o, "accepted", job_time(j->accepted_ns)) | app_put(o, "started", job_time(j->started_ns));
    failed |= app_put(o, "ended", job_time(j->ended_ns));
    failed |= app_put(o, "version", j->version ? app_number(j->version) : cJSON_CreateNull());
    failed |= app_put(o, "result", j->result_json ? app_parsed(j->result_json) : cJSON_CreateNull());
    failed |= app_put(o, "error", j->error_code ? job_error(j) : cJSON_CreateNull());
    if (failed) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

void job_accepted(struct app *app, struct http_request *r, struct jobs *jobs, const char *id)
{
    struct claas_error err = ERR_INIT;
    struct jobs_view v;
    char location[STATE_ID_CAP + 16];
    (void)app;
    if (jobs_look(jobs, id, NULL, &v, &err)) {
        http_fail(r, &err);
        return;
    }
    (void)snprintf(location, sizeof location, "/v1/jobs/%s", id);
    http_header(r, "Location", location);
    http_header(r, "Preference-Applied", "respond-async");
    http_answer(r, 202, job_body(&v));
    jobs_view_clear(&v);
}

void job_show(void *ctx, struct http_request *r)
{
    struct claas_error err = ERR_INIT;
    struct jobs_view v;
    struct jobs *jobs = app_jobs(ctx, r);
    if (!jobs) {
        return;
    }
    if (jobs_look(jobs, http_path_id(r), access_sees(http_caller(r)), &v, &err)) {
        http_fail(r, &err);
        return;
    }
    http_answer(r, 200, job_body(&v));
    jobs_view_clear(&v);
}

void job_list(void *ctx, struct http_request *r)
{
    struct app *app = ctx;
    struct check c = CHECK_INIT("query");
    struct claas_error err = ERR_INIT;
    struct state_jobs page = { 0 };
    int64_t limit = 50;
    int64_t before = 0;
    check_query_int(&c, http_query(r, "limit"), "limit", 1, 1000, &limit);
    check_query_int(&c, http_query(r, "before"), "before", 1, 1LL << 53, &before);
    struct jobs *jobs = app_refused(r, &c) ? NULL : app_jobs(app, r);
    if (!jobs) {
        return;
    }
    if (state_job_list(app->state, access_sees(http_caller(r)), (uint64_t)before, (uint32_t)limit, &page, &err)) {
        http_fail(r, &err);
        return;
    }
    cJSON *o = cJSON_CreateObject();
    cJSON *list = cJSON_CreateArray();
    int failed = 0;
    for (size_t i = 0; i < page.n && !failed; i++) {
        const struct jobs_view v = { .job = page.at[i], .state = page.at[i]->state, .phase = page.at[i]->phase };
        failed = app_push(list, job_body(&v));
    }
    failed |= app_put(o, "jobs", list) | app_put(o, "next", page.next ? app_number(page.next) : cJSON_CreateNull());
    if (failed) {
        cJSON_Delete(o);
        o = NULL;
    }
    state_jobs_clear(&page);
    http_answer(r, 200, o);
}

struct job_stream {
    struct buf last;  /* event that was sent */
    int64_t heard_ns; /* when something was */
};

/* 1: that was the last one, or nobody hears it. */
static int job_event(struct http_request *r, struct jobs *jobs, struct job_stream *s)
{
    struct claas_error err = ERR_INIT;
    struct jobs_view v;
    struct buf event = BUF_INIT;
    if (jobs_look(jobs, http_path_id(r), access_sees(http_caller(r)), &v, &err)) {
        return 1;
    }
    cJSON *body = job_body(&v);
    char *text = body ? json_print(body) : NULL;
    int end = v.job->ended_ns > 0;
    int gone = text == NULL;
    if (text && strcmp(text, buf_str(&s->last)) != 0) {
        buf_cut(&s->last, 0);
        buf_adds(&s->last, text);
        buf_addf(&event, "event: %s\ndata: %s\n\n", end ? "end" : "state", text);
        gone = event.failed || http_stream_write(r, event.data, event.len);
        s->heard_ns = clock_mono_ns();
    }
    cJSON_Delete(body);
    free(text);
    buf_clear(&event);
    jobs_view_clear(&v);
    return gone || end;
}

/* 1: nobody hears it. */
static int job_beat(struct http_request *r, struct job_stream *s, uint32_t every_ms)
{
    static const char beat[] = ": still there\n\n";
    int64_t now = clock_mono_ns();
    if (now - s->heard_ns < every_ms * INT64_C(1000000)) {
        return http_gone(r);
    }
    s->heard_ns = now;
    return http_stream_write(r, beat, sizeof beat - 1);
}

static void job_follow(void *ctx, struct http_request *r)
{
    struct app *app = ctx;
    struct jobs *jobs = atomic_load(&app->jobs);
    struct job_stream s = { .last = BUF_INIT };
    uint32_t every_ms = app->heartbeat_ms ? app->heartbeat_ms : HEARTBEAT_MS;
    uint64_t seen = 0;
    if (http_stream_begin(r) == 0) {
        while (!job_event(r, jobs, &s) && jobs_watch(jobs, &seen, LOOK_MS) && !job_beat(r, &s, every_ms)) {
        }
        http_stream_end(r);
    }
    buf_clear(&s.last);
}

void job_watch(void *ctx, struct http_request *r)
{
    struct claas_error err = ERR_INIT;
    struct jobs_view v;
    struct jobs *jobs = app_jobs(ctx, r);
    if (!jobs) {
        return;
    }
    if (jobs_look(jobs, http_path_id(r), access_sees(http_caller(r)), &v, &err)) {
        http_fail(r, &err);
        return;
    }
    jobs_view_clear(&v);
    if (http_wait_take(r, &err)) {
        http_fail(r, &err);
        return;
    }
    http_wait_then(r, job_follow, "");
}

void job_cancel(void *ctx, struct http_request *r)
{
    struct claas_error err = ERR_INIT;
    struct jobs *jobs = app_jobs(ctx, r);
    if (!jobs) {
        return;
    }
    if (jobs_cancel(jobs, http_path_id(r), access_sees(http_caller(r)), &err)) {
        http_fail(r, &err);
        return;
    }
    job_show(ctx, r);
}
