/* SPDX-License-Identifier: MIT */
/* The student's pass of plugins/local: hidden states equal the oracle's, gradients the central differences of it. */
#include "config.h"

#include "plugins/local/student.h"
#include "unit/model_testing.h"

#define BOUND 2e-6    /* of hidden states */
#define GRADIENT 1e-5 /* of a tensor's gradient, relative to its norm */
#define NOISE 1e-6    /* and to that of the whole: where one is 0 by cancellation, rounding is left */
#define STEP 3e-5

/* One sequence; the loss is the sum of weight * hidden over its last `wanted` rows. */
struct trial {
    struct subject s;
    int32_t *ids;
    size_t n;
    size_t wanted;
    float *weight; /* [wanted][hidden] */
    float *hidden; /* the student's: [wanted][hidden] */
    float *grad;   /* and its gradient, laid out as the adapter */
};

static float *floats(size_t n)
{
    float *p = calloc(n + 1, sizeof *p);
    ck_assert_ptr_nonnull(p);
    return p;
}

static struct trial trial_make(const struct oracle_spec *spec, uint32_t modules, size_t rank, size_t n, size_t wanted)
{
    struct trial t = { .s = subject_make(spec, modules, rank), .n = n, .wanted = wanted };
    size_t size = wanted * spec->geometry.hidden;
    t.ids = random_ids(&t.s, n, n);
    t.weight = floats(size);
    t.hidden = floats(size);
    t.grad = floats(t.s.lora->n);
    for (size_t i = 0; i < size; i++) {
        t.weight[i] = (float)(2 * rng_uniform(n, 77, i) - 1);
    }
    return t;
}

static void trial_free(struct trial *t)
{
    subject_free(&t->s);
    free(t->ids);
    free(t->weight);
    free(t->hidden);
    free(t->grad);
}

/* One forward and backward pass on an opened student; the weights times `times`. Adds to grad (device). */
static void pass(const struct trial *t, struct student *student, float times, float *grad)
{
    size_t size = t->wanted * t->s.model->geometry.hidden;
    struct pulse pulse = { .kernels = k, .what = "testing" };
    ck_ok(student_forward(student, t->ids, &pulse, &err), err);
    ck_assert_uint_eq(pulse.done, t->s.model->geometry.layers);
    ck_ok(kernels_copy_in(k, student->d_hidden, t->weight, size * sizeof(float), &err), err);
    ck_ok(kernels_scale(k, size, times, student->d_hidden, &err), err);
    ck_ok(student_backward(student, grad, &pulse, &err), err);
    ck_assert_uint_eq(pulse.done, 2 * t->s.model->geometry.layers);
}

static float *gradient_alloc(const struct trial *t)
{
    void *p = NULL;
    ck_ok(kernels_alloc(k, t->s.lora->n * sizeof(float), &p, &err), err);
    return p;
}

/* Fills hidden and grad. */
static void trial_run(struct trial *t, int recompute)
{
    struct student student;
    float *grad = gradient_alloc(t);
    ck_ok(student_open(t->s.model, t->s.lora, t->n, t->wanted, recompute, &student, &err), err);
    pass(t, &student, 1, grad);
    ck_ok(kernels_copy_out(k, t->hidden, student.hidden, t->wanted * t->s.model->geometry.hidden * sizeof(float), &err),
          err);
    ck_ok(kernels_copy_out(k, t->grad, grad, t->s.lora->n * sizeof(float), &err), err);
    student_close(&student);
    kernels_free(k, grad);
}

/* ---- what the oracle says ---- */

static double oracle_loss(const struct trial *t)
{
    size_t hidden = t->s.model->geometry.hidden;
    double *rows = wanted_hidden(&t->s, t->ids, t->n);
    const double *last = rows + (t->n - t->wanted) * hidden;
    double loss = 0;
    for (size_t i = 0; i < t->wanted * hidden; i++) {
        loss += last[i] * (double)t->weight[i];
    }
    free(rows);
    return loss;
}

static double random_sign(size_t i)
{
    return rng_bits(12, 34, i) & 1 ? 1 : -1;
}

/* Steps from `first` on: one element, or `n` of them along random signs. */
static void walk(const struct trial *t, size_t first, size_t n, double by)
{
    for (size_t i = first; i < first + n; i++) {
        t->s.flat[i] += by * random_sign(i);
    }
}

/* How the loss changes along that walk. */
static double slope(const struct trial *t, size_t first, size_t n)
{
    walk(t, first, n, STEP);
    double up = oracle_loss(t);
    walk(t, first, n, -2 * STEP);
    double down = oracle_loss(t);
    walk(t, first, n, STEP);
    return (up - down) / (2 * STEP);
}

static double claimed_slope(const struct trial *t, size_t first, size_t n)
{
    double sum = 0;
    for (size_t i = first; i < first + n; i++) {
        sum += random_sign(i) * (double)t->grad[i];
    }
    return sum;
}

