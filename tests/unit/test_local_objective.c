/* SPDX-License-Identifier: MIT */
/* The objectives beside SDPO: loss and gradient against central differences of the oracle's loss, on every instruction
 * set; and training runs of them: weights, repeats, refusals, calls that are called off. (SDPO has its golden vectors.) */
#include "config.h"

#include "plugins/local/objective.h"
#include "unit/model_testing.h"

enum { N_PROMPT = 5, N_RESPONSE = 6, N_TOP = 3, N_IDS = N_PROMPT + N_RESPONSE, DIRECTIONS = 6 };

enum { HARD, SOFT, SAMPLING, CASES };

struct lesson {
    struct claas_sample sample;
    int32_t *ids; /* prompt, then response */
    int32_t top_ids[N_RESPONSE * N_TOP];
    float top_logprobs[N_RESPONSE * N_TOP];
    float logprobs[N_RESPONSE];
    float advantages[N_RESPONSE];
    uint8_t mask[N_RESPONSE];
};

static void lesson_make(const struct subject *s, int kind, int masked, uint64_t seed, struct lesson *l)
{
    *l = (struct lesson){ .ids = random_ids(s, N_IDS, seed) };
    size_t vocab = s->oracle->spec.geometry.vocab;
    for (size_t i = 0; i < N_RESPONSE; i++) {
        l->logprobs[i] = (float)(-4 * rng_uniform(seed, 1, i));
        l->advantages[i] = (float)(2 * rng_uniform(seed, 2, i) - 1);
        l->mask[i] = i != 1 && i != 4;
        for (size_t j = 0; j < N_TOP; j++) {
            l->top_ids[i * N_TOP + j] = (int32_t)((rng_bits(seed, 3, i) + 7 * j) % vocab);
            l->top_logprobs[i * N_TOP + j] = (float)(-3 * rng_uniform(seed, 4, i * N_TOP + j));
        }
        if (i == 2) { /* next to nothing first: rows need not be sorted */
            l->top_logprobs[i * N_TOP] = -1000;
        }
    }
    l->sample = (struct claas_sample){ .size = sizeof l->sample, .weight = 1, .n_prompt = N_PROMPT,
                                       .n_response = N_RESPONSE };
    l->sample.objective = kind == SAMPLING ? "importance_sampling" : "cross_entropy";
    l->sample.prompt = l->ids;
    l->sample.response = l->ids + N_PROMPT;
    l->sample.mask = masked ? l->mask : NULL;
    if (kind == SAMPLING) {
        l->sample.logprobs = l->logprobs;
        l->sample.advantages = l->advantages;
    } else if (kind == SOFT) {
        l->sample.top_ids = l->top_ids;
        l->sample.top_logprobs = l->top_logprobs;
        l->sample.n_top = N_TOP;
    }
}

/* ---- the loss by the oracle ---- */

static double row_loss(const struct lesson *l, int kind, size_t t, const double *logprobs)
{
    double loss = 0;
    double sum = 0;
    double chosen = logprobs[l->ids[N_PROMPT + t]];
    if (kind == HARD) {
        return -chosen;
    }
    if (kind == SAMPLING) {
        return -exp(chosen - (double)l->logprobs[t]) * (double)l->advantages[t];
    }
    for (size_t j = 0; j < N_TOP; j++) {
        double q = exp((double)l->top_logprobs[t * N_TOP + j]);
        sum += q;
        loss -= q * logprobs[l->top_ids[t * N_TOP + j]];
    }
    return loss / sum;
}

static double wanted_loss(const struct subject *s, const struct lesson *l, int kind)
{
    size_t vocab = s->oracle->spec.geometry.vocab;
    double *logprobs = wanted_logprobs(s, l->ids, N_IDS - 1);
    double loss = 0;
    double live = 0;
    for (size_t t = 0; t < N_RESPONSE; t++) {
        if (!l->sample.mask || l->mask[t]) {
            loss += row_loss(l, kind, t, logprobs + (N_PROMPT - 1 + t) * vocab);
            live++;
        }
    }
    free(logprobs);
    return kind == SAMPLING ? loss : loss / live;
}

/* Derivative of the oracle's loss along a direction of the adapter's values. */
static double wanted_slope(struct subject *s, const struct lesson *l, int kind, const double *direction)
{
    const double h = 1e-5;
    double *kept = s->flat;
    double loss[2];
    s->flat = doubles(s->lora->n);
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < s->lora->n; i++) {
            s->flat[i] = kept[i] + (side ? h : -h) * direction[i];
        }
        loss[side] = wanted_loss(s, l, kind);
    }
    free(s->flat);
    s->flat = kept;
    return (loss[1] - loss[0]) / (2 * h);
}

