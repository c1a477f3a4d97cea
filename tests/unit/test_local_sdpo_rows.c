/* SPDX-License-Identifier: MIT */
/* The loss at its edges: inputs that must be refused, probabilities that underflow, masks, terms that are absent. */
#include "config.h"

#include "plugins/local/sdpo.h"
#include "testing.h"

#include <float.h>
#include <math.h>
#include <string.h>

static const struct sdpo_settings plain = { .alpha = 0.5, .is_clip = 5, .kl_reg_weight = 0.1 };
static const struct sdpo_settings reverse = { .alpha = 1, .is_clip = 5 };
static const int32_t ids[] = { 3, 0 };

/* The hand check of the algorithm's page: student (0.5, 0.5), teacher (0.8, 0.2). */
struct fixture {
    double teacher[2];
    double logits[2];
    struct sdpo_row row;
    struct sdpo_value value;
    double coef[2];
};

static void fixture_fill(struct fixture *f)
{
    *f = (struct fixture){ .teacher = { log(0.8), log(0.2) }, .logits = { 1, 1 } };
    f->row = (struct sdpo_row){ .n = 2, .ids = ids, .teacher = f->teacher, .logits = f->logits, .lse = 1 + log(2),
                                .chosen_logit = 1, .chosen = 3, .old = log(0.5), .base = log(0.5) };
}

static int fixture_loss(struct fixture *f, const struct sdpo_settings *s, struct claas_error *err)
{
    return sdpo_row_loss(s, &f->row, &f->value, f->coef, err);
}

START_TEST(by_hand)
{
    struct fixture f;
    struct claas_error err = ERR_INIT;
    fixture_fill(&f);
    ck_ok(fixture_loss(&f, &plain, &err), err);
    ck_assert_double_eq_tol(f.value.divergence, 0.0506718370, 1e-10);
    ck_assert_double_eq_tol(f.coef[0], -0.0773799011, 1e-10);
    ck_assert_double_eq_tol(f.coef[1], 0.0773799011, 1e-10);
    ck_assert_double_eq_tol(f.value.ratio, 1, 1e-15);
    ck_assert_double_eq_tol(f.value.k3, 0, 1e-15);
    ck_assert_double_eq_tol(f.value.dense, 0, 1e-15);
}
END_TEST

START_TEST(sampled_reverse_kl_by_hand)
{
    struct fixture f;
    struct claas_error err = ERR_INIT;
    fixture_fill(&f);
    f.row.base = NAN;
    ck_ok(fixture_loss(&f, &reverse, &err), err);
    double advantage = log(0.5) - log(0.8);
    ck_assert_double_eq_tol(f.value.divergence, advantage * log(0.5), 1e-15);
    ck_assert_double_eq_tol(f.value.dense, advantage, 1e-15);
    ck_assert_double_eq(f.coef[0], 0);
    ck_assert_double_eq(f.coef[1], 0);
    f.row.chosen = 7; /* not among the teacher's: counts as e^-20 */
    ck_ok(fixture_loss(&f, &reverse, &err), err);
    ck_assert_double_eq_tol(f.value.dense, log(0.5) + 20, 1e-12);
}
END_TEST

/* Exactly at the cap is clipped; at 20 the k3 term still has a gradient, beyond it none. */
START_TEST(clamps)
{
    struct fixture f;
    struct claas_error err = ERR_INIT;
    fixture_fill(&f);
    f.row.old = log(0.5) - 1000;
    ck_ok(fixture_loss(&f, &plain, &err), err);
    ck_assert_double_eq(f.value.ratio, 5);
    f.row.old = log(0.5) + 1000;
    ck_ok(fixture_loss(&f, &plain, &err), err);
    ck_assert_double_eq_tol(f.value.ratio, exp(-20), 1e-20);
    f.row.lse = 1; /* the sampled token is certain */
    f.row.base = -20;
    ck_ok(fixture_loss(&f, &plain, &err), err);
    ck_assert_double_eq_tol(f.value.dense, 0.1 * expm1(20), 1);
    f.row.base = -20.5;
    ck_ok(fixture_loss(&f, &plain, &err), err);
    ck_assert_double_eq(f.value.dense, 0);
    ck_assert_double_eq_tol(f.value.k3, expm1(20) - 20, 1);
}
END_TEST

