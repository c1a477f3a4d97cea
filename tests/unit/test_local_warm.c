/* SPDX-License-Identifier: MIT */
/* Adapters kept in memory: by what they are found, what is dropped, and what never is. */
#include "config.h"

#include "plugins/local/warm.h"
#include "unit/kernels_testing.h"

#include <pthread.h>

static const struct model_geometry tiny = { .hidden = 8, .layers = 1, .heads = 2, .kv_heads = 1, .head_dim = 4,
                                            .intermediate = 8, .vocab = 16, .context = 16, .eps = 1e-5,
                                            .rope = { .kind = ROPE_PLAIN, .theta = 1e4 } };

enum { SIZE = 2 * 8 * 4 }; /* bytes of an adapter on q of rank 1: A of 8, B of 8 */

static struct warm *warm;

static void setup(void)
{
    device_open(0, 1);
    ck_ok(warm_new(&warm, &err), err);
}

static void teardown(void)
{
    warm_free(warm);
    device_close();
}

static struct claas_digest digest(char kind, int n)
{
    struct claas_digest d = { { 0 } };
    d.b[0] = (uint8_t)kind;
    d.b[31] = (uint8_t)n;
    return d;
}

enum {
    FRESH = 0,       /* no moments yet: complete */
    MOMENTS = 1,     /* with its moments: complete */
    FOR_ANSWERS = 2, /* has moments, which were not read */
};

static struct warm_adapter adapter(int kind)
{
    const struct lora_spec spec = { .modules = 1 << LORA_Q, .rank = 1, .alpha = 1 };
    struct warm_adapter a = { .has_moments = kind != FRESH };
    ck_ok(lora_create(k, &tiny, &spec, &a.lora, &err), err);
    if (kind == MOMENTS) {
        ck_ok(optim_create(k, a.lora->n, &a.moments, &err), err);
    }
    return a;
}

/* A hold on a new adapter with state and key n; it answers as serve_n. */
static const struct warm_adapter *put_serve(int kind, int n, int serve_n)
{
    struct claas_digest state = digest('s', n);
    struct claas_digest serve = digest('v', serve_n);
    struct claas_digest key = digest('k', n);
    const struct warm_keys keys = { .state = &state, .serve = &serve, .key = &key };
    struct warm_adapter a = adapter(kind);
    const struct lora *lora = a.lora;
    const struct warm_adapter *held = NULL;
    ck_ok(warm_put(warm, &keys, &a, &held, &err), err);
    ck_assert_ptr_null(a.lora); /* taken over */
    ck_assert_ptr_null(a.moments);
    ck_assert_ptr_eq(held->lora, lora);
    return held;
}

static const struct warm_adapter *put(int kind, int n)
{
    return put_serve(kind, n, n);
}

/* Put and not held. */
static void keep(int kind, int n)
{
    warm_release(warm, put(kind, n));
}

static const struct warm_adapter *find(char by, int n)
{
    struct claas_digest d = digest(by, n);
    return by == 's' ? warm_find_state(warm, &d) : by == 'v' ? warm_find_serve(warm, &d) : warm_find_key(warm, &d);
}

/* Whether it is there; finding counts as use. */
static int is_there(char by, int n)
{
    const struct warm_adapter *found = find(by, n);
    warm_release(warm, found);
    return found != NULL;
}

/* ---- finding ---- */

START_TEST(found_by_state_serve_and_key)
{
    static const char kinds[] = { 's', 'v', 'k' };
    const struct warm_adapter *one = put(MOMENTS, 1);
    const struct warm_adapter *two = put(FRESH, 2);
    for (size_t i = 0; i < sizeof kinds; i++) {
        const struct warm_adapter *found = find(kinds[i], 1);
        ck_assert_ptr_eq(found, one);
        warm_release(warm, found);
        found = find(kinds[i], 2);
        ck_assert_ptr_eq(found, two);
        warm_release(warm, found);
        ck_assert_ptr_null(find(kinds[i], 3));
    }
    warm_release(warm, one);
    warm_release(warm, two);
    warm_release(warm, NULL);
}
END_TEST

