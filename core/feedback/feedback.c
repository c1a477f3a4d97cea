/* SPDX-License-Identifier: MIT */
/* The feedback transaction as a whole: checked, in its turn, trained, committed, served, recorded.
 */
#include "config.h"

#include "feedback/internal.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIXED_ID "requests.lora_id"
#define MIXED_TRAINING "requests.training"

enum { ITEMS_MAX = 4096 };

static char *copy(const char *s)
{
    return s == NULL ? mem_dup("", 0) : mem_dup(s, strlen(s));
}

static int fill(struct feedback *f, const struct feedback_options *o, struct claas_error *err)
{
    struct claas_model model = { .size = sizeof model };
    const char *name = o->model_name == NULL ? "" : o->model_name;
    pthread_condattr_t attr;
    if (name[0] == '\0' && o->engine != NULL && host_model(o->engine, &model, NULL) == 0) {
        name = model.name;
    }
    f->engine = o->engine;
    f->text = o->text != NULL ? o->text : o->engine;
    f->pause = o->pause;
    f->adapters = o->adapters;
    f->state = o->state;
    f->serving = o->serving;
    f->allowed_bases = o->allowed_bases;
    f->training = o->training;
    f->lock_timeout_ms = o->lock_timeout_ms;
    f->engine_name = copy(o->engine_name);
    f->model_name = copy(name);
    if (f->engine_name == NULL || f->model_name == NULL || pthread_condattr_init(&attr) != 0 ||
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) != 0 ||
        pthread_mutex_init(&f->mutex, NULL) != 0 || pthread_cond_init(&f->left, &attr) != 0) {
        return err_oom(err, "the feedback room");
    }
    (void)pthread_condattr_destroy(&attr);
    return feedback_table(o->engine, &f->table, err);
}

int feedback_open(const struct feedback_options *options, struct feedback **out,
                  struct claas_error *err)
{
    struct feedback *f = calloc(1, sizeof *f);
    if (f == NULL) {
        return err_oom(err, "the feedback room");
    }
    int rc = fill(f, options, err);
    if (rc == 0 && f->training != NULL && f->training->table->n != f->table.n) {
        rc = err_set(err, CLAAS_ERR_INVALID, "training",
                     "the training defaults are not of the engine's settings");
    }
    if (rc != 0) {
        option_table_clear(&f->table);
        free(f->engine_name);
        free(f->model_name);
        free(f);
        return rc;
    }
    *out = f;
    return 0;
}

void feedback_close(struct feedback *f)
{
    if (f == NULL) {
        return;
    }
    (void)pthread_cond_destroy(&f->left);
    (void)pthread_mutex_destroy(&f->mutex);
    option_table_clear(&f->table);
    free(f->engine_name);
    free(f->model_name);
    free(f);
}

const char *feedback_phase_name(enum feedback_phase phase)
{
    static const char *const names[] = { "validate", "lock", "sleep", "distill",
                                         "save",     "wake", "done" };
    return (size_t)phase < sizeof names / sizeof names[0] ? names[phase] : "unknown";
}

int feedback_is_mixed(const struct claas_error *err)
{
    return err->code == CLAAS_ERR_INVALID &&
           (strcmp(err->what, MIXED_ID) == 0 || strcmp(err->what, MIXED_TRAINING) == 0);
}

void feedback_result_clear(struct feedback_result *r)
{
    cJSON_Delete(r->metadata);
    cJSON_Delete(r->warnings);
    *r = (struct feedback_result){ .batch_size = 0 };
}

/* ---- validation ---- */

static int blank(const char *s)
{
    return s == NULL || s[0] == '\0';
}

static int items_check(const struct feedback_request *r, struct claas_error *err)
{
    if (r->n_items < 1 || r->n_items > ITEMS_MAX) {
        return err_set(err, CLAAS_ERR_INVALID, "requests",
                       "'requests' must have from 1 to %d items", (int)ITEMS_MAX);
    }
    for (size_t i = 0; i < r->n_items; i++) {
        const struct feedback_item *item = &r->items[i];
        const char *missing = blank(item->lora_id)                                  ? "lora_id"
                              : blank(item->feedback)                               ? "feedback"
                              : blank(item->completion_id) && blank(item->response) ? "response"
                                                                                    : NULL;
        if (missing != NULL) {
            return err_set(err, CLAAS_ERR_INVALID, missing, "'%s' of item %zu is missing or empty",
                           missing, i);
        }
    }
    return 0;
}

