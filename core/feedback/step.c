/* SPDX-License-Identifier: MIT */
/* The step: train from the head, commit behind it; where somebody else has committed meanwhile,
 * train again from there. */
#include "config.h"

#include "feedback/internal.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "base/log.h"
#include "host/call.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 5 };

void step_phase(struct step *s, enum feedback_phase phase)
{
    s->phase = phase;
    if (s->request->phase != NULL) {
        s->request->phase(s->request->ctx, phase);
    }
}

void step_clear(struct step *s)
{
    adapter_entry_unref(s->entry);
    cJSON_Delete(s->metrics);
    s->entry = NULL;
    s->metrics = NULL;
}

static int64_t ms_since(int64_t began_ns)
{
    return (clock_mono_ns() - began_ns) / 1000000;
}

/* ---- what identifies the attempt ---- */

static void hash_u64(struct sha256 *h, uint64_t v)
{
    uint8_t b[8];
    for (int i = 0; i < 8; i++) {
        b[i] = (uint8_t)(v >> (8 * i));
    }
    sha256_add(h, b, sizeof b);
}

static void hash_text(struct sha256 *h, const char *s)
{
    hash_u64(h, strlen(s));
    sha256_add(h, s, strlen(s));
}

static void hash_array(struct sha256 *h, const void *data, size_t n, size_t size)
{
    hash_u64(h, n);
    sha256_add(h, data, n * size);
}

static void hash_sample(struct sha256 *h, const struct claas_sample *s)
{
    hash_text(h, s->objective);
    hash_array(h, s->prompt, s->n_prompt, sizeof *s->prompt);
    hash_array(h, s->response, s->n_response, sizeof *s->response);
    hash_array(h, s->teacher, s->n_teacher, sizeof *s->teacher);
    hash_array(h, s->logprobs, s->n_response, sizeof *s->logprobs);
    sha256_add(h, &s->weight, sizeof s->weight);
}

/* Over job, parent state and steps: the same attempt again is the same step, never a second one on
 * top. */
static int key_make(const struct step *s, const char *settings, const struct claas_digest *state,
                    struct claas_digest *out, struct claas_error *err)
{
    struct sha256 *h = sha256_new();
    if (h == NULL) {
        return err_oom(err, "the key of a step");
    }
    hash_text(h, s->job);
    sha256_add(h, state->b, sizeof state->b);
    hash_text(h, settings);
    hash_u64(h, s->settings->steps);
    hash_u64(h, s->batch->n);
    for (size_t i = 0; i < s->batch->n; i++) {
        hash_sample(h, &s->batch->samples[i]);
    }
    return sha256_end(h, out, err);
}

static uint64_t seed_of(const struct claas_digest *key)
{
    uint64_t seed = 0;
    for (int i = 0; i < 8; i++) {
        seed |= (uint64_t)key->b[i] << (8 * i);
    }
    return seed;
}

/* ---- metrics ---- */

/* The ones every answer has, in the contract's order; null where the engine did not tell. */
static const char *const contract[] = { "total_loss",       "distill_loss",  "kl_reg",
                                        "mean_is_ratio",    "clip_fraction", "grad_norm",
                                        "tokens_processed", "batch_size" };

static int put_number(cJSON *o, const char *name, double v)
{
    cJSON_DeleteItemFromObjectCaseSensitive(o, name);
    return json_put(o, name, cJSON_CreateNumber(v));
}

static cJSON *per_step(const struct adapter_metric *metrics, size_t n)
{
    cJSON *steps = cJSON_CreateArray();
    cJSON *at = NULL;
    int failed = 0;
    for (size_t i = 0; i < n && !failed; i++) {
        if (at == NULL || metrics[i].step != metrics[i - 1].step) {
            at = cJSON_CreateObject();
            failed = json_push(steps, at);
        }
        failed = failed || put_number(at, metrics[i].name, metrics[i].value);
    }
    if (failed) {
        cJSON_Delete(steps);
        return NULL;
    }
    return steps;
}

