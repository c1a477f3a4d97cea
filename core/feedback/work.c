/* SPDX-License-Identifier: MIT */
/* What a worker thread does with a job: looks whether it was committed before, else runs it, and journals its end. */
#include "config.h"

#include "feedback/jobs_private.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ATTEMPTS_MAX = 8, /* a job that ended the process so often is not begun again */
    AGAIN_MS = 1000,
    AGAIN_MAX_MS = 60000,
};

struct work { /* one attempt */
    struct job *job;
    struct jobs *jobs;
    struct state_job *row;
    cJSON *request;
    int ended; /* the journal has its end */
    int failed;
    int unwritten; /* it has an end, which could not be journalled */
};

/* ---- what the step tells ---- */

static void on_progress(void *ctx, uint64_t done, uint64_t total, const char *what)
{
    struct job *job = ctx;
    (void)what;
    (void)pthread_mutex_lock(&job->jobs->mutex);
    job->done = done;
    job->total = total;
    jobs_changed(job->jobs);
    (void)pthread_mutex_unlock(&job->jobs->mutex);
}

/* Before a commit the journal says so; where that fails the log still tells. */
static void on_phase(void *ctx, enum feedback_phase phase)
{
    struct work *w = ctx;
    struct claas_error err = ERR_INIT;
    (void)pthread_mutex_lock(&w->jobs->mutex);
    w->job->phase = phase;
    w->job->done = 0;
    w->job->total = 0;
    w->job->committing = phase >= FEEDBACK_SAVE;
    jobs_changed(w->jobs);
    (void)pthread_mutex_unlock(&w->jobs->mutex);
    if ((phase == FEEDBACK_DISTILL || phase == FEEDBACK_SAVE) &&
        state_job_phase(w->jobs->options.state, w->row->id, feedback_phase_name(phase), &err) != 0) {
        log_line(LOG_WARNING, "jobs", "phase of job '%s' is not journalled: %s", w->row->id, err.message);
    }
}

static void end_write(struct work *w, const struct state_job_end *e, const struct feedback_timing *took)
{
    struct claas_error err = ERR_INIT;
    w->failed = e->error_code != 0;
    if (state_job_end(w->jobs->options.state, e, &err) == 0) {
        w->ended = 1;
        if (w->jobs->options.ended != NULL) {
            w->jobs->options.ended(w->jobs->options.ctx, took);
        }
    } else {
        w->unwritten = 1;
        log_line(LOG_ERROR, "jobs", "the end of job '%s' is not journalled, and is tried again: %s", w->row->id,
                 err.message);
    }
}

static void end_failed(struct work *w, const char *phase, const struct claas_error *err, const struct feedback_end *from)
{
    int cancelled = w->job->cancelled && err->code == CLAAS_ERR_CANCELLED;
    struct state_job_end e = { .id = w->row->id, .state = cancelled ? "cancelled" : "failed", .phase = phase,
                               .error_code = err->code, .error = err->message, .error_what = err->what };
    if (from != NULL) {
        e.version_from = from->version_from;
        e.metrics_json = from->metrics_json;
        e.timing_json = from->timing_json;
    }
    end_write(w, &e, NULL);
}

/* What was said of the request when it was accepted is said in the answer too. */
static void warnings_add(const struct work *w, struct feedback_result *r)
{
    const cJSON *said;
    cJSON_ArrayForEach(said, json_get(w->request, "warnings"))
    {
        cJSON *copy = r->warnings == NULL ? NULL : cJSON_Duplicate(said, 1);
        if (copy != NULL && !cJSON_AddItemToArray(r->warnings, copy)) {
            cJSON_Delete(copy);
        }
    }
}

static void end_done(struct work *w, struct feedback_result *r, const struct feedback_end *from)
{
    warnings_add(w, r);
    cJSON *answer = feedback_result_json(r);
    char *text = answer == NULL ? NULL : json_print(answer);
    cJSON_Delete(answer);
    const struct state_job_end e = { .id = w->row->id, .state = "done", .phase = feedback_phase_name(FEEDBACK_DONE),
                                     .result_json = text, .version_from = r->version_from, .version = r->version_to,
                                     .metrics_json = from->metrics_json, .timing_json = from->timing_json };
    if (text == NULL) {
        w->unwritten = 1; /* out of memory: told from the log later */
    } else {
        end_write(w, &e, &r->timing);
    }
    free(text);
}

static int stops(struct work *w)
{
    (void)pthread_mutex_lock(&w->jobs->mutex);
    int stopping = w->jobs->stopping;
    (void)pthread_mutex_unlock(&w->jobs->mutex);
    return stopping;
}