static void check_slopes(struct subject *s, const struct lesson *l, int kind, double scale, const float *grad)
{
    double *direction = doubles(s->lora->n);
    double norm = 0;
    for (size_t i = 0; i < s->lora->n; i++) {
        norm += (double)grad[i] * (double)grad[i];
    }
    ck_assert_double_gt(norm, 0);
    for (uint64_t d = 0; d < DIRECTIONS; d++) {
        double slope = 0;
        for (size_t i = 0; i < s->lora->n; i++) {
            direction[i] = 2 * rng_uniform(d, 77, i) - 1;
            slope += (double)grad[i] * direction[i];
        }
        double want = scale * wanted_slope(s, l, kind, direction);
        ck_assert_msg(fabs(slope - want) <= 2e-5 * sqrt(norm), "slope %g, wanted %g, norm %g (%s)", slope,
                      want, sqrt(norm), kernels_isa(k));
    }
    free(direction);
}

/* Number i: instruction set, objective, with or without a mask. */
static void objective_case(int i, int recompute)
{
    int kind = i / ISAS % CASES;
    struct oracle_spec spec = spec_odd();
    struct train_settings settings = { .teacher_top_k = 10, .recompute = recompute };
    struct objective_teacher teacher;
    struct sdpo_metrics metrics;
    struct lesson l;
    device_open(i % ISAS, 2);
    struct subject s = subject_make(&spec, LORA_ALL, 3);
    struct pulse pulse = { .kernels = k };
    float *grad = calloc(s.lora->n, sizeof *grad);
    ck_assert_ptr_nonnull(grad);
    lesson_make(&s, kind, i / ISAS / CASES, 5, &l);
    ck_ok(objective_teach(s.model, &settings, &l.sample, &pulse, &teacher, &err), err);
    ck_ok(objective_learn(s.model, s.lora, &settings, &l.sample, &teacher, 0.7, &pulse, grad, &metrics, &err), err);
    double want = wanted_loss(&s, &l, kind);
    ck_assert_msg(fabs(metrics.loss - want) <= 1e-5 * (1 + fabs(want)), "loss %g, wanted %g", metrics.loss,
                  want);
    ck_assert(isnan(metrics.distill_loss) && isnan(metrics.kl_reg));
    check_slopes(&s, &l, kind, 0.7, grad);
    objective_teacher_clear(&teacher);
    free(grad);
    free(l.ids);
    subject_free(&s);
    device_close();
}

START_TEST(test_gradient)
{
    objective_case(_i, _i % 2);
}
END_TEST

START_TEST(test_names)
{
    for (int i = 0; i < OBJECTIVES; i++) {
        ck_assert_int_eq(objective_kind(objective_names[i]), i);
    }
    ck_assert_ptr_null(objective_names[OBJECTIVES]);
    ck_assert_int_eq(objective_kind("nothing"), OBJECTIVES);
    ck_assert_int_eq(objective_kind(NULL), OBJECTIVES);
}
END_TEST

/* ---- runs ---- */

struct course {
    struct subject s;
    struct lesson lessons[2];
    const struct claas_sample *samples[2];
    struct claas_value values[32];
    struct claas_step step;
    const struct claas_step *steps[2];
    struct claas_train train;
};

static void course_open(struct course *c, int kind, int kind_of_second, uint32_t n_samples, uint32_t n_steps)
{
    struct oracle_spec spec = spec_odd();
    *c = (struct course){ .s = { 0 } };
    device_open(2, 2);
    c->s = subject_make(&spec, LORA_ALL, 3);
    lesson_make(&c->s, kind, 0, 5, &c->lessons[0]);
    lesson_make(&c->s, kind_of_second, 1, 6, &c->lessons[1]);
    for (size_t i = 0; train_options[i].name; i++) {
        c->values[i].d = strtod(train_options[i].def, NULL);
        c->values[i].i = (int64_t)c->values[i].d;
    }
    for (uint32_t i = 0; i < 2; i++) {
        c->samples[i] = &c->lessons[i].sample;
        c->steps[i] = &c->step;
    }
    c->step = (struct claas_step){ .size = sizeof c->step, .n_samples = n_samples, .samples = c->samples,
                                   .settings = c->values };
    c->train = (struct claas_train){ .size = sizeof c->train, .n_steps = n_steps, .steps = c->steps };
}

static void course_close(struct course *c)
{
    free(c->lessons[0].ids);
    free(c->lessons[1].ids);
    subject_free(&c->s);
    device_close();
}

static int course_run(struct course *c, const struct claas_call *call, struct lora **lora, struct optim **moments,
                      struct train_metrics *metrics)
{
    *lora = NULL;
    *moments = NULL;
    return train_run(c->s.model, c->s.lora, NULL, &c->train, call, lora, moments, metrics, &err);
}

/* Weighted mean of the means, plus the weighted sum of importance_sampling, which does not change the mean; also where
 * the mean is of nothing. */
