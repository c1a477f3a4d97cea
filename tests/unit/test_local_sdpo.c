/* SPDX-License-Identifier: MIT */
/* The loss against the golden vectors: each row in double, then whole samples in float through the kernels, as training
 * does it. */
#include "config.h"

#include "unit/sdpo_vectors.h"

/* ---- in double, row by row ---- */

static double log_sum(const double *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += exp(x[i]);
    }
    return log(sum);
}

/* The loss of row i, and weight times its gradient to grad[vocab]. */
static struct sdpo_value row_loss(const struct problem *p, size_t i, double weight, double *grad)
{
    double picked[16];
    double coef[16];
    struct claas_error error = ERR_INIT;
    struct sdpo_value v;
    const double *logits = p->logits + i * p->vocab;
    const int32_t *ids = p->ids + i * p->n;
    ck_assert_uint_le(p->n, 16);
    for (size_t j = 0; j < p->n; j++) {
        picked[j] = logits[ids[j]];
    }
    const struct sdpo_row row = { .n = p->n,
                                  .ids = ids,
                                  .teacher = p->teacher + i * p->n,
                                  .logits = picked,
                                  .lse = log_sum(logits, p->vocab),
                                  .chosen_logit = logits[p->chosen[i]],
                                  .chosen = p->chosen[i],
                                  .old = p->old[i],
                                  .base = p->base[i] };
    ck_ok(sdpo_row_loss(&p->settings, &row, &v, coef, &error), error);
    for (size_t j = 0; j < p->vocab; j++) {
        grad[j] = weight * v.dense * (((int32_t)j == row.chosen) - exp(logits[j] - row.lse));
    }
    for (size_t j = 0; j < p->n; j++) {
        grad[ids[j]] += weight * coef[j];
    }
    return v;
}

static void check_rows(const cJSON *test)
{
    enum { LOGPROB, RATIO, DIVERGENCE, WEIGHTED, K3, VALUES };
    static const char *const names[VALUES] = { "student_logprob", "is_ratio", "divergence", "weighted_divergence",
                                               "k3" };
    struct problem p;
    problem_read(test, &p);
    const cJSON *expected = json_get(test, "expected");
    double *want = numbers(expected, "grad_student_logits", p.rows * p.vocab);
    double *grad = doubles(p.rows * p.vocab);
    double sums[VALUES] = { 0 };
    double clipped = 0;
    for (size_t i = 0; i < p.rows; i++) {
        struct sdpo_value v = row_loss(&p, i, p.mask[i] / p.tokens, grad + i * p.vocab);
        const double values[VALUES] = { v.logprob, v.ratio, v.divergence, v.ratio * v.divergence, v.k3 };
        for (size_t j = 0; j < VALUES; j++) {
            double *each = numbers(json_get(expected, "per_token"), names[j], p.rows);
            near(values[j], each[i], 1e-9, p.name, names[j], i);
            sums[j] += p.mask[i] * values[j] / p.tokens;
            free(each);
        }
        clipped += p.mask[i] * (v.ratio >= p.settings.is_clip) / p.tokens;
    }
    near_all(grad, want, p.rows * p.vocab, 1e-9, p.name, "gradient");
    near(sums[WEIGHTED], number(expected, "distill_loss"), 1e-9, p.name, "distill_loss", 0);
    near(sums[K3], number(expected, "kl_reg"), 1e-9, p.name, "kl_reg", 0);
    near(sums[RATIO], number(expected, "mean_is_ratio"), 1e-9, p.name, "mean_is_ratio", 0);
    near(clipped, number(expected, "clip_fraction"), 1e-9, p.name, "clip_fraction", 0);
    near(sums[WEIGHTED] + p.settings.kl_reg_weight * sums[K3], number(expected, "loss"), 1e-9, p.name, "loss", 0);
    free(grad);
    free(want);
    problem_free(&p);
}

START_TEST(rows_agree_in_double)
{
    size_t checked = 0;
    const cJSON *test;
    cJSON_ArrayForEach(test, list_of("loss_cases"))
    {
        if (!is_different(test)) {
            check_rows(test);
            checked++;
        }
    }
    ck_assert_uint_eq(checked, 18);
}
END_TEST

