/* SPDX-License-Identifier: MIT */
/* Scoring of plugins/local against the oracle: log-probabilities of a given response, and the output matrix. */
#include "config.h"

#include "plugins/local/decode.h"
#include "plugins/local/head.h"
#include "plugins/local/score.h"
#include "unit/model_testing.h"

#define BOUND 2e-6
enum { CHUNK = 128 }; /* what one serving turn reads */

struct scored {
    struct decode_score job;
    int32_t *ids; /* prompt, then response */
    double *want; /* [n_prompt + n_response][vocab] */
};

static struct scored scored_make(const struct subject *s, size_t n_prompt, size_t n_response, size_t n_top)
{
    size_t n = n_prompt + n_response;
    struct scored scored = { .ids = random_ids(s, n, n) };
    scored.want = wanted_logprobs(s, scored.ids, n);
    scored.job = (struct decode_score){ .prompt = scored.ids,
                                        .n_prompt = n_prompt,
                                        .response = scored.ids + n_prompt,
                                        .n_response = n_response,
                                        .n_top = n_top,
                                        .logprobs = calloc(n_response, sizeof(float)),
                                        .top_ids = calloc(n_response * n_top + 1, sizeof(int32_t)),
                                        .top_logprobs = calloc(n_response * n_top + 1, sizeof(float)) };
    return scored;
}

static void scored_free(struct scored *s)
{
    free(s->job.logprobs);
    free(s->job.top_ids);
    free(s->job.top_logprobs);
    free(s->ids);
    free(s->want);
}

static void scored_check(const struct subject *s, const struct scored *scored)
{
    const struct decode_score *job = &scored->job;
    size_t vocab = s->model->geometry.vocab;
    double *chosen = doubles(job->n_response);
    for (size_t i = 0; i < job->n_response; i++) {
        const double *row = scored->want + (job->n_prompt - 1 + i) * vocab;
        chosen[i] = row[job->response[i]];
        check_top(row, vocab, job->n_top, job->top_ids + i * job->n_top, job->top_logprobs + i * job->n_top, BOUND);
    }
    check_close(job->logprobs, chosen, job->n_response, BOUND, "log-probabilities of a response");
    free(chosen);
}

static const size_t lengths[][2] = { { 1, 1 },   { 1, 60 },         { 60, 1 },        { 20, 33 },   { 1, 150 },
                                     { 140, 5 }, { CHUNK, CHUNK }, { CHUNK + 1, 40 }, { 120, 180 } };
#define LENGTHS (sizeof lengths / sizeof lengths[0])

START_TEST(test_score)
{
    device_open(_i % ISAS, 2);
    struct oracle_spec spec = spec_at(_i / ISAS);
    spec.geometry.context = 300;
    for (uint32_t modules = 0; modules <= LORA_ALL; modules += LORA_ALL) {
        struct subject s = subject_make(&spec, modules, 3);
        for (size_t i = 0; i < LENGTHS; i++) {
            struct scored scored = scored_make(&s, lengths[i][0], lengths[i][1], i % 2 ? 4 : 0);
            ck_ok(decode_score(s.model, s.lora, &scored.job, NULL, &err), err);
            scored_check(&s, &scored);
            scored_free(&scored);
        }
        subject_free(&s);
    }
    device_close();
}
END_TEST

/* In chunks of any size, inside of a turn of the caller, behind a cache that has the start of the prompt already; and
 * only the best, when nothing else is wanted. */
START_TEST(test_score_chunks)
{
    static const size_t chunks[] = { 1, 2, 7, 25, 1000 };
    device_open(_i, 2);
    struct oracle_spec spec = spec_biased();
    struct subject s = subject_make(&spec, LORA_ALL, 3);
    for (size_t i = 0; i < 5; i++) {
        struct scored scored = scored_make(&s, 25, 30, 3);
        struct score score = { .lora = s.lora, .job = scored.job, .chunk = chunks[i], .serve = (int)i % 2 };
        struct forward_cache cache = { .model = s.model };
        struct forward_space space;
        struct pulse pulse = { .kernels = k, .what = "testing" };
        const float *hidden = NULL;
        ck_ok(forward_space_open(s.model, 24, 3, &space, &err), err);
        ck_ok(forward_run(s.model, s.lora, &cache, &space, scored.ids, 6 * i, 0, &pulse, &hidden, &err), err);
        kernels_turn_begin(k, KERNELS_TRAIN);
        ck_ok(score_run(s.model, &score, &cache, &pulse, &err), err);
        scored_check(&s, &scored);
        score.job.logprobs = NULL;
        cache.rows = 3;
        memset(scored.job.top_ids, 0, 30 * 3 * sizeof(int32_t));
        ck_ok(score_run(s.model, &score, &cache, &pulse, &err), err);
        scored_check(&s, &scored);
        kernels_turn_end(k);
        ck_assert_uint_eq(cache.rows, 54);
        forward_cache_free(&cache);
        forward_space_close(&space);
        scored_free(&scored);
    }
    subject_free(&s);
    device_close();
}
END_TEST