/* e^x - 1 - x keeps its digits for small x. */
START_TEST(k3_of_almost_equal_models)
{
    struct fixture f;
    struct claas_error err = ERR_INIT;
    fixture_fill(&f);
    f.row.base = f.row.chosen_logit - f.row.lse - 1e-5;
    ck_ok(fixture_loss(&f, &plain, &err), err);
    ck_assert_double_eq_tol(f.value.k3 / 0.5e-10, 1, 1e-4);
}
END_TEST

/* ---- underflow ---- */

START_TEST(student_probabilities_that_underflow)
{
    static const double gaps[] = { 104, 700, 746, 1e4, 1e30 };
    for (size_t i = 0; i < sizeof gaps / sizeof gaps[0]; i++) {
        struct fixture f;
        struct claas_error err = ERR_INIT;
        fixture_fill(&f);
        f.logits[0] = 1 - gaps[i]; /* what the teacher likes best */
        f.row.lse = 1 + log(2);
        ck_ok(fixture_loss(&f, &plain, &err), err);
        /* all of the student on the second: KL to the mixture by hand */
        double wanted = 0.5 * (0.8 * log(2) + 0.2 * log(0.2 / 0.6)) + 0.5 * log(1 / 0.6);
        ck_assert_double_eq_tol(f.value.divergence, wanted, 1e-12);
        ck_assert_double_eq_tol(f.coef[0], 0, 1e-40);
        ck_assert_double_eq_tol(f.coef[1], 0, 1e-15);
    }
}
END_TEST

START_TEST(teacher_probabilities_that_underflow)
{
    struct fixture f;
    struct claas_error err = ERR_INIT;
    fixture_fill(&f);
    f.teacher[0] = 0;
    f.teacher[1] = -1e5;
    ck_ok(fixture_loss(&f, &plain, &err), err);
    double wanted = 0.5 * log(1 / 0.75) + 0.5 * (0.5 * log(0.5 / 0.75) + 0.5 * log(2));
    ck_assert_double_eq_tol(f.value.divergence, wanted, 1e-12);
    ck_assert_double_eq_tol(f.coef[0] + f.coef[1], 0, 1e-15);
}
END_TEST

/* ---- refusals ---- */

START_TEST(settings_refused)
{
    static const struct sdpo_settings bad[] = {
        { .alpha = 0, .is_clip = 5 },
        { .alpha = -0.1, .is_clip = 5 },
        { .alpha = 1.01, .is_clip = 5 },
        { .alpha = (double)NAN, .is_clip = 5 },
        { .alpha = 0.5, .is_clip = 0 },
        { .alpha = 0.5, .is_clip = (double)NAN },
        { .alpha = 0.5, .is_clip = (double)INFINITY },
        { .alpha = 0.5, .is_clip = 5, .kl_reg_weight = -1 },
        { .alpha = 0.5, .is_clip = 5, .kl_reg_weight = (double)NAN },
        { .alpha = 0.5, .is_clip = 5, .kl_reg_weight = (double)INFINITY },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct fixture f;
        struct claas_error err = ERR_INIT;
        fixture_fill(&f);
        int rc = fixture_loss(&f, &bad[i], &err);
        ck_failed(rc, CLAAS_ERR_INVALID, err);
        ck_assert_str_eq(err.what, i < 4 ? "alpha" : i < 7 ? "is_clip" : "kl_reg_weight");
    }
}
END_TEST

static void expect_refused(struct fixture *f, const struct sdpo_settings *s, const char *what)
{
    struct claas_error err = ERR_INIT;
    const struct sdpo_value untouched = { .logprob = 42 };
    f->value = untouched;
    int rc = fixture_loss(f, s, &err);
    ck_assert_msg(rc == CLAAS_ERR_INVALID, "%s was not refused", what);
    ck_assert_msg(err.message[0] != '\0', "%s: no message", what);
    ck_assert_double_eq(f->value.logprob, 42);
}

