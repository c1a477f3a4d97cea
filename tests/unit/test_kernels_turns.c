/* SPDX-License-Identifier: MIT */
/* Turns of the kernels: serving gets in while training runs, shares hold, serving is first come, first served; and the
 * pool under many callers. */
#include "config.h"

#include "base/clock.h"
#include "unit/kernels_testing.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

static atomic_int stop;
static atomic_int inside;
static atomic_int broken;
static atomic_int arrived;

static void nap(int64_t ns)
{
    struct timespec t = { .tv_sec = 0, .tv_nsec = ns };
    (void)nanosleep(&t, NULL);
}

/* Holds the device alone for `ns`. */
static void hold(int64_t ns)
{
    if (atomic_fetch_add(&inside, 1) != 0) {
        atomic_store(&broken, 1);
    }
    nap(ns);
    (void)atomic_fetch_sub(&inside, 1);
}

struct account {
    enum kernels_turn kind;
    int64_t slice_ns;
    int64_t rest_ns;
    int64_t used_ns;
    int64_t longest_wait_ns;
    int count;
};

/* Serving: a turn for each slice, a short rest between. Training: one turn, yielding after each slice. */
static void *load(void *context)
{
    struct account *a = context;
    int train = a->kind == KERNELS_TRAIN;
    if (train) {
        kernels_turn_begin(k, KERNELS_TRAIN);
    }
    while (!atomic_load(&stop)) {
        int64_t begin = clock_mono_ns();
        if (!train) {
            kernels_turn_begin(k, KERNELS_SERVE);
            int64_t waited = clock_mono_ns() - begin;
            a->longest_wait_ns = waited > a->longest_wait_ns ? waited : a->longest_wait_ns;
        }
        begin = clock_mono_ns();
        hold(a->slice_ns);
        a->used_ns += clock_mono_ns() - begin;
        a->count++;
        if (train) {
            kernels_turn_yield(k);
        } else {
            kernels_turn_end(k);
            nap(a->rest_ns);
        }
    }
    if (train) {
        kernels_turn_end(k);
    }
    return NULL;
}

static void run_loads(struct account *accounts, size_t n, int64_t ns)
{
    pthread_t threads[4];
    atomic_store(&stop, 0);
    for (size_t i = 0; i < n; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, load, &accounts[i]), 0);
    }
    nap(ns);
    atomic_store(&stop, 1);
    for (size_t i = 0; i < n; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    }
    ck_assert_int_eq(atomic_load(&broken), 0);
}

/* Training takes its share while two decoders compete, neither of which starves; and all of it when alone. */
START_TEST(test_shares)
{
    static const double shares[] = { 0.5, 0.2, 0.8 };
    device_open(2, 1);
    kernels_set_train_share(k, shares[_i]);
    struct account a[3] = { { .kind = KERNELS_TRAIN, .slice_ns = 2000000 },
                            { .kind = KERNELS_SERVE, .slice_ns = 1000000, .rest_ns = 50000 },
                            { .kind = KERNELS_SERVE, .slice_ns = 1000000, .rest_ns = 50000 } };
    run_loads(a, 3, 900000000);
    double share = (double)a[0].used_ns / (double)(a[0].used_ns + a[1].used_ns + a[2].used_ns);
    ck_assert_msg(share > shares[_i] - 0.15 && share < shares[_i] + 0.15, "share %.2f, wanted %.2f", share, shares[_i]);
    ck_assert_int_gt(a[1].count, a[2].count / 2);
    ck_assert_int_gt(a[2].count, a[1].count / 2);
    device_close();
}
END_TEST

/* One decoder that comes back after each token waits for a slice of training at most a few times over. */
START_TEST(test_serving_gets_in)
{
    device_open(2, 1);
    struct account a[2] = { { .kind = KERNELS_TRAIN, .slice_ns = 5000000 },
                            { .kind = KERNELS_SERVE, .slice_ns = 1000000, .rest_ns = 20000 } };
    run_loads(a, 2, 600000000);
    ck_assert_int_gt(a[1].count, 60);
    ck_assert_int_gt(a[0].count, 20);
    ck_assert_msg(a[1].longest_wait_ns < 200000000, "waited %.0f ms", (double)a[1].longest_wait_ns * 1e-6);
    device_close();
}
END_TEST