static void score_refused(const struct subject *s, const struct decode_score *job, int code, const char *what)
{
    struct claas_error e = ERR_INIT;
    ck_failed(decode_score(s->model, s->lora, job, NULL, &e), code, e);
    ck_assert_str_eq(e.what, what);
}

START_TEST(test_score_refused)
{
    device_open(2, 1);
    struct oracle_spec spec = spec_odd();
    struct subject s = subject_make(&spec, 0, 0);
    struct scored scored = scored_make(&s, 34, 30, 2);
    struct decode_score job = scored.job;
    job.n_prompt = 0;
    score_refused(&s, &job, CLAAS_ERR_INVALID, "prompt");
    job.n_prompt = 35;
    score_refused(&s, &job, CLAAS_ERR_INVALID, "prompt");
    job.n_prompt = SIZE_MAX;
    score_refused(&s, &job, CLAAS_ERR_INVALID, "prompt");
    job = scored.job;
    job.n_response = 0;
    score_refused(&s, &job, CLAAS_ERR_INVALID, "response");
    job.n_response = SIZE_MAX;
    score_refused(&s, &job, CLAAS_ERR_INVALID, "prompt");
    job = scored.job;
    job.n_top = 38;
    score_refused(&s, &job, CLAAS_ERR_INVALID, "top_logprobs");
    scored.ids[5] = 37;
    score_refused(&s, &scored.job, CLAAS_ERR_INVALID, "prompt");
    scored.ids[5] = 0;
    scored.ids[63] = -1;
    score_refused(&s, &scored.job, CLAAS_ERR_INVALID, "response");
    scored_free(&scored);
    scored = scored_make(&s, 34, 30, 2);
    struct timed_call t = timed(1);
    err = ERR_INIT;
    for (size_t i = 0; i < 30; i++) {
        scored.job.logprobs[i] = 7;
    }
    ck_failed(decode_score(s.model, NULL, &scored.job, &t.call, &err), CLAAS_ERR_CANCELLED, err);
    for (size_t i = 0; i < 30; i++) {
        ck_assert(scored.job.logprobs[i] == 7 && scored.job.top_ids[2 * i] == 0);
    }
    ck_ok(decode_score(s.model, NULL, &scored.job, NULL, &err), err);
    scored_check(&s, &scored);
    scored_free(&scored);
    subject_free(&s);
    device_close();
}
END_TEST

/* An adapter that is broken: no score at all, rather than that of a certain token. Nothing is told. */
START_TEST(test_score_not_finite)
{
    device_open(2, 1);
    struct oracle_spec spec = spec_odd();
    struct subject s = subject_make(&spec, LORA_ALL, 3);
    struct scored scored = scored_make(&s, 4, 5, 2);
    s.lora->flat[s.lora->n - 1] = (float)NAN;
    err = ERR_INIT;
    ck_failed(decode_score(s.model, s.lora, &scored.job, NULL, &err), CLAAS_ERR_INTERNAL, err);
    for (size_t i = 0; i < 5; i++) {
        ck_assert(scored.job.logprobs[i] == 0 && scored.job.top_logprobs[2 * i] == 0);
    }
    scored_free(&scored);
    subject_free(&s);
    device_close();
}
END_TEST

/* ---- the output matrix ---- */

static double greatest(const double *x, size_t n)
{
    double most = x[0];
    for (size_t i = 1; i < n; i++) {
        most = x[i] > most ? x[i] : most;
    }
    return most;
}

