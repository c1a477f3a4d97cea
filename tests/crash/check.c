/* SPDX-License-Identifier: MIT */
/* What must be so after each start: everything the daemons had said is still true, each job was applied once or has
 * failed by name, and the versions are whole. */
#include "config.h"

#include "crash.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { JOBS_MS = 60000, KEEP_SERVE = 10 };

struct checked { /* what the daemons tell */
    struct world *world;
    struct asker *askers[HOSTS];
    cJSON *jobs[HOSTS];         /* arrays */
    cJSON *versions[ADAPTERS];  /* arrays, newest first; null: no such adapter */
    uint64_t head[ADAPTERS];
    char **needed; /* digests of contents that some version names */
    size_t n_needed;
};

static cJSON *get(struct checked *c, int host, const char *path, long other)
{
    cJSON *o = NULL;
    long status = asker_ask(c->askers[host], "GET", path, NULL, NULL, &o);
    if (status == 200) {
        return o;
    }
    if (status != other) {
        char *text = o ? json_print(o) : NULL;
        trial_fail(c->world, "daemon %d: GET %s: status %ld, %s", host, path, status, text ? text : "no answer");
    }
    cJSON_Delete(o);
    return NULL;
}

/* ---- jobs ---- */

static int all_ended(const cJSON *jobs)
{
    const cJSON *job;
    cJSON_ArrayForEach(job, jobs)
    {
        if (!json_get(job, "ended")) {
            return 0;
        }
    }
    return 1;
}

static void jobs_read(struct checked *c, int host)
{
    int64_t until = clock_mono_ns() + JOBS_MS * INT64_C(1000000);
    for (;;) {
        cJSON *o = get(c, host, "/v1/jobs?limit=1000", 0);
        c->jobs[host] = cJSON_DetachItemFromObjectCaseSensitive(o, "jobs");
        cJSON_Delete(o);
        if (all_ended(c->jobs[host])) {
            return;
        }
        if (clock_mono_ns() > until) {
            char *text = json_print(c->jobs[host]);
            trial_fail(c->world, "daemon %d: jobs have not ended within %d ms: %s", host, JOBS_MS, text ? text : "");
        }
        cJSON_Delete(c->jobs[host]);
        trial_sleep_us(3000);
    }
}

static const cJSON *job_find(const struct checked *c, int host, const char *id)
{
    const cJSON *job;
    cJSON_ArrayForEach(job, c->jobs[host])
    {
        if (strcmp(answer_text(c->world, job, "id"), id) == 0) {
            return job;
        }
    }
    return NULL;
}

static int adapter_number(const struct checked *c, const char *id)
{
    char own[16];
    for (int i = 0; i < ADAPTERS; i++) {
        work_adapter_id(i, own);
        if (strcmp(own, id) == 0) {
            return i;
        }
    }
    trial_fail(c->world, "there is an adapter '%s' that nobody made", id);
}

/* How many entries name the job; the last one's number. */
static int entries_of(const struct checked *c, int adapter, const char *job, uint64_t *out_n)
{
    const cJSON *v;
    int n = 0;
    cJSON_ArrayForEach(v, c->versions[adapter])
    {
        if (strcmp(answer_text(c->world, v, "job"), job) == 0) {
            *out_n = answer_number(c->world, v, "version");
            n++;
        }
    }
    return n;
}

/* Applied exactly once, or failed with its phase and not applied. */
static void job_check(const struct checked *c, int host, const cJSON *job)
{
    const struct world *w = c->world;
    const char *id = answer_text(w, job, "id");
    const char *state = answer_text(w, job, "state");
    uint64_t at = 0;
    int n = entries_of(c, adapter_number(c, answer_text(w, job, "lora_id")), id, &at);
    if (strcmp(state, "done") == 0) {
        if (n != 1 || at != answer_number(w, job, "version")) {
            trial_fail(w, "daemon %d: job '%s' is done as version %llu, and %d entries name it, the last one %llu", host, id,
                       (unsigned long long)answer_number(w, job, "version"), n, (unsigned long long)at);
        }
        return;
    }
    char *text = json_print(job);
    const char *code = cJSON_GetStringValue(json_get(json_get(job, "error"), "code"));
    /* The one reason there may be: two daemons on one adapter, and the other one was faster all the time. */
    if (n != 0 || strcmp(state, "failed") != 0 || !answer_text(w, job, "phase")[0] || w->n_hosts < 2 || !code ||
        strcmp(code, "conflict") != 0) {
        trial_fail(w, "daemon %d: %d entries name this job: %s", host, n, text ? text : id);
    }
    (void)atomic_fetch_add(&w->tally->failed_jobs, 1);
    free(text);
}

/* ---- versions ---- */

static void needed_add(struct checked *c, const char *hex)
{
    for (size_t i = 0; i < c->n_needed; i++) {
        if (strcmp(c->needed[i], hex) == 0) {
            return;
        }
    }
    char **more = realloc(c->needed, (c->n_needed + 1) * sizeof *more);
    if (!more) {
        trial_fail(c->world, "no memory");
    }
    c->needed = more;
    c->needed[c->n_needed++] = strdup(hex);
}