static int metrics_fill(struct step *s, const struct adapter_out *out, cJSON *o)
{
    const struct adapter_metric *metrics = NULL;
    const struct adapter_note *notes = NULL;
    size_t n = adapter_out_metrics(out, &metrics);
    size_t n_notes = adapter_out_notes(out, &notes);
    size_t n_tokens = 0;
    for (size_t i = 0; i < s->batch->n; i++) {
        n_tokens += s->batch->samples[i].n_response;
    }
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof contract / sizeof contract[0]; i++) {
        rc = cJSON_AddNullToObject(o, contract[i]) != NULL ? 0 : -1;
    }
    rc = rc != 0 ? rc : put_number(o, "tokens_processed", (double)n_tokens * s->settings->steps);
    rc = rc != 0 ? rc : put_number(o, "batch_size", (double)s->batch->n);
    for (size_t i = 0; rc == 0 && i < n; i++) { /* later steps replace earlier ones */
        if (strcmp(metrics[i].name, "batch_size") != 0 &&
            strcmp(metrics[i].name, "tokens_processed") != 0) {
            rc = put_number(o, metrics[i].name, metrics[i].value);
        }
    }
    for (size_t i = 0; rc == 0 && i < n_notes; i++) {
        cJSON_DeleteItemFromObjectCaseSensitive(o, notes[i].name);
        rc = cJSON_AddStringToObject(o, notes[i].name, notes[i].text) != NULL ? 0 : -1;
    }
    rc = rc != 0 ? rc : put_number(o, "steps_per_batch_applied", s->settings->steps);
    if (rc == 0 && s->settings->steps > 1) {
        rc = json_put(o, "per_step_metrics", per_step(metrics, n));
    }
    return rc;
}

/* A loss that is no number never becomes a version, whatever the engine thinks of it. */
static int metrics_check(const struct adapter_out *out, struct claas_error *err)
{
    const char *name = adapter_out_spoilt(out);
    return name == NULL
               ? 0
               : err_set(err, CLAAS_ERR_INTERNAL, name, "step refused: '%s' is not a number", name);
}

/* ---- the head ---- */

static int head_check(struct feedback *f, const struct adapter_entry *head, struct claas_error *err)
{
    const struct host_engine_info *info = NULL;
    struct claas_model model = { .size = sizeof model };
    int rc = host_engine_info(f->engine, &info, err);
    if (rc != 0) {
        return rc;
    }
    int sdpo = 0;
    for (const char *const *o = info->objectives; *o != NULL; o++) {
        sdpo |= strcmp(*o, "sdpo") == 0;
    }
    if (!sdpo) {
        return err_set(err, CLAAS_ERR_UNSUPPORTED, "engine",
                       "the engine '%s' cannot learn from feedback in words (sdpo)",
                       f->engine_name);
    }
    if (host_model(f->engine, &model, NULL) == 0 && model.base[0] != '\0' &&
        head->base[0] != '\0' && strcmp(model.base, head->base) != 0) {
        return err_set(
            err, CLAAS_ERR_INVALID, "lora_id",
            "cannot train '%s': it belongs to the base model '%s', and the engine has another one",
            head->id, head->base_name[0] != '\0' ? head->base_name : head->base);
    }
    return 0;
}

/* ---- inference gives way ---- */

static void inference_wake(struct feedback *f, struct step *s)
{
    struct claas_error stuck = ERR_INIT;
    int64_t began = clock_mono_ns();
    s->woke = host_inference_resume(f->pause, NULL, &stuck) == 0;
    s->timing->wake += ms_since(began);
    if (!s->woke) {
        log_line(LOG_ERROR, "feedback", "inference is still paused: %s", stuck.message);
    }
}

/* A resume ends every pause, so steps that pause come one after the other: else the first to end
 * would wake inference while another one still trains. */
static int device_take(struct feedback *f, struct step *s, struct turn *device,
                       struct claas_error *err)
{
    int64_t began = clock_mono_ns();
    step_phase(s, FEEDBACK_SLEEP);
    int rc = turn_take(f, device, TURN_DEVICE, s->request->call, err);
    if (rc == 0) {
        rc = host_inference_pause(f->pause, s->request->call, err);
        s->slept |= rc == 0;
        if (rc != 0) { /* it may have failed half-way */
            inference_wake(f, s);
            turn_leave(f, device);
        }
    }
    s->timing->sleep += ms_since(began);
    return rc;
}

static void device_leave(struct feedback *f, struct step *s, struct turn *device)
{
    inference_wake(f, s);
    turn_leave(f, device);
}

/* ---- one round ---- */

static int train_on_device(struct feedback *f, struct step *s, const struct claas_train *t,
                           struct adapter_out *out, struct claas_error *err)
{
    struct turn device;
    int pauses = f->pause != NULL && !s->request->no_pause;
    int rc = pauses ? device_take(f, s, &device, err) : 0;
    if (rc != 0) {
        return rc;
    }
    int64_t began = clock_mono_ns();
    step_phase(s, FEEDBACK_DISTILL);
    rc = host_engine_train(f->engine, t, adapter_out_abi(out), s->request->call, err);
    s->timing->distill += ms_since(began);
    if (pauses) {
        device_leave(f, s, &device);
    }
    return rc;
}

