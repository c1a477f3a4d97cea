/* SPDX-License-Identifier: MIT */
/* The queue of jobs: what waits, whose turn it is, what runs, who waits for it. */
#include "config.h"

#include "feedback/jobs_private.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LOOK_MS = 500 };

/* ---- the list, under the lock --------------------------------------------------------------------------------------------- */

void jobs_changed(struct jobs *j)
{
    j->generation++;
    (void)pthread_cond_broadcast(&j->changed);
}

struct job *jobs_find(struct jobs *j, const char *id)
{
    struct job *at = j->first;
    while (at != NULL && strcmp(at->id, id) != 0) {
        at = at->next;
    }
    return at;
}

static void share_free(struct share *s)
{
    free(s->name);
    free(s);
}

/* The turns of an owner or adapter, made when first needed; null when out of memory. A newcomer has had his turn just now,
 * so that those who wait come first. */
static struct share *share_get(struct jobs *j, struct share **list, const char *name)
{
    for (struct share *s = *list; s != NULL; s = s->next) {
        if (strcmp(s->name, name) == 0) {
            return s;
        }
    }
    struct share *s = calloc(1, sizeof *s);
    char *copy = mem_dup(name, strlen(name));
    if (s == NULL || copy == NULL) {
        free(s);
        free(copy);
        return NULL;
    }
    *s = (struct share){ .next = *list, .name = copy, .turn = j->turns };
    *list = s;
    return s;
}

static void share_drop(struct share **list, struct share *s)
{
    if (--s->n > 0) {
        return;
    }
    while (*list != s) {
        list = &(*list)->next;
    }
    *list = s->next;
    share_free(s);
}

/* The job is in the list from now on, or not at all. */
static struct job *job_append(struct jobs *j, const char *id, const char *owner, const char *adapter)
{
    struct job *job = calloc(1, sizeof *job);
    struct share *o = job == NULL ? NULL : share_get(j, &j->owners, owner);
    struct share *a = o == NULL ? NULL : share_get(j, &j->adapters_seen, adapter);
    if (o != NULL) {
        o->n++;
    }
    if (a == NULL) {
        if (o != NULL) {
            share_drop(&j->owners, o);
        }
        free(job);
        return NULL;
    }
    a->n++;
    (void)snprintf(job->id, sizeof job->id, "%s", id);
    job->jobs = j;
    job->owner = o;
    job->adapter = a;
    job->phase = FEEDBACK_LOCK;
    job->began_ns = clock_mono_ns();
    struct job **end = &j->first;
    while (*end != NULL) {
        end = &(*end)->next;
    }
    *end = job;
    j->n_waiting++;
    return job;
}

void jobs_remove(struct jobs *j, struct job *job)
{
    struct job **at = &j->first;
    while (*at != job) {
        at = &(*at)->next;
    }
    *at = job->next;
    if (job->running) {
        j->n_running--;
    } else {
        j->n_waiting--;
    }
    share_drop(&j->owners, job->owner);
    share_drop(&j->adapters_seen, job->adapter);
    free(job);
    jobs_changed(j);
}

static int comes_before(const struct job *a, const struct job *b)
{
    if (a->owner->turn != b->owner->turn) {
        return a->owner->turn < b->owner->turn;
    }
    return a->adapter->turn < b->adapter->turn;
}

/* Owners in turn, then adapters in turn, then as they came; one step at a time on an adapter. */
struct job *jobs_pick(struct jobs *j, int64_t *out_until)
{
    struct job *best = NULL;
    int64_t now = clock_mono_ns();
    *out_until = now + INT64_C(3600000000000);
    for (struct job *at = j->first; at != NULL; at = at->next) {
        if (at->running || at->adapter->busy) {
            continue;
        }
        if (at->not_before_ns > now) {
            *out_until = at->not_before_ns < *out_until ? at->not_before_ns : *out_until;
        } else if (best == NULL || comes_before(at, best)) {
            best = at;
        }
    }
    if (best != NULL) {
        best->running = 1;
        best->owner->turn = ++j->turns;
        best->adapter->turn = j->turns;
        best->adapter->busy = 1;
        best->began_ns = now;
        j->n_waiting--;
        j->n_running++;
        jobs_changed(j);
    }
    return best;
}

/* ---- submitting ---------------------------------------------------------------------------------------------------------- */