static int has_role(const cJSON *file, const char *role)
{
    const cJSON *r;
    cJSON_ArrayForEach(r, json_get(file, "roles"))
    {
        if (cJSON_IsString(r) && strcmp(r->valuestring, role) == 0) {
            return 1;
        }
    }
    return 0;
}

/* age 0: the head, all of which must be there. */
static void files_check(struct checked *c, const cJSON *version, int age)
{
    const cJSON *file;
    cJSON_ArrayForEach(file, json_get(version, "files"))
    {
        const char *hex = answer_text(c->world, file, "sha256");
        needed_add(c, hex);
        if (age == 0 || (age < KEEP_SERVE && has_role(file, "serve"))) {
            store_check_blob(c->world, hex);
        }
    }
}

static void versions_read(struct checked *c, int adapter)
{
    char id[16];
    char path[80];
    work_adapter_id(adapter, id);
    (void)snprintf(path, sizeof path, "/v1/adapters/versions?limit=1000&id=%s", id);
    cJSON *o = get(c, 0, path, 404);
    c->versions[adapter] = o ? cJSON_DetachItemFromObjectCaseSensitive(o, "versions") : NULL;
    cJSON_Delete(o);
    const cJSON *newest = cJSON_GetArrayItem(c->versions[adapter], 0);
    c->head[adapter] = newest ? answer_number(c->world, newest, "version") : 0;
}

/* A step belongs to a job of one of the daemons, done. */
static void step_check(const struct checked *c, const char *id, const cJSON *version)
{
    const char *name = answer_text(c->world, version, "job");
    for (int i = 0; i < c->world->n_hosts; i++) {
        if (job_find(c, i, name)) {
            return; /* job_check has looked at it */
        }
    }
    trial_fail(c->world, "version %llu of '%s' is of a job '%s' that no daemon knows",
               (unsigned long long)answer_number(c->world, version, "version"), id, name);
}

static void versions_check(struct checked *c, int adapter)
{
    char id[16];
    const cJSON *v;
    uint64_t wanted = c->head[adapter];
    int age = 0;
    work_adapter_id(adapter, id);
    cJSON_ArrayForEach(v, c->versions[adapter])
    {
        if (answer_number(c->world, v, "version") != wanted) {
            trial_fail(c->world, "'%s' has version %llu where %llu was to be", id,
                       (unsigned long long)answer_number(c->world, v, "version"), (unsigned long long)wanted);
        }
        if (strcmp(answer_text(c->world, v, "kind"), "step") == 0) {
            step_check(c, id, v);
        }
        files_check(c, v, age++);
        wanted--;
    }
    if (wanted != 0) {
        trial_fail(c->world, "'%s' has no version %llu", id, (unsigned long long)wanted);
    }
    store_check_log(c->world, id, c->head[adapter]);
}

/* The head answers, and says that it does. */
static void head_answers(struct checked *c, int host, int adapter)
{
    char id[16];
    char body[300];
    cJSON *o = NULL;
    work_adapter_id(adapter, id);
    (void)snprintf(body, sizeof body, "{\"model\": \"%s\", \"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\":"
                                      " \"user\", \"content\": \"q\"}], \"temperature\": 0, \"max_tokens\": 1}", id);
    long status = asker_ask(c->askers[host], "POST", "/v1/chat/completions", NULL, body, &o);
    char *text = o ? json_print(o) : NULL;
    const cJSON *receipt = json_get(o, "claas");
    if (status != 200 || strcmp(answer_text(c->world, receipt, "adapter"), id) != 0 ||
        answer_number(c->world, receipt, "version") != c->head[adapter]) {
        trial_fail(c->world, "daemon %d: the head of '%s' is %llu, and chat says: status %ld, %s", host, id,
                   (unsigned long long)c->head[adapter], status, text ? text : "no body");
    }
    free(text);
    cJSON_Delete(o);
}

/* ---- what was said before ---- */

static void answers_check(struct checked *c, int host)
{
    const struct ledger *l = &c->world->hosts[host].ledger;
    size_t from = l->n_answers > 60 ? l->n_answers - 60 : 0; /* older ones have been looked at before */
    for (size_t i = c->world->round + 1 == c->world->rounds ? 0 : from; i < l->n_answers; i++) {
        char path[120];
        (void)snprintf(path, sizeof path, "/v1/rollouts/%s", l->answers[i].id);
        cJSON *o = get(c, host, path, 0);
        if (strcmp(answer_text(c->world, o, "visible"), l->answers[i].text) != 0) {
            trial_fail(c->world, "daemon %d: '%s' is not what was answered", host, path);
        }
        cJSON_Delete(o);
    }
}

