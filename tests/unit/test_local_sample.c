/* SPDX-License-Identifier: MIT */
/* The sampler: penalties, what may be chosen, seeds, and what is refused. Every seed is fixed, so that nothing here is
 * left to chance. test_local_sample_draw looks at distributions. */
#include "config.h"

#include "plugins/local/sample.h"
#include "testing.h"

#include "base/mem.h"
#include "base/rng.h"

#include <math.h>
#include <string.h>

static const struct sample_settings greedy = { .temperature = 0, .top_p = 1, .repetition = 1 };
static const struct sample_settings plain = { .temperature = 1, .top_p = 1, .repetition = 1 };

static struct claas_error err;

static struct sampler *sampler_of(size_t vocab, const struct sample_settings *s)
{
    struct sampler *made = NULL;
    err = ERR_INIT;
    ck_ok(sampler_create(vocab, s, NULL, NULL, 0, &made, &err), err);
    return made;
}

static int32_t next(struct sampler *s, const float *logits)
{
    int32_t id = -1;
    err = ERR_INIT;
    ck_ok(sampler_next(s, logits, NULL, 0, &id, &err), err);
    return id;
}

/* The first token of a fresh sampler. */
static int32_t first(size_t vocab, const struct sample_settings *s, const float *logits)
{
    struct sampler *made = sampler_of(vocab, s);
    int32_t id = next(made, logits);
    sampler_free(made);
    return id;
}

/* ---- greedy ---- */

START_TEST(the_best_is_chosen)
{
    static const float logits[] = { -3, 1, 2.5f, -INFINITY, 2.4f };
    struct sample_settings s = greedy;
    ck_assert_int_eq(first(5, &s, logits), 2);
    s.temperature = 9e-6;
    s.seed = 99;
    ck_assert_int_eq(first(5, &s, logits), 2);
    static const float one[] = { -7 };
    ck_assert_int_eq(first(1, &s, one), 0);
}
END_TEST

START_TEST(of_equals_the_lowest)
{
    static const float logits[] = { 1, 4, 4, 0, 4 };
    static const float zeros[] = { -0.0f, 0.0f, -0.0f };
    ck_assert_int_eq(first(5, &greedy, logits), 1);
    ck_assert_int_eq(first(3, &greedy, zeros), 0);
}
END_TEST

/* ---- penalties ---- */

static void expect_run(const struct sample_settings *s, const int32_t *prompt, size_t n_prompt, const float *logits,
                       const int32_t *wanted, size_t n)
{
    struct sampler *made = NULL;
    err = ERR_INIT;
    ck_ok(sampler_create(2, s, NULL, prompt, n_prompt, &made, &err), err);
    for (size_t i = 0; i < n; i++) {
        ck_assert_int_eq(next(made, logits), wanted[i]);
    }
    sampler_free(made);
}

START_TEST(repetition_counts_prompt_and_output)
{
    static const float positive[] = { 2, 1.5f };
    static const float negative[] = { -1, -1.2f };
    static const int32_t prompt[] = { 0, 0 };
    struct sample_settings s = greedy;
    s.repetition = 1.5;
    expect_run(&s, prompt, 2, positive, (const int32_t[]){ 1, 0, 0 }, 3); /* 1.33 1.5; 1.33 1; the same */
    expect_run(&s, NULL, 0, positive, (const int32_t[]){ 0, 1, 0 }, 3);
    expect_run(&s, prompt, 1, negative, (const int32_t[]){ 1, 0, 0 }, 3); /* -1.5 -1.2; -1.5 -1.8 */
    s.repetition = 0.5;
    expect_run(&s, (const int32_t[]){ 1 }, 1, positive, (const int32_t[]){ 1, 1 }, 2);
}
END_TEST

