/* SPDX-License-Identifier: MIT */
/* Answering of plugins/local against the oracle: what a fed sequence says about its next token. */
#include "config.h"

#include "plugins/local/decode.h"
#include "unit/model_testing.h"

#include <pthread.h>

#define BOUND 2e-6
enum { CHUNK = 128 }; /* what one serving turn reads of a prompt */

/* All that a sequence says about its next token, from the oracle's hidden row. */
static void check_next(const struct decode *d, const struct oracle *o, const double *hidden)
{
    size_t vocab = o->spec.geometry.vocab;
    double *want = doubles(vocab);
    double lse = 0;
    float *logprobs = calloc(vocab, sizeof *logprobs);
    int32_t *ids = calloc(vocab, sizeof *ids);
    oracle_logprobs(o, hidden, want, &lse);
    for (size_t i = 0; i < vocab; i++) {
        logprobs[i] = decode_logprob(d, (int32_t)i);
        ck_assert_float_le(logprobs[i], 0);
    }
    check_close(logprobs, want, vocab, BOUND, "log-probabilities");
    const size_t tops[] = { 0, 1, 5 < vocab ? 5 : vocab, vocab };
    for (size_t i = 0; i < 4; i++) {
        ck_ok(decode_top(d, tops[i], ids, logprobs, &err), err);
        check_top(want, vocab, tops[i], ids, logprobs, BOUND);
    }
    for (size_t i = 0; i < vocab; i++) {
        want[i] += lse;
    }
    check_close(decode_logits(d), want, vocab, BOUND, "logits");
    free(want);
    free(logprobs);
    free(ids);
}

struct answer { /* a sequence and what the oracle thinks of it */
    int32_t *ids;
    double *hidden;
    struct decode *decode;
};

static struct answer answer_make(const struct subject *s, size_t n)
{
    struct answer a = { .ids = random_ids(s, n, n) };
    a.hidden = wanted_hidden(s, a.ids, n);
    ck_ok(decode_open(s->model, s->lora, &a.decode, &err), err);
    ck_assert_uint_eq(decode_length(a.decode), 0);
    return a;
}

static void answer_free(struct answer *a)
{
    decode_close(a->decode);
    free(a->ids);
    free(a->hidden);
}

/* The next n tokens at once; then the logits behind them. */
static void feed(const struct subject *s, struct answer *a, size_t n)
{
    size_t at = decode_length(a->decode);
    ck_ok(decode_feed(a->decode, a->ids + at, n, NULL, &err), err);
    ck_assert_uint_eq(decode_length(a->decode), at + n);
    check_next(a->decode, s->oracle, a->hidden + (at + n - 1) * s->model->geometry.hidden);
}

/* ---- answering ---- */

/* A prompt of each length up to two chunks, then token by token. */
START_TEST(test_feed)
{
    static const size_t prompts[] = { 1, 2, 9, CHUNK, CHUNK + 1, 2 * CHUNK + 40 };
    device_open(_i % ISAS, 2);
    struct oracle_spec spec = spec_at(_i / ISAS);
    spec.geometry.context = 300;
    for (uint32_t modules = 0; modules <= LORA_ALL; modules += LORA_ALL) {
        struct subject s = subject_make(&spec, modules, 3);
        for (size_t i = 0; i < sizeof prompts / sizeof prompts[0]; i++) {
            struct answer a = answer_make(&s, prompts[i] + 4);
            feed(&s, &a, prompts[i]);
            feed(&s, &a, 1);
            feed(&s, &a, 2);
            feed(&s, &a, 1);
            answer_free(&a);
        }
        subject_free(&s);
    }
    device_close();
}
END_TEST

START_TEST(test_one_by_one)
{
    device_open(_i, 1);
    struct oracle_spec spec = spec_wide();
    struct subject s = subject_make(&spec, LORA_ALL, 1);
    struct answer a = answer_make(&s, spec.geometry.context);
    for (size_t i = 0; i < spec.geometry.context; i++) {
        feed(&s, &a, 1);
    }
    err = ERR_INIT;
    ck_failed(decode_feed(a.decode, a.ids, 1, NULL, &err), CLAAS_ERR_INVALID, err);
    check_next(a.decode, s.oracle, a.hidden + (spec.geometry.context - 1) * spec.geometry.hidden);
    answer_free(&a);
    subject_free(&s);
    device_close();
}
END_TEST

static void feed_refused(struct answer *a, const int32_t *ids, size_t n)
{
    size_t length = decode_length(a->decode);
    err = ERR_INIT;
    ck_failed(decode_feed(a->decode, ids, n, NULL, &err), CLAAS_ERR_INVALID, err);
    ck_assert_str_eq(err.what, "prompt");
    ck_assert_uint_eq(decode_length(a->decode), length);
}

