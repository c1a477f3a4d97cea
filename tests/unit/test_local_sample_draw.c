/* SPDX-License-Identifier: MIT */
/* What the sampler draws: the distribution that temperature, min_p, top_k and top_p should give, worked out by a slow
 * sampler of the same rules, and the edges of each filter. Every seed is fixed: nothing here is left to chance. */
#include "config.h"

#include "plugins/local/sample.h"
#include "testing.h"

#include "base/mem.h"
#include "base/rng.h"

#include <math.h>
#include <string.h>

static const struct sample_settings plain = { .temperature = 1, .top_p = 1, .repetition = 1 };

static struct claas_error err;

static void random_logits(float *logits, size_t n, double spread)
{
    for (size_t i = 0; i < n; i++) {
        logits[i] = (float)(spread * (2 * rng_uniform(3, n, i) - 1));
    }
}

/* ---- the slow sampler: probabilities of all tokens ---- */

/* How many tokens come before i: greater, or as great with a lower id. */
static size_t place_of(const double *x, size_t n, size_t i)
{
    size_t before = 0;
    for (size_t j = 0; j < n; j++) {
        before += x[j] > x[i] || (x[j] == x[i] && j < i);
    }
    return before;
}

static void normalise(double *p, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += p[i];
    }
    for (size_t i = 0; i < n; i++) {
        p[i] /= sum;
    }
}

static void keep_top_k(double *p, size_t n, size_t k)
{
    double border = 0;
    for (size_t i = 0; i < n; i++) {
        if (place_of(p, n, i) == k - 1) {
            border = p[i];
        }
    }
    for (size_t i = 0; i < n; i++) {
        p[i] = p[i] >= border ? p[i] : 0; /* those as good as the last one stay */
    }
}

static void keep_top_p(double *p, size_t n, double top_p)
{
    size_t *order = mem_array(n, sizeof *order);
    for (size_t i = 0; i < n; i++) {
        order[place_of(p, n, i)] = i;
    }
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double before = sum;
        sum += p[order[i]];
        p[order[i]] = before < top_p ? p[order[i]] : 0;
    }
    free(order);
}

static void probabilities(const struct sample_settings *s, const float *logits, size_t n, double *p)
{
    double best = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        best = fmax(best, (double)logits[i]);
    }
    for (size_t i = 0; i < n; i++) {
        p[i] = exp(((double)logits[i] - best) / s->temperature);
        p[i] = p[i] < s->min_p ? 0 : p[i];
    }
    if (s->top_k > 0 && (size_t)s->top_k < n) {
        keep_top_k(p, n, (size_t)s->top_k);
    }
    normalise(p, n);
    if (s->top_p < 1) {
        keep_top_p(p, n, s->top_p);
        normalise(p, n);
    }
}

/* ---- drawing ---- */

/* `draws` tokens of one sampler; counts[n]. */
static void draw(const struct sample_settings *s, const float *logits, size_t n, size_t draws, size_t *counts)
{
    struct sampler *sampler = NULL;
    err = ERR_INIT;
    ck_ok(sampler_create(n, s, NULL, NULL, 0, &sampler, &err), err);
    for (size_t i = 0; i < draws; i++) {
        int32_t id = -1;
        ck_ok(sampler_next(sampler, logits, NULL, 0, &id, &err), err);
        ck_assert(id >= 0 && (size_t)id < n);
        counts[id]++;
    }
    sampler_free(sampler);
}

/* The first token of `draws` samplers with different seeds. */
static void draw_first(const struct sample_settings *s, const float *logits, size_t n, size_t draws, size_t *counts)
{
    struct sample_settings seeded = *s;
    for (size_t i = 0; i < draws; i++) {
        seeded.seed = s->seed + i;
        draw(&seeded, logits, n, 1, counts);
    }
}

struct chi_square {
    double value;
    double cells;
    double wanted; /* of the cell that is being filled */
    double got;
};

