/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "testing.h"

#include "base/file.h"
#include "base/json.h"
#include "host/option.h"
#include "host/option_parse.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A row of a newer ABI: ours, and something behind. */
struct wide {
    struct claas_option ours;
    uint64_t more[2];
};

static const struct claas_option rows[] = {
    { "rank", "16", NULL, "rank", 1, 256, CLAAS_INT, 0 },
    { "rate", "3e-5", NULL, "rate", 0, 1, CLAAS_REAL, 0 },
    { "mode", "a", "a|bc|d", "mode", 1, 0, CLAAS_TEXT, 0 },
    { "targets", "q,v", "q|k|v", "targets", 1, 3, CLAAS_LIST, 0 },
    { "root", NULL, NULL, "root", 1, 0, CLAAS_PATH, 0 },
    { "size", "64MiB", NULL, "size", 1024, 1e12, CLAAS_BYTES, 0 },
    { "wait", "2s", NULL, "wait", 0, 86400000, CLAAS_MS, 0 },
    { "fast", "true", NULL, "fast", 1, 0, CLAAS_BOOL, 0 },
    { "extra", "{\"a\":[1]}", NULL, "extra", 1, 0, CLAAS_JSON, 0 },
    { "teacher.url", NULL, NULL, "url", 1, 0, CLAAS_TEXT, 0 },
    { "teacher.key", NULL, NULL, "key", 1, 0, CLAAS_TEXT, CLAAS_SECRET },
    { "free", "0", NULL, "any number", 0, 0, CLAAS_INT, 0 },
    { "open", "0.5", NULL, "between", 0, 1, CLAAS_REAL, CLAAS_ABOVE | CLAAS_BELOW },
    { NULL, NULL, NULL, NULL, 0, 0, 0, 0 },
};
enum { RANK, RATE, MODE, TARGETS, ROOT, SIZE, WAIT, FAST, EXTRA, URL, KEY, FREE, OPEN };

static struct option_table table;
static struct option_values values;
static struct claas_error err;
static cJSON *json;

static void setup(void)
{
    err_clear(&err);
    ck_ok(option_table_copy(rows, sizeof rows[0], "test", &table, &err), err);
}

static void teardown(void)
{
    option_values_clear(&values);
    option_table_clear(&table);
    cJSON_Delete(json);
    json = NULL;
}

static int from_json(const char *text)
{
    cJSON_Delete(json);
    json = NULL;
    option_values_clear(&values);
    ck_ok(json_parse(text, strlen(text), "options", &json, &err), err);
    return option_values_from_json(&values, &table, json, NULL, NULL, NULL, &err);
}

START_TEST(defaults_are_filled_in)
{
    ck_ok(from_json("{}"), err);
    const struct claas_value *v = values.values;
    ck_assert_int_eq(v[RANK].i, 16);
    ck_assert(v[RANK].d == 16);
    ck_assert_uint_eq(v[RANK].given, 0);
    ck_assert(v[RATE].d == 3e-5);
    ck_assert_str_eq(v[MODE].s, "a");
    ck_assert_uint_eq(v[TARGETS].n_list, 2);
    ck_assert_str_eq(v[TARGETS].list[1], "v");
    ck_assert_ptr_null(v[TARGETS].list[2]);
    ck_assert_str_eq(v[ROOT].s, "");
    ck_assert_int_eq(v[SIZE].i, 64 << 20);
    ck_assert_int_eq(v[WAIT].i, 2000);
    ck_assert_int_eq(v[FAST].i, 1);
    ck_assert_str_eq(v[EXTRA].s, "{\"a\":[1]}");
    ck_assert_str_eq(v[KEY].s, "");
}
END_TEST

START_TEST(json_values_are_taken)
{
    ck_ok(from_json("{\"rank\":8,\"rate\":0,\"mode\":\"bc\",\"targets\":[\"k\"],\"root\":\"/x\",\"size\":2048,"
                    "\"wait\":\"1.5s\",\"fast\":false,\"extra\":[null],\"teacher\":{\"url\":\"u\"},\"free\":-3}"),
          err);
    const struct claas_value *v = values.values;
    ck_assert_int_eq(v[RANK].i, 8);
    ck_assert_uint_eq(v[RANK].given, 1);
    ck_assert(v[RATE].d == 0);
    ck_assert_str_eq(v[MODE].s, "bc");
    ck_assert_str_eq(v[TARGETS].list[0], "k");
    ck_assert_str_eq(v[ROOT].s, "/x");
    ck_assert_int_eq(v[SIZE].i, 2048);
    ck_assert_int_eq(v[WAIT].i, 1500);
    ck_assert_int_eq(v[FAST].i, 0);
    ck_assert_str_eq(v[EXTRA].s, "[null]");
    ck_assert_str_eq(v[URL].s, "u");
    ck_assert_int_eq(v[FREE].i, -3);
}
END_TEST

