/* SPDX-License-Identifier: MIT */
/* What the routes work with: the rooms below, as far as they are open. A room appears once, complete, and stays until
 * the HTTP layer has stopped; a handler that needs one that is not there answers 503. */
#ifndef SERVER_APP_H
#define SERVER_APP_H

#include "access/access.h"
#include "adapters/adapters.h"
#include "config/config.h"
#include "feedback/jobs.h"
#include "server/check.h"
#include "server/http.h"
#include "server/metrics.h"
#include "serving/serving.h"
#include "state/state.h"

#include <stdatomic.h>

struct host_instance;
struct snapshots;

struct app {
    const struct config *config;           /* of the start; what counts for a request: app_config */
    struct snapshots *snapshots;           /* null: `config` counts always */
    struct state *state;                   /* from the start */
    struct access *access;                 /* from the start; null: anybody may do anything */
    _Atomic(struct adapters *) adapters;   /* null: not open yet, or no storage configured */
    _Atomic(struct serving *) serving;
    _Atomic(struct feedback *) feedback;
    _Atomic(struct jobs *) jobs;
    _Atomic(struct host_instance *) instances[3]; /* engine, storage, inference; null where there is none */
    atomic_int ready;                      /* all that is configured is open */
    struct http *http;
    uint32_t heartbeat_ms;                 /* between signs of life in a stream of events; 0: 15 seconds */
    struct metrics metrics;
};

/* The one table of routes. */
extern const struct http_route app_routes[];
extern const size_t app_n_routes;

/* The configuration that the request goes by; lives as long as the request. */
const struct config *app_config(const struct app *app, const struct http_request *r);

/* Each gives the room, or answers 503 and gives null. */
struct adapters *app_adapters(struct app *app, struct http_request *r);
struct serving *app_serving(struct app *app, struct http_request *r);
struct feedback *app_feedback(struct app *app, struct http_request *r);
struct jobs *app_jobs(struct app *app, struct http_request *r);

/* The one place where rights are asked for: http_options.admit. */
int app_admit(void *app, struct http_request *r, const struct http_route *route, struct access_caller *out,
              struct claas_error *err);
void app_moved(void *app, const struct access_caller *caller, uint64_t bytes);

/* The adapter that a name, the request's `param`, means; INVALID for what no name of an adapter can be, such as paths that
 * climb; NOT_FOUND also for those that are not the caller's. */
int app_name(struct adapters *a, struct http_request *r, const char *param, const char *name,
             struct adapter_name *out, struct claas_error *err);
/* FORBIDDEN unless an adapter or alias of this name may be the caller's. */
int app_may_make(const struct http_request *r, const char *param, const char *id, struct claas_error *err);

/* The prefix to list by: of the one that was asked for (may be null) and the caller's the narrower one; *none is set when
 * nothing can be below both. */
const char *app_prefix(const struct http_request *r, const char *asked, int *none);

/* 1 if the check found violations: they have been answered (422), and c is empty. */
int app_refused(struct http_request *r, struct check *c);

/* Adds v, which may be null (out of memory), to o; -1 when that failed. Takes v over. */
int app_put(cJSON *o, const char *name, cJSON *v);
/* The same for arrays. */
int app_push(cJSON *list, cJSON *v);

/* Texts for JSON: what is not valid UTF-8 becomes U+FFFD. Null when out of memory. */
cJSON *app_text(const char *s, size_t n);
cJSON *app_digest(const struct claas_digest *d);
cJSON *app_time(int64_t real_ns);
/* Parsed JSON of our own records; an empty object when it is null or unreadable. */
cJSON *app_parsed(const char *json);

/* A count; exact up to 2^53. */
cJSON *app_number(uint64_t n);

/* Handlers, by file. */
void info_root(void *app, struct http_request *r);
void info_health(void *app, struct http_request *r);
void info_metrics(void *app, struct http_request *r);
void chat_answer(void *app, struct http_request *r);
void chat_complete(void *app, struct http_request *r);
void score_answer(void *app, struct http_request *r);
void models_list(void *app, struct http_request *r);
void train_feedback(void *app, struct http_request *r);
/* A job has ended; for jobs_options. */
void job_ended(void *app, const struct feedback_timing *took);
/* 202 with the job. */
void job_accepted(struct app *app, struct http_request *r, struct jobs *jobs, const char *id);
void job_list(void *app, struct http_request *r);
void job_show(void *app, struct http_request *r);
void job_watch(void *app, struct http_request *r);
void job_cancel(void *app, struct http_request *r);
void audit_list(void *app, struct http_request *r);
void train_init(void *app, struct http_request *r);
void lora_list(void *app, struct http_request *r);
void lora_delete(void *app, struct http_request *r);
void lora_export(void *app, struct http_request *r);
void adapter_show(void *app, struct http_request *r);
void adapter_versions(void *app, struct http_request *r);
void adapter_roll(void *app, struct http_request *r);
void alias_set(void *app, struct http_request *r);
void alias_list(void *app, struct http_request *r);
void alias_delete(void *app, struct http_request *r);
void rollout_list(void *app, struct http_request *r);
void rollout_show(void *app, struct http_request *r);
void rollout_delete(void *app, struct http_request *r);
void rollout_delete_all(void *app, struct http_request *r);

#endif