static int adapter_find(struct feedback *f, const char *lora_id, const struct claas_call *call,
                        char out[ADAPTER_ID_CAP], struct claas_error *err)
{
    struct adapter_name name;
    struct adapter_entry *head = NULL;
    char stripped[ADAPTER_ID_CAP];
    int rc = adapter_id_strip(lora_id, stripped, err); /* what no id can be is wrong, not missing */
    if (rc == 0) {
        rc = adapter_resolve(f->adapters, lora_id, NULL, call, &name, err);
    }
    if (rc == 0 && name.n != 0) {
        return err_set(err, CLAAS_ERR_INVALID, "lora_id",
                       "cannot train '%s': it is a fixed version; feedback goes to the head, '%s'",
                       lora_id, name.id);
    }
    if (rc == 0) {
        rc = adapter_head(f->adapters, name.id, call, &head, err);
        adapter_entry_unref(head);
    }
    if (rc == CLAAS_ERR_NOT_FOUND) {
        return err_set(err, rc, "lora_id", "there is no adapter '%s'", lora_id);
    }
    if (rc == 0) {
        memcpy(out, name.id, ADAPTER_ID_CAP);
    }
    return rc;
}

/* One adapter for all items, however each spells it. */
static int adapters_check(struct feedback *f, const struct feedback_request *r,
                          char out[ADAPTER_ID_CAP], struct claas_error *err)
{
    int rc = adapter_find(f, r->items[0].lora_id, r->call, out, err);
    for (size_t i = 1; rc == 0 && i < r->n_items; i++) {
        char other[ADAPTER_ID_CAP];
        if (strcmp(r->items[i].lora_id, r->items[0].lora_id) == 0) {
            continue;
        }
        rc = adapter_find(f, r->items[i].lora_id, r->call, other, err);
        if (rc == CLAAS_ERR_NOT_FOUND || rc == CLAAS_ERR_INVALID ||
            (rc == 0 && strcmp(other, out) != 0)) {
            rc = err_set(err, CLAAS_ERR_INVALID, MIXED_ID,
                         "all items of a batch must be for one adapter: item %zu is for '%s', the "
                         "first for '%s'",
                         i, r->items[i].lora_id, r->items[0].lora_id);
        }
    }
    return rc;
}

/* One set of settings for all items, after defaults. */
static int settings_check(struct feedback *f, const struct feedback_request *r, cJSON *warnings,
                          struct settings *out, struct claas_error *err)
{
    struct settings first = { 0 };
    int rc = settings_make(f, r->items[0].training, r->strict, warnings, &first, err);
    cJSON *said = rc == 0 ? option_values_json(&first.values) : NULL;
    for (size_t i = 1; rc == 0 && i < r->n_items; i++) {
        struct settings other = { 0 };
        rc = settings_make(f, r->items[i].training, r->strict, warnings, &other, err);
        if (rc == 0) {
            cJSON *also = option_values_json(&other.values);
            if (!cJSON_Compare(said, also, 1)) {
                rc = err_set(
                    err, CLAAS_ERR_INVALID, MIXED_TRAINING,
                    "all items of a batch must have the same training settings: item %zu differs",
                    i);
            }
            cJSON_Delete(also);
            settings_clear(&other);
        }
    }
    cJSON_Delete(said);
    if (rc != 0) {
        settings_clear(&first);
        return rc;
    }
    *out = first;
    return 0;
}

/* ---- the record ---- */

