/* SPDX-License-Identifier: MIT */
/* The engine's table: adapters are created, trained and checked. What a step makes stays in memory under the digests
 * that seal() tells, so that answering switches to it without reading a file. */
#include "config.h"

#include "plugins/local/instance.h"

#include "plugins/local/moments.h"
#include "plugins/local/objective.h"
#include "plugins/local/peft.h"
#include "plugins/local/samples.h"
#include "plugins/local/train.h"

#include "base/err.h"
#include "base/mem.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static int engine_info(void *self, struct claas_engine_info *out, struct claas_error *err)
{
    static const char *const none[] = { NULL };
    (void)self;
    (void)err;
    *out = (struct claas_engine_info){ .size = sizeof *out,
                                       .parallel = 1,
                                       .objectives = objective_names,
                                       .formats = instance_formats,
                                       .exports = none,
                                       .settings = train_options,
                                       .creation = train_creation,
                                       .option_size = sizeof(struct claas_option) };
    return 0;
}

/* ---- writing a version ---- */

/* Moments are twice the weights: they are written, and hashed by the host, beside them. */
struct writing {
    const struct warm_adapter *adapter;
    struct claas_out *out;
    struct claas_error err;
    int rc;
};

static void *write_moments(void *ctx)
{
    struct writing *w = ctx;
    w->rc = moments_write(w->adapter->lora, w->adapter->moments, w->out, &w->err);
    return NULL;
}

static int write_files(struct instance *self, const struct warm_adapter *a, struct claas_out *out,
                       struct claas_error *err)
{
    struct writing w = { .adapter = a, .out = out, .err = ERR_INIT };
    pthread_t thread;
    sigset_t all;
    sigset_t before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_BLOCK, &all, &before); /* signals stay the host's matter */
    int beside = a->moments && pthread_create(&thread, NULL, write_moments, &w) == 0;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    int rc = peft_write(a->lora, self->name, out, err);
    if (beside) {
        pthread_join(thread, NULL);
    } else if (a->moments && !rc) {
        (void)write_moments(&w);
    }
    if (!rc && w.rc) {
        rc = w.rc;
        if (err) {
            *err = w.err;
        }
    }
    return rc;
}

/* Writes and seals the new version and keeps it. *adapter is taken over when 0 is returned. */
static int finish(struct instance *self, struct warm_adapter *adapter, const struct claas_digest *key,
                  struct claas_out *out, struct claas_error *err)
{
    struct claas_digest state;
    struct claas_digest serve;
    const struct warm_adapter *held = NULL;
    const struct warm_keys keys = { .state = &state, .serve = &serve, .key = key };
    int rc = write_files(self, adapter, out, err);
    rc = rc ? rc : out->seal(out, PEFT_FORMAT, &state, &serve, err);
    rc = rc ? rc : warm_put(self->warm, &keys, adapter, &held, err);
    warm_release(self->warm, held);
    return rc;
}

static void adapter_clear(struct warm_adapter *a)
{
    lora_free(a->lora);
    optim_free(a->moments);
    free(a->metrics);
    *a = (struct warm_adapter){ 0 };
}

/* ---- create ---- */

static int engine_create(void *ctx, const struct claas_create *create, struct claas_out *out,
                         const struct claas_call *call, struct claas_error *err)
{
    struct instance *self = ctx;
    struct lora_spec spec;
    struct warm_adapter made = { 0 };
    (void)call; /* a fraction of a second */
    int rc = train_creation_read(create->spec, &spec, err);
    rc = rc ? rc : lora_create(self->kernels, &self->model->geometry, &spec, &made.lora, err);
    rc = rc ? rc : lora_init(made.lora, create->seed, err);
    rc = rc ? rc : finish(self, &made, &create->key, out, err);
    adapter_clear(&made);
    return rc;
}

/* ---- train ---- */

static void report_number(struct claas_out *out, uint32_t step, const char *name, double value)
{
    if (isfinite(value)) {
        out->metric(out, step, name, value);
    }
}

static void report(struct claas_out *out, const struct train_metrics *metrics, size_t n)
{
    for (uint32_t i = 0; out->metric && i < n; i++) {
        const struct train_metrics *m = &metrics[i];
        report_number(out, i, "total_loss", m->total_loss);
        report_number(out, i, "distill_loss", m->distill_loss);
        report_number(out, i, "kl_reg", m->kl_reg);
        report_number(out, i, "mean_is_ratio", m->mean_is_ratio);
        report_number(out, i, "clip_fraction", m->clip_fraction);
        report_number(out, i, "grad_norm", m->grad_norm);
        report_number(out, i, "tokens_processed", (double)m->tokens_processed);
        report_number(out, i, "batch_size", (double)m->batch_size);
    }
}

/* The same key again: what it made before is written again. */
static int repeat(struct instance *self, const struct warm_adapter *made, struct claas_out *out,
                  struct claas_error *err)
{
    struct claas_digest state;
    struct claas_digest serve;
    int rc = write_files(self, made, out, err);
    if (!rc) {
        report(out, made->metrics, made->n_steps);
        rc = out->seal(out, PEFT_FORMAT, &state, &serve, err);
    }
    return rc;
}

static int train_from(struct instance *self, const struct warm_adapter *from, const struct claas_train *train,
                      struct claas_out *out, const struct claas_call *call, struct claas_error *err)
{
    struct warm_adapter made = { .has_moments = 1, .n_steps = train->n_steps };
    made.metrics = mem_array(train->n_steps, sizeof *made.metrics);
    int rc = made.metrics ? 0 : err_oom(err, "training");
    rc = rc ? rc : train_run(self->model, from->lora, from->moments, train, call, &made.lora, &made.moments, made.metrics,
                             err);
    if (!rc) {
        report(out, made.metrics, made.n_steps);
        rc = finish(self, &made, &train->key, out, err);
    }
    adapter_clear(&made);
    return rc;
}

static int engine_train(void *ctx, const struct claas_train *train, struct claas_out *out,
                        const struct claas_call *call, struct claas_error *err)
{
    struct instance *self = ctx;
    const struct warm_adapter *from = NULL;
    int rc = samples_check(self, train, err);
    if (rc) {
        return rc;
    }
    rc = instance_step_begin(self, call, err);
    if (rc) {
        return rc;
    }
    const struct warm_adapter *made = warm_find_key(self->warm, &train->key);
    if (made) {
        rc = repeat(self, made, out, err);
    } else {
        rc = instance_adapter(self, train->from, 1, call, &from, err);
        rc = rc ? rc : train_from(self, from, train, out, call, err);
    }
    warm_release(self->warm, made);
    warm_release(self->warm, from);
    instance_step_end(self);
    return rc;
}

/* ---- check ---- */

static int engine_check(void *ctx, const struct claas_version *version, const struct claas_call *call,
                        struct claas_error *err)
{
    struct instance *self = ctx;
    const struct warm_adapter *adapter = NULL;
    int rc = instance_adapter(self, version, 1, call, &adapter, err);
    warm_release(self->warm, adapter);
    return rc;
}

const struct claas_engine instance_engine = {
    .size = sizeof(struct claas_engine),
    .info = engine_info,
    .create = engine_create,
    .train = engine_train,
    .check = engine_check,
};