/* How long the queue will take, by what steps took so far. */
static uint32_t queue_ms(const struct jobs *j)
{
    int64_t ms = (j->mean_ms > 0 ? j->mean_ms : 1000) * (j->n_waiting + j->n_running) / j->options.workers;
    return ms > 3600000 ? 3600000 : (uint32_t)ms;
}

static int place_take(struct jobs *j, const char *owner, struct claas_error *err)
{
    uint32_t own = 0;
    for (const struct job *at = j->first; at != NULL; at = at->next) {
        own += !at->running && strcmp(at->owner->name, owner) == 0;
    }
    if (j->stopping) {
        return err_set(err, CLAAS_ERR_UNAVAILABLE, "", "the daemon is stopping");
    }
    int full = j->n_waiting + j->n_reserved >= j->options.queue;
    if (full || own >= j->options.queue_key) {
        int rc = full ? err_set(err, CLAAS_ERR_EXHAUSTED, "", "the queue is full: %u jobs wait", j->n_waiting)
                      : err_set(err, CLAAS_ERR_EXHAUSTED, "", "the queue is full for this key: %u of its jobs wait", own);
        err->flags |= CLAAS_RETRY;
        err->retry_after_ms = queue_ms(j);
        return rc;
    }
    j->n_reserved++;
    return 0;
}

/* Also which request and trace it belongs to, for the log and for plugins. */
static char *request_print(const struct feedback_plan *p, const struct feedback_request *r)
{
    cJSON *o = cJSON_CreateObject();
    char *text = NULL;
    if (cJSON_AddStringToObject(o, "request_id", host_call_trace.request_id(r->call)) &&
        cJSON_AddStringToObject(o, "traceparent", host_call_trace.traceparent(r->call)) &&
        cJSON_AddItemReferenceToObject(o, "items", p->items) &&
        cJSON_AddItemReferenceToObject(o, "warnings", p->warnings) && cJSON_AddBoolToObject(o, "no_pause", r->no_pause)) {
        text = json_print(o);
    }
    cJSON_Delete(o);
    return text;
}

static int journal(struct jobs *j, const struct jobs_submit *s, const struct feedback_plan *p, const char *id,
                   struct claas_error *err)
{
    const char *owner = s->request->owner == NULL ? "" : s->request->owner;
    char *request = request_print(p, s->request);
    char *items = p->received == NULL ? NULL : json_print(p->received);
    const struct state_job row = { .id = id, .owner = owner, .adapter = p->adapter,
                                   .phase = feedback_phase_name(FEEDBACK_LOCK), .request_json = request, .key = s->key,
                                   .body = s->body, .log_from = p->head, .accepted_ns = clock_real_ns() };
    const struct state_feedback record = { .id = id, .owner = owner, .adapter = p->adapter, .status = "running",
                                           .phase = row.phase, .time_ns = row.accepted_ns, .items_json = items,
                                           .settings_json = p->settings_json, .n_rollouts = (uint32_t)p->n,
                                           .rollouts = (const char *const *)p->rollouts };
    int rc = request == NULL || items == NULL ? err_oom(err, "a job") : state_job_add(j->options.state, &row, &record, err);
    free(request);
    free(items);
    return rc;
}

static int accept(struct jobs *j, const struct jobs_submit *s, char id[STATE_ID_CAP], struct claas_error *err)
{
    const char *owner = s->request->owner == NULL ? "" : s->request->owner;
    struct feedback_plan p = { .n = 0 };
    int rc = rng_hex(id, 32) != 0 ? err_set(err, CLAAS_ERR_INTERNAL, NULL, "no random numbers")
                                  : feedback_plan(j->options.feedback, s->request, &p, err);
    if (rc != 0) {
        return rc;
    }
    (void)pthread_mutex_lock(&j->mutex);
    rc = place_take(j, owner, err);
    (void)pthread_mutex_unlock(&j->mutex);
    if (rc == 0) {
        rc = journal(j, s, &p, id, err);
        (void)pthread_mutex_lock(&j->mutex);
        j->n_reserved--;
        struct job *job = rc == 0 ? job_append(j, id, owner, p.adapter) : NULL;
        if (job != NULL) {
            job->acknowledged = s->acknowledged;
            jobs_changed(j);
        } else if (rc == 0) {
            rc = err_oom(err, "a job");
        }
        (void)pthread_mutex_unlock(&j->mutex);
        if (rc != 0 && job == NULL) {
            (void)state_job_drop(j->options.state, id, NULL); /* it may not have come that far */
        }
    }
    feedback_plan_clear(&p);
    return rc;
}