static void cell_end(struct chi_square *c)
{
    c->value += (c->got - c->wanted) * (c->got - c->wanted) / c->wanted;
    c->cells++;
    c->wanted = 0;
    c->got = 0;
}

/* Chi-square of counts against p; neighbours share a cell until it expects 20. What has no probability is never drawn.
 * More than 4.5 standard deviations are seen once in a hundred thousand tests. */
static void expect_distribution(const size_t *counts, const double *p, size_t n, size_t draws, const char *what)
{
    struct chi_square c = { 0 };
    size_t total = 0;
    for (size_t i = 0; i < n; i++) {
        ck_assert_msg(p[i] > 0 || counts[i] == 0, "%s: token %zu was drawn", what, i);
        total += counts[i];
        c.wanted += p[i] * (double)draws;
        c.got += (double)counts[i];
        if (c.wanted >= 20) {
            cell_end(&c);
        }
    }
    if (c.wanted >= 5) {
        cell_end(&c);
    }
    ck_assert_uint_eq(total, draws);
    double freedom = fmax(c.cells - 1, 0);
    ck_assert_msg(c.value <= freedom + 4.5 * sqrt(2 * freedom) + 1e-9, "%s: chi-square %g with %g degrees of freedom",
                  what, c.value, freedom);
}

/* ---- distributions ---- */

enum { SMALL = 40, DRAWS = 20000, LARGE = 3000, LARGE_DRAWS = 1500 };

static const struct {
    const char *what;
    struct sample_settings s;
    double spread; /* of the logits */
} cases[] = {
    { "plain", { .temperature = 1, .top_p = 1, .repetition = 1 }, 3 },
    { "cold", { .temperature = 0.4, .top_p = 1, .repetition = 1 }, 3 },
    { "hot", { .temperature = 5, .top_p = 1, .repetition = 1 }, 3 },
    { "top_k 1", { .temperature = 1, .top_p = 1, .repetition = 1, .top_k = 1 }, 3 },
    { "top_k 7", { .temperature = 1, .top_p = 1, .repetition = 1, .top_k = 7 }, 3 },
    { "top_k 39", { .temperature = 2, .top_p = 1, .repetition = 1, .top_k = 39 }, 3 },
    { "top_k 40", { .temperature = 2, .top_p = 1, .repetition = 1, .top_k = 40 }, 3 },
    { "top_k off", { .temperature = 2, .top_p = 1, .repetition = 1, .top_k = -1 }, 3 },
    { "top_p 0.8", { .temperature = 1, .top_p = 0.8, .repetition = 1 }, 3 },
    { "top_p 0.999", { .temperature = 1, .top_p = 0.999, .repetition = 1 }, 3 },
    { "min_p 0.1", { .temperature = 1, .top_p = 1, .min_p = 0.1, .repetition = 1 }, 3 },
    { "min_p 0.1, hot", { .temperature = 3, .top_p = 1, .min_p = 0.1, .repetition = 1 }, 3 },
    { "top_k then top_p", { .temperature = 1, .top_p = 0.7, .repetition = 1, .top_k = 12 }, 1 },
    { "all three", { .temperature = 1.5, .top_p = 0.9, .min_p = 0.2, .repetition = 1, .top_k = 20 }, 3 },
};

START_TEST(small_vocabularies)
{
    float logits[SMALL];
    double p[SMALL];
    size_t counts[SMALL] = { 0 };
    size_t of_seeds[SMALL] = { 0 };
    struct sample_settings s = cases[_i].s;
    random_logits(logits, SMALL, cases[_i].spread);
    probabilities(&s, logits, SMALL, p);
    s.seed = 1000 + (uint64_t)_i;
    draw(&s, logits, SMALL, DRAWS, counts);
    expect_distribution(counts, p, SMALL, DRAWS, cases[_i].what);
    s.seed = 1u << 20;
    draw_first(&s, logits, SMALL, DRAWS / 4, of_seeds);
    expect_distribution(of_seeds, p, SMALL, DRAWS / 4, "seeds");
}
END_TEST

