/* SPDX-License-Identifier: MIT */
/* What is deleted is gone: from the tables, from the files, from jobs that wait; and it stays cheap with many rows. */
#include "config.h"

#include "testing.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/sha256.h"
#include "state/state.h"

#include <sqlite3.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DAY_NS (INT64_C(24) * 3600 * 1000000000)

static char dir[64];
static char path[96];
static struct claas_error err;
static char big[20000]; /* spills over its page */

static void setup(void)
{
    (void)snprintf(dir, sizeof dir, "/tmp/claas-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    (void)snprintf(path, sizeof path, "%s/state.db", dir);
    for (size_t i = 0; i + 1 < sizeof big; i++) {
        big[i] = "SECRET-WORDS "[i % 13];
    }
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

static void add_old(struct state *s, const char *id, const char *owner, const char *user, const char *text, int64_t age_ns)
{
    static const int32_t ids[] = { 1, 2, 3 };
    struct state_rollout r = {
        .id = id, .kind = "chat", .owner = owner, .user = user, .model = "m", .adapter = "a", .version = 3,
        .time_ns = clock_real_ns() - age_ns, .messages_json = "[]", .text = text, .visible = text, .sampler_json = "{}",
        .prompt = text, .finish = "stop", .prompt_ids = ids, .response_ids = ids, .n_prompt = 3, .n_response = 2,
    };
    ck_assert_int_eq(sha256_of(text, strlen(text), &r.hash, NULL), 0);
    ck_ok(state_rollout_add(s, &r, &err), err);
}

static void add(struct state *s, const char *id, const char *owner, const char *user, const char *text)
{
    add_old(s, id, owner, user, text, 0);
}

static struct state_feedback record(const char *id, const char *owner, const char *const *names, uint32_t n, const char *items)
{
    return (struct state_feedback){ .id = id, .owner = owner, .adapter = "a", .status = "ok", .phase = "done",
                                    .time_ns = clock_real_ns(), .version_from = 1, .version_to = 2, .n_rollouts = n,
                                    .rollouts = names, .items_json = items, .settings_json = "{}" };
}

static void rate(struct state *s, const char *id, const char *owner, const char *const *names, uint32_t n, const char *items)
{
    const struct state_feedback f = record(id, owner, names, n, items);
    ck_ok(state_feedback_put(s, &f, &err), err);
}

static struct state_forgotten forget(struct state *s, const char *id, const char *user, const char *owner)
{
    const struct state_forget what = { .id = id, .user = user, .owner = owner };
    struct state_forgotten out;
    ck_ok(state_forget(s, &what, &out, &err), err);
    return out;
}

static int is_there(struct state *s, const char *id)
{
    struct state_rollout *r = NULL;
    int rc = state_rollout_get(s, id, NULL, &r, &err);
    state_rollout_free(r);
    err = ERR_INIT;
    return rc == 0;
}

static void check_items(struct state *s, const char *id, const char *items)
{
    struct state_feedback *f = NULL;
    ck_ok(state_feedback_get(s, id, NULL, &f, &err), err);
    ck_assert_str_eq(f->items_json, items);
    state_feedback_free(f);
}

static void check_counts(struct state *s, uint64_t rollouts, uint64_t rated, uint64_t feedback)
{
    struct state_counts n;
    ck_ok(state_count(s, &n, &err), err);
    ck_assert_uint_eq(n.rollouts, rollouts);
    ck_assert_uint_eq(n.rated, rated);
    ck_assert_uint_eq(n.feedback, feedback);
}

/* 1: the file holds the word. */
static int holds(const char *file, const char *word)
{
    static char data[8 << 20];
    FILE *f = fopen(file, "rbe");
    size_t n = f == NULL ? 0 : fread(data, 1, sizeof data, f);
    ck_assert_uint_lt(n, sizeof data);
    if (f != NULL) {
        ck_assert_int_eq(fclose(f), 0);
    }
    return n > 0 && memmem(data, n, word, strlen(word)) != NULL;
}

static int files_hold(const char *word)
{
    char wal[112];
    (void)snprintf(wal, sizeof wal, "%s-wal", path);
    return holds(path, word) || holds(wal, word);
}

START_TEST(a_rated_rollout_leaves_no_text)
{
    static const char *const names[] = { "c-1", "c-2" };
    struct state *s = opened(NULL);
    add(s, "c-1", "k", "ada", "one");
    add(s, "c-2", "k", "bob", "two");
    rate(s, "f-1", "k", names, 2, "[{\"feedback\":\"short\"},{\"feedback\":\"long\"}]");
    check_counts(s, 2, 2, 1);
    struct state_forgotten out = forget(s, "c-1", NULL, NULL);
    ck_assert_uint_eq(out.rollouts, 1);
    ck_assert_uint_eq(out.feedback, 1);
    ck_assert_uint_eq(out.n_cancelled, 0);
    ck_assert_uint_eq(out.n_trained, 1);
    ck_assert_str_eq(out.trained[0].adapter, "a");
    ck_assert_uint_eq(out.trained[0].version, 2);
    ck_assert_str_eq(out.trained[0].feedback, "f-1");
    state_forgotten_clear(&out);
    check_items(s, "f-1", "[null,{\"feedback\":\"long\"}]");
    ck_assert(!is_there(s, "c-1"));
    check_counts(s, 1, 1, 1);
    out = forget(s, "c-1", NULL, NULL);
    ck_assert_uint_eq(out.rollouts + out.feedback + out.n_trained, 0);
    state_forgotten_clear(&out);
    state_close(s);
    s = opened(NULL); /* what is counted is what is there */
    check_counts(s, 1, 1, 1);
    state_close(s);
}
END_TEST

START_TEST(all_of_a_user_goes)
{
    struct state *s = opened(NULL);
    add(s, "c-1", "k", "ada", "one");
    add(s, "c-2", "k", "bob", "two");
    add(s, "c-3", "other", "ada", "three");
    add(s, "c-4", "k", NULL, "four");
    struct state_forgotten out = forget(s, NULL, "ada", "k");
    ck_assert_uint_eq(out.rollouts, 1);
    state_forgotten_clear(&out);
    ck_assert(!is_there(s, "c-1"));
    ck_assert(is_there(s, "c-3")); /* of another owner */
    out = forget(s, NULL, "ada", NULL);
    ck_assert_uint_eq(out.rollouts, 1);
    state_forgotten_clear(&out);
    out = forget(s, NULL, "", NULL); /* nobody's name */
    ck_assert_uint_eq(out.rollouts, 0);
    state_forgotten_clear(&out);
    ck_assert(is_there(s, "c-2") && is_there(s, "c-4"));
    const struct state_forget nothing = { 0 };
    ck_failed(state_forget(s, &nothing, &out, &err), CLAAS_ERR_INVALID, err);
    state_close(s);
}
END_TEST

START_TEST(all_of_an_owner_goes)
{
    static const char *const names[] = { "c-1" };
    static const char *const gone[] = { "c-0" }; /* that had gone before */
    static const char *const others[] = { "c-2" };
    struct state *s = opened(NULL);
    add(s, "c-1", "k", "ada", "one");
    add(s, "c-2", "other", "ada", "two");
    add(s, "c-3", "k", NULL, "three");
    rate(s, "f-1", "k", names, 1, "[{\"feedback\":\"x\"}]");
    rate(s, "f-2", "k", gone, 1, "[{\"feedback\":\"y\"}]");
    rate(s, "f-3", "other", others, 1, "[{\"feedback\":\"z\"}]");
    struct state_forgotten out = forget(s, NULL, NULL, "k");
    ck_assert_uint_eq(out.rollouts, 2);
    ck_assert_uint_eq(out.feedback, 2);
    ck_assert_uint_eq(out.n_trained, 2);
    state_forgotten_clear(&out);
    check_items(s, "f-1", "[]");
    check_items(s, "f-2", "[]");
    check_items(s, "f-3", "[{\"feedback\":\"z\"}]");
    ck_assert(is_there(s, "c-2"));
    check_counts(s, 1, 1, 3);
    state_close(s);
}
END_TEST

/* ---- jobs --------------------------------------------------------------------------------------------------------------- */

static void queue(struct state *s, const char *id, const char *const *names)
{
    struct state_feedback f = record(id, "k", names, 1, "[{\"feedback\":\"SECRET-WORDS\"}]");
    const struct state_job j = { .id = id, .owner = "k", .adapter = "a", .phase = "lock",
                                 .request_json = "{\"items\":[{\"feedback\":\"SECRET-WORDS\"}]}",
                                 .accepted_ns = clock_real_ns() };
    f.status = "running";
    f.version_to = 0;
    ck_ok(state_job_add(s, &j, &f, &err), err);
}

static int runs(void *ctx, const char *job)
{
    return strcmp(job, ctx) == 0;
}

START_TEST(a_waiting_job_is_cancelled)
{
    static const char *const names[] = { "c-1" };
    struct state *s = opened(NULL);
    struct state_job *j = NULL;
    struct state_feedback *f = NULL;
    add(s, "c-1", "k", NULL, "one");
    queue(s, "j-1", names);
    char job[] = "j-1";
    struct state_forget what = { .id = "c-1", .runs = runs, .ctx = job };
    struct state_forgotten out;
    ck_failed(state_forget(s, &what, &out, &err), CLAAS_ERR_CONFLICT, err); /* a worker has it already */
    ck_assert(is_there(s, "c-1"));
    err = ERR_INIT;
    what.runs = NULL;
    ck_ok(state_forget(s, &what, &out, &err), err);
    ck_assert_uint_eq(out.n_cancelled, 1);
    ck_assert_str_eq(out.cancelled[0], "j-1");
    ck_assert_uint_eq(out.n_trained, 0);
    state_forgotten_clear(&out);
    ck_ok(state_job_get(s, "j-1", NULL, &j, &err), err);
    ck_assert_str_eq(j->state, "cancelled");
    ck_assert_int_eq(j->error_code, CLAAS_ERR_CANCELLED);
    state_job_free(j);
    ck_ok(state_feedback_get(s, "j-1", NULL, &f, &err), err);
    ck_assert_str_eq(f->status, "error");
    state_feedback_free(f);
    ck_assert(!files_hold("SECRET-WORDS"));
    state_close(s);
}
END_TEST

START_TEST(a_job_that_was_begun_is_waited_for)
{
    static const char *const names[] = { "c-1" };
    struct state *s = opened(NULL);
    add(s, "c-1", "k", "ada", "one");
    queue(s, "j-1", names);
    ck_ok(state_job_start(s, "j-1", &err), err);
    struct state_forget what = { .user = "ada" };
    struct state_forgotten out;
    ck_failed(state_forget(s, &what, &out, &err), CLAAS_ERR_CONFLICT, err);
    ck_assert_ptr_nonnull(strstr(err.message, "j-1"));
    ck_assert(is_there(s, "c-1"));
    state_close(s);
}
END_TEST

START_TEST(no_job_is_accepted_for_what_is_gone)
{
    static const char *const names[] = { "c-1" };
    struct state *s = opened(NULL);
    struct state_job *out = NULL;
    const struct state_feedback f = record("j-1", "k", names, 1, "[]");
    const struct state_job j = { .id = "j-1", .owner = "k", .adapter = "a", .phase = "lock", .request_json = "{}",
                                 .accepted_ns = clock_real_ns() };
    ck_failed(state_job_add(s, &j, &f, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_failed(state_job_get(s, "j-1", NULL, &out, &err), CLAAS_ERR_NOT_FOUND, err);
    check_counts(s, 0, 0, 0);
    state_close(s);
}
END_TEST

/* ---- the files ---------------------------------------------------------------------------------------------------------- */

START_TEST(no_byte_of_it_stays_in_the_files)
{
    static const char *const names[] = { "c-1" };
    struct state *s = opened(NULL);
    for (int i = 0; i < 50; i++) {
        char id[16];
        (void)snprintf(id, sizeof id, "n-%d", i);
        add(s, id, "k", "bob", i % 2 ? "some other words" : "SECRET-WORDS in a small row");
    }
    add(s, "c-1", "k", "bob", big);
    rate(s, "f-1", "k", names, 1, "[{\"feedback\":\"SECRET-WORDS of a user\"}]");
    add(s, "c-2", "k", "ada", "these stay");
    ck_assert(files_hold("SECRET-WORDS"));
    struct state_forgotten out = forget(s, NULL, "bob", NULL);
    ck_assert_uint_eq(out.rollouts, 51);
    state_forgotten_clear(&out);
    ck_assert(!files_hold("SECRET-WORDS"));
    ck_assert(!files_hold("ET-WORDS SECR")); /* the inside of the big one */
    ck_assert(files_hold("these stay"));
    state_close(s);
    ck_assert(!files_hold("SECRET-WORDS"));
}
END_TEST

static int64_t size_of(const char *file)
{
    struct stat st;
    ck_assert_int_eq(stat(file, &st), 0);
    return st.st_size;
}

START_TEST(space_goes_back)
{
    struct state *s = opened(NULL);
    for (int i = 0; i < 100; i++) {
        char id[16];
        (void)snprintf(id, sizeof id, "c-%d", i);
        add(s, id, "k", NULL, big);
    }
    ck_ok(state_tidy(s, &err), err);
    int64_t full = size_of(path);
    struct state_forgotten out = forget(s, NULL, NULL, "k");
    state_forgotten_clear(&out);
    ck_assert_int_lt(size_of(path), full / 10);
    state_close(s);
}
END_TEST

START_TEST(bounds_hold_where_nothing_is_added)
{
    static const char *const names[] = { "c-rated" };
    struct state_options options = { .rollouts_age_ns = DAY_NS };
    struct state *s = opened(&options);
    add(s, "c-rated", "k", NULL, "rated");
    rate(s, "f-1", "k", names, 1, "[]");
    add_old(s, "c-old", "k", NULL, "old", DAY_NS - 50000000);
    ck_assert(is_there(s, "c-old"));
    (void)usleep(80000);
    ck_ok(state_tidy(s, &err), err);
    ck_assert(!is_there(s, "c-old"));
    ck_assert(is_there(s, "c-rated"));
    state_close(s);
    options.feedback_age_ns = 1; /* records go, and what they rated counts as unrated again */
    s = opened(&options);
    check_counts(s, 1, 0, 0);
    state_close(s);
    options.rollouts_age_ns = 1;
    s = opened(&options);
    check_counts(s, 0, 0, 0);
    state_close(s);
}
END_TEST

START_TEST(records_are_bounded_by_count)
{
    const struct state_options options = { .feedback_max = 3 };
    struct state *s = opened(&options);
    for (int i = 0; i < 6; i++) {
        char id[16];
        char name[16];
        const char *const names[] = { name };
        (void)snprintf(id, sizeof id, "f-%d", i);
        (void)snprintf(name, sizeof name, "c-%d", i);
        add(s, name, "k", NULL, "words");
        rate(s, id, "k", names, 1, "[]");
        rate(s, id, "k", names, 1, "[]"); /* written anew, it counts once */
    }
    check_counts(s, 6, 3, 3);
    struct state_feedback *f = NULL;
    ck_failed(state_feedback_get(s, "f-2", NULL, &f, &err), CLAAS_ERR_NOT_FOUND, err);
    state_close(s);
    s = opened(&options);
    check_counts(s, 6, 3, 3);
    state_close(s);
}
END_TEST

/* ---- other databases ---------------------------------------------------------------------------------------------------- */

static void sql(const char *text)
{
    sqlite3 *db = NULL;
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    ck_assert_msg(sqlite3_exec(db, text, NULL, NULL, NULL) == SQLITE_OK, "%s", sqlite3_errmsg(db));
    ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
}

START_TEST(an_older_database_learns_to_shrink)
{
    struct state *s = opened(NULL);
    for (int i = 0; i < 50; i++) {
        char id[16];
        (void)snprintf(id, sizeof id, "c-%d", i);
        add(s, id, "k", NULL, big);
    }
    state_close(s);
    sql("PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = NONE; VACUUM;"
        "DROP TABLE keys; DROP INDEX rollouts_by_user; DROP INDEX rollouts_by_owner; DROP INDEX rollouts_rated; DROP INDEX feedback_by_owner;"
        "DROP INDEX feedback_by_time; ALTER TABLE rollouts DROP COLUMN end_user; PRAGMA user_version = 2");
    s = opened(NULL);
    check_counts(s, 50, 0, 0);
    int64_t full = size_of(path);
    struct state_forgotten out = forget(s, NULL, NULL, "k");
    ck_assert_uint_eq(out.rollouts, 50);
    state_forgotten_clear(&out);
    ck_assert_int_lt(size_of(path), full / 5);
    state_close(s);
}
END_TEST

/* CLAAS_TEST_ROLLOUTS: how many; the default keeps the suite short. */
START_TEST(many_rows_cost_no_more)
{
    const char *asked = getenv("CLAAS_TEST_ROLLOUTS");
    long n = asked ? strtol(asked, NULL, 10) : 50000;
    char text[1200];
    const struct state_options options = { .rollouts_max = (uint64_t)n };
    state_close(opened(&options));
    (void)snprintf(text, sizeof text,
                   "PRAGMA synchronous = OFF; WITH RECURSIVE i(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM i WHERE x < %ld)"
                   " INSERT INTO rollouts (id, kind, owner, model, adapter, version, serve, time_ns, hash, finish, end_tokens,"
                   " n_prompt, n_response, sampler, text, visible, prompt_ids, response_ids, end_user) SELECT 'c-' || x, 'chat',"
                   " 'k' || (x %% 10), 'm', 'a', 1, x'00', %lld, randomblob(32), 'stop', 0, 0, 0, '{}',"
                   " hex(randomblob(100)), '', x'', x'', 'u' || (x %% 1000) FROM i",
                   n, (long long)clock_real_ns());
    sql(text);
    int64_t t = clock_mono_ns();
    struct state *s = opened(&options);
    double open_ms = (double)(clock_mono_ns() - t) / 1e6;
    static const char *const names[] = { "new-0" };
    t = clock_mono_ns();
    for (int i = 0; i < 100; i++) {
        char id[16];
        (void)snprintf(id, sizeof id, "new-%d", i);
        add(s, id, "k", NULL, "words"); /* each pushes one out */
    }
    double add_ms = (double)(clock_mono_ns() - t) / 1e8;
    check_counts(s, (uint64_t)n, 0, 0);
    t = clock_mono_ns();
    rate(s, "f-1", "k", names, 1, "[]");
    double rate_ms = (double)(clock_mono_ns() - t) / 1e6;
    t = clock_mono_ns();
    ck_ok(state_tidy(s, &err), err);
    double tidy_ms = (double)(clock_mono_ns() - t) / 1e6;
    t = clock_mono_ns();
    struct state_forgotten out = forget(s, "c-1000", NULL, NULL);
    double one_ms = (double)(clock_mono_ns() - t) / 1e6;
    state_forgotten_clear(&out);
    t = clock_mono_ns();
    out = forget(s, NULL, "u77", NULL);
    double user_ms = (double)(clock_mono_ns() - t) / 1e6;
    uint64_t gone = out.rollouts;
    state_forgotten_clear(&out);
    ck_assert_uint_ge(gone, (uint64_t)n / 1000 - 1);
    (void)printf("# %ld rollouts: open %.1f ms, add %.2f ms, rate %.1f ms, tidy %.1f ms, delete one %.1f ms,"
                 " delete a user's %llu %.1f ms\n",
                 n, open_ms, add_ms, rate_ms, tidy_ms, one_ms, (unsigned long long)gone, user_ms);
    ck_assert_double_lt(add_ms, 100);
    state_close(s);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("state_forget");
    TCase *t = tcase_create("forget");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 300);
    tcase_add_test(t, a_rated_rollout_leaves_no_text);
    tcase_add_test(t, all_of_a_user_goes);
    tcase_add_test(t, all_of_an_owner_goes);
    tcase_add_test(t, a_waiting_job_is_cancelled);
    tcase_add_test(t, a_job_that_was_begun_is_waited_for);
    tcase_add_test(t, no_job_is_accepted_for_what_is_gone);
    tcase_add_test(t, no_byte_of_it_stays_in_the_files);
    tcase_add_test(t, space_goes_back);
    tcase_add_test(t, bounds_hold_where_nothing_is_added);
    tcase_add_test(t, records_are_bounded_by_count);
    tcase_add_test(t, an_older_database_learns_to_shrink);
    tcase_add_test(t, many_rows_cost_no_more);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