static int repeat(struct jobs *j, const struct jobs_submit *s, char id[STATE_ID_CAP], struct claas_error *err)
{
    struct state_job *was = NULL;
    const char *owner = s->request->owner == NULL ? "" : s->request->owner;
    int rc = state_job_by_key(j->options.state, owner, s->key,
                              clock_real_ns() - j->options.key_age_ms * INT64_C(1000000), &was, err);
    if (rc != 0) {
        return rc;
    }
    if (memcmp(&was->body, &s->body, sizeof s->body) != 0) {
        rc = err_set(err, CLAAS_ERR_INVALID, "Idempotency-Key",
                     "the Idempotency-Key '%.100s' was sent with another request", s->key);
    } else {
        memcpy(id, was->id, strlen(was->id) + 1);
        (void)pthread_mutex_lock(&j->mutex);
        struct job *job = jobs_find(j, id);
        if (job != NULL) {
            job->acknowledged = 1; /* a second caller knows of it: the first may not take it back */
        }
        (void)pthread_mutex_unlock(&j->mutex);
    }
    state_job_free(was);
    return rc;
}

int jobs_submit(struct jobs *j, const struct jobs_submit *s, char out_id[STATE_ID_CAP], int *repeated,
                struct claas_error *err)
{
    struct claas_error local = ERR_INIT;
    err = err == NULL ? &local : err;
    int rc = s->key == NULL ? CLAAS_ERR_NOT_FOUND : repeat(j, s, out_id, err);
    *repeated = rc == 0;
    if (rc != CLAAS_ERR_NOT_FOUND) {
        return rc;
    }
    *err = ERR_INIT;
    rc = accept(j, s, out_id, err);
    if (rc == CLAAS_ERR_CONFLICT && s->key != NULL && strcmp(err->what, "Idempotency-Key") == 0) {
        rc = repeat(j, s, out_id, err); /* the same request came twice at one time */
        *repeated = rc == 0;
    }
    return rc;
}

/* ---- waiting, looking ---------------------------------------------------------------------------------------------------- */

void jobs_sleep(struct jobs *j, int64_t until)
{
    struct timespec t = { .tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000) };
    (void)pthread_cond_timedwait(&j->changed, &j->mutex, &t); /* the caller looks again in any case */
}

/* Under the lock: the caller has waited long enough for a busy adapter, and the job is taken back. */
static int give_up(struct jobs *j, struct job *job, struct claas_error *err)
{
    char adapter[ADAPTER_ID_CAP];
    (void)snprintf(adapter, sizeof adapter, "%s", job->adapter->name);
    int rc = job->acknowledged ? CLAAS_ERR_CONFLICT : state_job_drop(j->options.state, job->id, err);
    if (rc == 0) {
        jobs_remove(j, job);
    }
    return rc != 0 && rc != CLAAS_ERR_CONFLICT
               ? rc
               : err_set(err, CLAAS_ERR_CONFLICT, "lora_id",
                         "cannot train '%s': other feedback on it was not done within %u ms", adapter, j->options.lock_ms);
}

/* A job that is in the list no more has ended, or was called off because the daemon stops. */
static int end_check(struct jobs *j, const char *id, struct claas_error *err)
{
    struct state_job *row = NULL;
    int rc = state_job_get(j->options.state, id, NULL, &row, err);
    if (rc == 0 && row->ended_ns == 0) {
        rc = err_set(err, CLAAS_ERR_UNAVAILABLE, "", "the daemon is stopping; job '%s' goes on at its next start", id);
    }
    state_job_free(row);
    return rc;
}

