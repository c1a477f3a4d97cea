/* SPDX-License-Identifier: MIT */
/* AdamW with clipping against the golden vectors and a double reference; refused updates; reading and writing moments. */
#include "config.h"

#include "plugins/local/optim.h"
#include "unit/sdpo_vectors.h"

static struct optim *optim_new(size_t n)
{
    struct optim *o = NULL;
    ck_ok(optim_create(k, n, &o, &err), err);
    return o;
}

/* Moments as the device has them, in double. */
static void moments_of(const struct optim *o, enum optim_moment moment, double *out)
{
    float *host = mem_array(o->n, sizeof *host);
    ck_ok(optim_read(o, moment, 0, o->n, host, &err), err);
    for (size_t i = 0; i < o->n; i++) {
        out[i] = (double)host[i];
    }
    free(host);
}

static void close_to(const double *got, const double *want, size_t n, double relative, double absolute,
                     const char *what)
{
    for (size_t i = 0; i < n; i++) {
        ck_assert_msg(fabs(got[i] - want[i]) <= relative * fabs(want[i]) + absolute, "%s %zu is %.12g, expected %.12g",
                      what, i, got[i], want[i]);
    }
}

/* ---- golden vectors ---- */

enum { GOLDEN = 6 };

static struct optim_settings settings_of(const cJSON *test)
{
    const cJSON *p = json_get(test, "params");
    return (struct optim_settings){ .learning_rate = number(p, "lr"),
                                    .weight_decay = number(p, "weight_decay"),
                                    .beta1 = number(p, "beta1"),
                                    .beta2 = number(p, "beta2"),
                                    .eps = number(p, "eps"),
                                    .max_grad_norm = number(p, "max_grad_norm") };
}

static void golden_floats(const cJSON *list, float *out)
{
    double values[GOLDEN];
    ck_assert_uint_eq(flatten(list, values), GOLDEN);
    for (size_t i = 0; i < GOLDEN; i++) {
        out[i] = (float)values[i];
    }
}

static void golden_near(const double *got, const cJSON *step, const char *name, double absolute)
{
    double *want = numbers(step, name, GOLDEN);
    close_to(got, want, GOLDEN, 1e-6, absolute, name);
    free(want);
}

START_TEST(three_steps_as_recorded)
{
    const cJSON *test = case_named("optimizer_cases", "adamw_clip_1");
    const cJSON *in = json_get(test, "inputs");
    const cJSON *steps = json_get(json_get(test, "expected"), "steps");
    const struct optim_settings s = settings_of(test);
    float theta[GOLDEN];
    device_open(_i, 1);
    struct optim *o = optim_new(GOLDEN);
    golden_floats(json_get(in, "initial"), theta);
    ck_assert_int_eq(cJSON_GetArraySize(steps), 3);
    for (int i = 0; i < 3; i++) {
        const cJSON *step = cJSON_GetArrayItem(steps, i);
        float grad[GOLDEN];
        double values[GOLDEN];
        double norm = -1;
        golden_floats(cJSON_GetArrayItem(json_get(in, "grads"), i), grad);
        ck_ok(optim_step(o, &s, grad, theta, &norm, &err), err);
        ck_assert_double_eq_tol(norm, number(step, "grad_norm"), 1e-6);
        for (size_t j = 0; j < GOLDEN; j++) {
            values[j] = (double)theta[j];
        }
        golden_near(values, step, "params", 5e-9); /* one update is 3e-5 */
        moments_of(o, OPTIM_MEAN, values);
        golden_near(values, step, "exp_avg", 5e-9); /* the steps cancel in part */
        moments_of(o, OPTIM_VAR, values);
        golden_near(values, step, "exp_avg_sq", 1e-12);
    }
    ck_assert_uint_eq(o->step, 3);
    optim_free(o);
    device_close();
}
END_TEST

