/* SPDX-License-Identifier: MIT */
/* For the tests of the transformer: models and adapters in several shapes beside their oracle, calls that run out of
 * time, and a bound on normalised error. */
#ifndef UNIT_MODEL_TESTING_H
#define UNIT_MODEL_TESTING_H

#include "plugins/local/forward.h"
#include "plugins/local/lora.h"
#include "plugins/local/model.h"
#include "unit/kernels_testing.h"
#include "unit/model_oracle.h"

#include <claas/host.h>

/* ---- what is tested ---- */

struct subject {
    struct oracle *oracle;
    struct model *model;
    struct lora *lora; /* null: base */
    double *flat;      /* its values */
};

/* Few round numbers: 3 query heads on 1, nothing a multiple of a vector. */
static inline struct oracle_spec spec_odd(void)
{
    return (struct oracle_spec){
        .geometry = { .hidden = 24, .layers = 2, .heads = 3, .kv_heads = 1, .head_dim = 8, .intermediate = 20,
                      .vocab = 37, .context = 64, .eps = 1e-5, .rope = { .kind = ROPE_PLAIN, .theta = 10000 } },
        .seed = 1,
        .absent = ORACLE_BIASES,
    };
}

static inline struct oracle_spec spec_biased(void)
{
    struct oracle_spec s = spec_odd();
    s.seed = 2;
    s.absent = ORACLE_TIED;
    s.geometry.eps = 1e-2;
    s.geometry.rope = (struct model_rope){ .kind = ROPE_LINEAR, .theta = 100, .factor = 2.5 };
    return s;
}

/* Heads that are together wider than the residual stream, an odd half, frequencies in all three ranges of llama3. */
static inline struct oracle_spec spec_wide(void)
{
    struct oracle_spec s = spec_odd();
    s.seed = 3;
    s.absent = ORACLE_BIASES & ~(1U << MODEL_K_BIAS);
    s.geometry.hidden = 18;
    s.geometry.heads = 4;
    s.geometry.kv_heads = 2;
    s.geometry.head_dim = 10;
    s.geometry.intermediate = 33;
    s.geometry.rope = (struct model_rope){
        .kind = ROPE_LLAMA3, .theta = 100, .factor = 8, .low = 1, .high = 4, .original = 64
    };
    return s;
}

/* Every type of weight, two in one matrix, and rows in the order of GGUF. */
static inline struct oracle_spec spec_blocks(void)
{
    struct oracle_spec s = spec_odd();
    s.seed = 4;
    s.absent = ORACLE_BIASES & ~(1U << MODEL_V_BIAS | 1U << MODEL_Q_BIAS);
    s.permuted = 1;
    s.geometry.hidden = 64;
    s.geometry.heads = 4;
    s.geometry.kv_heads = 2;
    s.geometry.head_dim = 16;
    s.geometry.intermediate = 96;
    s.geometry.vocab = 101;
    static const struct {
        enum model_part part;
        enum kernels_type type;
    } types[] = {
        { MODEL_EMBEDDING, KERNELS_Q8_0 }, { MODEL_OUTPUT, KERNELS_F16 },     { MODEL_Q, KERNELS_Q4_1 },
        { MODEL_K, KERNELS_Q4_0 },         { MODEL_V, KERNELS_Q8_0 },         { MODEL_O, KERNELS_BF16 },
        { MODEL_GATE, KERNELS_Q4_1 },      { MODEL_UP, KERNELS_F16 },         { MODEL_DOWN, KERNELS_Q4_0 },
        { MODEL_MLP_NORM, KERNELS_BF16 },  { MODEL_FINAL_NORM, KERNELS_F16 }, { MODEL_V_BIAS, KERNELS_F16 },
    };
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        s.types[types[i].part] = types[i].type;
    }
    return s;
}

#define SPECS 4
static inline struct oracle_spec spec_at(int i)
{
    return i == 0 ? spec_odd() : i == 1 ? spec_biased() : i == 2 ? spec_wide() : spec_blocks();
}