static cJSON *item_json(const struct feedback_item *item)
{
    const char *const fields[][2] = { { "lora_id", item->lora_id },
                                      { "completion_id", item->completion_id },
                                      { "prompt", item->prompt },
                                      { "response", item->response },
                                      { "feedback", item->feedback } };
    cJSON *o = cJSON_CreateObject();
    int failed = o == NULL;
    for (size_t k = 0; k < sizeof fields / sizeof fields[0] && !failed; k++) {
        failed = fields[k][1] != NULL && json_put(o, fields[k][0], cJSON_CreateString(fields[k][1]));
    }
    if (failed) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

cJSON *feedback_items_json(const struct feedback_request *r)
{
    if (r->items_json != NULL) {
        return cJSON_Duplicate(r->items_json, 1);
    }
    cJSON *list = cJSON_CreateArray();
    int failed = 0;
    for (size_t i = 0; i < r->n_items && !failed; i++) {
        failed = json_push(list, item_json(&r->items[i]));
    }
    if (failed) {
        cJSON_Delete(list);
        return NULL;
    }
    return list;
}

cJSON *feedback_timing_json(const struct feedback_timing *t)
{
    const struct {
        const char *name;
        int64_t ms;
    } rows[] = {
        { "sleep", t->sleep }, { "distill", t->distill },   { "save", t->save },
        { "wake", t->wake },   { "logprobs", t->logprobs }, { "total", t->total },
    };
    cJSON *o = cJSON_CreateObject();
    int failed = 0;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        failed |= json_put(o, rows[i].name, cJSON_CreateNumber((double)rows[i].ms));
    }
    if (failed) {
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

struct running { /* one request, all of it */
    const struct feedback_request *r;
    struct feedback_result result;
    struct settings settings;
    struct batch batch;
    struct step step;
    struct turn turn;
    int64_t began_ns, began_mono_ns;
};

static char *print_and_drop(cJSON *value)
{
    char *text = value == NULL ? NULL : json_print(value);
    cJSON_Delete(value);
    return text;
}

/* The record as it is now. A record that cannot be written is told, but the step is not undone for
 * it. */
static int record(struct feedback *f, struct running *w, const char *status,
                  const struct claas_error *failure)
{
    struct claas_error err = ERR_INIT;
    char *items = print_and_drop(feedback_items_json(w->r));
    char *settings = print_and_drop(option_values_json(&w->settings.values));
    char *timing = print_and_drop(feedback_timing_json(&w->result.timing));
    char *metrics = w->result.metadata == NULL ? NULL : json_print(w->result.metadata);
    struct state_feedback rec = {
        .id = w->result.request_id,
        .owner = w->r->owner == NULL ? "" : w->r->owner,
        .adapter = w->result.lora_id,
        .status = status,
        .phase = feedback_phase_name(w->step.phase),
        .time_ns = w->began_ns,
        .version_from = w->step.from,
        .version_to = w->result.version_to,
        .n_rollouts = (uint32_t)w->batch.n,
        .rollouts = w->batch.ids,
        .items_json = items,
        .settings_json = settings,
        .metrics_json = metrics,
        .timing_json = timing,
        .error_code = failure == NULL ? 0 : failure->code,
        .error = failure == NULL ? NULL : failure->message,
    };
    int rc = items == NULL || settings == NULL ? err_oom(&err, "the record")
                                               : state_feedback_put(f->state, &rec, &err);
    if (rc != 0) {
        log_line(LOG_ERROR, "feedback", "request '%s' is not recorded: %s", rec.id, err.message);
    }
    free(items);
    free(settings);
    free(timing);
    free(metrics);
    return rc == 0;
}

/* ---- the transaction ---- */

static int validate(struct feedback *f, struct running *w, struct claas_error *err)
{
    int rc = items_check(w->r, err);
    if (rc == 0) {
        rc = settings_check(f, w->r, w->result.warnings, &w->settings, err);
    }
    if (rc == 0) {
        rc = adapters_check(f, w->r, w->result.lora_id, err);
    }
    if (rc == 0) {
        int64_t began = clock_mono_ns();
        rc = batch_make(f, w->r, w->result.lora_id, &w->settings, &w->batch, err);
        w->result.timing.logprobs = (clock_mono_ns() - began) / 1000000;
    }
    return rc;
}

/* With a job: the end goes where its owner wants it. */
static int tell_end(struct running *w, const struct claas_error *failure)
{
    char *timing = print_and_drop(feedback_timing_json(&w->result.timing));
    char *metrics = w->result.metadata == NULL ? NULL : json_print(w->result.metadata);
    w->result.recorded = 1;
    const struct feedback_end e = { .result = failure == NULL ? &w->result : NULL,
                                    .failure = failure,
                                    .phase = w->step.phase,
                                    .version_from = w->step.from,
                                    .version = w->result.version_to,
                                    .metrics_json = metrics,
                                    .timing_json = timing };
    int rc = w->r->end(w->r->ctx, &e);
    free(timing);
    free(metrics);
    return rc == 0;
}

/* The version is committed: what is left cannot fail the request. */
static void wake(struct feedback *f, struct running *w)
{
    struct claas_error err = ERR_INIT;
    struct feedback_result *out = &w->result;
    int64_t began = clock_mono_ns();
    step_phase(&w->step, FEEDBACK_WAKE);
    out->serves =
        f->serving != NULL && serving_follow(f->serving, out->lora_id, w->r->call, &err) == 0;
    if (!out->serves && f->serving != NULL) {
        warn(out->warnings,
             "version %llu is committed but not loaded yet, the old one answers: %.150s",
             (unsigned long long)w->step.entry->n, err.message);
    }
    out->timing.wake += (clock_mono_ns() - began) / 1000000;
    out->version_from = w->step.from;
    out->version_to = w->step.entry->n;
    out->serve = w->step.entry->serve;
    out->batch_size = w->batch.n;
    out->metadata = w->step.metrics;
    w->step.metrics = NULL;
    cJSON *texts = batch_teacher_texts(f, &w->batch);
    if (out->metadata == NULL || texts == NULL ||
        !cJSON_AddItemToObject(out->metadata, "teacher_scored_texts", texts)) {
        cJSON_Delete(texts);
    }
    step_phase(&w->step, FEEDBACK_DONE);
}

static int in_turn(struct feedback *f, struct running *w, struct claas_error *err)
{
    w->step = (struct step){ .adapter = w->result.lora_id,
                             .job = w->result.request_id,
                             .settings = &w->settings,
                             .batch = &w->batch,
                             .request = w->r,
                             .timing = &w->result.timing,
                             .phase = FEEDBACK_LOCK };
    if (w->r->end == NULL) {
        (void)record(f, w, "running", NULL);
    }
    int rc = step_run(f, &w->step, err);
    w->result.slept = w->step.slept;
    w->result.woke = w->step.woke;
    if (rc == 0) {
        wake(f, w);
    }
    w->result.timing.total = (clock_mono_ns() - w->began_mono_ns) / 1000000;
    if (rc != 0) {
        (void)err_prefix(err, "%s", feedback_phase_name(w->step.phase));
    }
    if (w->r->end == NULL) {
        w->result.recorded = record(f, w, rc == 0 ? "ok" : "error", rc == 0 ? NULL : err);
    } else if (rc == 0 || (err->flags & CLAAS_MAYBE) == 0) {
        w->result.recorded = tell_end(w, rc == 0 ? NULL : err);
    }
    return rc;
}

static int transact(struct feedback *f, struct running *w, struct claas_error *err)
{
    if (w->r->phase != NULL) {
        w->r->phase(w->r->ctx, FEEDBACK_VALIDATE);
    }
    int rc = validate(f, w, err);
    if (rc != 0) {
        return rc;
    }
    if (w->r->phase != NULL) {
        w->r->phase(w->r->ctx, FEEDBACK_LOCK);
    }
    rc = turn_take(f, &w->turn, w->result.lora_id, w->r->call, err);
    if (rc != 0) {
        return rc;
    }
    rc = in_turn(f, w, err);
    turn_leave(f, &w->turn);
    return rc;
}

static int rooms_check(const struct feedback *f, struct claas_error *err)
{
    if (f->engine == NULL || f->adapters == NULL || f->state == NULL) {
        return err_set(err, CLAAS_ERR_UNAVAILABLE, "engine", "cannot learn: no %s configured",
                       f->engine == NULL     ? "engine"
                       : f->adapters == NULL ? "storage"
                                             : "state");
    }
    return 0;
}

/* ---- planning ---- */

static int plan_fill(struct running *w, struct feedback_plan *p, struct claas_error *err)
{
    p->items = cJSON_CreateArray();
    p->received = feedback_items_json(w->r);
    p->settings_json = print_and_drop(option_values_json(&w->settings.values));
    p->rollouts = mem_array(w->batch.n, sizeof *p->rollouts);
    int failed = p->items == NULL || p->received == NULL || p->settings_json == NULL || p->rollouts == NULL;
    for (size_t i = 0; i < w->batch.n && !failed; i++) {
        const struct feedback_item *item = &w->r->items[i];
        cJSON *o = cJSON_CreateObject();
        cJSON *training = option_values_json(&w->settings.values);
        p->rollouts[i] = copy(w->batch.ids[i]);
        p->n = i + 1;
        failed = json_push(p->items, o) || p->rollouts[i] == NULL ||
                 json_put(o, "completion_id", cJSON_CreateString(w->batch.ids[i])) ||
                 json_put(o, "feedback", cJSON_CreateString(item->feedback));
        if (failed) {
            cJSON_Delete(training);
        } else {
            failed = json_put(o, "training", training);
        }
    }
    return failed ? err_oom(err, "a feedback request") : 0;
}

int feedback_plan(struct feedback *f, const struct feedback_request *r, struct feedback_plan *out,
                  struct claas_error *err)
{
    struct claas_error local = ERR_INIT;
    err = err == NULL ? &local : err;
    struct running w = { .r = r };
    struct feedback_plan p = { .n = 0 };
    struct adapter_entry *head = NULL;
    int rc = rooms_check(f, err);
    if (rc == 0) {
        w.result.warnings = cJSON_CreateArray();
        rc = w.result.warnings == NULL ? err_oom(err, "a feedback request") : validate(f, &w, err);
    }
    if (rc == 0) {
        rc = adapter_head(f->adapters, w.result.lora_id, r->call, &head, err);
    }
    if (rc == 0) {
        p.head = head->n;
        memcpy(p.adapter, w.result.lora_id, sizeof p.adapter);
        rc = plan_fill(&w, &p, err);
    }
    adapter_entry_unref(head);
    p.warnings = w.result.warnings;
    w.result.warnings = NULL;
    batch_clear(&w.batch);
    settings_clear(&w.settings);
    if (rc != 0) {
        feedback_plan_clear(&p);
        return rc;
    }
    *out = p;
    return 0;
}

void feedback_plan_clear(struct feedback_plan *p)
{
    for (size_t i = 0; i < p->n; i++) {
        free(p->rollouts[i]);
    }
    free(p->rollouts);
    free(p->settings_json);
    cJSON_Delete(p->items);
    cJSON_Delete(p->received);
    cJSON_Delete(p->warnings);
    *p = (struct feedback_plan){ .n = 0 };
}

int feedback_run(struct feedback *f, const struct feedback_request *r, struct feedback_result *out,
                 struct claas_error *err)
{
    struct claas_error local = ERR_INIT;
    err = err == NULL ? &local : err;
    int missing = rooms_check(f, err);
    if (missing != 0) {
        return missing;
    }
    struct running w = { .r = r, .began_ns = clock_real_ns(), .began_mono_ns = clock_mono_ns() };
    w.result.warnings = cJSON_CreateArray();
    if (w.result.warnings == NULL) {
        return err_oom(err, "a feedback request");
    }
    int rc = 0;
    if (r->job != NULL) {
        (void)snprintf(w.result.request_id, sizeof w.result.request_id, "%s", r->job);
    } else if (rng_hex(w.result.request_id, 32) != 0) {
        rc = err_set(err, CLAAS_ERR_INTERNAL, NULL, "cannot make a request id: no random numbers");
    }
    if (rc == 0) {
        rc = transact(f, &w, err);
    }
    step_clear(&w.step);
    batch_clear(&w.batch);
    settings_clear(&w.settings);
    if (rc != 0) {
        feedback_result_clear(&w.result);
        return rc;
    }
    *out = w.result;
    return 0;
}