static int on_end(void *ctx, const struct feedback_end *e)
{
    struct work *w = ctx;
    if (e->failure == NULL) {
        end_done(w, e->result, e);
    } else if (e->failure->code != CLAAS_ERR_CANCELLED || w->job->cancelled || !stops(w)) {
        end_failed(w, feedback_phase_name(e->phase), e->failure, e);
    } /* else the daemon stops: the job stays as it is */
    return w->ended ? 0 : -1;
}

/* ---- running ---- */

static int items_read(const cJSON *request, const char *adapter, struct feedback_item **out, size_t *out_n,
                      struct claas_error *err)
{
    const cJSON *list = json_get(request, "items");
    const cJSON *one;
    size_t n = cJSON_IsArray(list) ? (size_t)cJSON_GetArraySize(list) : 0;
    struct feedback_item *items = mem_array(n, sizeof *items);
    if (n == 0 || items == NULL) {
        free(items);
        return n == 0 ? err_set(err, CLAAS_ERR_CORRUPT, "job", "its journal entry has no items") : err_oom(err, "a job");
    }
    size_t i = 0;
    cJSON_ArrayForEach(one, list)
    {
        items[i++] = (struct feedback_item){
            .lora_id = adapter,
            .completion_id = cJSON_GetStringValue(json_get(one, "completion_id")),
            .feedback = cJSON_GetStringValue(json_get(one, "feedback")),
            .training = json_get(one, "training"),
        };
    }
    *out = items;
    *out_n = n;
    return 0;
}

static int run(struct work *w, struct claas_error *err)
{
    struct feedback_result result = { .batch_size = 0 };
    struct feedback_item *items = NULL;
    struct feedback_request r = { .job = w->row->id,
                                  .end = on_end,
                                  .owner = w->row->owner,
                                  .anybodys = 1, /* looked at when it was accepted */
                                  .no_pause = cJSON_IsTrue(json_get(w->request, "no_pause")),
                                  .call = &w->job->call.abi,
                                  .phase = on_phase,
                                  .ctx = w };
    int rc = items_read(w->request, w->row->adapter, &items, &r.n_items, err);
    if (rc == 0) {
        r.items = items;
        rc = feedback_run(w->jobs->options.feedback, &r, &result, err);
    }
    if (rc == 0) {
        feedback_result_clear(&result);
    }
    free(items);
    return rc;
}

/* Committed before: what is left of it is done now. */
static void finish(struct work *w, const struct adapter_entry *e)
{
    struct claas_error err = ERR_INIT;
    struct feedback_result r = { .version_from = e->n - 1, .version_to = e->n, .serve = e->serve, .recorded = 1 };
    const struct feedback_end end = { .metrics_json = e->metrics_json };
    (void)snprintf(r.request_id, sizeof r.request_id, "%s", w->row->id);
    (void)snprintf(r.lora_id, sizeof r.lora_id, "%s", e->id);
    r.batch_size = (size_t)cJSON_GetArraySize(json_get(w->request, "items"));
    r.warnings = cJSON_CreateArray();
    (void)json_parse(e->metrics_json, strlen(e->metrics_json), "metrics", &r.metadata, &err);
    r.serves = w->jobs->options.serving != NULL && serving_follow(w->jobs->options.serving, e->id, NULL, &err) == 0;
    log_line(LOG_INFO, "jobs", "job '%s' had been committed as '%s@%llu'", w->row->id, e->id, (unsigned long long)e->n);
    end_done(w, &r, &end);
    feedback_result_clear(&r);
}

/* 0: it was committed, and is finished; NOT_FOUND: it was not. */
static int follow_log(struct work *w, struct claas_error *err)
{
    struct adapter_entry *e = NULL;
    int rc = adapter_log_find(w->jobs->options.adapters, w->row->adapter, w->row->log_from, w->row->id, NULL, &e, err);
    if (rc == 0) {
        finish(w, e);
    }
    adapter_entry_unref(e);
    return rc;
}

/* *later: its fate cannot be told now. */
static void attempt(struct work *w, int *later)
{
    struct claas_error err = ERR_INIT;
    int rc = w->row->attempts > 0 || w->job->tries > 0 ? follow_log(w, &err) : CLAAS_ERR_NOT_FOUND;
    *later = rc != 0 && rc != CLAAS_ERR_NOT_FOUND;
    if (rc != CLAAS_ERR_NOT_FOUND) {
        return;
    }
    err = ERR_INIT;
    if (w->row->attempts >= ATTEMPTS_MAX) {
        (void)err_set(&err, CLAAS_ERR_INTERNAL, "job", "%s: the daemon ended %u times during this job", w->row->phase,
                      w->row->attempts);
        end_failed(w, w->row->phase, &err, NULL);
        return;
    }
    if (state_job_start(w->jobs->options.state, w->row->id, &err) != 0) {
        log_line(LOG_ERROR, "jobs", "job '%s' cannot begin, and is tried again: %s", w->row->id, err.message);
        *later = 1;
        return;
    }
    rc = run(w, &err);
    if (w->ended || w->unwritten || rc == 0) {
        return;
    }
    if (err.flags & CLAAS_MAYBE) {
        log_line(LOG_WARNING, "jobs", "whether job '%s' is committed is looked for again: %s", w->row->id, err.message);
        *later = 1;
    } else if (err.code != CLAAS_ERR_CANCELLED || w->job->cancelled || !stops(w)) {
        char phase[32];
        (void)snprintf(phase, sizeof phase, "%s", feedback_phase_name(w->job->phase));
        end_failed(w, phase, &err, NULL);
    }
}

