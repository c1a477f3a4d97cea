/* SPDX-License-Identifier: MIT */
/* The adapter repository under trouble: many processes on one root, lost replies, kill -9 of
 * writers at random points. */
#include "config.h"

#include "repo.h"

#include "base/rng.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>

enum { WRITERS = 6, COMMITS = 8, KILLS = 24 };

static struct claas_error err;

static void setup(void)
{
    err = ERR_INIT;
    test_root_make();
}

static void teardown(void)
{
    test_root_remove();
}

/* ---- a storage that loses replies ---- */

static unsigned lossy_state;

/* Some calls do what they should and then say that they might not have; some fail before they
 * begin. */
static int put_lossy(void *self, const char *key, const struct claas_put *put,
                     const struct claas_call *call, struct claas_error *e)
{
    unsigned draw = (unsigned)(rng_bits(lossy_state, 7, (uint64_t)(uintptr_t)key[0]) % 100);
    lossy_state = lossy_state * 1664525u + 1013904223u;
    if (draw < 15) {
        (void)err_set(e, CLAAS_ERR_TIMEOUT, NULL, "no reply");
        e->flags |= CLAAS_MAYBE;
        return CLAAS_ERR_TIMEOUT;
    }
    int rc = claas_plugin_entry(CLAAS_ABI)->storage->put(self, key, put, call, e);
    if (rc == 0 && draw < 40) {
        rc = err_set(e, CLAAS_ERR_TIMEOUT, NULL, "the reply was lost");
        e->flags |= CLAAS_MAYBE;
    }
    return rc;
}

/* ---- writers ---- */

/* One job, until it is in the log: from whatever head there is. */
static int work_job(struct adapters *a, const char *job, struct claas_error *e)
{
    for (int round = 0; round < 500; round++) {
        struct adapter_entry *end = NULL;
        uint64_t n = 0;
        int rc = adapter_log_end(a, "x/y", NULL, &end, e);
        if (rc) {
            return rc;
        }
        uint64_t at = end ? end->n : 0;
        adapter_entry_unref(end);
        rc = repo_commit(a, "x/y", at ? ADAPTER_STEP : ADAPTER_CREATE, at, job, job, &n, e);
        if (rc != CLAAS_ERR_CONFLICT && !(e->flags & CLAAS_MAYBE)) {
            return rc;
        }
        if (rc == 0) {
            return 0;
        }
    }
    return err_set(e, CLAAS_ERR_CONFLICT, NULL, "no end of conflicts");
}

static void writer(int number, int jobs, const struct claas_storage *storage)
{
    struct repo r;
    struct claas_error e = ERR_INIT;
    int rc = repo_open(&r, storage, NULL, &e);
    for (int i = 0; rc == 0 && (jobs == 0 || i < jobs); i++) {
        char job[40];
        (void)snprintf(job, sizeof job, "job-%d-%d", number, i);
        e = ERR_INIT;
        rc = work_job(r.a, job, &e);
    }
    if (rc) {
        fprintf(stderr, "# writer %d: %s\n", number, e.message);
    }
    repo_close(&r);
    _exit(rc != 0);
}

static pid_t writer_start(int number, int jobs, const struct claas_storage *storage)
{
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        lossy_state = (unsigned)number * 7919u + 13u;
        writer(number, jobs, storage);
    }
    return pid;
}

/* Every entry can be read, follows the one before, and what it names is there and sound. Returns
 * how many. */
static uint64_t check_log(struct adapters *a, int *seen, size_t n_seen)
{
    struct adapter_entry *end = NULL;
    ck_ok(adapter_log_end(a, "x/y", NULL, &end, &err), err);
    uint64_t last = end ? end->n : 0;
    adapter_entry_unref(end);
    for (uint64_t n = 1; n <= last; n++) {
        struct adapter_entry *e = NULL;
        struct adapter_entry *before = NULL;
        struct buf b = BUF_INIT;
        int number = -1;
        int i = -1;
        ck_ok(adapter_entry_get(a, "x/y", n, NULL, &e, &err), err);
        if (n > 1) {
            ck_ok(adapter_entry_get(a, "x/y", n - 1, NULL, &before, &err), err);
            ck_assert_mem_eq(&e->previous, &before->sha256, sizeof before->sha256);
            adapter_entry_unref(before);
        }
        ck_assert_int_eq(sscanf(e->job, "job-%d-%d", &number, &i), 2);
        if (seen) {
            size_t at = (size_t)number * COMMITS + (size_t)i;
            ck_assert_uint_lt(at, n_seen);
            seen[at]++;
        }
        ck_ok(repo_file(a, "x/y", n, "adapter_model.safetensors", &b, &err), err);
        ck_assert_str_eq(buf_str(&b), e->job);
        buf_clear(&b);
        adapter_entry_unref(e);
    }
    return last;
}

