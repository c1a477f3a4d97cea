/* SPDX-License-Identifier: MIT */
/* The journal of jobs, the audit, and copies of the database. */
#include "config.h"

#include "testing.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "state/state.h"

#include <sqlite3.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char dir[64];
static struct state *s;
static struct claas_error err;

static void setup(void)
{
    (void)snprintf(dir, sizeof dir, "/tmp/claas-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    err = ERR_INIT;
    ck_ok(state_open(dir, NULL, &s, &err), err);
}

static void teardown(void)
{
    state_close(s);
    ck_ok(dir_remove(dir, &err), err);
}

static void again(void)
{
    state_close(s);
    s = NULL;
    ck_ok(state_open(dir, NULL, &s, &err), err);
}

static const char *in_dir(const char *name)
{
    static char paths[4][128];
    static int at;
    at = (at + 1) % 4;
    (void)snprintf(paths[at], sizeof paths[at], "%s/%s", dir, name);
    return paths[at];
}

static int add_to(const char *id, const char *owner, const char *key, struct claas_error *e)
{
    const struct state_job j = { .id = id, .owner = owner, .adapter = "a", .phase = "lock", .request_json = "{\"n\":1}",
                                 .key = key, .body = { { 7 } }, .log_from = 3, .accepted_ns = clock_real_ns() };
    const struct state_feedback f = { .id = id, .owner = owner, .adapter = "a", .status = "running", .phase = "lock",
                                      .time_ns = j.accepted_ns, .items_json = "[]", .settings_json = "{}" };
    return state_job_add(s, &j, &f, e);
}

static int add(const char *id, const char *owner, const char *key)
{
    return add_to(id, owner, key, &err);
}

static struct state_job *job(const char *id)
{
    struct state_job *j = NULL;
    ck_ok(state_job_get(s, id, NULL, &j, &err), err);
    return j;
}

static int end(const char *id, const char *state, uint64_t version, int code)
{
    const struct state_job_end e = { .id = id, .state = state, .phase = code ? "distill" : "done", .version_from = 3,
                                     .version = version, .result_json = code ? NULL : "{\"ok\":1}", .error_code = code,
                                     .error = code ? "distill: broken" : NULL, .error_what = code ? "engine" : NULL };
    return state_job_end(s, &e, &err);
}

START_TEST(jobs_survive_restarts_and_end_once)
{
    ck_ok(add("j-1", "k", NULL), err);
    ck_ok(add("j-2", "", NULL), err);
    ck_ok(state_job_start(s, "j-1", &err), err);
    ck_ok(state_job_phase(s, "j-1", "save", &err), err);
    again();
    struct state_job *j = job("j-1");
    ck_assert_str_eq(j->state, "running");
    ck_assert_str_eq(j->phase, "save");
    ck_assert_str_eq(j->request_json, "{\"n\":1}");
    ck_assert_uint_eq(j->attempts, 1);
    ck_assert_uint_eq(j->log_from, 3);
    ck_assert_int_gt(j->started_ns, 0);
    state_job_free(j);
    struct state_feedback *f = NULL;
    ck_ok(state_feedback_get(s, "j-1", NULL, &f, &err), err);
    ck_assert_str_eq(f->status, "running"); /* an open job's record is not interrupted */
    state_feedback_free(f);
    ck_ok(state_job_next_open(s, 0, &j, &err), err);
    ck_assert_str_eq(j->id, "j-1");
    uint64_t seq = j->seq;
    state_job_free(j);
    ck_ok(state_job_next_open(s, seq, &j, &err), err);
    ck_assert_str_eq(j->id, "j-2");
    seq = j->seq;
    state_job_free(j);
    ck_failed(state_job_next_open(s, seq, &j, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_ok(end("j-1", "done", 4, 0), err);
    ck_failed(end("j-1", "done", 5, 0), CLAAS_ERR_CONFLICT, err);
    ck_failed(state_job_start(s, "j-1", &err), CLAAS_ERR_CONFLICT, err);
    j = job("j-1");
    ck_assert_str_eq(j->state, "done");
    ck_assert_str_eq(j->result_json, "{\"ok\":1}");
    ck_assert_str_eq(j->request_json, "{}");
    ck_assert_uint_eq(j->version, 4);
    state_job_free(j);
    ck_ok(state_feedback_get(s, "j-1", NULL, &f, &err), err);
    ck_assert_str_eq(f->status, "ok");
    ck_assert_uint_eq(f->version_to, 4);
    state_feedback_free(f);
}
END_TEST

START_TEST(a_dropped_job_never_was)
{
    ck_ok(add("j-1", "", NULL), err);
    ck_ok(state_job_drop(s, "j-1", &err), err);
    struct state_job *j = NULL;
    struct state_feedback *f = NULL;
    ck_failed(state_job_get(s, "j-1", NULL, &j, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_failed(state_feedback_get(s, "j-1", NULL, &f, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_ok(add("j-2", "", NULL), err);
    ck_ok(state_job_start(s, "j-2", &err), err);
    ck_failed(state_job_drop(s, "j-2", &err), CLAAS_ERR_NOT_FOUND, err); /* it runs */
}
END_TEST

START_TEST(a_key_names_one_job_of_its_owner_for_a_time)
{
    struct state_job *j = NULL;
    ck_failed(state_job_by_key(s, "o", "k", 0, &j, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_ok(add("j-1", "o", "k"), err);
    ck_failed(add("j-2", "o", "k"), CLAAS_ERR_CONFLICT, err);
    ck_ok(add("j-3", "p", "k"), err);
    ck_ok(state_job_by_key(s, "o", "k", 0, &j, &err), err);
    ck_assert_str_eq(j->id, "j-1");
    ck_assert_int_eq(j->body.b[0], 7);
    state_job_free(j);
    int64_t later = clock_real_ns() + 1000000000;
    ck_ok(state_job_by_key(s, "o", "k", later, &j, &err), err); /* an open job keeps its key */
    state_job_free(j);
    ck_ok(end("j-1", "done", 4, 0), err);
    ck_failed(state_job_by_key(s, "o", "k", later, &j, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_ok(add("j-4", "o", "k"), err);
}
END_TEST

START_TEST(lists_show_the_owner_s_own_newest_first)
{
    ck_ok(add("j-1", "o", NULL), err);
    ck_ok(add("j-2", "p", NULL), err);
    ck_ok(add("j-3", "o", NULL), err);
    struct state_jobs page;
    ck_ok(state_job_list(s, "o", 0, 1, &page, &err), err);
    ck_assert_uint_eq(page.n, 1);
    ck_assert_str_eq(page.at[0]->id, "j-3");
    uint64_t next = page.next;
    state_jobs_clear(&page);
    ck_ok(state_job_list(s, "o", next, 10, &page, &err), err);
    ck_assert_uint_eq(page.n, 1);
    ck_assert_str_eq(page.at[0]->id, "j-1");
    ck_assert_uint_eq(page.next, 0);
    state_jobs_clear(&page);
    ck_failed(state_job_list(s, NULL, 0, 0, &page, &err), CLAAS_ERR_INVALID, err);
    struct state_job *j = NULL;
    ck_failed(state_job_get(s, "j-2", "o", &j, &err), CLAAS_ERR_NOT_FOUND, err);
}
END_TEST

static int sql(const char *path, const char *text)
{
    sqlite3 *db = NULL;
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    int rc = sqlite3_exec(db, text, NULL, NULL, NULL);
    ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
    return rc;
}

START_TEST(the_audit_tells_and_is_not_changed)
{
    ck_ok(add("j-1", "o", NULL), err);
    ck_ok(add("j-2", "p", NULL), err);
    ck_ok(end("j-1", "done", 4, 0), err);
    ck_ok(end("j-2", "failed", 0, CLAAS_ERR_INTERNAL), err);
    const struct state_audit refused = { .owner = "o", .action = "refused", .adapter = "b", .job = "",
                                         .code = CLAAS_ERR_INVALID, .reason = "no such answer" };
    ck_ok(state_audit_add(s, &refused, &err), err);
    struct state_audits page;
    ck_ok(state_audit_list(s, NULL, NULL, 0, 2, &page, &err), err);
    ck_assert_uint_eq(page.n, 2);
    ck_assert_str_eq(page.at[0]->reason, "no such answer");
    ck_assert_str_eq(page.at[1]->action, "failed");
    uint64_t next = page.next;
    state_audits_clear(&page);
    ck_ok(state_audit_list(s, "o", NULL, next, 2, &page, &err), err);
    ck_assert_uint_eq(page.n, 1);
    ck_assert_str_eq(page.at[0]->action, "step");
    ck_assert_uint_eq(page.at[0]->version, 4);
    state_audits_clear(&page);
    ck_ok(state_audit_list(s, NULL, "b", 0, 10, &page, &err), err);
    ck_assert_uint_eq(page.n, 1);
    ck_assert_str_eq(page.at[0]->action, "refused");
    state_audits_clear(&page);
    char *owner = NULL;
    ck_ok(state_audit_owner(s, "j-1", &owner, &err), err);
    ck_assert_str_eq(owner, "o");
    free(owner);
    ck_failed(state_audit_owner(s, "j-9", &owner, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_assert_int_ne(sql(in_dir("state.db"), "UPDATE audit SET owner = 'x'"), SQLITE_OK);
}
END_TEST

START_TEST(old_jobs_and_old_audit_go)
{
    const struct state_options brief = { .jobs_age_ns = 1, .audit_age_ns = 1 };
    ck_ok(add("j-1", "o", NULL), err);
    ck_ok(add("j-2", "o", NULL), err);
    ck_ok(end("j-1", "done", 4, 0), err);
    state_close(s);
    ck_ok(state_open(dir, &brief, &s, &err), err);
    struct state_job *j = NULL;
    ck_failed(state_job_get(s, "j-1", NULL, &j, &err), CLAAS_ERR_NOT_FOUND, err);
    state_job_free(job("j-2")); /* open ones stay */
    struct state_audits page;
    ck_ok(state_audit_list(s, NULL, NULL, 0, 10, &page, &err), err);
    ck_assert_uint_eq(page.n, 0);
    state_audits_clear(&page);
}
END_TEST

static const char to_version_1[] =
    "DROP TABLE keys; DROP TABLE jobs; DROP TABLE audit; DROP INDEX rollouts_by_user; DROP INDEX rollouts_by_owner;"
    "DROP INDEX rollouts_rated; DROP INDEX feedback_by_owner; DROP INDEX feedback_by_time;"
    "ALTER TABLE rollouts DROP COLUMN end_user; PRAGMA user_version = 1";

START_TEST(an_older_database_is_copied_then_brought_up_to_date)
{
    state_close(s);
    s = NULL;
    ck_assert_int_eq(sql(in_dir("state.db"), to_version_1), SQLITE_OK);
    again();
    ck_ok(add("j-1", "", NULL), err);
    ck_assert_int_eq(access(in_dir("state.db.v1"), R_OK), 0);
    ck_assert_int_ne(access(in_dir("state.db.v1.part"), F_OK), 0);
    ck_assert_int_eq(sql(in_dir("state.db.v1"), "SELECT * FROM rollouts"), SQLITE_OK);
    ck_assert_int_ne(sql(in_dir("state.db.v1"), "SELECT * FROM jobs"), SQLITE_OK);
}
END_TEST

START_TEST(nothing_is_changed_where_no_copy_can_be_made)
{
    state_close(s);
    s = NULL;
    ck_assert_int_eq(sql(in_dir("state.db"), to_version_1), SQLITE_OK);
    ck_ok(dir_make(in_dir("state.db.v1.part/in the way"), 0700, &err), err);
    ck_assert_int_ne(state_open(dir, NULL, &s, &err), 0);
    ck_assert_ptr_nonnull(strstr(err.message, "state.db.v1.part"));
    ck_assert_int_ne(sql(in_dir("state.db"), "SELECT * FROM jobs"), SQLITE_OK);
}
END_TEST

START_TEST(a_backup_of_a_running_state_comes_back)
{
    const char *file = in_dir("backup.db");
    ck_ok(add("j-1", "", NULL), err);
    ck_ok(state_backup(dir, file, 0, &err), err);
    ck_ok(add("j-2", "", NULL), err);
    char *kept = NULL;
    ck_failed(state_restore(dir, file, &kept, &err), CLAAS_ERR_CONFLICT, err); /* a daemon has it */
    state_close(s);
    s = NULL;
    ck_ok(state_restore(dir, file, &kept, &err), err);
    ck_assert_int_eq(sql(kept, "UPDATE jobs SET owner = '' WHERE id = 'j-2'"), SQLITE_OK);
    free(kept);
    again();
    state_job_free(job("j-1"));
    struct state_job *j = NULL;
    ck_failed(state_job_get(s, "j-2", NULL, &j, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_assert_int_eq(access(in_dir("backup.db.part"), F_OK), -1);
}
END_TEST

START_TEST(a_backup_replaces_nothing_unasked)
{
    const char *file = in_dir("backup.db");
    ck_ok(add("j-1", "", NULL), err);
    ck_ok(state_backup(dir, file, 0, &err), err);
    ck_failed(state_backup(dir, file, 0, &err), CLAAS_ERR_CONFLICT, err);
    ck_ok(state_backup(dir, file, 1, &err), err);
    ck_failed(state_backup(dir, in_dir("state.db"), 1, &err), CLAAS_ERR_INVALID, err);
    state_close(s);
    s = NULL;
    char *kept = NULL;
    ck_failed(state_restore(dir, in_dir("state.db"), &kept, &err), CLAAS_ERR_INVALID, err);
    again();
    state_job_free(job("j-1"));
}
END_TEST

static atomic_int writing;
static atomic_int written; /* jobs that are acknowledged */

static void *write_on(void *unused)
{
    char id[16];
    struct claas_error own = ERR_INIT;
    while (atomic_load(&writing)) {
        (void)snprintf(id, sizeof id, "j-%d", atomic_load(&written));
        if (add_to(id, "", NULL, &own) != 0) {
            return unused; /* the count stands still, and the test sees it */
        }
        (void)atomic_fetch_add(&written, 1);
    }
    return unused;
}

START_TEST(a_backup_under_load_has_all_that_was_acknowledged)
{
    const char *file = in_dir("backup.db");
    pthread_t thread;
    int before[5];
    atomic_store(&writing, 1);
    ck_assert_int_eq(pthread_create(&thread, NULL, write_on, NULL), 0);
    for (int i = 0; i < 5; i++) {
        int seen = atomic_load(&written);
        while (atomic_load(&written) < seen + 20) {
            (void)usleep(1000);
        }
        before[i] = atomic_load(&written);
        ck_ok(state_backup(dir, file, 1, &err), err);
    }
    atomic_store(&writing, 0);
    (void)pthread_join(thread, NULL);
    state_close(s);
    s = NULL;
    char *kept = NULL;
    ck_ok(state_restore(dir, file, &kept, &err), err);
    free(kept);
    again();
    char id[16];
    for (int i = 0; i < before[4]; i++) {
        (void)snprintf(id, sizeof id, "j-%d", i);
        state_job_free(job(id));
    }
}
END_TEST

/* As below systemd with DynamicUser, where /var/lib/claas is a link to private/claas. */
START_TEST(a_directory_may_be_a_link)
{
    struct state *linked = NULL;
    char *kept = NULL;
    char target[96];
    (void)snprintf(target, sizeof target, "%s/private", dir);
    ck_ok(dir_make(target, 0700, &err), err);
    ck_assert_int_eq(symlink("private", in_dir("link")), 0);
    ck_ok(state_open(in_dir("link"), NULL, &linked, &err), err);
    ck_ok(state_backup(in_dir("link"), in_dir("link/backup.db"), 0, &err), err);
    state_close(linked);
    ck_ok(state_restore(in_dir("link"), in_dir("link/backup.db"), &kept, &err), err);
    free(kept);
    ck_ok(state_open(in_dir("link"), NULL, &linked, &err), err);
    state_close(linked);
    ck_assert_int_eq(access(in_dir("private/state.db"), F_OK), 0);
}
END_TEST

START_TEST(a_database_that_is_a_link_is_refused)
{
    state_close(s);
    s = NULL;
    ck_assert_int_eq(rename(in_dir("state.db"), in_dir("elsewhere.db")), 0);
    ck_assert_int_eq(symlink("elsewhere.db", in_dir("state.db")), 0);
    ck_failed(state_open(dir, NULL, &s, &err), CLAAS_ERR_CORRUPT, err);
    ck_assert_ptr_nonnull(strstr(err.message, "not a regular file"));
}
END_TEST

START_TEST(a_bad_backup_changes_nothing)
{
    const char *file = in_dir("backup.db");
    ck_ok(add("j-1", "", NULL), err);
    ck_ok(state_backup(dir, file, 0, &err), err);
    state_close(s);
    s = NULL;
    int code = CLAAS_ERR_CORRUPT;
    if (_i == 0) {
        int fd = open(file, O_WRONLY | O_CLOEXEC);
        ck_assert_int_ge(fd, 0);
        char garbage[4096];
        memset(garbage, 0x5A, sizeof garbage);
        ck_assert_int_eq(pwrite(fd, garbage, sizeof garbage, 4096 * 2), sizeof garbage);
        (void)close(fd);
    } else if (_i == 1) {
        ck_assert_int_eq(unlink(file), 0);
        ck_assert_int_eq(sql(file, "CREATE TABLE t (x)"), SQLITE_OK);
    } else {
        ck_assert_int_eq(unlink(file), 0);
        code = CLAAS_ERR_NOT_FOUND;
    }
    char *kept = NULL;
    ck_failed(state_restore(dir, file, &kept, &err), code, err);
    ck_assert_ptr_null(kept);
    ck_assert_msg(strstr(err.message, file) != NULL, "%s", err.message);
    again();
    state_job_free(job("j-1"));
}
END_TEST

START_TEST(damage_tells_the_way_out)
{
    char *kept = NULL;
    const char *file = in_dir("backup.db");
    ck_ok(add("j-1", "", NULL), err);
    ck_ok(state_backup(dir, file, 0, &err), err);
    state_close(s);
    s = NULL;
    ck_assert_int_eq(truncate(in_dir("state.db"), 4096), 0);
    ck_failed(state_open(dir, NULL, &s, &err), CLAAS_ERR_CORRUPT, err);
    ck_assert_msg(strstr(err.message, "claas restore") != NULL, "%s", err.message);
    ck_ok(state_restore(dir, file, &kept, &err), err);
    ck_assert_int_eq(access(kept, R_OK), 0);
    free(kept);
    again();
    state_job_free(job("j-1"));
}
END_TEST

static Suite *suite(void)
{
    Suite *all = suite_create("state_job");
    TCase *t = tcase_create("job");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, jobs_survive_restarts_and_end_once);
    tcase_add_test(t, a_dropped_job_never_was);
    tcase_add_test(t, a_key_names_one_job_of_its_owner_for_a_time);
    tcase_add_test(t, lists_show_the_owner_s_own_newest_first);
    tcase_add_test(t, the_audit_tells_and_is_not_changed);
    tcase_add_test(t, old_jobs_and_old_audit_go);
    tcase_add_test(t, an_older_database_is_copied_then_brought_up_to_date);
    tcase_add_test(t, nothing_is_changed_where_no_copy_can_be_made);
    tcase_add_test(t, a_backup_of_a_running_state_comes_back);
    tcase_add_test(t, a_backup_replaces_nothing_unasked);
    tcase_add_test(t, a_backup_under_load_has_all_that_was_acknowledged);
    tcase_add_test(t, a_directory_may_be_a_link);
    tcase_add_test(t, a_database_that_is_a_link_is_refused);
    tcase_add_loop_test(t, a_bad_backup_changes_nothing, 0, 3);
    tcase_add_test(t, damage_tells_the_way_out);
    suite_add_tcase(all, t);
    return all;
}

int main(void)
{
    return test_main(suite());
}