/* Digests are of different things: one never answers for another. */
START_TEST(unknown_keys_find_nothing)
{
    struct claas_digest serve = digest('v', 1);
    struct claas_digest zeros = { { 0 } };
    const struct warm_keys keys = { .serve = &serve };
    struct warm_adapter a = adapter(FRESH);
    const struct warm_adapter *held = NULL;
    ck_ok(warm_put(warm, &keys, &a, &held, &err), err);
    ck_assert(is_there('v', 1));
    ck_assert_ptr_null(warm_find_state(warm, &serve));
    ck_assert_ptr_null(warm_find_key(warm, &serve));
    ck_assert_ptr_null(warm_find_state(warm, &zeros));
    ck_assert_ptr_null(warm_find_key(warm, &zeros));
    warm_release(warm, held);
}
END_TEST

START_TEST(training_needs_the_moments)
{
    keep(FOR_ANSWERS, 1);
    keep(FRESH, 2);
    keep(MOMENTS, 3);
    ck_assert(is_there('v', 1));
    ck_assert(!is_there('s', 1));
    ck_assert(!is_there('k', 1));
    ck_assert(is_there('s', 2));
    ck_assert(is_there('k', 2));
    ck_assert(is_there('s', 3));
    ck_assert(is_there('k', 3));
}
END_TEST

START_TEST(metrics_stay_with_their_adapter)
{
    struct claas_digest key = digest('k', 1);
    const struct warm_keys keys = { .key = &key };
    struct warm_adapter a = adapter(MOMENTS);
    const struct warm_adapter *held = NULL;
    a.n_steps = 2;
    a.metrics = calloc(2, sizeof *a.metrics);
    ck_assert_ptr_nonnull(a.metrics);
    a.metrics[1].total_loss = 0.25;
    ck_ok(warm_put(warm, &keys, &a, &held, &err), err);
    warm_release(warm, held);
    held = find('k', 1);
    ck_assert_uint_eq(held->n_steps, 2);
    ck_assert_double_eq(held->metrics[1].total_loss, 0.25);
    warm_release(warm, held);
}
END_TEST

/* ---- bounds ---- */

START_TEST(counting)
{
    ck_assert_uint_eq(warm_count(warm), 0);
    ck_assert_uint_eq(warm_bytes(warm), 0);
    keep(FRESH, 1);
    ck_assert_uint_eq(warm_count(warm), 1);
    ck_assert_uint_eq(warm_bytes(warm), SIZE);
    keep(MOMENTS, 2);
    ck_assert_uint_eq(warm_count(warm), 2);
    ck_assert_uint_eq(warm_bytes(warm), 4 * SIZE);
}
END_TEST

START_TEST(the_least_recently_used_goes_first)
{
    warm_set_bounds(warm, UINT64_MAX, 3);
    for (int n = 1; n <= 3; n++) {
        keep(FRESH, n);
    }
    ck_assert(is_there('v', 1)); /* used */
    keep(FRESH, 4);
    ck_assert_uint_eq(warm_count(warm), 3);
    ck_assert(!is_there('v', 2));
    ck_assert(is_there('v', 1));
    ck_assert(is_there('v', 3));
    ck_assert(is_there('v', 4));
}
END_TEST

START_TEST(bounds_in_bytes)
{
    for (int n = 1; n <= 5; n++) {
        keep(FRESH, n);
    }
    warm_set_bounds(warm, 3 * SIZE, SIZE_MAX);
    ck_assert_uint_eq(warm_count(warm), 3); /* exactly as much is not too much */
    warm_set_bounds(warm, 3 * SIZE - 1, SIZE_MAX);
    ck_assert_uint_eq(warm_count(warm), 2);
    ck_assert(is_there('v', 5));
    ck_assert(is_there('v', 4));
    keep(MOMENTS, 6); /* three adapters' worth: by itself too much */
    ck_assert_uint_eq(warm_count(warm), 0);
}
END_TEST

START_TEST(a_bound_of_nothing)
{
    warm_set_bounds(warm, 0, SIZE_MAX);
    const struct warm_adapter *held = put(FRESH, 1);
    ck_assert_uint_eq(warm_count(warm), 1);
    warm_release(warm, held);
    ck_assert_uint_eq(warm_count(warm), 0);
    warm_set_bounds(warm, UINT64_MAX, 0);
    keep(FRESH, 2);
    ck_assert_uint_eq(warm_count(warm), 0);
}
END_TEST

