/* SPDX-License-Identifier: MIT */
/* The log: levels by subsystem, the three forms of a line, what a thread works on. */
#include "config.h"

#include "testing.h"

#include "base/json.h"
#include "base/log.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int was = -1;  /* standard error */
static int file = -1; /* in its place */
static char said[16384];

/* check forks for each test, so none of this reaches the next one. */
static void setup(void)
{
    char path[] = "/tmp/claas-log.XXXXXX";
    was = dup(STDERR_FILENO);
    file = mkstemp(path);
    ck_assert_int_ge(file, 0);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(fcntl(file, F_SETFL, O_APPEND), 0);
    ck_assert_int_ge(dup2(file, STDERR_FILENO), 0);
}

static void teardown(void)
{
    (void)dup2(was, STDERR_FILENO);
    (void)close(was);
    (void)close(file);
}

/* What was written since the last time. */
static const char *heard(void)
{
    ssize_t n = pread(file, said, sizeof said - 1, 0);
    ck_assert_int_ge(n, 0);
    said[n] = '\0';
    ck_assert_int_eq(ftruncate(file, 0), 0);
    return said;
}

static void configure(int level, const char *room, int own, enum log_format format)
{
    struct log_settings s;
    log_settings_init(&s);
    s.level = level;
    s.format = format;
    if (room) {
        s.rooms[log_room_find(room)] = own;
    }
    log_configure(&s);
}

START_TEST(rooms_have_levels)
{
    log_line(LOG_DEBUG, "serving", "no");
    ck_assert_str_eq(heard(), "");
    configure(LOG_WARNING, "serving", LOG_DEBUG, LOG_PLAIN);
    ck_assert(log_enabled(LOG_DEBUG) && !log_enabled(LOG_TRACE));
    log_line(LOG_DEBUG, "serving", "one %d", 1);
    ck_assert_ptr_nonnull(strstr(heard(), "Z debug serving: one 1\n"));
    log_line(LOG_TRACE, "serving", "no");
    log_line(LOG_INFO, "state", "no");
    log_line(LOG_INFO, "nobody", "no");
    ck_assert_str_eq(heard(), "");
    configure(LOG_ERROR, "plugin", LOG_INFO, LOG_PLAIN);
    log_line(LOG_INFO, "plugin cpu", "loud");
    ck_assert_ptr_nonnull(strstr(heard(), " info plugin cpu: loud\n"));
    configure(LOG_DEBUG, "plugin", LOG_ERROR, LOG_PLAIN);
    log_line(LOG_WARNING, "plugin cpu", "no");
    ck_assert_str_eq(heard(), "");
}
END_TEST

START_TEST(threads_tell_what_they_work_on)
{
    const struct log_context first = { "r-1", NULL };
    const struct log_context second = { "r-2", "abc" };
    configure(LOG_INFO, NULL, 0, LOG_PLAIN);
    struct log_context before = log_context_set(first);
    ck_assert_ptr_null(before.request);
    before = log_context_set(second);
    log_line(LOG_INFO, "server", "x");
    ck_assert_ptr_nonnull(strstr(heard(), " x [request r-2] [trace abc]\n"));
    (void)log_context_set(before);
    log_line(LOG_INFO, "server", "x");
    ck_assert_ptr_nonnull(strstr(heard(), " x [request r-1]\n"));
}
END_TEST

START_TEST(the_journal_gets_priorities)
{
    char told[64];
    struct stat st;
    ck_assert_int_eq(fstat(file, &st), 0);
    (void)snprintf(told, sizeof told, "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino + 1);
    ck_assert_int_eq(setenv("JOURNAL_STREAM", told, 1), 0);
    configure(LOG_TRACE, NULL, 0, LOG_AUTO);
    log_line(LOG_ERROR, "server", "x");
    ck_assert_ptr_nonnull(strstr(heard(), "Z error server: x\n"));
    (void)snprintf(told, sizeof told, "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    ck_assert_int_eq(setenv("JOURNAL_STREAM", told, 1), 0);
    configure(LOG_TRACE, NULL, 0, LOG_AUTO);
    for (int level = LOG_ERROR; level <= LOG_TRACE; level++) {
        log_line(level, "server", "x");
    }
    ck_assert_str_eq(heard(), "<3>server: x\n<4>server: x\n<6>server: x\n<7>server: x\n<7>server: x\n");
}
END_TEST

static cJSON *heard_json(void)
{
    struct claas_error err = ERR_INIT;
    cJSON *o = NULL;
    size_t n = strlen(heard());
    ck_assert_uint_gt(n, 1);
    ck_assert_int_eq(said[n - 1], '\n');
    ck_ok(json_parse(said, n, "line", &o, &err), err);
    return o;
}

START_TEST(json_is_json)
{
    char longer[4000];
    const struct log_context own = { "r\"1", NULL };
    configure(LOG_INFO, NULL, 0, LOG_JSON);
    (void)log_context_set(own);
    log_line(LOG_WARNING, "plugin cpu", "a \"b\" c\\d\ne\tf");
    cJSON *o = heard_json();
    ck_assert_str_eq(json_get(o, "message")->valuestring, "a \"b\" c\\d e f");
    ck_assert_str_eq(json_get(o, "level")->valuestring, "warning");
    ck_assert_str_eq(json_get(o, "room")->valuestring, "plugin cpu");
    ck_assert_str_eq(json_get(o, "request")->valuestring, "r\"1");
    ck_assert_ptr_null(json_get(o, "trace"));
    cJSON_Delete(o);
    log_line(LOG_INFO, "server", "caf\xC3\xA9, \xff");
    o = heard_json();
    ck_assert_str_eq(json_get(o, "message")->valuestring, "caf??, ?");
    cJSON_Delete(o);
    memset(longer, '"', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    log_line(LOG_INFO, "server", "%s", longer);
    o = heard_json();
    ck_assert_uint_eq(strlen(json_get(o, "message")->valuestring), 2047);
    cJSON_Delete(o);
}
END_TEST

START_TEST(nobody_forges_a_line)
{
    configure(LOG_INFO, NULL, 0, LOG_PLAIN);
    log_line(LOG_INFO, "server", "a\nerror server: b\x1b[2J");
    (void)heard();
    ck_assert_ptr_eq(strchr(said, '\n'), said + strlen(said) - 1);
    ck_assert_ptr_null(strchr(said, 0x1b));
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("log");
    TCase *t = tcase_create("log");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, rooms_have_levels);
    tcase_add_test(t, threads_tell_what_they_work_on);
    tcase_add_test(t, the_journal_gets_priorities);
    tcase_add_test(t, json_is_json);
    tcase_add_test(t, nobody_forges_a_line);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