START_TEST(a_limit_of_zero_does_not_clip)
{
    const cJSON *test = case_named("optimizer_cases", "adamw_clip_0");
    const struct optim_settings s = settings_of(test);
    float theta[GOLDEN];
    float grad[GOLDEN];
    double mean[GOLDEN];
    double wanted[GOLDEN];
    double norm;
    ck_assert_double_eq(s.max_grad_norm, 0);
    device_open(0, 1);
    struct optim *o = optim_new(GOLDEN);
    golden_floats(json_get(json_get(test, "inputs"), "initial"), theta);
    golden_floats(cJSON_GetArrayItem(json_get(json_get(test, "inputs"), "grads"), 0), grad);
    for (size_t i = 0; i < GOLDEN; i++) {
        grad[i] *= 1000;
        wanted[i] = 0.1 * (double)grad[i];
    }
    ck_ok(optim_step(o, &s, grad, theta, &norm, &err), err);
    ck_assert_double_gt(norm, 100);
    moments_of(o, OPTIM_MEAN, mean);
    close_to(mean, wanted, GOLDEN, 1e-6, 0, "mean");
    optim_free(o);
    device_close();
}
END_TEST

START_TEST(clipping_by_hand)
{
    ck_assert_double_eq(optim_clip(0, 1), 1);
    ck_assert_double_eq(optim_clip(0.5, 1), 1);
    ck_assert_double_eq(optim_clip(1, 1), 1 / (1 + 1e-6));
    ck_assert_double_eq(optim_clip(4, 1), 1 / (4 + 1e-6));
    ck_assert_double_eq(optim_clip(1e30, 0), 1);
    ck_assert_double_eq(optim_clip(0, 0), 1);
    ck_assert_double_eq_tol(optim_clip(1e-9, 1e-9), 1e-9 / (1e-9 + 1e-6), 1e-18);
}
END_TEST

/* ---- a double reference ---- */

enum { MANY = 1003 }; /* no multiple of any vector */

static const struct optim_settings steep = { .learning_rate = 1e-2, .weight_decay = 0.1, .beta1 = 0.8, .beta2 = 0.95,
                                             .eps = 1e-6, .max_grad_norm = 3 };

struct reference {
    double theta[MANY];
    double mean[MANY];
    double var[MANY];
};

static double reference_step(struct reference *r, const struct optim_settings *s, const float *grad, double n)
{
    double squares = 0;
    for (size_t i = 0; i < MANY; i++) {
        squares += (double)grad[i] * (double)grad[i];
    }
    double norm = sqrt(squares);
    double scale = fmin(1, s->max_grad_norm / (norm + 1e-6));
    for (size_t i = 0; i < MANY; i++) {
        double g = scale * (double)grad[i];
        r->theta[i] *= 1 - s->learning_rate * s->weight_decay;
        r->mean[i] = s->beta1 * r->mean[i] + (1 - s->beta1) * g;
        r->var[i] = s->beta2 * r->var[i] + (1 - s->beta2) * g * g;
        r->theta[i] -= s->learning_rate * (r->mean[i] / (1 - pow(s->beta1, n))) /
                       (sqrt(r->var[i]) / sqrt(1 - pow(s->beta2, n)) + s->eps);
    }
    return norm;
}

static void random_grad(float *grad, uint64_t stream, double size)
{
    for (size_t i = 0; i < MANY; i++) {
        grad[i] = (float)(size * (2 * rng_uniform(5, stream, i) - 1));
    }
}

/* Two of the three steps are clipped; half-way the state goes on as its clone. */
START_TEST(three_steps_against_double)
{
    static const double sizes[] = { 0.01, 10, 1 };
    static struct reference r;
    static float theta[MANY];
    static float grad[MANY];
    static double values[MANY];
    memset(&r, 0, sizeof r);
    device_open(_i, 2);
    struct optim *o = optim_new(MANY);
    random_grad(theta, 100, 0.5);
    for (size_t i = 0; i < MANY; i++) {
        r.theta[i] = (double)theta[i];
    }
    for (size_t step = 0; step < 3; step++) {
        double norm;
        struct optim *next = NULL;
        random_grad(grad, step, sizes[step]);
        ck_ok(optim_step(o, &steep, grad, theta, &norm, &err), err);
        ck_assert_double_eq_tol(norm / reference_step(&r, &steep, grad, (double)step + 1), 1, 1e-12);
        ck_ok(optim_clone(o, &next, &err), err);
        optim_free(o);
        o = next;
    }
    for (size_t i = 0; i < MANY; i++) {
        values[i] = (double)theta[i];
    }
    close_to(values, r.theta, MANY, 1e-6, 1e-6, "parameter");
    moments_of(o, OPTIM_MEAN, values);
    close_to(values, r.mean, MANY, 2e-6, 1e-7, "mean");
    moments_of(o, OPTIM_VAR, values);
    close_to(values, r.var, MANY, 2e-6, 1e-9, "variance");
    optim_free(o);
    device_close();
}
END_TEST