static const struct {
    const char *json;
    const char *what;
    const char *message;
} bad[] = {
    { "{\"rank\":0}", "rank", "rank: expected a whole number from 1 to 256, found 0" },
    { "{\"rank\":257}", "rank", "from 1 to 256, found 257" },
    { "{\"rank\":1.5}", "rank", "found 1.5" },
    { "{\"rank\":\"8\"}", "rank", "found a text" },
    { "{\"rank\":true}", "rank", "found a truth value" },
    { "{\"rank\":[8]}", "rank", "found a list" },
    { "{\"rank\":1e300}", "rank", "expected a whole number" },
    { "{\"rate\":2}", "rate", "expected a number from 0 to 1, found 2" },
    { "{\"open\":0}", "open", "expected a number above 0 to below 1, found 0" },
    { "{\"open\":1}", "open", "expected a number above 0 to below 1, found 1" },
    { "{\"rate\":1e999}", "rate", "expected a number" },
    { "{\"mode\":\"b\"}", "mode", "mode: expected one of 'a', 'bc', 'd', found the text 'b'" },
    { "{\"mode\":\"a|bc\"}", "mode", "expected one of" },
    { "{\"mode\":1}", "mode", "found a number" },
    { "{\"targets\":[\"z\"]}", "targets", "targets: expected a list out of 'q', 'k', 'v', found 'z'" },
    { "{\"targets\":[1]}", "targets", "a member that is not a text" },
    { "{\"targets\":[]}", "targets", "found a list of 0" },
    { "{\"targets\":[\"q\",\"q\",\"q\",\"q\"]}", "targets", "found a list of 4" },
    { "{\"targets\":\"q\"}", "targets", "found a text" },
    { "{\"root\":\"x\"}", "root", "expected an absolute path" },
    { "{\"root\":\"\"}", "root", "the empty text" },
    { "{\"size\":1}", "size", "a size such as 64MiB from 1KiB to 1TB, found 1" },
    { "{\"size\":\"64MB/s\"}", "size", "a size such as" },
    { "{\"size\":\"-1MiB\"}", "size", "a size such as" },
    { "{\"wait\":\"2 weeks\"}", "wait", "wait: expected a duration such as 30s from 0 to 1d, found '2 weeks'" },
    { "{\"wait\":-1}", "wait", "found -1" },
    { "{\"wait\":\"0.0001s\"}", "wait", "found '0.0001s'" },
    { "{\"fast\":\"yes\"}", "fast", "fast: expected true or false" },
    { "{\"fast\":1}", "fast", "found a number" },
    { "{\"teacher\":1}", "teacher", "expected an object" },
    { "{\"teacher\":{\"uri\":1}}", "teacher.uri", "there is no such option" },
    { "{\"teacher.url\":\"u\"}", "teacher.url", "there is no such option" },
    { "{\"teacher\":{\"key\":\"s3cret\"}}", "teacher.key", "a secret must not stand here" },
    { "{\"nothing\":1}", "nothing", "there is no such option" },
};

START_TEST(json_is_refused)
{
    ck_failed(from_json(bad[_i].json), CLAAS_ERR_INVALID, err);
    ck_assert_str_eq(err.what, bad[_i].what);
    ck_assert_msg(strstr(err.message, bad[_i].message) != NULL, "'%s' not in: %s", bad[_i].message, err.message);
    ck_assert_ptr_null(strstr(err.message, "s3cret"));
    ck_assert_ptr_null(values.values);
}
END_TEST

static void unknown(void *ctx, const char *name)
{
    (void)snprintf(ctx, 64, "%s", name);
}

START_TEST(unknown_ones_can_be_heard_of)
{
    char heard[64] = "";
    const char *text = "{\"rank\":null,\"new\":{\"a\":1}}";
    ck_ok(json_parse(text, strlen(text), "options", &json, &err), err);
    ck_ok(option_values_from_json(&values, &table, json, NULL, unknown, heard, &err), err);
    ck_assert_str_eq(heard, "new");
    ck_assert_int_eq(values.values[RANK].i, 16);
}
END_TEST

