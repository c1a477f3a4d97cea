/* SPDX-License-Identifier: MIT */
/* Rows of logits, the optimiser, sums and memory of the kernels. */
#include "config.h"

#include "unit/kernels_testing.h"

static const size_t lengths[] = { 1, 2, 15, 16, 17, 63, 255, 1000, 16385, 49152 };
#define LENGTHS (sizeof lengths / sizeof *lengths)

/* Logits with a spread like a model's. */
static struct buffer logits_make(size_t m, size_t n)
{
    struct buffer b = buffer_random(m, n, n + 1);
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            b.x[i * b.pitch + j] = 15 * b.x[i * b.pitch + j] + 3;
        }
    }
    return b;
}

static double lse_of(const float *x, size_t n)
{
    double max = -INFINITY;
    double sum = 0;
    for (size_t j = 0; j < n; j++) {
        max = x[j] > max ? x[j] : max;
    }
    for (size_t j = 0; j < n; j++) {
        sum += exp(x[j] - max);
    }
    return max + log(sum);
}

START_TEST(test_lse_and_gradient)
{
    enum { M = 5 };
    device_open(_i, 2);
    for (size_t l = 0; l < LENGTHS; l++) {
        size_t n = lengths[l];
        struct buffer x = logits_make(M, n);
        struct buffer lse = buffer_guarded(1, M, M);
        double *want = doubles(M * n);
        double want_lse[M];
        int32_t chosen[M];
        float coef[M];
        for (size_t i = 0; i < M; i++) {
            want_lse[i] = lse_of(x.x + i * x.pitch, n);
            chosen[i] = (int32_t)(i * 7919 % n);
            coef[i] = i == 2 ? 0 : (float)i - 1.5f;
            for (size_t j = 0; j < n; j++) {
                double p = exp(x.x[i * x.pitch + j] - want_lse[i]);
                want[i * n + j] = coef[i] * ((j == (size_t)chosen[i]) - p);
            }
        }
        ck_ok(kernels_row_lse(k, M, n, x.x, x.pitch, lse.x, &err), err);
        buffer_check(&lse, want_lse, 1e-6, "lse");
        x.x[2 * x.pitch] = INFINITY; /* coefficient 0: whatever is there becomes 0 */
        ck_ok(kernels_row_softmax_grad(k, M, n, x.x, x.pitch, lse.x, chosen, coef, &err), err);
        /* lse is about 15, so p carries its rounding of 1e-6 */
        buffer_check(&x, want, 3e-6, "softmax gradient");
        free(want);
        buffer_free(&x);
        buffer_free(&lse);
    }
    float row[3] = { -INFINITY, -INFINITY, -INFINITY };
    float one = 0;
    ck_ok(kernels_row_lse(k, 1, 3, row, 3, &one, &err), err);
    ck_assert(isinf(one) && one < 0);
    row[1] = NAN;
    ck_ok(kernels_row_lse(k, 1, 3, row, 3, &one, &err), err);
    ck_assert(isnan(one));
    int32_t bad = 3;
    ck_failed(kernels_row_softmax_grad(k, 1, 3, row, 3, &one, &bad, &one, &err), CLAAS_ERR_INVALID, err);
    device_close();
}
END_TEST

static const float *sorted_by;

static int descending(const void *a, const void *b)
{
    int32_t i = *(const int32_t *)a;
    int32_t j = *(const int32_t *)b;
    if (sorted_by[i] != sorted_by[j]) {
        return sorted_by[i] > sorted_by[j] ? -1 : 1;
    }
    return i < j ? -1 : 1;
}