static double norm_of(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)x[i] * (double)x[i];
    }
    return sqrt(sum);
}

static void check_hidden(const struct trial *t)
{
    size_t hidden = t->s.model->geometry.hidden;
    double *want = wanted_hidden(&t->s, t->ids, t->n);
    check_close(t->hidden, want + (t->n - t->wanted) * hidden, t->wanted * hidden, BOUND, "hidden states");
    free(want);
}

/* Each tensor along one random direction of all of its elements, which no wrong element survives, and in `elements`
 * of them by themselves. */
static void check_gradient(const struct trial *t, size_t elements)
{
    const struct lora *lora = t->s.lora;
    double whole = norm_of(t->grad, lora->n);
    ck_assert_double_gt(whole, 0);
    for (size_t i = 0; i < lora->n_tensors; i++) {
        const struct lora_tensor *tensor = &lora->tensors[i];
        size_t size = tensor->rows * tensor->cols;
        double bound = GRADIENT * norm_of(t->grad + tensor->offset, size) + NOISE * whole;
        for (size_t j = 0; j <= elements && j <= size; j++) {
            size_t first = tensor->offset + (elements >= size ? j - 1 : rng_bits(i, j, t->n) % size);
            size_t n = 1;
            if (j == 0) {
                first = tensor->offset;
                n = size;
            }
            double want = slope(t, first, n);
            double got = claimed_slope(t, first, n);
            ck_assert_msg(fabs(want - got) <= bound, "%s (%s), %zu from %zu, %zu of %zu rows: %g for %g, bound %g",
                          tensor->name, kernels_isa(k), n, first - tensor->offset, t->wanted, t->n, got, want, bound);
        }
    }
}

/* With activations kept and computed again: the same bytes. */
static void check_trial(const struct oracle_spec *spec, uint32_t modules, size_t rank, size_t n, size_t wanted,
                        size_t elements)
{
    struct trial t = trial_make(spec, modules, rank, n, wanted);
    size_t hidden_size = wanted * spec->geometry.hidden;
    trial_run(&t, 0);
    check_hidden(&t);
    check_gradient(&t, elements);
    float *hidden = t.hidden;
    float *grad = t.grad;
    t.hidden = floats(hidden_size);
    t.grad = floats(t.s.lora->n);
    trial_run(&t, 1);
    ck_assert_int_eq(memcmp(hidden, t.hidden, hidden_size * sizeof *hidden), 0);
    ck_assert_int_eq(memcmp(grad, t.grad, t.s.lora->n * sizeof *grad), 0);
    free(hidden);
    free(grad);
    trial_free(&t);
}

/* ---- tests ---- */

#define BIT(m) (1U << LORA_##m)
static const uint32_t module_sets[] = {
    LORA_ALL,        BIT(Q),          BIT(K),             BIT(V),        BIT(O),       BIT(GATE),       BIT(UP),
    BIT(DOWN),       BIT(K) | BIT(V), BIT(GATE) | BIT(UP), BIT(Q) | BIT(V), BIT(O) | BIT(DOWN), BIT(K) | BIT(UP),
    BIT(Q) | BIT(K) | BIT(O) | BIT(GATE),
};
#define MODULE_SETS (sizeof module_sets / sizeof module_sets[0])

/* Small enough for many differences. */
static struct oracle_spec small_spec(int i)
{
    struct oracle_spec spec = spec_at(i);
    if (i == 3) {
        spec.geometry.hidden = 32;
        spec.geometry.head_dim = 8;
        spec.geometry.intermediate = 32;
    }
    return spec;
}

/* Every shape with every set of modules in 1, 2 and 3 layers. */
START_TEST(test_modules)
{
    static const size_t ranks[] = { 1, 3, 8 };
    struct oracle_spec spec = small_spec(_i / 3);
    spec.geometry.layers = 1 + (size_t)_i % 3;
    for (size_t i = 0; i < MODULE_SETS; i++) {
        device_open((int)(i % ISAS), 2);
        size_t n = 2 + (i * 5 + (size_t)_i) % 16;
        size_t wanted = 1 + (i * 7 + (size_t)_i) % n;
        check_trial(&spec, module_sets[i], ranks[(i + (size_t)_i) % 3], n, wanted, 1);
        device_close();
    }
}
END_TEST

/* Every length with every number of wanted rows, each in one of three shapes. */
START_TEST(test_lengths)
{
    struct oracle_spec spec = small_spec(_i);
    for (size_t n = 1; n <= 17; n++) {
        for (size_t wanted = 1 + (n + (size_t)_i) % 3; wanted <= n; wanted += 3) {
            device_open((int)(wanted % ISAS), 1);
            check_trial(&spec, LORA_ALL, 2, n, wanted, 0);
            device_close();
        }
    }
}
END_TEST

/* Every single element. */
START_TEST(test_elements)
{
    device_open(_i, 2);
    struct oracle_spec spec = small_spec(_i);
    check_trial(&spec, LORA_ALL, _i == 0 ? 3 : 1, 6, 4, SIZE_MAX);
    device_close();
}
END_TEST