/* ---- refused updates change nothing ---- */

struct state {
    float theta[GOLDEN];
    float mean[GOLDEN];
    float var[GOLDEN];
    uint64_t step;
};

static void state_take(const struct optim *o, const float *theta, struct state *out)
{
    memset(out, 0, sizeof *out);
    memcpy(out->theta, theta, sizeof out->theta);
    ck_ok(optim_read(o, OPTIM_MEAN, 0, GOLDEN, out->mean, &err), err);
    ck_ok(optim_read(o, OPTIM_VAR, 0, GOLDEN, out->var, &err), err);
    out->step = o->step;
}

static void expect_refused(struct optim *o, const struct optim_settings *s, const float *grad, float *theta)
{
    struct state before;
    struct state after;
    double norm = -1;
    state_take(o, theta, &before);
    int rc = optim_step(o, s, grad, theta, &norm, &err);
    ck_failed(rc, CLAAS_ERR_INVALID, err);
    ck_assert_ptr_nonnull(strstr(err.message, "step refused"));
    state_take(o, theta, &after);
    ck_assert_mem_eq(&before, &after, sizeof before);
    ck_assert_double_eq(norm, -1);
}

START_TEST(gradients_that_are_not_finite)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    float theta[GOLDEN] = { 1, 2, 3, 4, 5, 6 };
    double norm;
    device_open(0, 1);
    struct optim *o = optim_new(GOLDEN);
    for (size_t i = 0; i < 3; i++) {
        float grad[GOLDEN] = { 1, -1, 0.5f };
        ck_ok(optim_step(o, &steep, grad, theta, &norm, &err), err);
        grad[3] = bad[i];
        expect_refused(o, &steep, grad, theta);
    }
    ck_assert_uint_eq(o->step, 3);
    optim_free(o);
    device_close();
}
END_TEST

/* The square of a gradient must fit a float, or the state could be written but never read again. */
START_TEST(gradients_whose_square_is_not_finite)
{
    struct optim_settings unclipped = steep;
    unclipped.max_grad_norm = 0;
    float theta[GOLDEN] = { 1, 2, 3, 4, 5, 6 };
    const float grad[GOLDEN] = { 1e25f, -3e38f, 1 };
    double var[GOLDEN];
    double norm;
    device_open(0, 1);
    struct optim *o = optim_new(GOLDEN);
    expect_refused(o, &unclipped, grad, theta);
    ck_ok(optim_step(o, &steep, grad, theta, &norm, &err), err); /* clipped, it fits */
    ck_assert_double_eq_tol(norm / 3e38, 1, 1e-6);
    moments_of(o, OPTIM_VAR, var);
    for (size_t i = 0; i < GOLDEN; i++) {
        ck_assert(isfinite(var[i]) && isfinite(theta[i]));
    }
    optim_free(o);
    device_close();
}
END_TEST

/* ---- the state ---- */