/* modules 0: base. */
static inline struct subject subject_make(const struct oracle_spec *spec, uint32_t modules, size_t rank)
{
    struct subject s = { .oracle = oracle_make(spec) };
    struct lora_spec lora = { .modules = modules, .rank = rank, .alpha = 1.5 * (double)rank, .rank_stable = rank == 8 };
    ck_ok(model_create(k, &s.oracle->source, &s.model, &err), err);
    if (modules != 0) {
        ck_ok(lora_create(k, &spec->geometry, &lora, &s.lora, &err), err);
        s.flat = oracle_adapter(s.lora, spec->seed + 100);
    }
    return s;
}

static inline void subject_free(struct subject *s)
{
    lora_free(s->lora);
    model_free(s->model);
    oracle_free(s->oracle);
    free(s->flat);
}

static inline int32_t *random_ids(const struct subject *s, size_t n, uint64_t seed)
{
    int32_t *ids = calloc(n + 1, sizeof *ids);
    ck_assert_ptr_nonnull(ids);
    for (size_t i = 0; i < n; i++) {
        ids[i] = (int32_t)(rng_bits(seed, 99, i) % s->oracle->spec.geometry.vocab);
    }
    return ids;
}

/* Hidden states [n][hidden] by the oracle, on the heap. */
static inline double *wanted_hidden(const struct subject *s, const int32_t *ids, size_t n)
{
    double *hidden = doubles(n * s->oracle->spec.geometry.hidden);
    oracle_hidden(s->oracle, s->lora, s->flat, ids, n, hidden);
    return hidden;
}

/* Log-probabilities [n][vocab] of what follows each of n tokens, on the heap. */
static inline double *wanted_logprobs(const struct subject *s, const int32_t *ids, size_t n)
{
    const struct model_geometry *g = &s->oracle->spec.geometry;
    double *hidden = wanted_hidden(s, ids, n);
    double *logprobs = doubles(n * g->vocab);
    for (size_t i = 0; i < n; i++) {
        oracle_logprobs(s->oracle, hidden + i * g->hidden, logprobs + i * g->vocab, NULL);
    }
    free(hidden);
    return logprobs;
}

/* ---- comparing ---- */

static inline void check_close(const float *x, const double *want, size_t n, double bound, const char *what)
{
    double off = 0;
    double size = 0;
    for (size_t i = 0; i < n; i++) {
        off += ((double)x[i] - want[i]) * ((double)x[i] - want[i]);
        size += want[i] * want[i];
    }
    ck_assert_msg(sqrt(off) <= bound * sqrt(size), "%s (%s): error %g of %g, bound %g", what, kernels_isa(k),
                  sqrt(off), sqrt(size), bound);
}

static inline int descending(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x < y) - (x > y);
}

/* The best n of a row of log-probabilities: the ids are different, the values theirs and the greatest of all. */
static inline void check_top(const double *want, size_t vocab, size_t n, const int32_t *ids,
                             const float *logprobs, double bound)
{
    double *sorted = doubles(vocab);
    double *theirs = doubles(n);
    memcpy(sorted, want, vocab * sizeof *sorted);
    qsort(sorted, vocab, sizeof *sorted, descending);
    for (size_t i = 0; i < n; i++) {
        ck_assert(ids[i] >= 0 && (size_t)ids[i] < vocab);
        ck_assert_float_le(logprobs[i], i == 0 ? 0 : logprobs[i - 1]);
        theirs[i] = want[ids[i]];
        for (size_t j = 0; j < i; j++) {
            ck_assert_int_ne(ids[i], ids[j]);
        }
    }
    check_close(logprobs, sorted, n, bound, "the greatest log-probabilities");
    check_close(logprobs, theirs, n, bound, "log-probabilities of the greatest");
    free(sorted);
    free(theirs);
}

/* ---- calls that run out of time ---- */

struct timed_call { /* the call first, so that its address is ours */
    struct claas_call call;
    int beats; /* how many more times there is time left */
};

static inline uint32_t timed_left(const struct claas_call *call)
{
    struct timed_call *t = (struct timed_call *)(uintptr_t)call;
    return t->beats-- > 0 ? UINT32_MAX : 0;
}

static inline struct timed_call timed(int beats)
{
    return (struct timed_call){ .call = { .size = sizeof(struct claas_call), .left_ms = timed_left }, .beats = beats };
}

#endif