START_TEST(base_values_lie_between)
{
    struct option_values base = { 0 };
    ck_ok(from_json("{\"rank\":4,\"mode\":\"d\",\"targets\":[\"k\",\"v\"],\"fast\":false}"), err);
    base = values;
    values = (struct option_values){ 0 };
    cJSON_Delete(json);
    json = cJSON_Parse("{\"mode\":\"bc\"}");
    ck_ok(option_values_from_json(&values, &table, json, &base, NULL, NULL, &err), err);
    option_values_clear(&base);
    ck_assert_int_eq(values.values[RANK].i, 4);
    ck_assert_str_eq(values.values[MODE].s, "bc");
    ck_assert_str_eq(values.values[TARGETS].list[1], "v");
    ck_assert_int_eq(values.values[FAST].i, 0);
    ck_assert_int_eq(values.values[WAIT].i, 2000);
}
END_TEST

START_TEST(values_go_back_to_json)
{
    ck_ok(from_json("{\"teacher\":{\"url\":\"u\"}}"), err);
    cJSON *back = option_values_json(&values);
    char *text = json_print(back);
    ck_assert_str_eq(text, "{\"rank\":16,\"rate\":3e-05,\"mode\":\"a\",\"targets\":[\"q\",\"v\"],\"root\":\"\","
                           "\"size\":67108864,\"wait\":2000,\"fast\":true,\"extra\":{\"a\":[1]},"
                           "\"teacher\":{\"url\":\"u\"},\"free\":0,\"open\":0.5}");
    free(text);
    cJSON_Delete(back);
}
END_TEST

static const struct {
    size_t row;
    const char *text;
    double wanted; /* NAN: refused */
} texts[] = {
    { RANK, "12", 12 },      { RANK, "+12", 12 },         { RANK, "12 ", NAN },     { RANK, " 12", NAN },
    { RANK, "0x10", NAN },   { RANK, "1e1", NAN },        { RANK, "", NAN },        { RANK, "~", NAN },
    { RATE, ".5", 0.5 },     { RATE, "5e-1", 0.5 },       { RATE, "nan", NAN },     { RATE, "inf", NAN },
    { RATE, "0x1p-1", NAN }, { RATE, "1,0", NAN },        { SIZE, "1KiB", 1024 },   { SIZE, "2 kB", 2000 },
    { SIZE, "1.5KiB", 1536 }, { SIZE, "1K", NAN },        { SIZE, "4096", 4096 },   { WAIT, "10ms", 10 },
    { WAIT, "1min", 60000 }, { WAIT, "1h", 3600000 },     { WAIT, "1d", 86400000 }, { WAIT, "1e3", 1000 },
    { FAST, "true", 1 },     { FAST, "yes", NAN },        { FAST, "True", NAN },    { FREE, "9223372036854775807", 9223372036854775807.0 },
    { FREE, "9223372036854775808", NAN },
};

START_TEST(texts_are_read)
{
    ck_ok(option_begin(&values, &table, &err), err);
    int rc = option_put_text(&values, texts[_i].row, texts[_i].text, OPTION_PLAIN, NULL, &err);
    if (isnan(texts[_i].wanted)) {
        ck_failed(rc, CLAAS_ERR_INVALID, err);
        return;
    }
    ck_ok(rc, err);
    ck_assert(values.values[texts[_i].row].d == texts[_i].wanted);
    char spelled[OPTION_SPELL_CAP];
    struct claas_value again = { 0 };
    option_spell(&table.rows[texts[_i].row], &values.values[texts[_i].row], spelled);
    ck_assert_int_eq(option_number(&table.rows[texts[_i].row], spelled, &again.i, &again.d), 0);
    ck_assert(again.d == texts[_i].wanted);
    ck_failed(option_put_text(&values, texts[_i].row, texts[_i].text, OPTION_PLAIN, NULL, &err), CLAAS_ERR_INVALID, err);
    ck_assert_ptr_nonnull(strstr(err.message, "given twice"));
}
END_TEST

START_TEST(quoted_numbers_are_texts)
{
    ck_ok(option_begin(&values, &table, &err), err);
    ck_failed(option_put_text(&values, RANK, "12", OPTION_QUOTED, NULL, &err), CLAAS_ERR_INVALID, err);
    ck_assert_ptr_nonnull(strstr(err.message, "found the text '12'"));
    ck_ok(option_put_text(&values, ROOT, "./a/../b", OPTION_PLAIN, "/etc", &err), err);
    ck_assert_str_eq(values.values[ROOT].s, "/etc/a/../b");
}
END_TEST