/* The whole vocabulary as support is the exact divergence. */
START_TEST(full_support_is_exact)
{
    const cJSON *test = case_named("variant_cases", "jsd_full");
    const cJSON *in = json_get(test, "inputs");
    struct problem p = { .name = "jsd_full", .rows = 2, .vocab = 6, .n = 6,
                         .settings = { .alpha = number(json_get(test, "params"), "alpha"), .is_clip = 1 } };
    double *each = numbers(json_get(test, "expected"), "per_token", p.rows);
    double *want = numbers(json_get(test, "expected"), "grad_student_logits", p.rows * p.vocab);
    double grad[12];
    p.logits = numbers(in, "student_logits", p.rows * p.vocab);
    p.teacher = numbers(in, "teacher_logprobs", p.rows * p.n);
    p.ids = integers(in, "teacher_indices", p.rows * p.n);
    p.chosen = mem_array(p.rows, sizeof *p.chosen);
    p.old = doubles(p.rows);
    p.base = doubles(p.rows);
    for (size_t i = 0; i < p.rows; i++) {
        p.old[i] = p.logits[i * p.vocab] - log_sum(p.logits + i * p.vocab, p.vocab); /* a ratio of 1 */
        near(row_loss(&p, i, 0.5, grad + i * p.vocab).divergence, each[i], 1e-9, p.name, "divergence", i);
    }
    near_all(grad, want, p.rows * p.vocab, 1e-9, p.name, "gradient");
    free(each);
    free(want);
    problem_free(&p);
}
END_TEST

/* ---- in float, over the kernels ---- */

static float *floats(const double *from, size_t n)
{
    float *out = mem_array(n, sizeof *out);
    for (size_t i = 0; i < n; i++) {
        out[i] = (float)from[i];
    }
    return out;
}

/* The support as the engine finds it: the best n of the teacher's row over the whole vocabulary. */
static void teacher_top(const struct problem *p, int32_t *ids, float *logprobs)
{
    struct buffer all = buffer_guarded(p->rows, p->vocab, p->vocab);
    for (size_t i = 0; i < p->rows; i++) {
        for (size_t j = 0; j < p->vocab; j++) {
            all.x[i * p->vocab + j] = -1000;
        }
        for (size_t j = 0; j < p->n; j++) {
            all.x[i * p->vocab + (size_t)p->ids[i * p->n + j]] = (float)p->teacher[i * p->n + j];
        }
    }
    ck_ok(kernels_row_top(k, p->rows, p->vocab, all.x, p->vocab, p->n, ids, logprobs, &err), err);
    ck_assert_mem_eq(ids, p->ids, p->rows * p->n * sizeof *ids);
    buffer_free(&all);
}

/* Rows first .. first + rows of the sample: the sums, and weight times the gradient to grad[rows][vocab]. */
static void chunk_loss(const struct problem *p, const struct sdpo_sample *sample, size_t first, size_t rows,
                       double weight, struct sdpo_sums *sums, float *grad)
{
    float lse[8];
    float chosen[8];
    float dense[8];
    float picked[64];
    float coef[64];
    ck_assert_uint_le(rows * p->n, 64);
    float *logits = floats(p->logits + first * p->vocab, rows * p->vocab);
    const int32_t *ids = sample->ids + first * p->n;
    memcpy(grad, logits, rows * p->vocab * sizeof *grad);
    ck_ok(kernels_row_lse(k, rows, p->vocab, logits, p->vocab, lse, &err), err);
    ck_ok(kernels_row_pick(k, rows, p->vocab, logits, p->vocab, p->n, ids, picked, &err), err);
    ck_ok(kernels_row_pick(k, rows, p->vocab, logits, p->vocab, 1, sample->chosen + first, chosen, &err), err);
    ck_ok(sdpo_rows_loss(&p->settings, sample, first, rows, picked, lse, chosen, weight, sums, coef, dense, &err), err);
    ck_ok(kernels_row_softmax_grad(k, rows, p->vocab, grad, p->vocab, lse, sample->chosen + first, dense, &err), err);
    for (size_t i = 0; i < rows * p->n; i++) {
        grad[i / p->n * p->vocab + (size_t)ids[i]] += coef[i];
    }
    free(logits);
}