/* Against a full sort; values of few steps, so that there are many ties. */
START_TEST(test_top_and_pick)
{
    static const size_t tops[] = { 1, 2, 20, 100, 1024 };
    device_open(_i, 2);
    for (size_t l = 0; l < LENGTHS - 1; l++) {
        size_t n = lengths[l];
        struct buffer x = logits_make(3, n);
        int32_t *order = calloc(n, sizeof *order);
        for (size_t j = 0; j < n; j++) {
            x.x[x.pitch + j] = roundf(x.x[x.pitch + j]);
            x.x[2 * x.pitch + j] = j % 5 == 3 ? -INFINITY : (float)j;
        }
        for (size_t t = 0; t < 5; t++) {
            size_t top = tops[t] < n ? tops[t] : n;
            int32_t *ids = calloc(3 * top, sizeof *ids);
            struct buffer values = buffer_guarded(3, top, top);
            struct buffer picked = buffer_guarded(3, top, top);
            ck_ok(kernels_row_top(k, 3, n, x.x, x.pitch, top, ids, values.x, &err), err);
            ck_ok(kernels_row_pick(k, 3, n, x.x, x.pitch, top, ids, picked.x, &err), err);
            buffer_check_guards(&values);
            buffer_check_guards(&picked);
            ck_assert_mem_eq(values.x, picked.x, 3 * top * sizeof(float));
            for (size_t i = 0; i < 3; i++) {
                for (size_t j = 0; j < n; j++) {
                    order[j] = (int32_t)j;
                }
                sorted_by = x.x + i * x.pitch;
                qsort(order, n, sizeof *order, descending);
                ck_assert_mem_eq(order, ids + i * top, top * sizeof *ids);
            }
            free(ids);
            buffer_free(&values);
            buffer_free(&picked);
        }
        free(order);
        buffer_free(&x);
    }
    float row[40];
    for (int j = 0; j < 40; j++) {
        row[j] = j == 0 || j == 30 ? NAN : (float)-j;
    }
    int32_t ids[40];
    float values[40];
    ck_ok(kernels_row_top(k, 1, 40, row, 40, 3, ids, values, &err), err);
    ck_assert_int_eq(ids[0], 1);
    ck_assert_int_eq(ids[2], 3);
    ck_failed(kernels_row_top(k, 1, 2, row, 40, 3, ids, values, &err), CLAAS_ERR_INVALID, err);
    ids[0] = 40;
    ck_failed(kernels_row_pick(k, 1, 40, row, 40, 1, ids, values, &err), CLAAS_ERR_INVALID, err);
    device_close();
}
END_TEST

START_TEST(test_adamw)
{
    static const size_t sizes[] = { 0, 1, 15, 16, 17, 1000, 40001 };
    device_open(_i, 2);
    for (size_t s = 0; s < 7; s++) {
        size_t n = sizes[s];
        struct buffer g = buffer_random(1, n, n);
        struct buffer theta = buffer_random(1, n, n);
        struct buffer mean = buffer_random(1, n, n);
        struct buffer var = buffer_random(1, n, n);
        double *t = doubles(n);
        double *m = doubles(n);
        double *v = doubles(n);
        for (size_t i = 0; i < n; i++) {
            mean.x[i] = 0;
            var.x[i] = 0;
            t[i] = theta.x[i];
        }
        struct kernels_adamw set = { .lr = 3e-2, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.01,
                                     .grad_scale = 0.7 };
        for (set.step = 1; set.step <= 3; set.step++) {
            for (size_t i = 0; i < n; i++) {
                double grad = 0.7 * g.x[i];
                t[i] *= 1 - set.lr * set.weight_decay;
                m[i] = 0.9 * m[i] + 0.1 * grad;
                v[i] = 0.999 * v[i] + 0.001 * grad * grad;
                t[i] -= set.lr * (m[i] / (1 - pow(0.9, (double)set.step))) /
                        (sqrt(v[i]) / sqrt(1 - pow(0.999, (double)set.step)) + set.eps);
            }
            ck_ok(kernels_adamw(k, n, &set, g.x, theta.x, mean.x, var.x, &err), err);
        }
        buffer_check(&theta, t, 1e-6, "theta");
        buffer_check(&mean, m, 1e-6, "mean");
        buffer_check(&var, v, 1e-6, "var");
        set.step = 0;
        ck_failed(kernels_adamw(k, n, &set, g.x, theta.x, mean.x, var.x, &err), CLAAS_ERR_INVALID, err);
        free(t);
        free(m);
        free(v);
        buffer_free(&g);
        buffer_free(&theta);
        buffer_free(&mean);
        buffer_free(&var);
    }
    device_close();
}
END_TEST