START_TEST(test_weights)
{
    struct course c;
    struct lora *lora;
    struct optim *moments;
    struct train_metrics metrics[2];
    int second = _i == 0 ? SOFT : SAMPLING;
    course_open(&c, HARD, second, 2, 1);
    double weight = _i == 2 ? 0 : 0.5;
    c.lessons[0].sample.weight = (float)weight;
    c.lessons[1].sample.weight = 2;
    double first_loss = wanted_loss(&c.s, &c.lessons[0], HARD);
    double second_loss = wanted_loss(&c.s, &c.lessons[1], second);
    double want = second == SAMPLING ? (weight > 0 ? first_loss : 0) + 2 * second_loss
                                     : 0.5 / 2.5 * first_loss + 2 / 2.5 * second_loss;
    ck_ok(course_run(&c, NULL, &lora, &moments, metrics), err);
    ck_assert_double_eq_tol(metrics[0].total_loss, want, 1e-5 * (1 + fabs(want)));
    ck_assert(metrics[0].batch_size == 2 && metrics[0].tokens_processed == 2 * N_RESPONSE);
    ck_assert(isnan(metrics[0].distill_loss) && metrics[0].grad_norm > 0);
    ck_assert(moments->step == 1);
    lora_free(lora);
    optim_free(moments);
    course_close(&c);
}
END_TEST

/* Two runs of two steps give the same bytes, also when the second step is told apart; it starts where the first ended;
 * what was given is untouched. */
START_TEST(test_repeat)
{
    struct course c;
    struct lora *lora[2];
    struct optim *moments[2];
    struct train_metrics metrics[2];
    course_open(&c, HARD, SAMPLING, 1, 2);
    struct lora *before = NULL;
    ck_ok(lora_clone(c.s.lora, &before, &err), err);
    const struct claas_step same = c.step;
    c.values[0].d = 1e-2; /* learning_rate */
    for (int i = 0; i < 2; i++) {
        c.steps[1] = i ? &same : &c.step;
        ck_ok(course_run(&c, NULL, &lora[i], &moments[i], metrics), err);
    }
    ck_assert_mem_eq(lora[0]->flat, lora[1]->flat, lora[0]->n * sizeof *lora[0]->flat);
    ck_assert_mem_eq(moments[0]->mean, moments[1]->mean, lora[0]->n * sizeof *lora[0]->flat);
    ck_assert_mem_eq(before->flat, c.s.lora->flat, before->n * sizeof *before->flat);
    ck_assert_mem_ne(before->flat, lora[0]->flat, before->n * sizeof *before->flat);
    ck_assert(metrics[1].total_loss < metrics[0].total_loss && moments[0]->step == 2);
    for (int i = 0; i < 2; i++) {
        lora_free(lora[i]);
        optim_free(moments[i]);
    }
    lora_free(before);
    course_close(&c);
}
END_TEST

/* A loss that is not finite, no weight at all, alpha 0, a call called off: nothing is handed out. What cannot be is
 * refused before any work, also in a later step. */
START_TEST(test_refusals)
{
    static const int codes[] = { CLAAS_ERR_INTERNAL, CLAAS_ERR_INVALID, CLAAS_ERR_INVALID, CLAAS_ERR_CANCELLED,
                                 CLAAS_ERR_INVALID };
    static const char *const words[] = { "finite", "weight", "alpha", "stopped", "weight" };
    struct course c;
    struct lora *lora;
    struct optim *moments;
    struct train_metrics metrics[2];
    struct timed_call call = timed(_i >= 3 ? 2 : 1 << 20);
    course_open(&c, HARD, SAMPLING, 2, _i == 4 ? 2 : 1);
    struct claas_sample idle = c.lessons[0].sample;
    const struct claas_sample *const idles[] = { &idle };
    struct claas_step idle_step = c.step;
    idle.weight = 0;
    idle_step.n_samples = 1;
    idle_step.samples = idles;
    c.steps[1] = &idle_step;
    if (_i == 0) {
        c.lessons[1].advantages[0] = INFINITY;
    } else if (_i == 1) {
        c.lessons[0].sample.weight = c.lessons[1].sample.weight = 0;
    } else if (_i == 2) {
        c.values[1].d = 0; /* alpha */
    }
    ck_assert_int_eq(course_run(&c, &call.call, &lora, &moments, metrics), codes[_i]);
    ck_assert_int_eq(err.code, codes[_i]);
    ck_assert_msg(strstr(err.message, words[_i]) != NULL, "%s", err.message);
    ck_assert(lora == NULL && moments == NULL);
    course_close(&c);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("objective");
    TCase *t = tcase_create("objective");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, test_names);
    tcase_add_loop_test(t, test_gradient, 0, ISAS * CASES * 2);
    tcase_add_loop_test(t, test_weights, 0, 3);
    tcase_add_test(t, test_repeat);
    tcase_add_loop_test(t, test_refusals, 0, 5);
    suite_add_tcase(s, t);
    return test_main(s);
}