static void run_writers(const struct claas_storage *storage)
{
    pid_t pids[WRITERS];
    int seen[WRITERS * COMMITS] = { 0 };
    for (int w = 0; w < WRITERS; w++) {
        pids[w] = writer_start(w, COMMITS, storage);
    }
    for (int w = 0; w < WRITERS; w++) {
        int status = 0;
        ck_assert_int_eq(waitpid(pids[w], &status, 0), pids[w]);
        ck_assert_int_eq(status, 0);
    }
    struct repo r;
    ck_ok(repo_open(&r, NULL, NULL, &err), err);
    ck_assert_uint_eq(check_log(r.a, seen, WRITERS * COMMITS), WRITERS * COMMITS); /* no gap */
    for (int i = 0; i < WRITERS * COMMITS; i++) {
        ck_assert_int_eq(seen[i], 1); /* every job, and once */
    }
    repo_close(&r);
}

START_TEST(many_processes_commit_once_each)
{
    run_writers(NULL);
}
END_TEST

START_TEST(lost_replies_are_settled)
{
    static struct claas_storage lossy;
    lossy = *claas_plugin_entry(CLAAS_ABI)->storage;
    lossy.put = put_lossy;
    run_writers(&lossy);
}
END_TEST

START_TEST(killed_writers_leave_whole_versions)
{
    struct repo r;
    uint64_t before = 0;
    for (int k = 0; k < KILLS; k++) {
        pid_t pids[2] = { writer_start(2 * k, 0, NULL), writer_start(2 * k + 1, 0, NULL) };
        struct timespec wait = { 0, (long)(rng_bits(1, 2, (uint64_t)k) % 60 + 10) * 1000000 };
        (void)nanosleep(&wait, NULL);
        for (int w = 0; w < 2; w++) {
            int status = 0;
            ck_assert_int_eq(kill(pids[w], SIGKILL), 0);
            ck_assert_int_eq(waitpid(pids[w], &status, 0), pids[w]);
            ck_assert(WIFSIGNALED(status));
        }
        ck_ok(repo_open(&r, NULL, NULL, &err), err);
        uint64_t now = k % 8 == 7 ? check_log(r.a, NULL, 0) : 0; /* all of it now and then */
        struct adapter_entry *end = NULL;
        ck_ok(adapter_log_end(r.a, "x/y", NULL, &end, &err), err);
        now = end ? end->n : now;
        ck_assert_uint_ge(now, before); /* what was there stays */
        before = now;
        if (end) {
            struct buf b = BUF_INIT;
            ck_ok(repo_file(r.a, "x/y", 0, "adapter_model.safetensors", &b, &err), err);
            ck_assert_str_eq(buf_str(&b), end->job);
            buf_clear(&b);
        }
        adapter_entry_unref(end);
        repo_close(&r);
    }
    ck_assert_uint_gt(before, 0);
    /* the dead left nothing in the way of the next writer, and the sweep of the next open took
     * their leftovers */
    ck_ok(repo_open(&r, NULL, NULL, &err), err);
    ck_ok(work_job(r.a, "job-0-999999", &err), err);
    repo_close(&r);
    char command[200];
    (void)snprintf(command, sizeof command,
                   "test -z \"$(ls -A %s/store/+tmp %s/store/+spool | grep -v ':$' | grep .)\"",
                   test_root, test_root);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("adapters_crash");
    TCase *t = tcase_create("crash");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, many_processes_commit_once_each);
    tcase_add_test(t, lost_replies_are_settled);
    tcase_add_test(t, killed_writers_leave_whole_versions);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