START_TEST(presence_and_frequency_count_output_only)
{
    static const float logits[] = { 2, 1.5f };
    static const int32_t prompt[] = { 0, 0, 0 };
    struct sample_settings s = greedy;
    s.presence = 1;
    expect_run(&s, prompt, 3, logits, (const int32_t[]){ 0, 1, 0, 0 }, 4); /* 2 1.5; 1 1.5; 1 0.5 */
    s.presence = 0;
    s.frequency = 0.4;
    expect_run(&s, prompt, 3, logits, (const int32_t[]){ 0, 0, 1, 0, 1 }, 5); /* 2; 1.6; 1.2 1.5; 1.2 1.1; 0.8 1.1 */
    s.frequency = -2;
    expect_run(&s, (const int32_t[]){ 1 }, 1, logits, (const int32_t[]){ 0, 0 }, 2);
}
END_TEST

START_TEST(prompt_ids_outside_the_vocabulary_are_ignored)
{
    static const float logits[] = { 2, 1.9f };
    static const int32_t prompt[] = { -1, 2, INT32_MAX, INT32_MIN, 0 };
    struct sample_settings s = greedy;
    s.repetition = 1.2;
    expect_run(&s, prompt, 5, logits, (const int32_t[]){ 1 }, 1);
}
END_TEST

/* ---- allowed and banned ---- */

START_TEST(only_what_is_allowed)
{
    static const float logits[] = { 5, 1, 4, 3 };
    static const uint8_t allowed[] = { 0, 1, 0, 1 };
    struct sampler *made = NULL;
    err = ERR_INIT;
    ck_ok(sampler_create(4, &greedy, allowed, NULL, 0, &made, &err), err);
    ck_assert_int_eq(next(made, logits), 3);
    sampler_free(made);
    size_t ones = 0;
    ck_ok(sampler_create(4, &plain, allowed, NULL, 0, &made, &err), err);
    for (size_t i = 0; i < 500; i++) {
        int32_t id = next(made, logits);
        ck_assert(id == 1 || id == 3);
        ones += id == 1;
    }
    ck_assert_uint_gt(ones, 25); /* 500 / (1 + e^2) = 60 */
    ck_assert_uint_lt(ones, 100);
    sampler_free(made);
}
END_TEST

START_TEST(banned_this_once)
{
    static const float logits[] = { 5, 1, 4 };
    static const int32_t banned[] = { 0, 0, -1, 3, INT32_MAX };
    int32_t id = -1;
    struct sampler *s = sampler_of(3, &greedy);
    ck_ok(sampler_next(s, logits, banned, 5, &id, &err), err);
    ck_assert_int_eq(id, 2);
    ck_assert_int_eq(next(s, logits), 0);
    sampler_free(s);
}
END_TEST

/* An error is no position: the answer goes on as if the call had not been. */
START_TEST(nothing_left_is_an_error)
{
    static const float logits[] = { 1, 2, 1.5f };
    static const float nothing[] = { -INFINITY, -INFINITY, -INFINITY };
    static const int32_t all[] = { 2, 1, 0 };
    static const uint8_t none[3];
    int32_t id = 42;
    struct sample_settings settings = plain;
    settings.presence = 2;
    struct sampler *s = sampler_of(3, &settings);
    struct sampler *undisturbed = sampler_of(3, &settings);
    for (size_t i = 0; i < 50; i++) {
        err = ERR_INIT;
        ck_failed(sampler_next(s, logits, all, 3, &id, &err), CLAAS_ERR_INTERNAL, err);
        err = ERR_INIT;
        ck_failed(sampler_next(s, nothing, NULL, 0, &id, &err), CLAAS_ERR_INTERNAL, err);
        ck_assert_int_eq(id, 42);
        ck_assert_int_eq(next(s, logits), next(undisturbed, logits));
    }
    sampler_free(s);
    sampler_free(undisturbed);
    ck_ok(sampler_create(3, &greedy, none, NULL, 0, &s, &err), err);
    ck_failed(sampler_next(s, logits, NULL, 0, &id, &err), CLAAS_ERR_INTERNAL, err);
    sampler_free(s);
}
END_TEST