struct arrival {
    int order;
    int served;
};

static void *arrive(void *context)
{
    struct arrival *a = context;
    kernels_turn_begin(k, KERNELS_SERVE);
    a->served = atomic_fetch_add(&arrived, 1);
    kernels_turn_end(k);
    return NULL;
}

START_TEST(test_first_come)
{
    enum { N = 6 };
    pthread_t threads[N];
    struct arrival a[N];
    device_open(2, 1);
    kernels_turn_begin(k, KERNELS_TRAIN);
    for (int i = 0; i < N; i++) {
        a[i] = (struct arrival){ .order = i, .served = -1 };
        ck_assert_int_eq(pthread_create(&threads[i], NULL, arrive, &a[i]), 0);
        nap(30000000);
    }
    ck_assert_int_eq(atomic_load(&arrived), 0);
    kernels_turn_end(k);
    for (int i = 0; i < N; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        ck_assert_int_eq(a[i].served, i);
    }
    device_close();
}
END_TEST

/* Inner pairs keep the turn; a yield in an inner turn, in a SERVE turn or without one does nothing. */
START_TEST(test_nesting)
{
    pthread_t thread;
    struct arrival a = { .served = -1 };
    device_open(2, 1);
    kernels_turn_yield(k);
    kernels_turn_end(k);
    kernels_turn_begin(k, KERNELS_TRAIN);
    kernels_turn_begin(k, KERNELS_SERVE);
    ck_assert_int_eq(pthread_create(&thread, NULL, arrive, &a), 0);
    nap(30000000);
    kernels_turn_yield(k);
    ck_assert_int_eq(atomic_load(&arrived), 0);
    kernels_turn_end(k);
    ck_assert_int_eq(atomic_load(&arrived), 0);
    kernels_turn_yield(k); /* now the turn passes, and comes back */
    ck_assert_int_eq(atomic_load(&arrived), 1);
    kernels_turn_end(k);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    device_close();
}
END_TEST

/* Products from several threads at once, without turns of their own, all come out right. */
static void *multiply(void *context)
{
    (void)context;
    enum { M = 40, D = 70, N = 50 };
    struct claas_error e = ERR_INIT;
    float *a = calloc(M * D, sizeof *a);
    float *b = calloc(D * N, sizeof *b);
    float *c = calloc(M * N, sizeof *c);
    for (size_t i = 0; i < M * D; i++) {
        a[i] = (float)(i % 7);
    }
    for (size_t i = 0; i < D * N; i++) {
        b[i] = (float)(i % 5);
    }
    for (int round = 0; round < 200; round++) {
        if (kernels_gemm(k, 0, 0, M, N, D, 1, a, D, b, N, c, N, 0, &e) != 0) {
            atomic_store(&broken, 1);
        }
        for (size_t i = 0; i < M * N; i += 11) {
            float want = 0;
            for (size_t d = 0; d < D; d++) {
                want += a[i / N * D + d] * b[d * N + i % N];
            }
            if (c[i] != want) {
                atomic_store(&broken, 1);
            }
        }
    }
    free(a);
    free(b);
    free(c);
    return NULL;
}

START_TEST(test_many_callers)
{
    pthread_t threads[4];
    device_open(2, 3);
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, multiply, NULL), 0);
    }
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    }
    ck_assert_int_eq(atomic_load(&broken), 0);
    device_close();
}
END_TEST

START_TEST(test_open_close)
{
    for (int i = 0; i < 100; i++) {
        device_open(i % 3, (size_t)(i % 4));
        ck_assert_uint_ge(kernels_threads(k), 1);
        ck_assert_str_ne(kernels_isa(k), "");
        device_close();
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("kernels_turns");
    TCase *t = tcase_create("turns");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, test_shares, 0, 3);
    tcase_add_test(t, test_serving_gets_in);
    tcase_add_test(t, test_first_come);
    tcase_add_test(t, test_nesting);
    tcase_add_test(t, test_many_callers);
    tcase_add_test(t, test_open_close);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
