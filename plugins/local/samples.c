/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "plugins/local/samples.h"

#include "plugins/local/objective.h"
#include "plugins/local/score.h"

#include "base/err.h"

#include <math.h>

enum { STEPS_MAX = 10000, SAMPLES_MAX = 100000 };

/* Where we are, for messages. */
struct place {
    const struct instance *self;
    uint32_t step;
    uint32_t sample;
    struct claas_error *err;
};

static int invalid(const struct place *p, const char *field, const char *why)
{
    return err_set(p->err, CLAAS_ERR_INVALID, field, "cannot train on sample %u of step %u: '%s' %s", p->sample, p->step,
                   field, why);
}

static int placed(const struct place *p, int rc)
{
    if (rc) {
        err_prefix(p->err, "sample %u of step %u", p->sample, p->step);
    }
    return rc;
}

static int check_floats(const struct place *p, const char *field, const float *values, size_t n, int logprobs)
{
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(values[i])) {
            return invalid(p, field, "holds a number that is not finite");
        }
        if (logprobs && values[i] > 0) {
            return invalid(p, field, "holds a log-probability above 0");
        }
    }
    return 0;
}

/* A list of ids that must be there and fit into the context together with the response. */
static int check_prompt(const struct place *p, const char *field, const int32_t *ids, uint32_t n, uint32_t n_response)
{
    if (!ids || n == 0) {
        return invalid(p, field, "is empty");
    }
    int rc = instance_check_room(p->self, (size_t)n + n_response, field, p->err);
    return placed(p, rc ? rc : score_check_ids(p->self->model, ids, n, field, p->err));
}

static int check_top(const struct place *p, const struct claas_sample *s)
{
    if (s->n_top == 0) {
        return 0;
    }
    if (!s->top_ids || !s->top_logprobs || s->n_top > p->self->model->geometry.vocab) {
        return invalid(p, "top_ids", "and its log-probabilities are missing, or more than the vocabulary has");
    }
    size_t n = (size_t)s->n_top * s->n_response;
    int rc = placed(p, score_check_ids(p->self->model, s->top_ids, n, "top_ids", p->err));
    return rc ? rc : check_floats(p, "top_logprobs", s->top_logprobs, n, 1);
}

static int check_objective(const struct place *p, const struct claas_sample *s)
{
    enum objective_kind kind = objective_kind(s->objective);
    if (kind == OBJECTIVES) {
        return err_set(p->err, CLAAS_ERR_UNSUPPORTED, "objective", "cannot train on sample %u of step %u: unknown objective "
                       "'%.40s'", p->sample, p->step, s->objective ? s->objective : "");
    }
    int sdpo = kind == OBJECTIVE_SDPO;
    int sampling = kind == OBJECTIVE_IMPORTANCE_SAMPLING;
    if ((sdpo || sampling) && !s->logprobs) {
        return invalid(p, "logprobs", "is missing: the answer was recorded without log-probabilities");
    }
    if (sampling && !s->advantages) {
        return invalid(p, "advantages", "is missing");
    }
    if (sdpo && s->n_top == 0) {
        return check_prompt(p, "teacher", s->teacher, s->n_teacher, s->n_response);
    }
    return 0;
}

static int check_sample(const struct place *p, const struct claas_sample *s)
{
    if (!s->response || s->n_response == 0) {
        return invalid(p, "response", "is empty");
    }
    int rc = check_prompt(p, "prompt", s->prompt, s->n_prompt, s->n_response);
    rc = rc ? rc : placed(p, score_check_ids(p->self->model, s->response, s->n_response, "response", p->err));
    rc = rc ? rc : check_objective(p, s);
    rc = rc ? rc : check_top(p, s);
    if (!rc && s->logprobs) {
        rc = check_floats(p, "logprobs", s->logprobs, s->n_response, 1);
    }
    if (!rc && s->advantages) {
        rc = check_floats(p, "advantages", s->advantages, s->n_response, 0);
    }
    if (!rc && (!isfinite(s->weight) || s->weight < 0)) {
        rc = invalid(p, "weight", "is negative or not finite");
    }
    return rc;
}

int samples_check(const struct instance *self, const struct claas_train *train, struct claas_error *err)
{
    if (train->n_steps == 0 || train->n_steps > STEPS_MAX) {
        return err_set(err, CLAAS_ERR_INVALID, "steps", "cannot train %u steps: expected 1 to %d", train->n_steps, STEPS_MAX);
    }
    for (uint32_t i = 0; i < train->n_steps; i++) {
        const struct claas_step *step = train->steps[i];
        if (step->n_samples == 0 || step->n_samples > SAMPLES_MAX) {
            return err_set(err, CLAAS_ERR_INVALID, "samples", "cannot train step %u on %u samples: expected 1 to %d", i,
                           step->n_samples, SAMPLES_MAX);
        }
        for (uint32_t j = 0; j < step->n_samples; j++) {
            const struct place place = { .self = self, .step = i, .sample = j, .err = err };
            int rc = check_sample(&place, step->samples[j]);
            if (rc) {
                return rc;
            }
        }
    }
    return 0;
}