START_TEST(logits_that_are_no_numbers)
{
    static const float bad[] = { NAN, INFINITY };
    static const uint8_t allowed[] = { 1, 1, 0 };
    const struct sample_settings *const both[] = { &greedy, &plain };
    for (size_t i = 0; i < 2; i++) {
        for (size_t at = 0; at < 3; at++) {
            float logits[] = { 1, 2, 3 };
            int32_t id = 42;
            struct sampler *s = NULL;
            logits[at] = bad[i];
            for (size_t j = 0; j < 2; j++) {
                err = ERR_INIT;
                ck_ok(sampler_create(3, both[j], allowed, NULL, 0, &s, &err), err);
                ck_failed(sampler_next(s, logits, NULL, 0, &id, &err), CLAAS_ERR_INTERNAL, err);
                ck_assert_int_eq(id, 42);
                sampler_free(s);
            }
        }
    }
}
END_TEST

/* ---- seeds ---- */

enum { WIDE = 50, RUN = 64 };

static void random_logits(float *logits, size_t n, double spread, uint64_t stream)
{
    for (size_t i = 0; i < n; i++) {
        logits[i] = (float)(spread * (2 * rng_uniform(3, stream, i) - 1));
    }
}

static size_t same_tokens(const int32_t *a, const int32_t *b, size_t n)
{
    size_t same = 0;
    for (size_t i = 0; i < n; i++) {
        same += a[i] == b[i];
    }
    return same;
}

START_TEST(the_same_seed_gives_the_same_answer)
{
    float logits[WIDE];
    int32_t runs[3][RUN];
    struct sample_settings s = plain;
    random_logits(logits, WIDE, 2, 0);
    for (size_t run = 0; run < 3; run++) {
        s.seed = run == 2 ? 8 : 7;
        struct sampler *made = sampler_of(WIDE, &s);
        struct sampler *other = sampler_of(WIDE, &plain); /* another request between */
        for (size_t i = 0; i < RUN; i++) {
            runs[run][i] = next(made, logits);
            for (size_t j = 0; run == 1 && j < i % 3; j++) {
                (void)next(other, logits);
            }
        }
        sampler_free(made);
        sampler_free(other);
    }
    ck_assert_mem_eq(runs[0], runs[1], sizeof runs[0]);
    ck_assert_uint_lt(same_tokens(runs[0], runs[2], RUN), RUN / 4);
    for (size_t i = 1, changes = 0; i < RUN; i++) { /* each position has a number of its own */
        changes += runs[0][i] != runs[0][i - 1];
        ck_assert(i + 1 < RUN || changes > RUN / 2);
    }
}
END_TEST

/* The number drawn depends on seed and position, not on what was drawn before. */
START_TEST(positions_do_not_depend_on_the_past)
{
    float logits[WIDE];
    float other[WIDE];
    random_logits(logits, WIDE, 2, 0);
    random_logits(other, WIDE, 2, 1);
    struct sampler *a = sampler_of(WIDE, &plain);
    struct sampler *b = sampler_of(WIDE, &plain);
    for (size_t i = 0; i < RUN; i++) {
        if (i % 2) {
            ck_assert_int_eq(next(a, logits), next(b, logits));
        } else {
            (void)next(a, logits);
            (void)next(b, other);
        }
    }
    sampler_free(a);
    sampler_free(b);
}
END_TEST

/* ---- settings out of range ---- */

/* Under AddressSanitizer too, an array that is too large is a null pointer and no end of the program. */
const char *__asan_default_options(void) __attribute__((visibility("default")));
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

/* No array of that many elements can be made: what is made before the first token would fail. */
START_TEST(waiting_needs_no_arrays)
{
    static const int32_t prompt[] = { 0, 1 };
    static const float logits[] = { 0 };
    struct sampler *made = NULL;
    int32_t id = -1;
    err = ERR_INIT;
    ck_ok(sampler_create(SIZE_MAX / 2, &plain, NULL, prompt, 2, &made, &err), err);
    ck_failed(sampler_next(made, logits, NULL, 0, &id, &err), CLAAS_ERR_EXHAUSTED, err);
    ck_assert_int_eq(id, -1);
    sampler_free(made);
}
END_TEST