static int train(struct feedback *f, struct step *s, struct adapter_version *from,
                 const char *settings, struct adapter_out *out, struct claas_error *err)
{
    const struct claas_step one = { .size = sizeof one,
                                    .n_samples = (uint32_t)s->batch->n,
                                    .samples = s->batch->list,
                                    .settings = s->settings->values.values };
    const struct claas_step *steps[64];
    for (uint32_t i = 0; i < s->settings->steps; i++) {
        steps[i] = &one;
    }
    struct claas_train t = { .size = sizeof t,
                             .n_steps = s->settings->steps,
                             .steps = steps,
                             .from = adapter_version_abi(from) };
    int rc = key_make(s, settings, &t.from->state, &t.key, err);
    if (rc != 0) {
        return rc;
    }
    t.seed = seed_of(&t.key);
    rc = train_on_device(f, s, &t, out, err);
    return rc != 0 ? rc : metrics_check(out, err);
}

/* The commit failed, and it may be that only its reply did: the log knows. Where that cannot be read either,
 * the error keeps the mark MAYBE. */
static int settle(struct feedback *f, struct step *s, uint64_t expected, struct claas_error *err)
{
    struct claas_error ignored = ERR_INIT;
    int rc = adapter_log_find(f->adapters, s->adapter, expected, s->job, NULL, &s->entry, &ignored);
    if (rc == CLAAS_ERR_NOT_FOUND) {
        err->flags &= ~(uint32_t)CLAAS_MAYBE;
    } else if (rc != 0) {
        err->flags |= CLAAS_MAYBE;
    }
    return rc == 0 ? 0 : err->code;
}

static int commit(struct feedback *f, struct step *s, uint64_t expected, const char *settings,
                  struct adapter_out *out, struct claas_error *err)
{
    const struct adapter_commit c = { .kind = ADAPTER_STEP,
                                      .job = s->job,
                                      .expected = expected,
                                      .engine = f->engine_name,
                                      .base_name = f->model_name,
                                      .settings_json = settings };
    int64_t began = clock_mono_ns();
    int rc = host_call_check_abi(s->request->call, err); /* called off as late as here: nothing happened */
    if (rc != 0) {
        return rc;
    }
    step_phase(s, FEEDBACK_SAVE);
    rc = adapter_commit(f->adapters, s->adapter, &c, out, s->request->call, &s->entry, err);
    if (rc != 0 && rc != CLAAS_ERR_CONFLICT) {
        rc = settle(f, s, expected, err);
    }
    s->timing->save += ms_since(began);
    return rc;
}

/* *again: somebody else's entry is there. */
static int round_run(struct feedback *f, struct step *s, const char *settings, int *again,
                     struct claas_error *err)
{
    const struct claas_call *call = s->request->call;
    struct adapter_entry *head = NULL;
    struct adapter_version *from = NULL;
    struct adapter_out *out = NULL;
    int rc = adapter_head(f->adapters, s->adapter, call, &head, err);
    if (rc == 0) {
        rc = head_check(f, head, err);
    }
    if (rc == 0) {
        rc = adapter_version_get(f->adapters, s->adapter, head->n, call, &from, err);
    }
    if (rc == 0) {
        const struct adapter_out_params params = { .id = s->adapter, .base = head->base };
        s->from = head->n;
        batch_age(s->batch, head->n);
        rc = adapter_out_new(f->adapters, &params, &out, err);
    }
    if (rc == 0) {
        rc = train(f, s, from, settings, out, err);
    }
    if (rc == 0) {
        rc = commit(f, s, head->n, settings, out, err);
        *again = rc == CLAAS_ERR_CONFLICT;
    }
    if (rc == 0) {
        cJSON_Delete(s->metrics);
        s->metrics = cJSON_CreateObject();
        /* The version stands; a metric that finds no memory is not worth denying it. */
        if (s->metrics != NULL && metrics_fill(s, out, s->metrics) != 0) {
            log_line(LOG_WARNING, "feedback", "out of memory: not all metrics of '%s' are told",
                     s->job);
        }
    }
    adapter_out_free(out);
    adapter_version_unref(from);
    adapter_entry_unref(head);
    return rc;
}

int step_run(struct feedback *f, struct step *s, struct claas_error *err)
{
    cJSON *values = option_values_json(&s->settings->values);
    char *settings = values == NULL ? NULL : json_print(values);
    cJSON_Delete(values);
    if (settings == NULL) {
        return err_oom(err, "a step");
    }
    int rc = CLAAS_ERR_CONFLICT;
    int again = 1;
    for (int i = 0; i < ROUNDS && again; i++) {
        again = 0;
        rc = round_run(f, s, settings, &again, err);
        if (again) {
            log_line(LOG_INFO, "feedback",
                     "'%s' has a new head: the step of '%s' is made again from there", s->adapter,
                     s->job);
        }
    }
    free(settings);
    return again ? err_set(err, CLAAS_ERR_CONFLICT, "lora_id",
                           "cannot commit to '%s': others were faster %d times in a row",
                           s->adapter, (int)ROUNDS)
                 : rc;
}
