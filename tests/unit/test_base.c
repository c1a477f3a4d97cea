/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "testing.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "base/sha256.h"
#include "base/utf8.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

START_TEST(err_keeps_valid_text)
{
    struct claas_error err = ERR_INIT;
    char longer[1000];
    memset(longer, 'x', sizeof longer);
    memcpy(longer + 446, "\xC3\xA9", 2);
    longer[999] = '\0';
    ck_assert_int_eq(err_set(&err, CLAAS_ERR_CONFLICT, "field", "%s", longer), CLAAS_ERR_CONFLICT);
    ck_assert(utf8_valid(err.message, strlen(err.message)));
    ck_assert_uint_eq(err.flags, CLAAS_RETRY);
    ck_assert_str_eq(err.what, "field");
    ck_assert_int_eq(err_errno(&err, ENOENT, "p", "cannot open '%s'", "p"), CLAAS_ERR_NOT_FOUND);
    ck_assert_str_eq(err.message, "cannot open 'p': No such file or directory");
    err_prefix(&err, "storage %s", "fs");
    ck_assert_str_eq(err.message, "storage fs: cannot open 'p': No such file or directory");
    ck_assert_int_eq(err_http_status(CLAAS_ERR_NOT_FOUND), 404);
    ck_assert_str_eq(err_name(9999), "internal");
}
END_TEST

START_TEST(buf_grows_and_hands_over)
{
    struct buf b = BUF_INIT;
    ck_assert_str_eq(buf_str(&b), "");
    for (int i = 0; i < 1000; i++) {
        buf_addf(&b, "%d,", i);
    }
    ck_assert_uint_eq(b.len, 10 * 2 + 90 * 3 + 900 * 4);
    buf_cut(&b, 4);
    char *s = buf_take(&b);
    ck_assert_str_eq(s, "0,1,");
    free(s);
    s = buf_take(&b);
    ck_assert_str_eq(s, "");
    free(s);
}
END_TEST

START_TEST(utf8_is_strict)
{
    static const struct { const char *s; int ok; } rows[] = {
        { "plain", 1 }, { "\xC3\xA9", 1 }, { "\xF0\x9F\x98\x80", 1 }, { "\xC0\xAF", 0 }, { "\xED\xA0\x80", 0 },
        { "\xF4\x90\x80\x80", 0 }, { "\x80", 0 }, { "\xE2\x82", 0 }, { "\xFF", 0 },
    };
    ck_assert_int_eq(utf8_valid(rows[_i].s, strlen(rows[_i].s)), rows[_i].ok);
}
END_TEST

START_TEST(utf8_round_trip)
{
    for (uint32_t c = 1; c <= 0x10FFFF; c += c < 0x3000 ? 1 : 997) {
        char out[4];
        uint32_t back = 0;
        if (c >= 0xD800 && c <= 0xDFFF) {
            continue;
        }
        size_t n = utf8_encode(c, out);
        ck_assert_uint_eq(utf8_decode(out, n, &back), n);
        ck_assert_uint_eq(back, c);
        for (size_t cut = 1; cut < n; cut++) {
            ck_assert_uint_eq(utf8_incomplete(out, cut), cut);
        }
        ck_assert_uint_eq(utf8_incomplete(out, n), 0);
    }
}
END_TEST

START_TEST(json_refuses)
{
    static const char *const rows[] = {
        "", "{", "{} x", "{\"a\":1,\"a\":2}", "[\"\xFF\"]", "{\"a\":{\"b\":1,\"b\":1}}", "nul", "[1,]",
        "[\"a\\u0000b\"]",
    };
    cJSON *v = NULL;
    struct claas_error err = ERR_INIT;
    int rc = json_parse(rows[_i], strlen(rows[_i]), "body", &v, &err);
    ck_failed(rc, CLAAS_ERR_INVALID, err);
    ck_assert_ptr_null(v);
}
END_TEST

START_TEST(json_depth_is_bounded)
{
    char deep[4096];
    memset(deep, '[', sizeof deep);
    cJSON *v = NULL;
    struct claas_error err = ERR_INIT;
    int rc = json_parse(deep, sizeof deep, "body", &v, &err);
    ck_failed(rc, CLAAS_ERR_INVALID, err);
    ck_assert_ptr_nonnull(strstr(err.message, "deeper"));
}
END_TEST