int jobs_wait(struct jobs *j, const char *id, int may_drop, int (*gone)(void *ctx), void *ctx, struct claas_error *err)
{
    int64_t late = clock_mono_ns() + (int64_t)j->options.lock_ms * 1000000;
    int rc = 0;
    (void)pthread_mutex_lock(&j->mutex);
    for (struct job *job; rc == 0 && (job = jobs_find(j, id)) != NULL;) {
        int64_t now = clock_mono_ns();
        if (gone != NULL && gone(ctx)) {
            rc = err_set(err, CLAAS_ERR_CANCELLED, "", "the caller of job '%s' has hung up; it goes on", id);
        } else if (j->stopping && (j->ended || !job->running)) {
            rc = err_set(err, CLAAS_ERR_UNAVAILABLE, "", "the daemon is stopping; job '%s' goes on at its next start", id);
        } else if (may_drop && !job->running && job->adapter->busy && now >= late) {
            rc = give_up(j, job, err);
        } else {
            jobs_sleep(j, now + LOOK_MS * INT64_C(1000000));
        }
    }
    (void)pthread_mutex_unlock(&j->mutex);
    return rc == 0 ? end_check(j, id, err) : rc;
}

static int cancel_waiting(struct jobs *j, struct job *job, struct claas_error *err)
{
    const struct state_job_end e = { .id = job->id, .state = "cancelled", .phase = feedback_phase_name(FEEDBACK_LOCK),
                                     .error_code = CLAAS_ERR_CANCELLED, .error = "lock: cancelled" };
    int rc = state_job_end(j->options.state, &e, err);
    if (rc == 0) {
        jobs_remove(j, job);
    }
    return rc;
}

int jobs_cancel(struct jobs *j, const char *id, const char *owner, struct claas_error *err)
{
    struct state_job *row = NULL;
    int rc = state_job_get(j->options.state, id, owner, &row, err);
    if (rc != 0) {
        return rc;
    }
    state_job_free(row);
    (void)pthread_mutex_lock(&j->mutex);
    struct job *job = jobs_find(j, id);
    if (job == NULL) {
        rc = err_set(err, CLAAS_ERR_CONFLICT, "id", "job '%s' has ended: it cannot be cancelled any more", id);
    } else if (!job->running && job->attempts == 0) {
        rc = cancel_waiting(j, job, err);
    } else if (job->committing || !job->called) {
        rc = err_set(err, CLAAS_ERR_CONFLICT, "id", "job '%s' is being committed: it cannot be cancelled any more", id);
    } else {
        job->cancelled = 1;
        host_call_cancel(&job->call);
    }
    (void)pthread_mutex_unlock(&j->mutex);
    return rc;
}

/* A worker has it, or had it: whether it was committed is not known before its end. */
static int is_begun(void *ctx, const char *id)
{
    const struct job *job = jobs_find(ctx, id);
    return job != NULL && (job->running || job->attempts > 0 || job->tries > 0);
}

int jobs_forget(struct jobs *j, const struct state_forget *what, struct state_forgotten *out, struct claas_error *err)
{
    struct state_forget w = *what;
    w.runs = is_begun;
    w.ctx = j;
    (void)pthread_mutex_lock(&j->mutex); /* so that no worker takes one meanwhile */
    int rc = state_forget(j->options.state, &w, out, err);
    for (size_t i = 0; rc == 0 && i < out->n_cancelled; i++) {
        struct job *job = jobs_find(j, out->cancelled[i]);
        if (job != NULL) { /* else it was accepted just now: the worker that gets it sees that it has ended */
            jobs_remove(j, job);
        }
    }
    (void)pthread_mutex_unlock(&j->mutex);
    return rc;
}

int jobs_look(struct jobs *j, const char *id, const char *owner, struct jobs_view *out, struct claas_error *err)
{
    struct jobs_view v = { .done = 0 };
    /* The live job first: one that ends between the two looks has its end in the journal. */
    (void)pthread_mutex_lock(&j->mutex);
    const struct job *job = jobs_find(j, id);
    if (job != NULL) {
        v.state = job->running ? "running" : "queued";
        v.phase = feedback_phase_name(job->phase);
        v.done = job->done;
        v.total = job->total;
    }
    (void)pthread_mutex_unlock(&j->mutex);
    int rc = state_job_get(j->options.state, id, owner, &v.job, err);
    if (rc != 0) {
        return rc;
    }
    if (v.state == NULL || v.job->ended_ns > 0) {
        v.state = v.job->state;
        v.phase = v.job->phase;
    }
    *out = v;
    return 0;
}

void jobs_view_clear(struct jobs_view *v)
{
    state_job_free(v->job);
    *v = (struct jobs_view){ .done = 0 };
}