static void made_check(const struct checked *c, int host)
{
    const struct ledger *l = &c->world->hosts[host].ledger;
    for (size_t i = 0; i < l->n_made; i++) {
        const struct made *m = &l->made[i];
        const cJSON *v = m->version <= c->head[m->adapter]
                             ? cJSON_GetArrayItem(c->versions[m->adapter], (int)(c->head[m->adapter] - m->version))
                             : NULL;
        if (!v || strcmp(answer_text(c->world, v, "kind"), m->kind) != 0) {
            trial_fail(c->world, "daemon %d: version %llu of adapter %d was made by %s, and is not there", host,
                       (unsigned long long)m->version, m->adapter, m->kind);
        }
    }
}

/* Sends it once more under its key. */
static void repeat_check(struct checked *c, int host, struct request *r)
{
    char key[64];
    cJSON *o = NULL;
    (void)snprintf(key, sizeof key, "Idempotency-Key: %s", r->key);
    const char *const more[] = { "Prefer: respond-async", key, NULL };
    long status = asker_ask(c->askers[host], "POST", "/v1/feedback", more, r->body, &o);
    char *text = o ? json_print(o) : NULL;
    if (status != 202 || (r->sure && strcmp(answer_text(c->world, o, "id"), r->job) != 0)) {
        trial_fail(c->world, "daemon %d: a repeat under '%s' of job '%s' gave status %ld, %s", host, r->key, r->job, status,
                   text ? text : "no body");
    }
    (void)snprintf(r->job, sizeof r->job, "%s", answer_text(c->world, o, "id"));
    r->sure = 1;
    free(text);
    cJSON_Delete(o);
}

static void repeats_send(struct checked *c, int host)
{
    struct ledger *l = &c->world->hosts[host].ledger;
    for (size_t i = l->n_requests > 20 ? l->n_requests - 20 : 0; i < l->n_requests; i++) {
        if (l->requests[i].key[0]) {
            repeat_check(c, host, &l->requests[i]);
        }
    }
}

static void requests_check(const struct checked *c, int host)
{
    const struct world *w = c->world;
    const struct ledger *l = &w->hosts[host].ledger;
    for (size_t i = 0; i < l->n_requests; i++) {
        const struct request *r = &l->requests[i];
        const cJSON *job = r->sure ? job_find(c, host, r->job) : NULL;
        if (r->sure && !job) {
            trial_fail(w, "daemon %d does not know the job '%s' that it acknowledged", host, r->job);
        }
        if (r->version && r->version != answer_number(w, job, "version")) {
            trial_fail(w, "daemon %d: job '%s' was version %llu and is not any more", host, r->job,
                       (unsigned long long)r->version);
        }
    }
    if ((size_t)cJSON_GetArraySize(c->jobs[host]) > l->n_requests) {
        trial_fail(w, "daemon %d has %d jobs of %zu requests", host, cJSON_GetArraySize(c->jobs[host]), l->n_requests);
    }
}

/* ---- all of it ---- */

static void read_all(struct checked *c)
{
    for (int i = 0; i < c->world->n_hosts; i++) {
        jobs_read(c, i);
    }
    for (int i = 0; i < ADAPTERS; i++) {
        versions_read(c, i);
    }
}

static void clear(struct checked *c)
{
    for (int i = 0; i < c->world->n_hosts; i++) {
        cJSON_Delete(c->jobs[i]);
        asker_free(c->askers[i]);
    }
    for (int i = 0; i < ADAPTERS; i++) {
        cJSON_Delete(c->versions[i]);
    }
    for (size_t i = 0; i < c->n_needed; i++) {
        free(c->needed[i]);
    }
    free(c->needed);
}

static void count(const struct checked *c)
{
    struct tally *t = c->world->tally;
    for (int i = 0; i < c->world->n_hosts; i++) {
        (void)atomic_fetch_add(&t->jobs, (unsigned)cJSON_GetArraySize(c->jobs[i]));
        (void)atomic_fetch_add(&t->answers, (unsigned)c->world->hosts[i].ledger.n_answers);
    }
    for (int i = 0; i < ADAPTERS; i++) {
        (void)atomic_fetch_add(&t->versions, (unsigned)c->head[i]);
    }
}

void check_all(struct world *w)
{
    struct checked c = { .world = w };
    for (int i = 0; i < w->n_hosts; i++) {
        c.askers[i] = asker_new(&w->hosts[i]);
    }
    for (int i = 0; i < w->n_hosts; i++) {
        repeats_send(&c, i);
    }
    read_all(&c);
    for (int i = 0; i < w->n_hosts; i++) {
        const cJSON *job;
        cJSON_ArrayForEach(job, c.jobs[i])
        {
            job_check(&c, i, job);
        }
        requests_check(&c, i);
        made_check(&c, i);
        answers_check(&c, i);
    }
    for (int a = 0; a < ADAPTERS; a++) {
        versions_check(&c, a);
        for (int i = 0; c.head[a] && i < w->n_hosts; i++) {
            head_answers(&c, i, a);
        }
    }
    store_check_clean(w, c.needed, c.n_needed);
    if (w->round + 1 == w->rounds) {
        count(&c);
    }
    clear(&c);
}