START_TEST(numbers_that_are_not_finite_are_refused)
{
    static const double bad[] = { (double)NAN, (double)INFINITY, (double)-INFINITY };
    for (size_t i = 0; i < 3; i++) {
        struct fixture f;
        double *const places[] = { &f.teacher[0], &f.teacher[1], &f.logits[0], &f.logits[1], &f.row.lse,
                                   &f.row.chosen_logit, &f.row.old, &f.row.base };
        for (size_t at = 0; at < sizeof places / sizeof places[0]; at++) {
            if (places[at] == &f.row.base && isnan(bad[i])) {
                continue; /* means: not known */
            }
            fixture_fill(&f);
            *places[at] = bad[i];
            expect_refused(&f, &plain, "a bad number");
            expect_refused(&f, &reverse, "a bad number");
        }
        fixture_fill(&f); /* two that cancel */
        f.row.lse = bad[i];
        f.row.chosen_logit = -bad[i];
        expect_refused(&f, &plain, "a pair of bad numbers");
    }
}
END_TEST

START_TEST(an_empty_support_is_refused)
{
    struct fixture f;
    fixture_fill(&f);
    f.row.n = 0;
    expect_refused(&f, &plain, "an empty support");
}
END_TEST

/* Finite inputs whose result is not. */
START_TEST(results_that_are_not_finite_are_refused)
{
    struct fixture f;
    fixture_fill(&f);
    f.row.base = NAN;
    f.row.lse = 1e200;
    expect_refused(&f, &reverse, "a loss beyond double");
    fixture_fill(&f);
    f.row.lse = DBL_MAX;
    f.row.chosen_logit = -DBL_MAX;
    expect_refused(&f, &plain, "a log-probability beyond double");
}
END_TEST

/* ---- samples ---- */

struct sample_parts {
    float teacher[6];
    float logits[6];
    float lse[3];
    float picked[3];
    int32_t chosen[3];
    float old[3];
    float base[3];
    uint8_t mask[3];
    float coef[6];
    float dense[3];
    struct sdpo_sums sums;
    struct sdpo_sample sample;
};

static const int32_t sample_ids[] = { 3, 0, 3, 0, 3, 0 };

static void sample_fill(struct sample_parts *p)
{
    *p = (struct sample_parts){ .chosen = { 3, 3, 3 }, .mask = { 1, 1, 1 } };
    for (size_t i = 0; i < 3; i++) {
        p->teacher[2 * i] = logf(0.8f);
        p->teacher[2 * i + 1] = logf(0.2f);
        p->logits[2 * i] = p->logits[2 * i + 1] = 1;
        p->lse[i] = 1 + logf(2);
        p->picked[i] = 1;
        p->old[i] = p->base[i] = logf(0.5f);
        p->coef[2 * i] = p->coef[2 * i + 1] = p->dense[i] = NAN;
    }
    p->sample = (struct sdpo_sample){ .rows = 3, .n = 2, .ids = sample_ids, .teacher = p->teacher, .chosen = p->chosen,
                                      .old = p->old, .base = p->base, .mask = p->mask };
}

static int sample_loss(struct sample_parts *p, double weight, struct claas_error *err)
{
    return sdpo_rows_loss(&plain, &p->sample, 0, 3, p->logits, p->lse, p->picked, weight, &p->sums, p->coef, p->dense,
                          err);
}

START_TEST(nothing_counts)
{
    struct sample_parts p;
    struct sdpo_metrics m;
    struct claas_error err = ERR_INIT;
    sample_fill(&p);
    memset(p.mask, 0, sizeof p.mask);
    ck_ok(sample_loss(&p, 1, &err), err);
    ck_assert_uint_eq(sdpo_live_rows(&p.sample), 0);
    ck_assert_uint_eq(p.sums.tokens, 0);
    sdpo_metrics(&plain, &p.sums, 1, &m);
    ck_assert_double_eq(m.loss, 0);
    ck_assert_double_eq(m.kl_reg, 0);
    ck_assert_double_eq(m.mean_is_ratio, 0);
    ck_assert_double_eq(m.clip_fraction, 0);
    for (size_t i = 0; i < 6; i++) {
        ck_assert_float_eq(p.coef[i], 0);
        ck_assert_float_eq(p.dense[i / 2], 0);
    }
}
END_TEST