START_TEST(held_ones_are_never_dropped)
{
    const struct warm_adapter *held[4];
    warm_set_bounds(warm, SIZE, 1);
    for (int n = 0; n < 4; n++) {
        held[n] = put(n % 2 ? FRESH : MOMENTS, n);
    }
    keep(FRESH, 9);
    ck_assert_uint_eq(warm_count(warm), 4);
    for (int n = 0; n < 4; n++) {
        ck_assert_ptr_nonnull(held[n]->lora);
        ck_assert_int_eq(held[n]->moments != NULL, n % 2 == 0);
        ck_assert(is_there('s', n));
    }
    const struct warm_adapter *again = find('v', 0); /* held twice: one release is not enough */
    ck_assert_ptr_eq(again, held[0]);
    warm_release(warm, again);
    ck_assert(is_there('v', 0));
    for (int n = 0; n < 4; n++) {
        warm_release(warm, held[n]);
        ck_assert_uint_eq(warm_count(warm), n < 3 ? 3 - (size_t)n : 1);
    }
}
END_TEST

/* ---- moments ---- */

START_TEST(moments_of_two_versions)
{
    for (int n = 1; n <= 4; n++) {
        keep(MOMENTS, n);
    }
    ck_assert_uint_eq(warm_count(warm), 4);
    ck_assert_uint_eq(warm_bytes(warm), (4 + 2 * 2) * SIZE);
    ck_assert(!is_there('s', 1)); /* for answers only, now */
    ck_assert(!is_there('k', 2));
    ck_assert(is_there('v', 1));
    ck_assert(is_there('v', 2));
    ck_assert(is_there('s', 3));
    ck_assert(is_there('s', 4));
}
END_TEST

START_TEST(moments_in_use_stay)
{
    const struct warm_adapter *first = put(MOMENTS, 1);
    const struct warm_adapter *second = put(MOMENTS, 2);
    const struct warm_adapter *third = put(MOMENTS, 3);
    ck_assert_ptr_nonnull(first->moments);
    ck_assert_ptr_nonnull(second->moments);
    ck_assert_ptr_nonnull(third->moments);
    warm_release(warm, second); /* more than two: the one that is free loses them */
    ck_assert(!is_there('s', 2));
    ck_assert(is_there('v', 2));
    ck_assert_ptr_nonnull(first->moments);
    warm_release(warm, first);
    warm_release(warm, third);
    ck_assert(is_there('s', 1));
    ck_assert(is_there('s', 3));
}
END_TEST

/* ---- the same adapter twice ---- */

START_TEST(what_was_read_for_answers_gives_way)
{
    keep(FOR_ANSWERS, 1);
    const struct warm_adapter *complete = put(MOMENTS, 1);
    ck_assert_uint_eq(warm_count(warm), 1);
    const struct warm_adapter *found = find('v', 1);
    ck_assert_ptr_eq(found, complete);
    warm_release(warm, found);
    warm_release(warm, complete);
    keep(FOR_ANSWERS, 2); /* another adapter makes nobody give way */
    ck_assert(is_there('s', 1));
    ck_assert_uint_eq(warm_count(warm), 2);
}
END_TEST

START_TEST(doubles_that_are_held_stay)
{
    const struct warm_adapter *answering = put(FOR_ANSWERS, 1);
    const struct warm_adapter *complete = put(MOMENTS, 1);
    ck_assert_uint_eq(warm_count(warm), 2);
    ck_assert_ptr_nonnull(answering->lora);
    const struct warm_adapter *found = find('v', 1); /* the newer one answers from now on */
    ck_assert_ptr_eq(found, complete);
    warm_release(warm, found);
    warm_release(warm, answering);
    warm_release(warm, complete);
    ck_assert(is_there('s', 1));
}
END_TEST

/* Two versions may answer alike and be trained on differently: each is complete, none gives way. */
START_TEST(complete_ones_do_not_give_way)
{
    keep(FRESH, 1);
    warm_release(warm, put_serve(MOMENTS, 2, 1));
    ck_assert(is_there('s', 1));
    ck_assert(is_there('s', 2));
    warm_release(warm, put_serve(FOR_ANSWERS, 3, 1));
    ck_assert(is_there('s', 1));
    ck_assert(is_there('s', 2));
}
END_TEST