START_TEST(test_sums)
{
    device_open(_i, 3);
    for (size_t l = 0; l < LENGTHS; l++) {
        size_t n = lengths[l];
        struct buffer x = buffer_random(1, n, n);
        double want = 0;
        double sum = -1;
        int finite = 0;
        for (size_t i = 0; i < n; i++) {
            want += (double)x.x[i] * x.x[i];
        }
        ck_ok(kernels_sum_squares(k, n, x.x, &sum, &err), err);
        ck_assert_double_eq_tol(sum, want, 1e-12 * want);
        ck_ok(kernels_all_finite(k, n, x.x, &finite, &err), err);
        ck_assert_int_eq(finite, 1);
        static const float bad[] = { INFINITY, -INFINITY, NAN };
        for (size_t b = 0; b < 3; b++) {
            float kept = x.x[n - 1 - n / 3 * b];
            x.x[n - 1 - n / 3 * b] = bad[b];
            ck_ok(kernels_all_finite(k, n, x.x, &finite, &err), err);
            ck_assert_int_eq(finite, 0);
            x.x[n - 1 - n / 3 * b] = kept;
        }
        buffer_free(&x);
    }
    double sum = -1;
    int finite = -1;
    ck_ok(kernels_sum_squares(k, 0, NULL, &sum, &err), err);
    ck_ok(kernels_all_finite(k, 0, NULL, &finite, &err), err);
    ck_assert_double_eq(sum, 0);
    ck_assert_int_eq(finite, 1);
    device_close();
}
END_TEST

START_TEST(test_memory)
{
    static const size_t sizes[] = { 1, 100, 4096, (size_t)3 << 20 };
    device_open(0, 1);
    for (size_t s = 0; s < 4; s++) {
        void *p = NULL;
        void *q = NULL;
        ck_ok(kernels_alloc(k, sizes[s], &p, &err), err);
        ck_ok(kernels_alloc(k, sizes[s], &q, &err), err);
        ck_assert_uint_eq((uintptr_t)p % 64, 0);
        for (size_t i = 0; i < sizes[s]; i += 97) {
            ck_assert_uint_eq(((uint8_t *)p)[i], 0);
        }
        memset(q, 7, sizes[s]);
        ck_ok(kernels_copy_in(k, p, q, sizes[s], &err), err);
        ck_ok(kernels_zero(k, q, sizes[s], &err), err);
        ck_assert_uint_eq(((uint8_t *)q)[sizes[s] - 1], 0);
        ck_ok(kernels_copy_out(k, q, p, sizes[s], &err), err);
        ck_assert_uint_eq(((uint8_t *)q)[sizes[s] - 1], 7);
        kernels_free(k, p);
        kernels_free(k, q);
    }
    void *p = &p;
    ck_ok(kernels_alloc(k, 0, &p, &err), err);
    ck_assert_ptr_null(p);
    ck_failed(kernels_alloc(k, SIZE_MAX - 8, &p, &err), CLAAS_ERR_EXHAUSTED, err);
    kernels_free(k, NULL);
    device_close();
    kernels_close(NULL);
    ck_failed(kernels_open(100000, &k, &err), CLAAS_ERR_INVALID, err);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("kernels_rows");
    TCase *t = tcase_create("rows");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, test_lse_and_gradient, 0, ISAS);
    tcase_add_loop_test(t, test_top_and_pick, 0, ISAS);
    tcase_add_loop_test(t, test_adamw, 0, ISAS);
    tcase_add_loop_test(t, test_sums, 0, ISAS);
    tcase_add_test(t, test_memory);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