/* More logits than a chunk of the head holds: rows of a large vocabulary go through it in several. */
START_TEST(test_large_vocabulary)
{
    enum { N = 20, VOCAB = 1000000 };
    device_open(2, 2);
    struct oracle_spec spec = spec_odd();
    spec.absent |= ORACLE_TIED;
    spec.geometry = (struct model_geometry){ .hidden = 2, .layers = 1, .heads = 1, .kv_heads = 1, .head_dim = 2,
                                             .intermediate = 2, .vocab = VOCAB, .context = 32, .eps = 1e-5,
                                             .rope = { .theta = 10000 } };
    struct subject s = subject_make(&spec, 0, 0);
    int32_t *ids = random_ids(&s, N + 1, 1);
    double *hidden = wanted_hidden(&s, ids, N);
    double *row = doubles(VOCAB);
    float logprobs[N];
    int32_t top_ids[N][2];
    float top_logprobs[N][2];
    struct decode_score job = { ids, 1, ids + 1, N, 2, logprobs, top_ids[0], top_logprobs[0] };
    struct head head;
    ck_ok(head_open(s.model, N, 2, &head, &err), err);
    ck_assert_uint_lt(head.rows, N);
    head_close(&head);
    ck_ok(decode_score(s.model, NULL, &job, NULL, &err), err);
    for (size_t i = 0; i < N; i += 3) {
        oracle_logprobs(s.oracle, hidden + i * 2, row, NULL);
        ck_assert_double_eq_tol((double)logprobs[i], row[ids[i + 1]], 3e-5);
        for (size_t j = 0; j < 2; j++) {
            ck_assert_double_eq_tol((double)top_logprobs[i][j], row[top_ids[i][j]], 3e-5);
        }
        ck_assert_double_eq_tol((double)top_logprobs[i][0], greatest(row, VOCAB), 3e-5);
    }
    free(ids);
    free(hidden);
    free(row);
    subject_free(&s);
    device_close();
}
END_TEST

/* Several ids of each row, as the training step asks for. */
START_TEST(test_head)
{
    enum { ROWS = 11, TOP = 9 };
    device_open(_i, 2);
    struct oracle_spec spec = spec_blocks();
    struct subject s = subject_make(&spec, LORA_ALL, 3);
    const struct model_geometry *g = &spec.geometry;
    int32_t *ids = random_ids(&s, ROWS, 5);
    double *hidden = wanted_hidden(&s, ids, ROWS);
    double *want = wanted_logprobs(&s, ids, ROWS);
    float *x = NULL;
    void *p = NULL;
    struct head head;
    float lse[ROWS];
    int32_t picks[ROWS * TOP];
    float picked[ROWS * TOP];
    double want_picked[ROWS * TOP];
    ck_ok(kernels_alloc(k, ROWS * g->hidden * sizeof *x, &p, &err), err);
    x = p;
    for (size_t i = 0; i < ROWS * g->hidden; i++) {
        x[i] = (float)hidden[i];
    }
    ck_ok(head_open(s.model, ROWS, TOP, &head, &err), err);
    ck_assert_uint_eq(head.rows, ROWS);
    ck_ok(head_logits(&head, x, ROWS, lse, &err), err);
    for (size_t i = 0; i < ROWS * TOP; i++) {
        picks[i] = (int32_t)(rng_bits(4, 4, i) % g->vocab);
        want_picked[i] = want[i / TOP * g->vocab + (size_t)picks[i]];
    }
    ck_ok(head_pick(&head, ROWS, TOP, picks, picked, &err), err);
    for (size_t i = 0; i < ROWS * TOP; i++) {
        picked[i] -= lse[i / TOP];
    }
    check_close(picked, want_picked, ROWS * TOP, BOUND, "picked log-probabilities");
    ck_ok(head_top(&head, ROWS, TOP, lse, picks, picked, &err), err);
    for (size_t i = 0; i < ROWS; i++) {
        check_top(want + i * g->vocab, g->vocab, TOP, picks + i * TOP, picked + i * TOP, BOUND);
    }
    head_close(&head);
    kernels_free(k, x);
    free(ids);
    free(hidden);
    free(want);
    subject_free(&s);
    device_close();
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("local_score");
    TCase *t = tcase_create("scoring");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, test_score, 0, ISAS * SPECS);
    tcase_add_loop_test(t, test_score_chunks, 0, ISAS);
    tcase_add_test(t, test_score_refused);
    tcase_add_test(t, test_score_not_finite);
    suite_add_tcase(s, t);
    t = tcase_create("head");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, test_large_vocabulary);
    tcase_add_loop_test(t, test_head, 0, ISAS);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