START_TEST(settings_refused)
{
    static const struct {
        size_t offset;
        const char *name;
        double low; /* the first value below and above what is allowed */
        double high;
    } rows[] = {
        { offsetof(struct sample_settings, temperature), "temperature", -1e-9, 2e6 },
        { offsetof(struct sample_settings, top_p), "top_p", 0, 1.0001 },
        { offsetof(struct sample_settings, min_p), "min_p", -1e-9, 1.0001 },
        { offsetof(struct sample_settings, repetition), "repetition_penalty", 0, 2e6 },
        { offsetof(struct sample_settings, presence), "presence_penalty", -2.01, 2.01 },
        { offsetof(struct sample_settings, frequency), "frequency_penalty", -2.01, 2.01 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const double bad[] = { rows[i].low, rows[i].high, (double)NAN, (double)INFINITY, (double)-INFINITY };
        for (size_t j = 0; j < sizeof bad / sizeof bad[0]; j++) {
            struct sample_settings s = plain;
            struct sampler *made = NULL;
            err = ERR_INIT;
            memcpy((char *)&s + rows[i].offset, &bad[j], sizeof bad[j]);
            ck_failed(sampler_create(4, &s, NULL, NULL, 0, &made, &err), CLAAS_ERR_INVALID, err);
            ck_assert_str_eq(err.what, rows[i].name);
            ck_assert_ptr_null(made);
        }
    }
}
END_TEST

START_TEST(top_k_out_of_range)
{
    static const int64_t bad[] = { -2, INT64_MIN, INT64_MAX };
    for (size_t i = 0; i < 3; i++) {
        struct sample_settings s = plain;
        struct sampler *made = NULL;
        err = ERR_INIT;
        s.top_k = bad[i];
        ck_failed(sampler_create(4, &s, NULL, NULL, 0, &made, &err), CLAAS_ERR_INVALID, err);
        ck_assert_str_eq(err.what, "top_k");
    }
}
END_TEST

START_TEST(settings_at_their_limits)
{
    static const struct sample_settings good[] = {
        { .temperature = 1e-5, .top_p = 1e-12, .min_p = 1, .repetition = 1e-6, .presence = 2, .frequency = -2,
          .top_k = -1 },
        { .temperature = 1e6, .top_p = 1, .min_p = 0, .repetition = 1e6, .presence = -2, .frequency = 2,
          .top_k = 1 << 30, .seed = UINT64_MAX },
    };
    static const float logits[] = { -3, 1e30f, -1e30f, -INFINITY };
    for (size_t i = 0; i < 2; i++) {
        struct sampler *s = sampler_of(4, &good[i]);
        for (size_t j = 0; j < 20; j++) {
            ck_assert_int_ne(next(s, logits), 3);
        }
        sampler_free(s);
    }
    sampler_free(NULL);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("local_sample");
    TCase *t = tcase_create("sample");
    tcase_add_test(t, the_best_is_chosen);
    tcase_add_test(t, of_equals_the_lowest);
    tcase_add_test(t, repetition_counts_prompt_and_output);
    tcase_add_test(t, presence_and_frequency_count_output_only);
    tcase_add_test(t, prompt_ids_outside_the_vocabulary_are_ignored);
    tcase_add_test(t, only_what_is_allowed);
    tcase_add_test(t, banned_this_once);
    tcase_add_test(t, nothing_left_is_an_error);
    tcase_add_test(t, logits_that_are_no_numbers);
    tcase_add_test(t, the_same_seed_gives_the_same_answer);
    tcase_add_test(t, positions_do_not_depend_on_the_past);
    tcase_add_test(t, settings_refused);
    tcase_add_test(t, waiting_needs_no_arrays);
    tcase_add_test(t, top_k_out_of_range);
    tcase_add_test(t, settings_at_their_limits);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