/* What cannot be fed leaves the sequence, and what it says, as it was. */
START_TEST(test_feed_refused)
{
    device_open(2, 2);
    struct oracle_spec spec = spec_odd();
    spec.geometry.context = 200;
    struct subject s = subject_make(&spec, LORA_ALL, 3);
    struct answer a = answer_make(&s, 200);
    int32_t *many = random_ids(&s, 201, 1);
    feed_refused(&a, many, 201);
    feed(&s, &a, 30);
    feed_refused(&a, many, 171);
    feed_refused(&a, many, SIZE_MAX);
    feed_refused(&a, many, 0);
    static const int32_t bad[] = { -1, 37, INT32_MAX, INT32_MIN };
    for (size_t i = 0; i < 4; i++) {
        feed_refused(&a, &bad[i], 1);
        many[140] = bad[i];
        feed_refused(&a, many, 150);
    }
    check_next(a.decode, s.oracle, a.hidden + 29 * spec.geometry.hidden);
    int32_t id = 0;
    float logprob = 0;
    err = ERR_INIT;
    ck_failed(decode_top(a.decode, 38, &id, &logprob, &err), CLAAS_ERR_INVALID, err);
    feed(&s, &a, 170);
    feed_refused(&a, many, 1);
    free(many);
    answer_free(&a);
    decode_close(NULL);
    subject_free(&s);
    device_close();
}
END_TEST

/* Out of time after some layers: whole chunks stay, and the rest can be fed again. */
START_TEST(test_feed_called_off)
{
    static const struct {
        size_t n;
        int beats;
        size_t stay;
    } cases[] = { { 300, 0, 0 }, { 300, 1, 0 }, { 300, 2, CHUNK }, { 300, 5, 2 * CHUNK }, { 1, 0, 0 }, { 1, 1, 0 } };
    device_open(2, 2);
    struct oracle_spec spec = spec_odd();
    spec.geometry.context = 400;
    struct subject s = subject_make(&spec, LORA_ALL, 3);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct timed_call t = timed(cases[i].beats);
        struct answer a = answer_make(&s, 331);
        feed(&s, &a, 3);
        err = ERR_INIT;
        ck_failed(decode_feed(a.decode, a.ids + 3, cases[i].n, &t.call, &err), CLAAS_ERR_CANCELLED, err);
        ck_assert_uint_eq(decode_length(a.decode), 3 + cases[i].stay);
        feed(&s, &a, 310 - cases[i].stay);
        feed(&s, &a, 1);
        answer_free(&a);
    }
    subject_free(&s);
    device_close();
}
END_TEST

/* Of one possible token the log-probability is 0, never above. */
START_TEST(test_certain_token)
{
    device_open(_i, 1);
    struct oracle_spec spec = spec_odd();
    spec.geometry.vocab = 1;
    for (spec.seed = 0; spec.seed < 20; spec.seed++) {
        struct subject s = subject_make(&spec, 0, 0);
        struct answer a = answer_make(&s, 3);
        int32_t id = 7;
        float logprob = 1;
        ck_ok(decode_feed(a.decode, a.ids, 3, NULL, &err), err);
        ck_assert(decode_logprob(a.decode, 0) <= 0 && decode_logprob(a.decode, 0) > -1e-5f);
        ck_ok(decode_top(a.decode, 1, &id, &logprob, &err), err);
        ck_assert_int_eq(id, 0);
        ck_assert(logprob <= 0 && logprob > -1e-5f);
        answer_free(&a);
        subject_free(&s);
    }
    device_close();
}
END_TEST

/* ---- several at once ---- */

struct speaker {
    const struct subject *subject;
    uint64_t seed;
    float *logits; /* [vocab], behind the last token */
};

static void *speak(void *context)
{
    struct speaker *speaker = context;
    const struct subject *s = speaker->subject;
    struct claas_error e = ERR_INIT;
    struct decode *d = NULL;
    int32_t *ids = random_ids(s, 200, speaker->seed);
    int rc = decode_open(s->model, speaker->seed % 2 ? s->lora : NULL, &d, &e);
    rc = rc != 0 ? rc : decode_feed(d, ids, 150, NULL, &e);
    for (size_t i = 150; i < 200 && rc == 0; i++) {
        rc = decode_feed(d, ids + i, 1, NULL, &e);
    }
    if (rc == 0) {
        memcpy(speaker->logits, decode_logits(d), s->model->geometry.vocab * sizeof *speaker->logits);
    }
    decode_close(d);
    free(ids);
    return NULL;
}

/* Sequences of several threads do not disturb each other: the same bytes as alone. */
START_TEST(test_several_at_once)
{
    enum { SPEAKERS = 4 };
    static float alone[SPEAKERS][101];
    static float together[SPEAKERS][101];
    pthread_t threads[SPEAKERS];
    struct speaker speakers[SPEAKERS];
    device_open(_i, 2);
    struct oracle_spec spec = spec_blocks();
    spec.geometry.context = 200;
    struct subject s = subject_make(&spec, LORA_ALL, 8);
    for (size_t i = 0; i < SPEAKERS; i++) {
        speakers[i] = (struct speaker){ &s, i, alone[i] };
        speak(&speakers[i]);
        speakers[i].logits = together[i];
    }
    for (size_t i = 0; i < SPEAKERS; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, speak, &speakers[i]), 0);
    }
    for (size_t i = 0; i < SPEAKERS; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        ck_assert_float_ne(alone[i][0], 0);
        ck_assert_int_eq(memcmp(alone[i], together[i], sizeof alone[i]), 0);
    }
    subject_free(&s);
    device_close();
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("local_decode");
    TCase *t = tcase_create("answering");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, test_feed, 0, ISAS * SPECS);
    tcase_add_loop_test(t, test_one_by_one, 0, ISAS);
    tcase_add_test(t, test_feed_refused);
    tcase_add_test(t, test_feed_called_off);
    tcase_add_loop_test(t, test_certain_token, 0, ISAS);
    tcase_add_loop_test(t, test_several_at_once, 0, ISAS);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