START_TEST(required_ones_are_missed)
{
    static const struct claas_option needy[] = {
        { "model", NULL, NULL, "the model's file", 1, 0, CLAAS_PATH, CLAAS_REQUIRED },
        { NULL, NULL, NULL, NULL, 0, 0, 0, 0 },
    };
    int missing = 9;
    option_table_clear(&table);
    ck_ok(option_table_copy(needy, sizeof needy[0], "test", &table, &err), err);
    ck_ok(option_begin(&values, &table, &err), err);
    ck_failed(option_end(&values, &missing, &err), CLAAS_ERR_INVALID, err);
    ck_assert_int_eq(missing, 0);
    ck_assert_str_eq(err.what, "model");
    ck_assert_str_eq(err.message, "model is required: a path (the model's file)");
}
END_TEST

START_TEST(wider_rows_are_walked)
{
    struct wide wide[3] = { { .ours = rows[RANK] }, { .ours = rows[MODE] }, { .ours = rows[OPEN + 1] } };
    memset(wide[0].more, 0xff, sizeof wide[0].more);
    option_table_clear(&table);
    ck_ok(option_table_copy(&wide[0].ours, sizeof wide[0], "test", &table, &err), err);
    ck_assert_uint_eq(table.n, 2);
    ck_assert_int_eq(option_find(&table, "mode"), 1);
    ck_assert_int_eq(option_find(&table, "other"), -1);
}
END_TEST

static const struct {
    struct claas_option row;
    const char *message;
} bad_rows[] = {
    { { "Rank", NULL, NULL, "h", 1, 0, CLAAS_INT, 0 }, "expected [a-z][a-z0-9_]*" },
    { { "a..b", NULL, NULL, "h", 1, 0, CLAAS_INT, 0 }, "expected [a-z][a-z0-9_]*" },
    { { ".a", NULL, NULL, "h", 1, 0, CLAAS_INT, 0 }, "expected [a-z][a-z0-9_]*" },
    { { "a.", NULL, NULL, "h", 1, 0, CLAAS_INT, 0 }, "expected [a-z][a-z0-9_]*" },
    { { "a", NULL, NULL, NULL, 1, 0, CLAAS_INT, 0 }, "lacks a help text" },
    { { "a", NULL, NULL, "\xFF", 1, 0, CLAAS_INT, 0 }, "no UTF-8" },
    { { "a", NULL, NULL, "h", 1, 0, 99, 0 }, "a type this host does not know" },
    { { "a", "x", NULL, "h", 1, 0, CLAAS_INT, 0 }, "default of option a: expected a whole number" },
    { { "a", "9", NULL, "h", 1, 5, CLAAS_INT, 0 }, "default of option a" },
    { { "a", "x", "y|z", "h", 1, 0, CLAAS_TEXT, 0 }, "default of option a" },
    { { "a", "{", NULL, "h", 1, 0, CLAAS_JSON, 0 }, "default of option a" },
    { { "a", "x", NULL, "h", 1, 0, CLAAS_TEXT, CLAAS_SECRET }, "is a secret" },
    { { "a", NULL, NULL, "h", 1, 0, CLAAS_INT, CLAAS_SECRET }, "is a secret" },
    { { "a", NULL, "1|2", "h", 1, 0, CLAAS_INT, 0 }, "has choices" },
    { { "a", NULL, NULL, "h", NAN, 0, CLAAS_INT, 0 }, "bounds" },
    { { "other", NULL, NULL, "h", 1, 0, CLAAS_INT, 0 }, "twice" },
    { { "other.one", NULL, NULL, "h", 1, 0, CLAAS_INT, 0 }, "twice, or within another" },
    { { "token_file", NULL, NULL, "h", 1, 0, CLAAS_PATH, 0 }, "twice, or within another" },
};

START_TEST(bad_tables_are_refused)
{
    const struct claas_option with[] = {
        { "other", NULL, NULL, "h", 1, 0, CLAAS_INT, 0 },
        { "token", NULL, NULL, "h", 1, 0, CLAAS_TEXT, CLAAS_SECRET },
        bad_rows[_i].row,
        { NULL, NULL, NULL, NULL, 0, 0, 0, 0 },
    };
    option_table_clear(&table);
    ck_failed(option_table_copy(with, sizeof with[0], "test", &table, &err), CLAAS_ERR_INVALID, err);
    ck_assert_msg(strstr(err.message, bad_rows[_i].message) != NULL, "'%s' not in: %s", bad_rows[_i].message, err.message);
    ck_assert_ptr_null(table.rows);
}
END_TEST