int jobs_watch(struct jobs *j, uint64_t *seen, uint32_t ms)
{
    int64_t until = clock_mono_ns() + (int64_t)ms * 1000000;
    (void)pthread_mutex_lock(&j->mutex);
    while (!j->stopping && j->generation == *seen && clock_mono_ns() < until) {
        jobs_sleep(j, until);
    }
    *seen = j->generation;
    int goes_on = !j->stopping;
    (void)pthread_mutex_unlock(&j->mutex);
    return goes_on;
}

void jobs_load(struct jobs *j, struct jobs_load *out)
{
    (void)pthread_mutex_lock(&j->mutex);
    *out = (struct jobs_load){ j->n_waiting, j->n_running, j->n_done, j->n_failed };
    (void)pthread_mutex_unlock(&j->mutex);
}

/* ---- open, close --------------------------------------------------------------------------------------------------------- */

static int resume(struct jobs *j, struct claas_error *err)
{
    uint64_t after = 0;
    for (;;) {
        struct state_job *row = NULL;
        struct claas_error own = ERR_INIT;
        int rc = state_job_next_open(j->options.state, after, &row, &own);
        if (rc != 0) {
            if (rc == CLAAS_ERR_NOT_FOUND) {
                return 0;
            }
            return err_set(err, own.code, own.what, "%s", own.message);
        }
        struct job *job = job_append(j, row->id, row->owner, row->adapter);
        after = row->seq;
        if (job != NULL) {
            job->attempts = row->attempts;
            job->acknowledged = 1;
            log_line(LOG_INFO, "jobs", "job '%s' of '%s' was left %s: it goes on", row->id, row->adapter, row->state);
        }
        state_job_free(row);
        if (job == NULL) {
            return err_oom(err, "the jobs");
        }
    }
}

int jobs_open(const struct jobs_options *options, struct jobs **out, struct claas_error *err)
{
    struct jobs *j = calloc(1, sizeof *j);
    pthread_condattr_t attr;
    if (j == NULL) {
        return err_oom(err, "the jobs");
    }
    j->options = *options;
    j->options.workers = options->workers == 0 ? 1 : options->workers > JOBS_WORKERS ? JOBS_WORKERS : options->workers;
    j->options.queue = options->queue == 0 ? 64 : options->queue;
    j->options.queue_key = options->queue_key == 0 ? 16 : options->queue_key;
    j->options.key_age_ms = options->key_age_ms == 0 ? 24 * 3600 * INT64_C(1000) : options->key_age_ms;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&j->mutex, NULL);
    (void)pthread_cond_init(&j->changed, &attr);
    (void)pthread_condattr_destroy(&attr);
    int rc = resume(j, err);
    for (uint32_t i = 0; rc == 0 && i < j->options.workers; i++) {
        if (pthread_create(&j->workers[i], NULL, jobs_work, j) != 0) {
            rc = err_set(err, CLAAS_ERR_EXHAUSTED, "", "cannot start a thread for jobs");
        } else {
            j->n_workers++;
        }
    }
    if (rc != 0) {
        jobs_stop(j, 0);
        jobs_close(j);
        return rc;
    }
    *out = j;
    return 0;
}

void jobs_stop(struct jobs *j, uint32_t grace_ms)
{
    if (j == NULL) {
        return;
    }
    int64_t until = clock_mono_ns() + (int64_t)grace_ms * 1000000;
    (void)pthread_mutex_lock(&j->mutex);
    j->stopping = 1;
    jobs_changed(j);
    while (j->n_running > 0 && clock_mono_ns() < until) {
        jobs_sleep(j, until);
    }
    for (struct job *at = j->first; at != NULL; at = at->next) {
        if (at->called) {
            host_call_cancel(&at->call);
        }
    }
    (void)pthread_mutex_unlock(&j->mutex);
    for (uint32_t i = 0; i < j->n_workers; i++) {
        (void)pthread_join(j->workers[i], NULL);
    }
    (void)pthread_mutex_lock(&j->mutex);
    j->n_workers = 0;
    j->ended = 1;
    jobs_changed(j);
    (void)pthread_mutex_unlock(&j->mutex);
}

void jobs_close(struct jobs *j)
{
    if (j == NULL) {
        return;
    }
    while (j->first != NULL) {
        jobs_remove(j, j->first);
    }
    (void)pthread_cond_destroy(&j->changed);
    (void)pthread_mutex_destroy(&j->mutex);
    free(j);
}
