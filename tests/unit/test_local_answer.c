/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "testing.h"

#include "base/utf8.h"
#include "plugins/local/answer.h"

#include <stdio.h>
#include <string.h>

static struct tokenizer *tokenizer;

/* A vocabulary of the 256 bytes; token 256 ends a turn. */
static void setup(void)
{
    static char spellings[257][16];
    struct token_text tokens[257];
    int32_t types[257];
    struct claas_error err = ERR_INIT;
    uint32_t extra = 256;
    for (uint32_t b = 0; b < 256; b++) {
        int plain = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        tokens[b] = (struct token_text){ spellings[b], utf8_encode(plain ? b : extra++, spellings[b]) };
        types[b] = TOKEN_NORMAL;
    }
    (void)snprintf(spellings[256], sizeof spellings[256], "<end>");
    tokens[256] = (struct token_text){ spellings[256], 5 };
    types[256] = TOKEN_CONTROL;
    struct tokenizer_spec spec = { .n_tokens = 257, .tokens = tokens, .types = types, .pre = "gpt-2",
                                   .ignore_merges = -1, .add_bos = -1, .nfc = -1, .bos = -1, .eos = 256, .unk = -1 };
    ck_ok(tokenizer_new(&spec, &tokenizer, &err), err);
}

static void teardown(void)
{
    tokenizer_free(tokenizer);
}

/* Feeds bytes as tokens; returns what was shown, '|' between pieces; *stopped as it ended. */
static char *feed(const char *bytes, size_t n, const char *const *stops, size_t n_stops, int *stopped)
{
    struct claas_error err = ERR_INIT;
    struct answer a;
    struct buf shown = BUF_INIT;
    ck_ok(answer_init(&a, tokenizer, stops, n_stops, &err), err);
    for (size_t i = 0; i < n && !a.stopped; i++) {
        ck_ok(answer_add(&a, (unsigned char)bytes[i], &err), err);
        size_t ready = answer_ready(&a);
        if (ready > 0) {
            buf_add(&shown, a.text.data, ready);
            buf_addc(&shown, '|');
            answer_take(&a, ready);
        }
    }
    ck_ok(answer_end(&a, &err), err);
    buf_add(&shown, buf_str(&a.text), answer_ready(&a));
    *stopped = a.stopped;
    answer_clear(&a);
    return buf_take(&shown);
}

static void expect(const char *bytes, size_t n, const char *const *stops, size_t n_stops, const char *wanted,
                   int wanted_stop)
{
    int stopped;
    char *shown = feed(bytes, n, stops, n_stops, &stopped);
    ck_assert_str_eq(shown, wanted);
    ck_assert_int_eq(stopped, wanted_stop);
    free(shown);
}

START_TEST(text_is_shown_as_it_comes)
{
    expect("abc", 3, NULL, 0, "a|b|c|", 0);
}
END_TEST

START_TEST(half_a_character_is_held_back)
{
    expect("a\xC3\xA9z", 4, NULL, 0, "a|\xC3\xA9|z|", 0);
    expect("a\xC3", 2, NULL, 0, "a|\xEF\xBF\xBD", 0);
}
END_TEST

START_TEST(what_could_begin_a_stop_string_is_held_back)
{
    static const char *const stops[] = { "END", "\n\n" };
    expect("xEN", 3, stops, 2, "x|EN", 0);
    expect("xENz", 4, stops, 2, "x|ENz|", 0);
    expect("xENDz", 5, stops, 2, "x|", 1);
    expect("xEEND", 5, stops, 2, "x|E|", 1);
    expect("a\nb\n\nc", 6, stops, 2, "a|\nb|", 1);
}
END_TEST

START_TEST(the_earliest_stop_string_cuts)
{
    static const char *const stops[] = { "cd", "bcde" };
    expect("abcde", 5, stops, 2, "a|b|", 1);
}
END_TEST

START_TEST(a_zero_byte_hides_no_stop_string)
{
    static const char *const stops[] = { "S" };
    struct claas_error err = ERR_INIT;
    struct answer a;
    ck_ok(answer_init(&a, tokenizer, stops, 1, &err), err);
    ck_ok(answer_add(&a, 0, &err), err);
    ck_ok(answer_add(&a, 'S', &err), err);
    ck_assert_int_eq(a.stopped, 1);
    ck_assert_uint_eq(answer_ready(&a), 1);
    answer_clear(&a);
}
END_TEST

START_TEST(control_tokens_spell_nothing)
{
    struct claas_error err = ERR_INIT;
    struct answer a;
    ck_ok(answer_init(&a, tokenizer, NULL, 0, &err), err);
    ck_ok(answer_add(&a, 256, &err), err);
    ck_assert_uint_eq(answer_ready(&a), 0);
    answer_clear(&a);
}
END_TEST

START_TEST(an_empty_stop_string_is_refused)
{
    static const char *const stops[] = { "a", "" };
    struct claas_error err = ERR_INIT;
    struct answer a;
    int rc = answer_init(&a, tokenizer, stops, 2, &err);
    ck_failed(rc, CLAAS_ERR_INVALID, err);
    ck_assert_str_eq(err.what, "stop");
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("local_answer");
    TCase *t = tcase_create("answer");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, text_is_shown_as_it_comes);
    tcase_add_test(t, half_a_character_is_held_back);
    tcase_add_test(t, what_could_begin_a_stop_string_is_held_back);
    tcase_add_test(t, the_earliest_stop_string_cuts);
    tcase_add_test(t, a_zero_byte_hides_no_stop_string);
    tcase_add_test(t, control_tokens_spell_nothing);
    tcase_add_test(t, an_empty_stop_string_is_refused);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