START_TEST(endless_tables_are_refused)
{
    static struct claas_option many[258];
    static char names[258][8];
    for (int i = 0; i < 257; i++) {
        (void)snprintf(names[i], sizeof names[i], "o%d", i);
        many[i] = (struct claas_option){ names[i], NULL, NULL, "h", 1, 0, CLAAS_INT, 0 };
    }
    option_table_clear(&table);
    ck_failed(option_table_copy(many, sizeof many[0], "test", &table, &err), CLAAS_ERR_INVALID, err);
    ck_failed(option_table_copy(many, 8, "test", &table, &err), CLAAS_ERR_INVALID, err);
}
END_TEST

START_TEST(secrets_come_from_where_they_are)
{
    char path[] = "/tmp/claas-secret-XXXXXX";
    char text[32] = "untouched";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, "abc\n", 4), 4);
    ck_assert_int_eq(close(fd), 0);
    ck_ok(option_begin(&values, &table, &err), err);
    ck_failed(option_put_text(&values, KEY, "abc", OPTION_PLAIN, NULL, &err), CLAAS_ERR_INVALID, err);
    ck_failed(option_put_secret(&values, KEY, path, "X", &err), CLAAS_ERR_INVALID, err);
    ck_ok(option_put_secret(&values, KEY, path, NULL, &err), err);
    ck_ok(option_end(&values, NULL, &err), err);
    ck_assert_str_eq(values.values[KEY].s, "");
    ck_ok(option_secret_read(&values, KEY, text, sizeof text, &err), err);
    ck_assert_str_eq(text, "abc");
    /* Read again at each use. */
    ck_ok(file_write_durable(path, "def", 3, 0600, &err), err);
    ck_ok(option_secret_read(&values, KEY, text, sizeof text, &err), err);
    ck_assert_str_eq(text, "def");
    ck_failed(option_secret_read(&values, KEY, text, 3, &err), CLAAS_ERR_EXHAUSTED, err);
    ck_assert_int_eq(chmod(path, 0644), 0);
    ck_failed(option_secret_read(&values, KEY, text, sizeof text, &err), CLAAS_ERR_FORBIDDEN, err);
    ck_assert_int_eq(unlink(path), 0);
    ck_failed(option_secret_read(&values, KEY, text, sizeof text, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_failed(option_secret_read(&values, RANK, text, sizeof text, &err), CLAAS_ERR_INVALID, err);
    ck_assert_str_eq(text, "def");
}
END_TEST

START_TEST(secrets_come_from_the_environment)
{
    char text[32];
    ck_ok(option_begin(&values, &table, &err), err);
    ck_failed(option_secret_read(&values, KEY, text, sizeof text, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_ok(option_put_secret(&values, KEY, NULL, "CLAAS_TEST_SECRET", &err), err);
    ck_failed(option_secret_read(&values, KEY, text, sizeof text, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_assert_int_eq(setenv("CLAAS_TEST_SECRET", "xyz", 1), 0);
    ck_ok(option_secret_read(&values, KEY, text, sizeof text, &err), err);
    ck_assert_str_eq(text, "xyz");
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("host_option");
    TCase *t = tcase_create("options");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, defaults_are_filled_in);
    tcase_add_test(t, json_values_are_taken);
    tcase_add_loop_test(t, json_is_refused, 0, sizeof bad / sizeof bad[0]);
    tcase_add_test(t, unknown_ones_can_be_heard_of);
    tcase_add_test(t, base_values_lie_between);
    tcase_add_test(t, values_go_back_to_json);
    tcase_add_loop_test(t, texts_are_read, 0, sizeof texts / sizeof texts[0]);
    tcase_add_test(t, quoted_numbers_are_texts);
    tcase_add_test(t, required_ones_are_missed);
    tcase_add_test(t, wider_rows_are_walked);
    tcase_add_loop_test(t, bad_tables_are_refused, 0, sizeof bad_rows / sizeof bad_rows[0]);
    tcase_add_test(t, endless_tables_are_refused);
    tcase_add_test(t, secrets_come_from_where_they_are);
    tcase_add_test(t, secrets_come_from_the_environment);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
