/* SPDX-License-Identifier: MIT */
/* For the tests of training: the golden vectors of the algorithm (tests/data/sdpo-vectors.json). */
#ifndef UNIT_SDPO_VECTORS_H
#define UNIT_SDPO_VECTORS_H

#include "plugins/local/sdpo.h"
#include "unit/kernels_testing.h"

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

static cJSON *vectors;

/* Cases that record what the original does and we do not, on purpose; each has a test of its own below. */
static const char *const different[] = {
    "a000_plain",   /* alpha 0 trains nothing: it is refused */
    "a000_kl",      /* alpha 0 trains nothing but the term to the base model: it is refused */
    "sum_clamped",  /* the original limits sums to 1e-8: we stay in log space, where no limit is needed */
    "adamw_clip_0", /* the original multiplies the gradient by 0: here a limit of 0 switches clipping off */
};

static inline int is_different(const cJSON *test)
{
    const char *name = json_get(test, "name")->valuestring;
    for (size_t i = 0; i < sizeof different / sizeof different[0]; i++) {
        if (strcmp(different[i], name) == 0) {
            return 1;
        }
    }
    return 0;
}

/* ---- reading the vectors ---- */

static inline void setup_vectors(void)
{
    struct claas_error error = ERR_INIT;
    struct buf text = BUF_INIT;
    const char *top = getenv("abs_top_srcdir");
    ck_assert_msg(top != NULL, "abs_top_srcdir must name the source tree");
    char *path = path_join(top, "tests/data/sdpo-vectors.json");
    ck_assert_ptr_nonnull(path);
    ck_ok(file_read(path, 1 << 20, &text, &error), error);
    ck_ok(json_parse(buf_str(&text), text.len, "sdpo-vectors.json", &vectors, &error), error);
    buf_clear(&text);
    free(path);
}

static inline void teardown_vectors(void)
{
    cJSON_Delete(vectors);
}

static inline const cJSON *list_of(const char *name)
{
    const cJSON *list = json_get(vectors, name);
    ck_assert_msg(cJSON_IsArray(list), "no list '%s'", name);
    return list;
}

static inline const cJSON *case_named(const char *list, const char *name)
{
    const cJSON *test;
    cJSON_ArrayForEach(test, list_of(list))
    {
        if (strcmp(json_get(test, "name")->valuestring, name) == 0) {
            return test;
        }
    }
    ck_abort_msg("no case '%s'", name);
    return NULL;
}

static inline double number(const cJSON *object, const char *name)
{
    const cJSON *v = json_get(object, name);
    ck_assert_msg(cJSON_IsNumber(v), "no number '%s'", name);
    return v->valuedouble;
}

static inline size_t flatten(const cJSON *v, double *out)
{
    if (cJSON_IsNumber(v)) {
        *out = v->valuedouble;
        return 1;
    }
    size_t n = 0;
    for (const cJSON *it = v->child; it; it = it->next) {
        n += flatten(it, out + n);
    }
    return n;
}

/* All numbers of a nested list, of which there are n. */
static inline double *numbers(const cJSON *object, const char *name, size_t n)
{
    double *out = doubles(4096);
    const cJSON *v = json_get(object, name);
    ck_assert_msg(cJSON_IsArray(v), "no list '%s'", name);
    ck_assert_uint_eq(flatten(v, out), n);
    return out;
}

static inline int32_t *integers(const cJSON *object, const char *name, size_t n)
{
    double *from = numbers(object, name, n);
    int32_t *out = mem_array(n, sizeof *out);
    for (size_t i = 0; i < n; i++) {
        out[i] = (int32_t)from[i];
    }
    free(from);
    return out;
}

/* ---- a case ---- */

struct problem { /* B sequences of T tokens are rows of one sample: the means run over all of them */
    const char *name;
    size_t rows, vocab, n;
    struct sdpo_settings settings;
    double *logits, *teacher, *old, *base, *mask;
    int32_t *ids, *chosen;
    double tokens; /* what the means are divided by */
};

static inline void problem_read(const cJSON *test, struct problem *p)
{
    const cJSON *shape = json_get(test, "shape");
    const cJSON *params = json_get(test, "params");
    const cJSON *in = json_get(test, "inputs");
    *p = (struct problem){
        .name = json_get(test, "name")->valuestring,
        .rows = (size_t)(number(shape, "B") * number(shape, "T")),
        .vocab = (size_t)number(shape, "V"),
        .n = (size_t)number(shape, "K"),
        .settings = { .alpha = number(params, "alpha"),
                      .is_clip = number(params, "is_clip"),
                      .kl_reg_weight = number(params, "kl_reg_weight") },
    };
    p->logits = numbers(in, "student_logits", p->rows * p->vocab);
    p->teacher = numbers(in, "teacher_logprobs", p->rows * p->n);
    p->old = numbers(in, "old_student_logprobs", p->rows);
    p->base = numbers(in, "base_logprobs", p->rows);
    p->mask = numbers(in, "response_mask", p->rows);
    p->ids = integers(in, "teacher_indices", p->rows * p->n);
    p->chosen = integers(in, "response_ids", p->rows);
    for (size_t i = 0; i < p->rows; i++) {
        p->tokens += p->mask[i];
    }
    p->tokens = p->tokens > 0 ? p->tokens : 1;
}

static inline void problem_free(struct problem *p)
{
    free(p->logits);
    free(p->teacher);
    free(p->old);
    free(p->base);
    free(p->mask);
    free(p->ids);
    free(p->chosen);
}

static inline void near(double got, double want, double tolerance, const char *name, const char *what, size_t at)
{
    double size = fabs(want) > 1 ? fabs(want) : 1;
    ck_assert_msg(fabs(got - want) <= tolerance * size, "%s: %s of %zu is %.17g, expected %.17g", name, what, at, got,
                  want);
}

static inline void near_all(const double *got, const double *want, size_t n, double tolerance, const char *name,
                     const char *what)
{
    for (size_t i = 0; i < n; i++) {
        near(got[i], want[i], tolerance, name, what, i);
    }
}

#endif