/* ---- unloading ---- */

static void unload(int n)
{
    struct claas_digest serve = digest('v', n);
    warm_unload(warm, &serve);
}

START_TEST(unloading)
{
    keep(FOR_ANSWERS, 1);
    keep(MOMENTS, 2);
    keep(FRESH, 3);
    unload(9); /* unknown is fine */
    ck_assert_uint_eq(warm_count(warm), 3);
    unload(1);
    ck_assert(!is_there('v', 1)); /* at once */
    unload(2);
    unload(3);
    ck_assert_uint_eq(warm_count(warm), 2); /* training may go on from these */
    keep(FRESH, 4);
    keep(FRESH, 5);
    warm_set_bounds(warm, UINT64_MAX, 2); /* but they go first */
    ck_assert(is_there('v', 4));
    ck_assert(is_there('v', 5));
}
END_TEST

START_TEST(unloading_goes_before_age)
{
    keep(FRESH, 1);
    keep(FRESH, 2);
    keep(FRESH, 3);
    unload(3);
    warm_set_bounds(warm, UINT64_MAX, 2);
    ck_assert(!is_there('v', 3));
    ck_assert(is_there('v', 1));
    ck_assert(is_there('v', 2));
}
END_TEST

START_TEST(unloading_what_is_held)
{
    const struct warm_adapter *held = put(FOR_ANSWERS, 1);
    unload(1);
    ck_assert_ptr_nonnull(held->lora);
    ck_assert_uint_eq(warm_count(warm), 1);
    warm_release(warm, held);
    ck_assert_uint_eq(warm_count(warm), 0); /* nobody asks for it any more */
}
END_TEST

/* ---- threads ---- */

enum { THREADS = 4, ROUNDS = 300, ADAPTERS = 6 };

static void *round_and_round(void *ctx)
{
    uint64_t seed = *(const uint64_t *)ctx;
    for (uint64_t i = 0; i < ROUNDS; i++) {
        int n = (int)(rng_bits(seed, 0, i) % ADAPTERS);
        const struct warm_adapter *a = find(rng_bits(seed, 1, i) % 2 ? 's' : 'v', n);
        a = a ? a : put(n % 2 ? MOMENTS : FRESH, n);
        ck_assert_ptr_nonnull(a->lora);
        ck_assert_uint_eq(a->lora->n, SIZE / sizeof(float));
        if (rng_bits(seed, 2, i) % 8 == 0) {
            unload(n);
        }
        warm_release(warm, a);
    }
    return NULL;
}

START_TEST(a_crowd)
{
    pthread_t threads[THREADS];
    static const uint64_t seeds[THREADS] = { 1, 2, 3, 4 };
    warm_set_bounds(warm, 8 * SIZE, 4);
    for (size_t i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, round_and_round, (void *)&seeds[i]), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    }
    ck_assert_uint_le(warm_count(warm), 4);
    ck_assert_uint_le(warm_bytes(warm), 8 * SIZE);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("local_warm");
    TCase *t = tcase_create("warm");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, found_by_state_serve_and_key);
    tcase_add_test(t, unknown_keys_find_nothing);
    tcase_add_test(t, training_needs_the_moments);
    tcase_add_test(t, metrics_stay_with_their_adapter);
    tcase_add_test(t, counting);
    tcase_add_test(t, the_least_recently_used_goes_first);
    tcase_add_test(t, bounds_in_bytes);
    tcase_add_test(t, a_bound_of_nothing);
    tcase_add_test(t, held_ones_are_never_dropped);
    tcase_add_test(t, moments_of_two_versions);
    tcase_add_test(t, moments_in_use_stay);
    tcase_add_test(t, what_was_read_for_answers_gives_way);
    tcase_add_test(t, doubles_that_are_held_stay);
    tcase_add_test(t, complete_ones_do_not_give_way);
    tcase_add_test(t, unloading);
    tcase_add_test(t, unloading_goes_before_age);
    tcase_add_test(t, unloading_what_is_held);
    tcase_add_test(t, a_crowd);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