/* Adds to *out share times the metrics of one sample; its gradient times share comes back. Chunks of two rows. */
static double *sample_loss(const struct problem *p, double share, struct sdpo_metrics *out)
{
    struct sdpo_sums sums = { 0 };
    struct sdpo_metrics m;
    int32_t ids[64];
    float teacher[64];
    uint8_t mask[8];
    float grad[256] = { 0 };
    teacher_top(p, ids, teacher);
    for (size_t i = 0; i < p->rows; i++) {
        mask[i] = p->mask[i] > 0;
    }
    float *old = floats(p->old, p->rows);
    float *base = floats(p->base, p->rows);
    const struct sdpo_sample sample = { .rows = p->rows, .n = p->n, .ids = ids, .teacher = teacher,
                                        .chosen = p->chosen, .old = old, .base = base, .mask = mask };
    size_t live = sdpo_live_rows(&sample);
    ck_assert_double_eq(live > 0 ? (double)live : 1, p->tokens);
    for (size_t first = 0; first < p->rows; first += 2) {
        size_t rows = p->rows - first < 2 ? p->rows - first : 2;
        chunk_loss(p, &sample, first, rows, share / p->tokens, &sums, grad + first * p->vocab);
    }
    ck_assert_uint_eq(sums.tokens, live);
    sdpo_metrics(&p->settings, &sums, 1, &m);
    out->loss += share * m.loss;
    out->distill_loss += share * m.distill_loss;
    out->kl_reg += share * m.kl_reg;
    out->mean_is_ratio += share * m.mean_is_ratio;
    out->clip_fraction += share * m.clip_fraction;
    free(old);
    free(base);
    double *result = doubles(p->rows * p->vocab);
    for (size_t i = 0; i < p->rows * p->vocab; i++) {
        result[i] = (double)grad[i];
    }
    return result;
}

static void metrics_near(const struct sdpo_metrics *m, const cJSON *expected, const char *loss_name, const char *name)
{
    near(m->loss, number(expected, loss_name), 2e-5, name, loss_name, 0);
    near(m->distill_loss, number(expected, "distill_loss"), 2e-5, name, "distill_loss", 0);
    near(m->kl_reg, number(expected, "kl_reg"), 2e-5, name, "kl_reg", 0);
    near(m->mean_is_ratio, number(expected, "mean_is_ratio"), 2e-5, name, "mean_is_ratio", 0);
    near(m->clip_fraction, number(expected, "clip_fraction"), 2e-5, name, "clip_fraction", 0);
}

START_TEST(samples_agree_in_float)
{
    const cJSON *test;
    size_t checked = 0;
    device_open(_i, 1);
    cJSON_ArrayForEach(test, list_of("loss_cases"))
    {
        struct problem p;
        struct sdpo_metrics m = { 0 };
        if (is_different(test)) {
            continue;
        }
        problem_read(test, &p);
        const cJSON *expected = json_get(test, "expected");
        double *want = numbers(expected, "grad_student_logits", p.rows * p.vocab);
        double *grad = sample_loss(&p, 1, &m);
        near_all(grad, want, p.rows * p.vocab, 2e-5, p.name, "gradient");
        metrics_near(&m, expected, "loss", p.name);
        free(grad);
        free(want);
        problem_free(&p);
        checked++;
    }
    ck_assert_uint_eq(checked, 18);
    device_close();
}
END_TEST

START_TEST(batches_are_means_of_samples)
{
    const cJSON *test = cJSON_GetArrayItem(list_of("batch_cases"), 0);
    const cJSON *samples = json_get(test, "samples");
    const cJSON *expected = json_get(test, "expected");
    int n = cJSON_GetArraySize(samples);
    size_t tokens = 0;
    struct sdpo_metrics m = { 0 };
    device_open(_i, 1);
    ck_assert_int_eq(n, 3);
    for (int i = 0; i < n; i++) {
        struct problem p;
        problem_read(cJSON_GetArrayItem(samples, i), &p);
        double *want = doubles(4096);
        size_t count = flatten(cJSON_GetArrayItem(json_get(expected, "grad_student_logits"), i), want);
        ck_assert_uint_eq(count, p.rows * p.vocab);
        double *grad = sample_loss(&p, 1.0 / n, &m);
        near_all(grad, want, count, 2e-5, p.name, "gradient");
        tokens += p.rows;
        free(grad);
        free(want);
        problem_free(&p);
    }
    metrics_near(&m, expected, "total_loss", "batch_mean");
    ck_assert_uint_eq(tokens, (size_t)number(expected, "tokens_processed"));
    device_close();
}
END_TEST