START_TEST(rows_that_do_not_count_are_not_looked_at)
{
    struct sample_parts p;
    struct sample_parts whole;
    struct claas_error err = ERR_INIT;
    sample_fill(&whole);
    ck_ok(sample_loss(&whole, 0.5, &err), err);
    ck_assert_uint_eq(whole.sums.tokens, 3);
    sample_fill(&p);
    p.mask[1] = 0;
    p.teacher[2] = p.logits[3] = p.lse[1] = p.picked[1] = p.old[1] = p.base[1] = NAN;
    ck_ok(sample_loss(&p, 0.5, &err), err);
    ck_assert_uint_eq(p.sums.tokens, 2);
    ck_assert_uint_eq(sdpo_live_rows(&p.sample), 2);
    ck_assert_double_eq_tol(p.sums.distill, whole.sums.distill * 2 / 3, 1e-12);
    ck_assert_float_eq(p.coef[2], 0);
    ck_assert_float_eq(p.coef[3], 0);
    ck_assert_float_eq(p.dense[1], 0);
    ck_assert_mem_eq(p.coef, whole.coef, 2 * sizeof *p.coef);
    ck_assert_mem_eq(p.coef + 4, whole.coef + 4, 2 * sizeof *p.coef);
    ck_assert_float_eq_tol(p.coef[0], -0.5f * 0.0773799f, 1e-7f);
}
END_TEST

START_TEST(no_mask_and_no_base)
{
    struct sample_parts p;
    struct sdpo_metrics m;
    struct claas_error err = ERR_INIT;
    sample_fill(&p);
    p.sample.mask = NULL;
    p.sample.base = NULL;
    ck_ok(sample_loss(&p, 1, &err), err);
    ck_assert_uint_eq(sdpo_live_rows(&p.sample), 3);
    sdpo_metrics(&plain, &p.sums, 0, &m);
    ck_assert(isnan(m.kl_reg));
    ck_assert_double_eq_tol(m.loss, 0.0506718370, 1e-7);
    ck_assert_double_eq(m.loss, m.distill_loss);
}
END_TEST

START_TEST(a_bad_row_refuses_the_sample)
{
    struct sample_parts p;
    float *const places[] = { &p.teacher[2], &p.logits[3], &p.lse[1], &p.picked[1], &p.old[1], &p.base[1] };
    for (size_t at = 0; at < sizeof places / sizeof places[0]; at++) {
        struct claas_error err = ERR_INIT;
        sample_fill(&p);
        *places[at] = NAN;
        int rc = sample_loss(&p, 1, &err);
        ck_failed(rc, CLAAS_ERR_INVALID, err);
        ck_assert_uint_eq(p.sums.tokens, 1); /* the good one before it */
    }
}
END_TEST

/* A student 2000 nats away from the support, as float logits have it. */
START_TEST(underflow_in_float)
{
    struct sample_parts p;
    struct claas_error err = ERR_INIT;
    sample_fill(&p);
    for (size_t i = 0; i < 3; i++) {
        p.logits[2 * i] = -1999;
        p.logits[2 * i + 1] = -2500;
        p.lse[i] = 1;
        p.old[i] = p.base[i] = 0;
    }
    ck_ok(sample_loss(&p, 1, &err), err);
    double wanted = 0.5 * (0.8 * log(0.8 / 0.9) + 0.2 * log(2)) + 0.5 * log(1 / 0.9);
    ck_assert_double_eq_tol(p.sums.distill, 3 * wanted, 1e-6);
    for (size_t i = 0; i < 6; i++) {
        ck_assert_float_eq_tol(p.coef[i], 0, 1e-7f);
        ck_assert_float_eq(p.dense[i / 2], 0);
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("local_sdpo_rows");
    TCase *t = tcase_create("rows");
    tcase_add_test(t, by_hand);
    tcase_add_test(t, sampled_reverse_kl_by_hand);
    tcase_add_test(t, clamps);
    tcase_add_test(t, k3_of_almost_equal_models);
    tcase_add_test(t, student_probabilities_that_underflow);
    tcase_add_test(t, teacher_probabilities_that_underflow);
    tcase_add_test(t, settings_refused);
    tcase_add_test(t, numbers_that_are_not_finite_are_refused);
    tcase_add_test(t, an_empty_support_is_refused);
    tcase_add_test(t, results_that_are_not_finite_are_refused);
    tcase_add_test(t, nothing_counts);
    tcase_add_test(t, rows_that_do_not_count_are_not_looked_at);
    tcase_add_test(t, no_mask_and_no_base);
    tcase_add_test(t, a_bad_row_refuses_the_sample);
    tcase_add_test(t, underflow_in_float);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