/* Longer than what the kernels cut into blocks. */
START_TEST(test_long)
{
    device_open(_i, 2);
    struct oracle_spec spec = spec_odd();
    spec.geometry.context = 300;
    check_trial(&spec, LORA_ALL, 3, 200, 150, 0);
    device_close();
}
END_TEST

/* Passes add to what is there, whether the student is opened anew or goes on. */
START_TEST(test_accumulates)
{
    device_open(2, 2);
    struct oracle_spec spec = spec_biased();
    struct trial t = trial_make(&spec, LORA_ALL, 3, 13, 5);
    size_t size = t.s.lora->n;
    double *want = doubles(size);
    float *grad = gradient_alloc(&t);
    float *sum = floats(size);
    trial_run(&t, 0);
    for (size_t i = 0; i < size; i++) {
        want[i] = 7 * (double)t.grad[i];
    }
    for (int recompute = 0; recompute < 2; recompute++) {
        struct student student;
        ck_ok(student_open(t.s.model, t.s.lora, t.n, t.wanted, recompute, &student, &err), err);
        ck_ok(kernels_zero(k, grad, size * sizeof *grad, &err), err);
        pass(&t, &student, 1, grad);
        pass(&t, &student, 2, grad);
        pass(&t, &student, 4, grad);
        student_close(&student);
        ck_ok(kernels_copy_out(k, sum, grad, size * sizeof *sum, &err), err);
        check_close(sum, want, size, 1e-6, "a sum of gradients");
    }
    kernels_free(k, grad);
    free(sum);
    free(want);
    trial_free(&t);
    device_close();
}
END_TEST

/* A pass that is called off at any layer, or given an id that is none, leaves nothing behind for the next. */
START_TEST(test_called_off)
{
    device_open(2, 2);
    struct oracle_spec spec = spec_odd();
    spec.geometry.layers = 3;
    struct trial t = trial_make(&spec, LORA_ALL, 3, 9, 4);
    size_t size = t.s.lora->n;
    float *grad = gradient_alloc(&t);
    float *after = floats(size);
    trial_run(&t, 0);
    struct student student;
    struct pulse pulse = { .kernels = k, .what = "testing" };
    ck_ok(student_open(t.s.model, t.s.lora, t.n, t.wanted, _i, &student, &err), err);
    for (int beats = 0; beats < 6; beats++) {
        struct timed_call call = timed(beats);
        pulse.call = &call.call;
        err = ERR_INIT;
        int rc = student_forward(&student, t.ids, &pulse, &err);
        if (rc == 0) {
            ck_assert_int_ge(beats, 3);
            rc = student_backward(&student, grad, &pulse, &err);
        }
        ck_failed(rc, CLAAS_ERR_CANCELLED, err);
    }
    pulse.call = NULL;
    int32_t kept = t.ids[3];
    t.ids[3] = 37;
    ck_failed(student_forward(&student, t.ids, &pulse, &err), CLAAS_ERR_INVALID, err);
    t.ids[3] = kept;
    ck_ok(kernels_zero(k, grad, size * sizeof *grad, &err), err);
    pass(&t, &student, 1, grad);
    ck_ok(kernels_copy_out(k, after, grad, size * sizeof *after, &err), err);
    ck_assert_int_eq(memcmp(after, t.grad, size * sizeof *after), 0);
    student_close(&student);
    kernels_free(k, grad);
    free(after);
    trial_free(&t);
    device_close();
}
END_TEST

/* Large enough to be cut among threads. */
START_TEST(test_threads)
{
    struct oracle_spec spec = spec_blocks();
    spec.geometry.context = 128;
    spec.geometry.hidden = 192;
    spec.geometry.intermediate = 352;
    spec.geometry.vocab = 300;
    float *one = NULL;
    size_t bytes = 0;
    for (size_t threads = 1; threads < 4; threads++) {
        device_open(_i, threads);
        struct trial t = trial_make(&spec, LORA_ALL, 8, 100, 70);
        trial_run(&t, threads == 2);
        check_hidden(&t);
        if (threads > 1) {
            ck_assert_msg(memcmp(one, t.grad, bytes) == 0, "other bytes with %zu threads", threads);
            free(one);
        }
        bytes = t.s.lora->n * sizeof *one;
        one = t.grad;
        t.grad = NULL;
        trial_free(&t);
        device_close();
    }
    free(one);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("local_student");
    TCase *t = tcase_create("gradients");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, test_modules, 0, 3 * SPECS);
    tcase_add_loop_test(t, test_lengths, 0, 3);
    tcase_add_loop_test(t, test_elements, 0, SPECS);
    tcase_add_loop_test(t, test_long, 0, ISAS);
    suite_add_tcase(s, t);
    t = tcase_create("passes");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, test_accumulates);
    tcase_add_loop_test(t, test_called_off, 0, 2);
    tcase_add_loop_test(t, test_threads, 0, ISAS);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