/* ---- where we are not the original ---- */

START_TEST(alpha_zero_is_refused)
{
    static const char *const names[] = { "a000_plain", "a000_kl" };
    struct problem p;
    problem_read(case_named("loss_cases", names[_i]), &p);
    ck_assert_double_eq(p.settings.alpha, 0);
    double picked[16] = { 0 };
    double coef[16];
    struct sdpo_value v;
    const struct sdpo_row row = { .n = p.n, .ids = p.ids, .teacher = p.teacher, .logits = picked, .base = NAN };
    err = ERR_INIT;
    int rc = sdpo_row_loss(&p.settings, &row, &v, coef, &err);
    ck_failed(rc, CLAAS_ERR_INVALID, err);
    ck_assert_str_eq(err.what, "alpha");
    problem_free(&p);
}
END_TEST

/* Divergence of row i after logit j was moved, everything detached being fixed: the ratio is not part of it. */
static double moved_divergence(struct problem *p, size_t i, size_t j, double by)
{
    double grad[16];
    double before = p->logits[i * p->vocab + j];
    p->logits[i * p->vocab + j] += by;
    double divergence = row_loss(p, i, 1, grad).divergence;
    p->logits[i * p->vocab + j] = before;
    return divergence;
}

/* Almost no student mass on the support: the divergence is exact, its gradient is its slope. */
START_TEST(little_mass_on_the_support)
{
    static const double exact[] = { 0.0373, 0.0081 };
    struct problem p;
    const cJSON *test = case_named("loss_cases", "sum_clamped");
    problem_read(test, &p);
    double *theirs = numbers(json_get(json_get(test, "expected"), "per_token"), "divergence", p.rows);
    for (size_t i = 0; i < p.rows; i++) {
        double grad[16];
        struct sdpo_value v = row_loss(&p, i, 1, grad);
        ck_assert_double_eq_tol(v.divergence, exact[i], 5e-5);
        ck_assert_double_ge(theirs[i], 0.33);
        for (size_t j = 0; j < p.vocab; j++) {
            double slope = (moved_divergence(&p, i, j, 1e-5) - moved_divergence(&p, i, j, -1e-5)) / 2e-5;
            near(grad[j], v.ratio * slope, 1e-9, p.name, "gradient", j);
        }
    }
    free(theirs);
    problem_free(&p);
}
END_TEST

/* The float path has no such limit either. */
START_TEST(little_mass_in_float)
{
    struct problem p;
    struct sdpo_metrics m = { 0 };
    double want[16];
    device_open(_i, 1);
    problem_read(case_named("loss_cases", "sum_clamped"), &p);
    for (size_t i = 0; i < p.rows; i++) {
        (void)row_loss(&p, i, 1 / p.tokens, want + i * p.vocab);
    }
    double *grad = sample_loss(&p, 1, &m);
    near_all(grad, want, p.rows * p.vocab, 2e-5, p.name, "gradient");
    ck_assert_double_eq_tol(m.distill_loss, m.mean_is_ratio * (0.0373 + 0.0081) / 2, 1e-4);
    free(grad);
    problem_free(&p);
    device_close();
}
END_TEST

START_TEST(every_difference_is_a_case)
{
    static const char *const lists[] = { "loss_cases", "optimizer_cases" };
    size_t found = 0;
    for (size_t i = 0; i < 2; i++) {
        const cJSON *test;
        cJSON_ArrayForEach(test, list_of(lists[i]))
        {
            found += (size_t)is_different(test);
        }
    }
    ck_assert_uint_eq(found, sizeof different / sizeof different[0]);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("local_sdpo");
    TCase *t = tcase_create("vectors");
    tcase_add_unchecked_fixture(t, setup_vectors, teardown_vectors);
    tcase_add_test(t, rows_agree_in_double);
    tcase_add_test(t, full_support_is_exact);
    tcase_add_loop_test(t, samples_agree_in_float, 0, ISAS);
    tcase_add_loop_test(t, batches_are_means_of_samples, 0, ISAS);
    tcase_add_loop_test(t, alpha_zero_is_refused, 0, 2);
    tcase_add_test(t, little_mass_on_the_support);
    tcase_add_loop_test(t, little_mass_in_float, 0, ISAS);
    tcase_add_test(t, every_difference_is_a_case);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