START_TEST(json_members_are_checked)
{
    const char *text = "{\"n\":3,\"r\":0.5,\"s\":\"x\",\"b\":true,\"z\":null,\"big\":1e300}";
    cJSON *v = NULL;
    struct claas_error err = ERR_INIT;
    ck_ok(json_parse(text, strlen(text), "body", &v, &err), err);
    int64_t n = 7;
    double r = 7;
    int b = 0;
    const char *s = NULL;
    ck_ok(json_get_int(v, "n", 0, 3, &n, &err), err);
    ck_assert_int_eq(n, 3);
    ck_ok(json_get_int(v, "z", 0, 3, &n, &err), err);
    ck_assert_int_eq(n, 3);
    ck_failed(json_get_int(v, "n", 0, 2, &n, &err), CLAAS_ERR_INVALID, err);
    ck_assert_str_eq(err.what, "n");
    ck_failed(json_get_int(v, "r", 0, 2, &n, &err), CLAAS_ERR_INVALID, err);
    ck_failed(json_get_int(v, "big", 0, 2, &n, &err), CLAAS_ERR_INVALID, err);
    ck_ok(json_get_real(v, "r", 0, 1, &r, &err), err);
    ck_ok(json_get_bool(v, "b", &b, &err), err);
    ck_ok(json_get_text(v, "s", &s, &err), err);
    ck_assert_str_eq(s, "x");
    ck_assert_int_eq(b, 1);
    ck_failed(json_get_text(v, "n", &s, &err), CLAAS_ERR_INVALID, err);
    cJSON_Delete(v);
}
END_TEST

START_TEST(sha256_known_answers)
{
    struct claas_digest d;
    struct claas_digest back;
    char hex[SHA256_HEX];
    ck_assert_int_eq(sha256_of("Hello, world", 12, &d, NULL), 0);
    sha256_hex(&d, hex);
    ck_assert_str_eq(hex, "4ae7c3b6ac0beff671efa8cf57386151c06e58ca53a78d83f36107316cec125f");
    ck_assert(sha256_parse(hex, &back));
    ck_assert(sha256_equal(&d, &back));
    hex[3] = 'G';
    ck_assert(!sha256_parse(hex, &back));
    ck_assert(!sha256_parse("", &back));
}
END_TEST

START_TEST(files_are_replaced_whole)
{
    char dir[] = "/tmp/claas-test-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(dir));
    struct claas_error err = ERR_INIT;
    char *path = path_join(dir, "a/b/c");
    char *sub = path_join(dir, "a/b");
    ck_ok(dir_make(sub, 0700, &err), err);
    ck_ok(file_write_durable(path, "one", 3, 0600, &err), err);
    ck_ok(file_write_durable(path, "second", 6, 0600, &err), err);
    struct buf b = BUF_INIT;
    ck_ok(file_read(path, 6, &b, &err), err);
    ck_assert_str_eq(buf_str(&b), "second");
    ck_failed(file_read(path, 5, &b, &err), CLAAS_ERR_INVALID, err);
    ck_failed(file_read(sub, 5, &b, &err), CLAAS_ERR_INTERNAL, err);
    struct file_map map;
    ck_ok(file_map_open(path, &map, &err), err);
    ck_assert_uint_eq(map.bytes, 6);
    file_map_close(&map);
    ck_ok(dir_remove(dir, &err), err);
    ck_assert_int_eq(access(dir, F_OK), -1);
    ck_ok(dir_remove(dir, &err), err);
    buf_clear(&b);
    free(path);
    free(sub);
}
END_TEST

START_TEST(random_numbers_are_reproducible)
{
    double sum = 0;
    for (uint64_t i = 0; i < 100000; i++) {
        double u = rng_uniform(1, 2, i);
        ck_assert(u >= 0 && u < 1);
        sum += u;
    }
    ck_assert_double_eq_tol(sum / 100000, 0.5, 0.005);
    ck_assert_uint_eq(rng_bits(1, 2, 3), rng_bits(1, 2, 3));
    ck_assert_uint_ne(rng_bits(1, 2, 3), rng_bits(1, 3, 2));
    char id[13];
    ck_assert_int_eq(rng_hex(id, 12), 0);
    ck_assert_uint_eq(strlen(id), 12);
}
END_TEST

START_TEST(time_is_spelled)
{
    char out[CLOCK_TEXT];
    clock_format(0, out);
    ck_assert_str_eq(out, "1970-01-01T00:00:00.000Z");
    clock_format(1764000000123000000, out);
    ck_assert_str_eq(out, "2025-11-24T16:00:00.123Z");
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("base");
    TCase *t = tcase_create("base");
    tcase_add_test(t, err_keeps_valid_text);
    tcase_add_test(t, buf_grows_and_hands_over);
    tcase_add_loop_test(t, utf8_is_strict, 0, 9);
    tcase_add_test(t, utf8_round_trip);
    tcase_add_loop_test(t, json_refuses, 0, 8);
    tcase_add_test(t, json_depth_is_bounded);
    tcase_add_test(t, json_members_are_checked);
    tcase_add_test(t, sha256_known_answers);
    tcase_add_test(t, files_are_replaced_whole);
    tcase_add_test(t, random_numbers_are_reproducible);
    tcase_add_test(t, time_is_spelled);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