START_TEST(clones_are_independent)
{
    const float ones[GOLDEN] = { 1, 1, 1, 1, 1, 1 };
    float read[GOLDEN];
    device_open(0, 1);
    struct optim *o = optim_new(GOLDEN);
    struct optim *copy = NULL;
    ck_ok(optim_write(o, OPTIM_MEAN, 0, GOLDEN, ones, &err), err);
    o->step = 41;
    ck_ok(optim_clone(o, &copy, &err), err);
    ck_assert_uint_eq(copy->step, 41);
    ck_assert_uint_eq(copy->n, GOLDEN);
    const float two = 2;
    ck_ok(optim_write(o, OPTIM_MEAN, 3, 1, &two, &err), err);
    ck_ok(optim_write(o, OPTIM_VAR, 0, 1, &two, &err), err);
    ck_ok(optim_read(copy, OPTIM_MEAN, 0, GOLDEN, read, &err), err);
    ck_assert_mem_eq(read, ones, sizeof ones);
    ck_ok(optim_read(copy, OPTIM_VAR, 0, 1, read, &err), err);
    ck_assert_float_eq(read[0], 0);
    optim_free(o);
    optim_free(copy);
    device_close();
}
END_TEST

START_TEST(parts_are_read_and_written)
{
    const float part[] = { 7, -8 };
    const float wanted[GOLDEN] = { 0, 0, 0, 7, -8, 0 };
    float read[GOLDEN];
    device_open(0, 1);
    struct optim *o = optim_new(GOLDEN);
    ck_ok(optim_write(o, OPTIM_MEAN, 3, 2, part, &err), err);
    ck_ok(optim_read(o, OPTIM_MEAN, 0, GOLDEN, read, &err), err);
    ck_assert_mem_eq(read, wanted, sizeof wanted);
    ck_ok(optim_read(o, OPTIM_MEAN, 4, 1, read, &err), err);
    ck_assert_float_eq(read[0], -8);
    ck_ok(optim_read(o, OPTIM_MEAN, GOLDEN, 0, read, &err), err);
    optim_free(o);
    device_close();
}
END_TEST

START_TEST(bounds)
{
    static const struct {
        size_t offset;
        size_t n;
    } bad[] = { { 0, GOLDEN + 1 }, { GOLDEN, 1 }, { GOLDEN + 1, 0 }, { 1, SIZE_MAX }, { SIZE_MAX, 2 } };
    float host[GOLDEN + 1] = { 0 };
    device_open(0, 1);
    struct optim *o = optim_new(GOLDEN);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        err = ERR_INIT;
        ck_failed(optim_read(o, OPTIM_VAR, bad[i].offset, bad[i].n, host, &err), CLAAS_ERR_INVALID, err);
        err = ERR_INIT;
        ck_failed(optim_write(o, OPTIM_VAR, bad[i].offset, bad[i].n, host, &err), CLAAS_ERR_INVALID, err);
    }
    optim_free(o);
    optim_free(NULL);
    device_close();
}
END_TEST

START_TEST(moments_that_cannot_be_are_refused)
{
    static const struct {
        enum optim_moment moment;
        float value;
    } bad[] = { { OPTIM_MEAN, NAN }, { OPTIM_MEAN, INFINITY }, { OPTIM_VAR, NAN }, { OPTIM_VAR, INFINITY },
                { OPTIM_VAR, -1e-20f } };
    const float zeros[3] = { 0 };
    float read[3];
    device_open(0, 1);
    struct optim *o = optim_new(3);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const float host[] = { 1, 1, bad[i].value };
        err = ERR_INIT;
        ck_failed(optim_write(o, bad[i].moment, 0, 3, host, &err), CLAAS_ERR_INVALID, err);
        ck_ok(optim_read(o, bad[i].moment, 0, 3, read, &err), err);
        ck_assert_mem_eq(read, zeros, sizeof zeros);
    }
    optim_free(o);
    device_close();
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("local_optim");
    TCase *t = tcase_create("optim");
    tcase_add_unchecked_fixture(t, setup_vectors, teardown_vectors);
    tcase_add_loop_test(t, three_steps_as_recorded, 0, ISAS);
    tcase_add_test(t, a_limit_of_zero_does_not_clip);
    tcase_add_test(t, clipping_by_hand);
    tcase_add_loop_test(t, three_steps_against_double, 0, ISAS);
    tcase_add_test(t, gradients_that_are_not_finite);
    tcase_add_test(t, gradients_whose_square_is_not_finite);
    tcase_add_test(t, clones_are_independent);
    tcase_add_test(t, parts_are_read_and_written);
    tcase_add_test(t, bounds);
    tcase_add_test(t, moments_that_cannot_be_are_refused);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