static void again(struct job *job)
{
    int64_t ms = (int64_t)AGAIN_MS << (job->tries < 6 ? job->tries : 6);
    job->not_before_ns = clock_mono_ns() + (ms > AGAIN_MAX_MS ? AGAIN_MAX_MS : ms) * 1000000;
    job->tries++;
    job->running = 0;
    job->committing = 0;
    job->jobs->n_running--;
    job->jobs->n_waiting++;
    jobs_changed(job->jobs);
}

/* Under the lock: what came of it. */
static void settle(struct work *w, int later)
{
    struct jobs *j = w->jobs;
    struct job *job = w->job;
    int64_t ms = (clock_mono_ns() - job->began_ns) / 1000000;
    job->called = 0;
    job->adapter->busy = 0;
    job->attempts++;
    if (w->ended) {
        j->mean_ms = j->mean_ms == 0 ? ms : (3 * j->mean_ms + ms) / 4;
        *(w->failed ? &j->n_failed : &j->n_done) += 1;
        jobs_remove(j, job);
    } else if (later || w->unwritten) {
        again(job);
    } else { /* called off because the daemon stops: the journal keeps it */
        jobs_remove(j, job);
    }
}

/* Runs it as part of the request that it came with, which the log and plugins are told. */
static void attempt_traced(struct work *w, int *later)
{
    char trace[33] = "";
    const char *id = cJSON_GetStringValue(json_get(w->request, "request_id"));
    const char *parent = cJSON_GetStringValue(json_get(w->request, "traceparent"));
    if (parent && strlen(parent) >= 35) { /* version, trace, span, flags */
        (void)snprintf(trace, sizeof trace, "%.32s", parent + 3);
    }
    w->job->call.request_id = id ? id : "";
    w->job->call.traceparent = parent ? parent : "";
    const struct log_context own = { id && id[0] ? id : NULL, trace[0] ? trace : NULL };
    const struct log_context before = log_context_set(own);
    attempt(w, later);
    (void)log_context_set(before);
    w->job->call.request_id = ""; /* the request goes */
    w->job->call.traceparent = "";
}

static void job_work(struct jobs *j, struct job *job)
{
    struct work w = { .job = job, .jobs = j };
    struct claas_error err = ERR_INIT;
    int later = 0;
    int rc = state_job_get(j->options.state, job->id, NULL, &w.row, &err);
    if (rc == 0 && w.row->ended_ns > 0) { /* cancelled between the journal and the queue */
        w.ended = 1;
        w.failed = 1;
    } else if (rc == 0) {
        rc = json_parse(w.row->request_json, strlen(w.row->request_json), "the journal", &w.request, &err);
        if (rc != 0) {
            end_failed(&w, w.row->phase, &err, NULL);
        } else {
            attempt_traced(&w, &later);
        }
    } else {
        log_line(LOG_ERROR, "jobs", "job '%s' cannot be read, and is tried again: %s", job->id, err.message);
        later = 1;
    }
    (void)pthread_mutex_lock(&j->mutex);
    settle(&w, later);
    (void)pthread_mutex_unlock(&j->mutex);
    cJSON_Delete(w.request);
    state_job_free(w.row);
}

void *jobs_work(void *ctx)
{
    struct jobs *j = ctx;
    (void)pthread_setname_np(pthread_self(), "job"); /* only for those who look on */
    (void)pthread_mutex_lock(&j->mutex);
    while (!j->stopping) {
        int64_t until = 0;
        struct job *job = jobs_pick(j, &until);
        if (job == NULL) {
            jobs_sleep(j, until);
            continue;
        }
        host_call_init(&job->call, 0, on_progress, job);
        job->call.deadline_ns = j->options.step_ms > 0 ? clock_mono_ns() + j->options.step_ms * 1000000 : 0;
        job->called = 1;
        (void)pthread_mutex_unlock(&j->mutex);
        job_work(j, job);
        (void)pthread_mutex_lock(&j->mutex);
    }
    (void)pthread_mutex_unlock(&j->mutex);
    return NULL;
}
