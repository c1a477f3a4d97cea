/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "testing.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/sha256.h"
#include "state/state.h"

#include <sqlite3.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64];
static struct claas_error err;

static void setup(void)
{
    (void)snprintf(dir, sizeof dir, "/tmp/claas-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    err = ERR_INIT;
}

static void teardown(void)
{
    ck_ok(dir_remove(dir, &err), err);
}

static struct state *opened(const struct state_options *options)
{
    struct state *s = NULL;
    ck_ok(state_open(dir, options, &s, &err), err);
    return s;
}

static const int32_t prompt_ids[] = { 1, 2, 3 };
static const int32_t response_ids[] = { 7, 8 };
static const float logprobs[] = { -0.5f, -0.25f };

static struct state_rollout rollout(const char *id, const char *adapter, const char *text)
{
    struct state_rollout r = {
        .id = id, .kind = "chat", .owner = "", .model = "m", .adapter = adapter, .version = 3,
        .time_ns = clock_real_ns(), .messages_json = "[]", .text = text, .visible = text, .sampler_json = "{}",
        .finish = "stop", .prompt_ids = prompt_ids, .response_ids = response_ids, .logprobs = logprobs,
        .n_prompt = 3, .n_response = 2, .end_tokens = 1,
    };
    ck_assert_int_eq(sha256_of(text, strlen(text), &r.hash, NULL), 0);
    memset(&r.serve, 0xAB, sizeof r.serve);
    return r;
}

static void add(struct state *s, const char *id, const char *adapter, const char *text)
{
    struct state_rollout r = rollout(id, adapter, text);
    ck_ok(state_rollout_add(s, &r, &err), err);
}

static struct state_feedback record(const char *id, const char *const *rollouts, uint32_t n)
{
    return (struct state_feedback){ .id = id, .owner = "", .adapter = "a", .status = "ok", .phase = "done",
                                    .time_ns = clock_real_ns(), .version_from = 1, .version_to = 2,
                                    .n_rollouts = n, .rollouts = rollouts, .items_json = "[{\"feedback\":\"x\"}]",
                                    .settings_json = "{}" };
}

START_TEST(rollouts_survive_restarts)
{
    struct state *s = opened(NULL);
    char id[STATE_ID_CAP];
    ck_ok(state_completion_id(s, "chatcmpl-", id, &err), err);
    struct state_rollout in = rollout(id, "ada/tutor", "hello");
    in.prompt = "<user>";
    ck_ok(state_rollout_add(s, &in, &err), err);
    ck_failed(state_rollout_add(s, &in, &err), CLAAS_ERR_CONFLICT, err);
    state_close(s);
    s = opened(NULL);
    char again[STATE_ID_CAP];
    ck_ok(state_completion_id(s, "chatcmpl-", again, &err), err);
    ck_assert_int_eq(strncmp(id, again, strlen("chatcmpl-") + 4), 0); /* the host's tag is kept */
    ck_assert_str_ne(id, again);
    struct state_rollout *r = NULL;
    ck_ok(state_rollout_get(s, id, "", &r, &err), err);
    ck_assert_str_eq(r->adapter, "ada/tutor");
    ck_assert_str_eq(r->text, "hello");
    ck_assert_str_eq(r->prompt, "<user>");
    ck_assert_str_eq(r->messages_json, "[]");
    ck_assert_uint_eq(r->version, 3);
    ck_assert_uint_eq(r->n_prompt, 3);
    ck_assert_int_eq(memcmp(r->prompt_ids, prompt_ids, sizeof prompt_ids), 0);
    ck_assert_int_eq(memcmp(r->response_ids, response_ids, sizeof response_ids), 0);
    ck_assert_int_eq(memcmp(r->logprobs, logprobs, sizeof logprobs), 0);
    ck_assert(sha256_equal(&r->hash, &in.hash));
    ck_assert(sha256_equal(&r->serve, &in.serve));
    ck_assert_int_eq((int64_t)r->time_ns, in.time_ns);
    state_rollout_free(r);
    ck_failed(state_rollout_get(s, id, "somebody", &r, &err), CLAAS_ERR_NOT_FOUND, err);
    state_close(s);
}
END_TEST

START_TEST(missing_logprobs_stay_missing)
{
    struct state *s = opened(NULL);
    struct state_rollout in = rollout("c-1", "a", "x");
    in.logprobs = NULL;
    ck_ok(state_rollout_add(s, &in, &err), err);
    in = rollout("c-2", "a", "y");
    in.n_response = 0;
    in.end_tokens = 0;
    ck_ok(state_rollout_add(s, &in, &err), err);
    struct state_rollout *r = NULL;
    ck_ok(state_rollout_get(s, "c-1", NULL, &r, &err), err);
    ck_assert_ptr_null(r->logprobs);
    ck_assert_uint_eq(r->n_response, 2);
    state_rollout_free(r);
    ck_ok(state_rollout_get(s, "c-2", NULL, &r, &err), err);
    ck_assert_uint_eq(r->n_response, 0);
    state_rollout_free(r);
    state_close(s);
}
END_TEST

START_TEST(hash_finds_the_newest_within_the_adapter)
{
    struct state *s = opened(NULL);
    add(s, "c-1", "a", "same");
    add(s, "c-2", "a", "same");
    add(s, "c-3", "b", "same");
    add(s, "c-4", "a", "other");
    struct claas_digest hash;
    ck_assert_int_eq(sha256_of("same", 4, &hash, NULL), 0);
    struct state_rollout *r = NULL;
    ck_ok(state_rollout_find(s, &hash, "a", "", &r, &err), err);
    ck_assert_str_eq(r->id, "c-2");
    state_rollout_free(r);
    ck_ok(state_rollout_find(s, &hash, "b", NULL, &r, &err), err);
    ck_assert_str_eq(r->id, "c-3");
    state_rollout_free(r);
    ck_failed(state_rollout_find(s, &hash, "", "", &r, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_failed(state_rollout_find(s, &hash, "a", "eve", &r, &err), CLAAS_ERR_NOT_FOUND, err);
    state_close(s);
}
END_TEST

START_TEST(lists_are_paged_and_filtered)
{
    struct state *s = opened(NULL);
    for (int i = 0; i < 25; i++) {
        char id[16];
        (void)snprintf(id, sizeof id, "c-%d", i);
        add(s, id, i % 5 == 0 ? "" : "a", "t");
    }
    uint64_t before = 0;
    int seen = 0;
    int last = 25;
    do {
        struct state_rollouts page;
        ck_ok(state_rollout_list(s, NULL, "", before, 10, &page, &err), err);
        for (size_t i = 0; i < page.n; i++) {
            int n = atoi(page.at[i]->id + 2);
            ck_assert_int_eq(n, last - 1);
            ck_assert_ptr_null(page.at[i]->prompt_ids);
            last = n;
            seen++;
        }
        before = page.next;
        state_rollouts_clear(&page);
    } while (before != 0);
    ck_assert_int_eq(seen, 25);
    struct state_rollouts base;
    ck_ok(state_rollout_list(s, "", NULL, 0, 1000, &base, &err), err);
    ck_assert_uint_eq(base.n, 5);
    ck_assert_uint_eq(base.next, 0);
    state_rollouts_clear(&base);
    ck_failed(state_rollout_list(s, NULL, NULL, 0, 0, &base, &err), CLAAS_ERR_INVALID, err);
    ck_failed(state_rollout_list(s, NULL, NULL, 0, 1001, &base, &err), CLAAS_ERR_INVALID, err);
    state_close(s);
}
END_TEST

START_TEST(count_is_bounded_and_rated_ones_stay)
{
    struct state_options options = { .rollouts_max = 3, .feedback_max = 2 };
    struct state *s = opened(&options);
    static const char *const first[] = { "c-0" };
    add(s, "c-0", "a", "rated");
    struct state_feedback f = record("f-0", first, 1);
    ck_ok(state_feedback_put(s, &f, &err), err);
    ck_ok(state_feedback_put(s, &f, &err), err); /* again: the same record, rated once */
    for (int i = 1; i <= 10; i++) {
        char id[16];
        (void)snprintf(id, sizeof id, "c-%d", i);
        add(s, id, "a", "t");
    }
    struct state_counts counts;
    ck_ok(state_count(s, &counts, &err), err);
    ck_assert_uint_eq(counts.rollouts, 4);
    ck_assert_uint_eq(counts.rated, 1);
    struct state_rollout *r = NULL;
    ck_ok(state_rollout_get(s, "c-0", NULL, &r, &err), err);
    ck_assert_uint_eq(r->rated, 1);
    state_rollout_free(r);
    ck_failed(state_rollout_get(s, "c-7", NULL, &r, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_ok(state_rollout_get(s, "c-8", NULL, &r, &err), err);
    state_rollout_free(r);
    /* The record goes by its own policy; the rollout is then one like any other, and the oldest. */
    f = record("f-1", NULL, 0);
    ck_ok(state_feedback_put(s, &f, &err), err);
    f = record("f-2", NULL, 0);
    ck_ok(state_feedback_put(s, &f, &err), err);
    struct state_feedback *got = NULL;
    ck_failed(state_feedback_get(s, "f-0", NULL, &got, &err), CLAAS_ERR_NOT_FOUND, err);
    add(s, "c-11", "a", "t");
    ck_failed(state_rollout_get(s, "c-0", NULL, &r, &err), CLAAS_ERR_NOT_FOUND, err);
    state_close(s);
    options.rollouts_max = 2; /* a narrower bound holds from the start */
    s = opened(&options);
    ck_ok(state_count(s, &counts, &err), err);
    ck_assert_uint_eq(counts.rollouts, 2);
    state_close(s);
}
END_TEST

START_TEST(age_is_bounded)
{
    struct state_options options = { .rollouts_age_ns = 3600 * INT64_C(1000000000) };
    struct state *s = opened(&options);
    struct state_rollout old = rollout("old", "a", "t");
    old.time_ns -= 2 * options.rollouts_age_ns;
    static const char *const names[] = { "kept" };
    add(s, "kept", "a", "t");
    struct state_feedback f = record("f", names, 1);
    ck_ok(state_feedback_put(s, &f, &err), err);
    ck_ok(state_rollout_add(s, &old, &err), err);
    struct state_rollout *r = NULL;
    ck_failed(state_rollout_get(s, "old", NULL, &r, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_ok(state_rollout_get(s, "kept", NULL, &r, &err), err);
    state_rollout_free(r);
    state_close(s);
}
END_TEST

START_TEST(feedback_records_are_kept_and_updated)
{
    struct state *s = opened(NULL);
    static const char *const names[] = { "c-2", "c-1" };
    add(s, "c-1", "a", "one");
    add(s, "c-2", "a", "two");
    struct state_feedback f = record("f-1", names, 2);
    f.status = "running";
    f.phase = "distill";
    ck_ok(state_feedback_put(s, &f, &err), err);
    f.status = "error";
    f.error_code = CLAAS_ERR_INTERNAL;
    f.error = "distill: loss is not a number";
    f.timing_json = "{\"total\":3}";
    ck_ok(state_feedback_put(s, &f, &err), err);
    struct state_feedback g = record("f-2", names, 1);
    g.status = "running";
    ck_ok(state_feedback_put(s, &g, &err), err);
    const struct state_forget what = { .id = "c-1" };
    struct state_forgotten forgotten;
    ck_ok(state_forget(s, &what, &forgotten, &err), err);
    ck_assert_uint_eq(forgotten.rollouts, 1);
    state_forgotten_clear(&forgotten);
    state_close(s);
    s = opened(NULL);
    struct state_feedbacks page;
    ck_ok(state_feedback_list(s, "a", "", 0, 1, &page, &err), err);
    ck_assert_uint_eq(page.n, 1);
    ck_assert_uint_eq(page.total, 2);
    ck_assert_str_eq(page.at[0]->id, "f-2");
    ck_assert_str_eq(page.at[0]->status, "interrupted");
    uint64_t next = page.next;
    ck_assert_uint_ne(next, 0);
    state_feedbacks_clear(&page);
    ck_ok(state_feedback_list(s, NULL, NULL, next, 10, &page, &err), err);
    ck_assert_uint_eq(page.n, 1);
    ck_assert_uint_eq(page.next, 0);
    struct state_feedback *got = page.at[0];
    ck_assert_str_eq(got->status, "error");
    ck_assert_str_eq(got->error, "distill: loss is not a number");
    ck_assert_int_eq(got->error_code, CLAAS_ERR_INTERNAL);
    ck_assert_ptr_null(got->metrics_json);
    ck_assert_str_eq(got->timing_json, "{\"total\":3}");
    ck_assert_uint_eq(got->n_rollouts, 2);
    ck_assert_str_eq(got->rollouts[0], "c-2");
    ck_assert_str_eq(got->rollouts[1], "c-1");
    state_feedbacks_clear(&page);
    state_close(s);
}
END_TEST

START_TEST(the_directory_has_one_user)
{
    struct state *s = opened(NULL);
    struct state *second = NULL;
    ck_failed(state_open(dir, NULL, &second, &err), CLAAS_ERR_CONFLICT, err);
    ck_assert_ptr_nonnull(strstr(err.message, dir));
    char holder[32];
    (void)snprintf(holder, sizeof holder, ", pid %ld", (long)getpid());
    ck_assert_ptr_nonnull(strstr(err.message, holder));
    int fd = -1;
    ck_failed(state_lock(dir, &fd, &err), CLAAS_ERR_CONFLICT, err);
    ck_assert_int_eq(fd, -1);
    state_close(s);
    ck_ok(state_lock(dir, &fd, &err), err);
    ck_failed(state_open(dir, NULL, &second, &err), CLAAS_ERR_CONFLICT, err);
    ck_assert_int_eq(close(fd), 0);
    s = opened(NULL);
    state_close(s);
    char path[80];
    struct stat st;
    (void)snprintf(path, sizeof path, "%s/state.db", dir);
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0600);
}
END_TEST

/* Damage of five kinds; the file must be named, refused and left as it is. */
START_TEST(damage_is_named_and_refused)
{
    struct state *s = opened(NULL);
    for (int i = 0; i < 200; i++) {
        char id[16];
        (void)snprintf(id, sizeof id, "c-%d", i);
        add(s, id, "a", "some text that fills pages of the database");
    }
    state_close(s);
    char path[80];
    char wal[90];
    (void)snprintf(path, sizeof path, "%s/state.db", dir);
    (void)snprintf(wal, sizeof wal, "%s-wal", path);
    struct stat st;
    ck_assert_int_eq(stat(path, &st), 0);
    off_t size = st.st_size;
    char garbage[8192];
    memset(garbage, 0x5A, sizeof garbage);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    int code = CLAAS_ERR_CORRUPT;
    if (_i == 0) { /* the head */
        ck_ok(fd_pwrite_all(fd, garbage, 100, 0, path, &err), err);
    } else if (_i == 1) { /* the middle */
        ck_ok(fd_pwrite_all(fd, garbage, sizeof garbage, 4096 * 3, path, &err), err);
    } else if (_i == 2) { /* nothing left */
        ck_assert_int_eq(ftruncate(fd, 0), 0);
        size = 0;
    } else if (_i == 3) { /* the end is cut off */
        size = 4096 * (size / 4096 / 2);
        ck_assert_int_eq(ftruncate(fd, size), 0);
    } else if (_i == 4) { /* somebody else's database */
        ck_assert_int_eq(ftruncate(fd, 0), 0);
        sqlite3 *db = NULL;
        ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
        ck_assert_int_eq(sqlite3_exec(db, "CREATE TABLE t (x)", NULL, NULL, NULL), SQLITE_OK);
        ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
        size = -1;
    } else if (_i == 5) { /* a newer claas */
        sqlite3 *db = NULL;
        ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
        ck_assert_int_eq(sqlite3_exec(db, "PRAGMA user_version = 99", NULL, NULL, NULL), SQLITE_OK);
        ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
        size = -1;
        code = CLAAS_ERR_UNSUPPORTED;
    } else { /* it is gone, its journal is not */
        ck_assert_int_eq(unlink(path), 0);
        ck_ok(file_write_durable(wal, garbage, 100, 0600, &err), err);
    }
    (void)close(fd);
    ck_failed(state_open(dir, NULL, &s, &err), code, err);
    ck_assert_msg(strstr(err.message, path) != NULL, "%s", err.message);
    if (_i == 6) {
        ck_assert_int_eq(access(path, F_OK), -1);
    } else if (size >= 0) {
        ck_assert_int_eq(stat(path, &st), 0);
        ck_assert_int_eq(st.st_size, size);
    }
}
END_TEST

struct writer {
    struct state *s;
    int number;
};

static void *write_many(void *ctx)
{
    struct writer *w = ctx;
    struct claas_error e = ERR_INIT;
    for (int i = 0; i < 20; i++) {
        char id[24];
        (void)snprintf(id, sizeof id, "c-%d-%d", w->number, i);
        struct state_rollout r = rollout(id, "a", "t");
        if (state_rollout_add(w->s, &r, &e) != 0) {
            return w;
        }
    }
    return NULL;
}

START_TEST(threads_may_write_at_once)
{
    struct state *s = opened(NULL);
    pthread_t threads[4];
    struct writer writers[4];
    for (int i = 0; i < 4; i++) {
        writers[i] = (struct writer){ s, i };
        ck_assert_int_eq(pthread_create(&threads[i], NULL, write_many, &writers[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        void *said = NULL;
        ck_assert_int_eq(pthread_join(threads[i], &said), 0);
        ck_assert_ptr_null(said);
    }
    struct state_counts counts;
    ck_ok(state_count(s, &counts, &err), err);
    ck_assert_uint_eq(counts.rollouts, 80);
    state_close(s);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("state");
    TCase *t = tcase_create("state");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, rollouts_survive_restarts);
    tcase_add_test(t, missing_logprobs_stay_missing);
    tcase_add_test(t, hash_finds_the_newest_within_the_adapter);
    tcase_add_test(t, lists_are_paged_and_filtered);
    tcase_add_test(t, count_is_bounded_and_rated_ones_stay);
    tcase_add_test(t, age_is_bounded);
    tcase_add_test(t, feedback_records_are_kept_and_updated);
    tcase_add_test(t, the_directory_has_one_user);
    tcase_add_loop_test(t, damage_is_named_and_refused, 0, 7);
    tcase_add_test(t, threads_may_write_at_once);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
