/* SPDX-License-Identifier: MIT */
/* Steps one after the other on a copy of the adapter: samples add their gradients, then one update. */
#include "config.h"

#include "plugins/local/train.h"

#include "plugins/local/objective.h"

#include "base/err.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

struct training {
    const struct model *m;
    const struct claas_train *train;
    struct lora *lora;
    struct optim *moments;
    float *grad; /* device, [lora->n] */
    struct objective_teacher *lessons; /* of the first n_lessons samples of the step; there is room for those of any */
    size_t n_lessons;
    struct pulse pulse;
};

/* ---- what the frozen model says, once for a step that is repeated ---- */

/* The very step that came before it: same samples, same settings. */
static int step_again(const struct claas_train *train, uint32_t i)
{
    return i > 0 && i < train->n_steps && train->steps[i] == train->steps[i - 1];
}

static int lesson_get(struct training *t, const struct train_settings *s, const struct claas_step *step, uint32_t j,
                      struct claas_error *err)
{
    if (j < t->n_lessons) {
        return 0;
    }
    int rc = objective_teach(t->m, s, step->samples[j], &t->pulse, &t->lessons[j], err);
    t->n_lessons += rc == 0;
    return rc;
}

static void lessons_clear(struct training *t)
{
    for (size_t j = 0; j < t->n_lessons; j++) {
        objective_teacher_clear(&t->lessons[j]);
    }
    t->n_lessons = 0;
}

/* ---- one step ---- */

/* Means over the samples that have the metric, with the samples' weights. */
struct mean {
    double sum;
    double weight;
};

static void mean_add(struct mean *m, double value, double weight)
{
    if (!isnan(value)) {
        m->sum += weight * value;
        m->weight += weight;
    }
}

static double mean_value(const struct mean *m)
{
    return m->weight > 0 ? m->sum / m->weight : (double)NAN;
}

struct step_means {
    struct mean distill_loss;
    struct mean kl_reg;
    struct mean mean_is_ratio;
    struct mean clip_fraction;
};

/* importance_sampling is a sum over samples, the others are a mean. */
static int is_summed(const struct claas_sample *sample)
{
    return objective_kind(sample->objective) == OBJECTIVE_IMPORTANCE_SAMPLING;
}

/* The divisor of the mean: what is summed does not count in it, so that it leaves the others' mean as it was. */
static int weigh(const struct claas_step *step, double *out, struct claas_error *err)
{
    double all = 0;
    double sum = 0;
    for (uint32_t i = 0; i < step->n_samples; i++) {
        double weight = (double)step->samples[i]->weight;
        all += weight;
        sum += is_summed(step->samples[i]) ? 0 : weight;
    }
    if (!(all > 0)) {
        return err_set(err, CLAAS_ERR_INVALID, "weight", "cannot train: no sample of the step has a weight above 0");
    }
    *out = sum;
    return 0;
}

/* weights: sum of the weights of the samples in the mean; 0 when each of them has the weight 0. */
static int step_samples(struct training *t, uint32_t number, const struct train_settings *settings, double weights,
                        struct train_metrics *metrics, struct claas_error *err)
{
    const struct claas_step *step = t->train->steps[number];
    int keep = step_again(t->train, number + 1);
    struct step_means means = { 0 };
    int rc = kernels_zero(t->m->kernels, t->grad, t->lora->n * sizeof *t->grad, err);
    for (uint32_t i = 0; i < step->n_samples && !rc; i++) {
        const struct claas_sample *sample = step->samples[i];
        double weight = (double)sample->weight;
        double scale = is_summed(sample) || weight == 0 ? weight : weight / weights;
        struct sdpo_metrics value;
        rc = lesson_get(t, settings, step, i, err);
        rc = rc ? rc
                : objective_learn(t->m, t->lora, settings, sample, &t->lessons[i], scale, &t->pulse, t->grad, &value, err);
        if (!keep) {
            objective_teacher_clear(&t->lessons[i]);
        }
        if (!rc) {
            metrics->total_loss += scale * value.loss;
            metrics->tokens_processed += sample->n_response;
            mean_add(&means.distill_loss, value.distill_loss, weight);
            mean_add(&means.kl_reg, value.kl_reg, weight);
            mean_add(&means.mean_is_ratio, value.mean_is_ratio, weight);
            mean_add(&means.clip_fraction, value.clip_fraction, weight);
        }
    }
    metrics->batch_size = step->n_samples;
    metrics->distill_loss = mean_value(&means.distill_loss);
    metrics->kl_reg = mean_value(&means.kl_reg);
    metrics->mean_is_ratio = mean_value(&means.mean_is_ratio);
    metrics->clip_fraction = mean_value(&means.clip_fraction);
    return rc;
}