/* More candidates than are sorted at once; equal logits as well. */
static const struct {
    const char *what;
    struct sample_settings s;
    double spread;
    int whole; /* logits are whole numbers, so that most are equal to others */
} large_cases[] = {
    { "top_p of nearly equals", { .temperature = 1, .top_p = 0.7, .repetition = 1 }, 0.2, 0 },
    { "top_p of few", { .temperature = 1, .top_p = 0.9, .repetition = 1 }, 20, 0 },
    { "top_p of all", { .temperature = 1, .top_p = 0.9999999, .repetition = 1 }, 0.2, 0 },
    { "top_k 1000", { .temperature = 1, .top_p = 1, .repetition = 1, .top_k = 1000 }, 1, 0 },
    { "top_k with equals", { .temperature = 1, .top_p = 1, .repetition = 1, .top_k = 100 }, 5, 1 },
    { "top_p with equals", { .temperature = 1, .top_p = 0.5, .repetition = 1 }, 5, 1 },
    { "all equal", { .temperature = 1, .top_p = 0.5, .repetition = 1, .top_k = 10 }, 0, 1 },
};

START_TEST(large_vocabularies)
{
    float *logits = mem_array(LARGE, sizeof *logits);
    double *p = mem_array(LARGE, sizeof *p);
    size_t *counts = mem_array(LARGE, sizeof *counts);
    random_logits(logits, LARGE, large_cases[_i].spread);
    for (size_t i = 0; large_cases[_i].whole && i < LARGE; i++) {
        logits[i] = roundf(logits[i]);
    }
    probabilities(&large_cases[_i].s, logits, LARGE, p);
    draw(&large_cases[_i].s, logits, LARGE, LARGE_DRAWS, counts);
    expect_distribution(counts, p, LARGE, LARGE_DRAWS, large_cases[_i].what);
    free(logits);
    free(p);
    free(counts);
}
END_TEST

/* ---- the edges of the filters ---- */

/* Which of four tokens come up in 400 draws, as bits. */
static unsigned drawn(const struct sample_settings *s, const float *logits)
{
    size_t counts[4] = { 0 };
    unsigned bits = 0;
    draw(s, logits, 4, 400, counts);
    for (unsigned i = 0; i < 4; i++) {
        bits |= counts[i] > 0 ? 1u << i : 0;
    }
    return bits;
}

static const float quarters[] = { 0, 0, 0, 0 };

START_TEST(top_k_edges)
{
    static const float logits[] = { 1, 2, 2, 1.5f };
    struct sample_settings s = plain;
    s.top_k = 1;
    ck_assert_uint_eq(drawn(&s, logits), 6); /* both of the best */
    s.top_k = 2;
    ck_assert_uint_eq(drawn(&s, logits), 6);
    s.top_k = 3;
    ck_assert_uint_eq(drawn(&s, logits), 14);
    s.top_k = 4;
    ck_assert_uint_eq(drawn(&s, logits), 15);
    s.top_k = 1000;
    ck_assert_uint_eq(drawn(&s, logits), 15);
    s.top_k = 0;
    ck_assert_uint_eq(drawn(&s, logits), 15);
}
END_TEST

START_TEST(top_p_edges)
{
    static const float halves[] = { -0.6931472f, -1.3862944f, -2.0794415f, -2.0794415f }; /* 1/2 1/4 1/8 1/8 */
    struct sample_settings s = plain;
    s.top_p = 1e-12;
    ck_assert_uint_eq(drawn(&s, halves), 1);
    s.top_p = 0.49;
    ck_assert_uint_eq(drawn(&s, halves), 1);
    s.top_p = 0.51;
    ck_assert_uint_eq(drawn(&s, halves), 3);
    s.top_p = 0.8;
    ck_assert_uint_eq(drawn(&s, halves), 7); /* of equals the lower id */
    s.top_p = 0.9;
    ck_assert_uint_eq(drawn(&s, halves), 15);
    s.top_p = 0.5;
    ck_assert_uint_eq(drawn(&s, quarters), 3); /* exactly the mass that is asked for is enough */
}
END_TEST

