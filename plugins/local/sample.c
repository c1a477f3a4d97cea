/* SPDX-License-Identifier: MIT */
/* The sampler. Filters narrow a list of candidates; only what top_p needs is ever sorted. */
#include "config.h"

#include "plugins/local/sample.h"

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double greedy_below = 1e-5;
static const double coldest = 0.01;

struct candidate {
    float logit; /* tempered */
    int32_t id;
    double weight; /* exp(logit - best) */
};

struct sampler {
    struct sample_settings settings;
    size_t vocab;
    const uint8_t *allowed;
    const int32_t *prompt;
    size_t n_prompt;
    uint8_t *seen;    /* in prompt or output; this one and the next three are made for the first token */
    uint32_t *counts; /* in the output */
    float *logits;
    struct candidate *list;
    uint64_t position;
};

static int settings_check(const struct sample_settings *s, struct claas_error *err)
{
    const struct {
        const char *name;
        double value;
        double min;
        double max;
    } rows[] = {
        { "temperature", s->temperature, 0, 1e6 },   { "top_p", s->top_p, 1e-12, 1 },
        { "min_p", s->min_p, 0, 1 },                 { "repetition_penalty", s->repetition, 1e-6, 1e6 },
        { "presence_penalty", s->presence, -2, 2 },  { "frequency_penalty", s->frequency, -2, 2 },
        { "top_k", (double)s->top_k, -1, 1 << 30 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (!(rows[i].value >= rows[i].min) || !(rows[i].value <= rows[i].max)) {
            return err_set(err, CLAAS_ERR_INVALID, rows[i].name, "%s is %g: expected %g to %g", rows[i].name,
                           rows[i].value, rows[i].min, rows[i].max);
        }
    }
    return 0;
}

int sampler_create(size_t vocab, const struct sample_settings *s, const uint8_t *allowed, const int32_t *prompt,
                   size_t n_prompt, struct sampler **out, struct claas_error *err)
{
    int rc = settings_check(s, err);
    if (rc != 0) {
        return rc;
    }
    struct sampler *made = calloc(1, sizeof *made);
    if (!made) {
        return err_oom(err, "making a sampler");
    }
    made->settings = *s;
    made->vocab = vocab;
    made->allowed = allowed;
    made->prompt = prompt;
    made->n_prompt = n_prompt;
    *out = made;
    return 0;
}

void sampler_free(struct sampler *s)
{
    if (!s) {
        return;
    }
    free(s->seen);
    free(s->counts);
    free(s->logits);
    free(s->list);
    free(s);
}

/* What goes by the size of the vocabulary: a request that waits for its turn does without. */
static int arrays_make(struct sampler *s, struct claas_error *err)
{
    uint8_t *seen = mem_array(s->vocab, sizeof *seen);
    s->counts = mem_array(s->vocab, sizeof *s->counts);
    s->logits = mem_array(s->vocab, sizeof *s->logits);
    s->list = mem_array(s->vocab, sizeof *s->list);
    if (!seen || !s->counts || !s->logits || !s->list) {
        free(seen);
        free(s->counts);
        free(s->logits);
        free(s->list);
        s->counts = NULL;
        s->logits = NULL;
        s->list = NULL;
        return err_oom(err, "choosing a token");
    }
    for (size_t i = 0; i < s->n_prompt; i++) {
        if (s->prompt[i] >= 0 && (size_t)s->prompt[i] < s->vocab) {
            seen[s->prompt[i]] = 1;
        }
    }
    s->seen = seen;
    return 0;
}

/* Allowed ids and penalties, into s->logits. */
static int penalise(struct sampler *s, const float *logits, const int32_t *banned, size_t n_banned,
                    struct claas_error *err)
{
    const struct sample_settings *set = &s->settings;
    for (size_t i = 0; i < s->vocab; i++) {
        double x = (double)logits[i];
        if (isnan(x) || (isinf(x) && x > 0)) {
            return err_set(err, CLAAS_ERR_INTERNAL, NULL, "cannot choose a token: logit %zu is %g", i, x);
        }
        if (s->seen[i]) {
            x = x > 0 ? x / set->repetition : x * set->repetition;
        }
        if (s->counts[i] > 0) {
            x -= set->presence + set->frequency * (double)s->counts[i];
        }
        s->logits[i] = s->allowed && !s->allowed[i] ? -INFINITY : (float)x;
    }
    for (size_t i = 0; i < n_banned; i++) {
        if (banned[i] >= 0 && (size_t)banned[i] < s->vocab) {
            s->logits[banned[i]] = -INFINITY;
        }
    }
    return 0;
}

static size_t best_of(const struct sampler *s)
{
    size_t best = 0;
    for (size_t i = 1; i < s->vocab; i++) {
        best = s->logits[i] > s->logits[best] ? i : best;
    }
    return best;
}

/* Descending, equal ones by id. */
static int candidate_compare(const void *a, const void *b)
{
    const struct candidate *x = a;
    const struct candidate *y = b;
    if (x->logit != y->logit) {
        return x->logit > y->logit ? -1 : 1;
    }
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Brings the `want` first in candidate_compare's order to the front, in any order (quickselect). */
static void select_first(struct candidate *list, size_t n, size_t want)
{
    size_t lo = 0;
    size_t hi = n;
    while (hi - lo > 1 && want > lo && want < hi) {
        struct candidate pivot = list[lo + (hi - lo - 1) / 2]; /* never the last: both sides get something */
        size_t i = lo;
        size_t j = hi - 1;
        for (;;) {
            while (candidate_compare(&list[i], &pivot) < 0) {
                i++;
            }
            while (candidate_compare(&list[j], &pivot) > 0) {
                j--;
            }
            if (i >= j) {
                break;
            }
            struct candidate t = list[i];
            list[i] = list[j];
            list[j] = t;
            i++;
            j--;
        }
        size_t border = j + 1;
        if (want < border) {
            hi = border;
        } else {
            lo = border;
        }
    }
}

/* Keeps logits >= that of the k-th; ties at the border stay. */
static size_t keep_top_k(struct candidate *list, size_t n, size_t k)
{
    if (k >= n) {
        return n;
    }
    select_first(list, n, k);
    float border = list[0].logit;
    for (size_t i = 1; i < k; i++) {
        border = list[i].logit < border ? list[i].logit : border;
    }
    size_t kept = k;
    for (size_t i = k; i < n; i++) {
        if (list[i].logit >= border) {
            struct candidate t = list[kept];
            list[kept++] = list[i];
            list[i] = t;
        }
    }
    return kept;
}

/* The smallest set of the most likely with at least p of the mass, sorted. Sorts no more than it must. */
static size_t keep_top_p(struct candidate *list, size_t n, double p)
{
    double total = 0;
    for (size_t i = 0; i < n; i++) {
        total += list[i].weight;
    }
    for (size_t tried = 64;; tried *= 8) {
        size_t m = tried < n ? tried : n;
        select_first(list, n, m);
        qsort(list, m, sizeof *list, candidate_compare);
        double sum = 0;
        for (size_t i = 0; i < m; i++) {
            sum += list[i].weight;
            if (sum >= p * total) {
                return i + 1;
            }
        }
        if (m == n) {
            return n;
        }
    }
}

/* All that min_p leaves, in the order of ids. */
static size_t temper(struct sampler *s, size_t best)
{
    double t = s->settings.temperature < coldest ? coldest : s->settings.temperature;
    double top = (double)s->logits[best];
    size_t n = 0;
    for (size_t i = 0; i < s->vocab; i++) {
        double gap = ((double)s->logits[i] - top) / t;
        double weight = exp(gap);
        if (weight > 0 && weight >= s->settings.min_p) {
            s->list[n++] = (struct candidate){ .logit = (float)gap, .id = (int32_t)i, .weight = weight };
        }
    }
    return n;
}

static int32_t draw(const struct candidate *list, size_t n, double u)
{
    double total = 0;
    for (size_t i = 0; i < n; i++) {
        total += list[i].weight;
    }
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += list[i].weight;
        if (sum > u * total) {
            return list[i].id;
        }
    }
    return list[n - 1].id;
}

int sampler_next(struct sampler *s, const float *logits, const int32_t *banned, size_t n_banned, int32_t *out,
                 struct claas_error *err)
{
    int rc = s->seen ? 0 : arrays_make(s, err);
    if (rc == 0) {
        rc = penalise(s, logits, banned, n_banned, err);
    }
    if (rc != 0) {
        return rc;
    }
    size_t best = best_of(s);
    if (isinf(s->logits[best])) {
        return err_set(err, CLAAS_ERR_INTERNAL, NULL, "cannot choose a token: none is allowed");
    }
    int32_t id = (int32_t)best;
    if (s->settings.temperature >= greedy_below) {
        size_t n = temper(s, best);
        if (s->settings.top_k > 0) {
            n = keep_top_k(s->list, n, (size_t)s->settings.top_k);
        }
        if (s->settings.top_p < 1) {
            n = keep_top_p(s->list, n, s->settings.top_p);
        }
        id = draw(s->list, n, rng_uniform(s->settings.seed, 0, s->position));
    }
    s->position++;
    s->seen[id] = 1;
    s->counts[id]++;
    *out = id;
    return 0;
}