static int step_update(struct training *t, const struct train_settings *settings, struct train_metrics *metrics,
                       struct claas_error *err)
{
    int finite = 1;
    if (!isfinite(metrics->total_loss)) {
        return err_set(err, CLAAS_ERR_INTERNAL, NULL, "step refused: the loss is not finite");
    }
    int rc = optim_step(t->moments, &settings->optim, t->grad, t->lora->flat, &metrics->grad_norm, err);
    rc = rc ? rc : kernels_all_finite(t->m->kernels, t->lora->n, t->lora->flat, &finite, err);
    if (!rc && !finite) {
        rc = err_set(err, CLAAS_ERR_INTERNAL, NULL, "step refused: a parameter is not finite after the update");
    }
    return rc;
}

/* What was given has been checked before: a number that is not finite now came out of the arithmetic. */
static int refused(int rc, struct claas_error *err)
{
    if (rc == CLAAS_ERR_INVALID && err) {
        err->code = CLAAS_ERR_INTERNAL;
    }
    return rc == CLAAS_ERR_INVALID ? CLAAS_ERR_INTERNAL : rc;
}

static int step_run(struct training *t, uint32_t i, struct train_metrics *metrics, struct claas_error *err)
{
    const struct claas_step *step = t->train->steps[i];
    struct train_settings settings;
    double weights = 0;
    *metrics = (struct train_metrics){ 0 };
    int rc = train_settings_read(step->settings, &settings, err);
    rc = rc ? rc : weigh(step, &weights, err);
    if (rc) {
        return rc;
    }
    if (!step_again(t->train, i)) {
        lessons_clear(t);
    }
    kernels_turn_begin(t->m->kernels, KERNELS_TRAIN);
    rc = step_samples(t, i, &settings, weights, metrics, err);
    rc = rc ? rc : step_update(t, &settings, metrics, err);
    kernels_turn_end(t->m->kernels);
    return refused(rc, err);
}

/* ---- the run ---- */

/* What cannot be is refused before any work, which is counted on the way. */
static int training_plan(struct training *t, struct claas_error *err)
{
    for (uint32_t i = 0; i < t->train->n_steps; i++) {
        const struct claas_step *step = t->train->steps[i];
        struct train_settings settings;
        double weights;
        int rc = train_settings_read(step->settings, &settings, err);
        rc = rc ? rc : weigh(step, &weights, err);
        if (rc) {
            return rc;
        }
        for (uint32_t j = 0; j < step->n_samples; j++) {
            t->pulse.total += objective_learn_beats(t->m);
            t->pulse.total += step_again(t->train, i) ? 0 : objective_teach_beats(t->m, &settings, step->samples[j]);
        }
    }
    return 0;
}

static int training_open(struct training *t, const struct lora *from, const struct optim *moments,
                         struct claas_error *err)
{
    struct kernels *k = t->m->kernels;
    size_t samples = 0;
    void *grad = NULL;
    for (uint32_t i = 0; i < t->train->n_steps; i++) {
        size_t n = t->train->steps[i]->n_samples;
        samples = n > samples ? n : samples;
    }
    int rc = training_plan(t, err);
    t->lessons = mem_array(samples, sizeof *t->lessons);
    if (!rc && !t->lessons) {
        rc = err_oom(err, "training");
    }
    rc = rc ? rc : lora_clone(from, &t->lora, err);
    if (!rc) {
        rc = moments ? optim_clone(moments, &t->moments, err) : optim_create(k, from->n, &t->moments, err);
    }
    rc = rc ? rc : kernels_alloc(k, from->n * sizeof *t->grad, &grad, err);
    t->grad = grad;
    return rc;
}

static void training_close(struct training *t)
{
    lessons_clear(t);
    free(t->lessons);
    kernels_free(t->m->kernels, t->grad);
    lora_free(t->lora);
    optim_free(t->moments);
}

int train_run(const struct model *m, const struct lora *from, const struct optim *moments,
              const struct claas_train *train, const struct claas_call *call, struct lora **out_lora,
              struct optim **out_moments, struct train_metrics *metrics, struct claas_error *err)
{
    struct training t = { .m = m, .train = train,
                          .pulse = { .kernels = m->kernels, .call = call, .what = "training" } };
    int rc = training_open(&t, from, moments, err);
    for (uint32_t i = 0; i < train->n_steps && !rc; i++) {
        rc = step_run(&t, i, &metrics[i], err);
    }
    if (!rc) {
        *out_lora = t.lora;
        *out_moments = t.moments;
        t.lora = NULL;
        t.moments = NULL;
    }
    training_close(&t);
    return rc;
}