START_TEST(min_p_edges)
{
    static const float logits[] = { 2, 2, 1.3f, -8 };
    struct sample_settings s = plain;
    s.min_p = 1;
    ck_assert_uint_eq(drawn(&s, logits), 3);
    s.min_p = 0.5; /* e^-0.7 = 0.497 */
    ck_assert_uint_eq(drawn(&s, logits), 3);
    s.min_p = 0.49;
    ck_assert_uint_eq(drawn(&s, logits), 7);
    s.temperature = 2; /* the limit is on tempered probabilities: e^-0.35 = 0.70 */
    s.min_p = 0.6;
    ck_assert_uint_eq(drawn(&s, logits), 7);
    s.min_p = 0.71;
    ck_assert_uint_eq(drawn(&s, logits), 3);
}
END_TEST

/* From 1e-5 on it is sampling, though no colder than 0.01. */
START_TEST(the_coldest_temperature)
{
    static const float logits[] = { 1, 1.01f, 0.7f, 1 };
    struct sample_settings s = plain;
    size_t counts[2][4] = { { 0 } };
    s.temperature = 9.9e-6;
    ck_assert_uint_eq(drawn(&s, logits), 2);
    s.temperature = 1e-5;
    ck_assert_uint_eq(drawn(&s, logits), 11);
    draw(&s, logits, 4, 400, counts[0]);
    s.temperature = 0.01;
    draw(&s, logits, 4, 400, counts[1]);
    ck_assert_mem_eq(counts[0], counts[1], sizeof counts[0]);
}
END_TEST

START_TEST(impossible_tokens_are_never_drawn)
{
    static const float logits[] = { -INFINITY, 0, -INFINITY, 0 };
    struct sample_settings s = plain;
    s.temperature = 1e6;
    ck_assert_uint_eq(drawn(&s, logits), 10);
    s.top_k = 3;
    ck_assert_uint_eq(drawn(&s, logits), 10);
    s.top_p = 0.99;
    ck_assert_uint_eq(drawn(&s, logits), 10);
}
END_TEST

/* Penalties come before temperature: at a temperature of 2 a presence of 2 makes a token e times rarer. */
START_TEST(penalties_are_tempered)
{
    struct sample_settings s = plain;
    struct sampler *sampler = NULL;
    double p[2] = { 1 / (1 + exp(1)), 1 / (1 + exp(-1)) };
    size_t counts[2] = { 0 };
    s.temperature = 2;
    s.presence = 2;
    for (size_t i = 0; i < 4000; i++) {
        static const float logits[] = { 0, 0 };
        static const int32_t other[] = { 1 };
        int32_t id = -1;
        s.seed = i;
        err = ERR_INIT;
        ck_ok(sampler_create(2, &s, NULL, NULL, 0, &sampler, &err), err);
        ck_ok(sampler_next(sampler, logits, other, 1, &id, &err), err);
        ck_assert_int_eq(id, 0);
        ck_ok(sampler_next(sampler, logits, NULL, 0, &id, &err), err);
        counts[id]++;
        sampler_free(sampler);
    }
    expect_distribution(counts, p, 2, 4000, "penalised");
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("local_sample_draw");
    TCase *t = tcase_create("draw");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, small_vocabularies, 0, sizeof cases / sizeof cases[0]);
    tcase_add_loop_test(t, large_vocabularies, 0, sizeof large_cases / sizeof large_cases[0]);
    tcase_add_test(t, top_k_edges);
    tcase_add_test(t, top_p_edges);
    tcase_add_test(t, min_p_edges);
    tcase_add_test(t, the_coldest_temperature);
    tcase_add_test(t, impossible_tokens_are_never_drawn);
    tcase_add_test(t, penalties_are_tempered);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
