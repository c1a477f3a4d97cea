/* SPDX-License-Identifier: MIT */
/* The n-th allocation, write, fsync … fails along the making of an adapter and along a feedback transaction, for all n,
 * once alone and once with all behind it. Each n has its own process, store and database. Whatever fails: an error that
 * says what, no descriptor and no memory lost, the version before or the one after and nothing between, and the same
 * request is served when the trouble is over. CLAAS_FAULT_ALL=1 leaves no n out. */
#include "config.h"

#include "fault/fault.h"
#include "repo.h"

#include "base/json.h"
#include "base/sha256.h"
#include "feedback_testing.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/wait.h>

/* Of the sanitizer, where there is one: non-zero if memory was lost. */
int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

enum { NOT_REACHED = 10, REACHED = 11, TIME_LIMIT = 60, SPARSE = 7 };

enum operation { CREATE, FEEDBACK };

static const char *const kind_names[FAULT_KINDS] = { "allocation", "write", "fsync", "create", "remove",
                                                     "read", "open", "thread" };

/* ---- in the process of one n ---- */

#define MUST(what, ...) \
    do { \
        if (!(what)) { \
            fprintf(stderr, "# " __VA_ARGS__); \
            fprintf(stderr, " (%s)\n", #what); \
            _exit(1); \
        } \
    } while (0)

static int descriptors(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    MUST(d != NULL, "cannot look at /proc/self/fd");
    while (readdir(d)) {
        n++;
    }
    (void)closedir(d);
    return n;
}

static int run(enum operation op, const char *answer)
{
    struct feedback_created made;
    const struct feedback_create r = { .lora_id = "x" };
    err = ERR_INIT;
    if (op == CREATE) {
        return feedback_create(f, &r, &made, &err);
    }
    int rc = run_one("x", answer, NULL);
    if (rc == 0) {
        feedback_result_clear(&result);
    }
    return rc;
}

/* The newest entry of the log, 0 if there is none; and every version in it is whole: its files are read and hashed. */
static uint64_t verified(void)
{
    struct adapter_entry *end = NULL;
    struct claas_error e = ERR_INIT;
    MUST(adapter_log_end(a, "x", NULL, &end, &e) == 0, "the log: %s", e.message);
    uint64_t last = end ? end->n : 0;
    adapter_entry_unref(end);
    for (uint64_t n = 1; n <= last; n++) {
        struct buf text = BUF_INIT;
        struct repo r = { .a = a };
        MUST(repo_file(r.a, "x", n, "weights.txt", &text, &e) == 0, "version %d: %s", (int)n, e.message);
        MUST(repo_file(r.a, "x", n, "moments.txt", &text, &e) == 0, "version %d: %s", (int)n, e.message);
        buf_clear(&text);
    }
    return last;
}

static void is_clear(int rc, enum fault_kind kind)
{
    MUST(rc == err.code && err.message[0], "code %d, error %d '%s'", rc, err.code, err.message);
    MUST(rc == CLAAS_ERR_EXHAUSTED || rc == CLAAS_ERR_INTERNAL || rc == CLAAS_ERR_UNAVAILABLE,
         "%s is blamed on somebody else: code %d '%s'", kind_names[kind], rc, err.message);
}

/* Everything anew over what is on the disk. */
static void reopen(void)
{
    close_rooms();
    toy_house_reopen(&house);
    a = house.adapters;
    open_rooms((struct feedback_options){ .lock_timeout_ms = 10000 });
}

static void one(enum operation op, enum fault_kind kind, long n, enum fault_mode mode)
{
    char answer[STATE_ID_CAP] = "";
    (void)alarm(TIME_LIMIT); /* its signal ends the process */
    fault_fast_sync(1);
    int before = descriptors();
    setup();
    if (op == FEEDBACK) {
        create("x");
        (void)chat("x", answer);
    }
    uint64_t old = op == FEEDBACK ? 1 : 0;
    fault_arm(kind, n, mode);
    int rc = run(op, answer);
    int reached = fault_disarm() >= n;
    if (rc != 0) {
        is_clear(rc, kind);
    }
    reopen();
    uint64_t now = verified();
    MUST(now == old || now == old + 1, "version %d came out of %d", (int)now, (int)old);
    MUST(rc != 0 || now == old + 1, "it was said to be done, and is not");
    MUST(rc == 0 || now == old || (err.flags & CLAAS_MAYBE), "it was said to have failed, and is done: %s",
         err.message);
    MUST(run(op, answer) == 0, "afterwards: %s", err.message);
    MUST(verified() == now + 1, "the repeat is not in the log");
    teardown();
    MUST(descriptors() == before, "descriptors are open: %d, before %d", descriptors(), before);
    MUST(!__lsan_do_recoverable_leak_check || __lsan_do_recoverable_leak_check() == 0, "memory was lost");
    _exit(reached ? REACHED : NOT_REACHED);
}

/* ---- all n ---- */

/* 1 if call n was reached, 0 if there is no such call any more, -1 if something is wrong. */
static int try(enum operation op, enum fault_kind kind, long n, enum fault_mode mode)
{
    int status = 0;
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        one(op, kind, n, mode);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && (WEXITSTATUS(status) == REACHED || WEXITSTATUS(status) == NOT_REACHED)) {
        return WEXITSTATUS(status) == REACHED;
    }
    fprintf(stderr, "# %s, %s %ld%s: %s %d\n", op == CREATE ? "making" : "feedback", kind_names[kind], n,
            mode == FAULT_FROM ? " and all behind it" : "", WIFSIGNALED(status) ? "signal" : "status",
            WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    return -1;
}

static void try_all(enum operation op, enum fault_kind kind, enum fault_mode mode)
{
    long step = kind == FAULT_ALLOC && !getenv("CLAAS_FAULT_ALL") ? SPARSE : 1;
    int reached = 1;
    int wrong = 0;
    long n = 1;
    for (; reached; n += step) {
        reached = try(op, kind, n, mode);
        wrong += reached < 0;
    }
    printf("# %s, %s%s: %ld tried\n", op == CREATE ? "making" : "feedback", kind_names[kind],
           mode == FAULT_FROM ? " and all behind it" : "", (n - 1) / step);
    (void)fflush(stdout);
    ck_assert_int_eq(wrong, 0);
}

START_TEST(making_an_adapter)
{
    try_all(CREATE, (enum fault_kind)(_i / 2), (enum fault_mode)(_i % 2));
}
END_TEST

START_TEST(feedback_on_an_answer)
{
    try_all(FEEDBACK, (enum fault_kind)(_i / 2), (enum fault_mode)(_i % 2));
}
END_TEST

/* ---- single functions, which end well or say EXHAUSTED ---- */

START_TEST(json_without_memory)
{
    static const char text[] = "{\"a\": [1, \"two\", {\"three\": null}], \"b\": {\"c\": true, \"d\": \"e\"}}";
    int reached = 1;
    for (long n = 1; reached; n++) {
        struct claas_error e = ERR_INIT;
        cJSON *v = NULL;
        fault_arm(FAULT_ALLOC, n, (enum fault_mode)_i);
        int rc = json_parse(text, sizeof text - 1, "the text", &v, &e);
        reached = fault_disarm() >= n;
        if (reached) {
            ck_failed(rc, CLAAS_ERR_EXHAUSTED, e);
            ck_assert_ptr_null(v);
        } else {
            ck_ok(rc, e);
            cJSON_Delete(v);
            ck_assert_int_gt(n, 10);
        }
    }
}
END_TEST

START_TEST(malformed_json_is_no_lack_of_memory)
{
    struct claas_error e = ERR_INIT;
    cJSON *v = NULL;
    errno = ENOMEM; /* somebody's, long ago */
    ck_failed(json_parse("{\"a\": }", 8, "the text", &v, &e), CLAAS_ERR_INVALID, e);
}
END_TEST

START_TEST(digest_without_memory)
{
    struct claas_digest right;
    ck_assert(sha256_parse("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", &right));
    int reached = 1;
    for (long n = 1; reached; n++) {
        struct claas_error e = ERR_INIT;
        struct claas_digest d = { .b = { 0 } };
        fault_arm(FAULT_ALLOC, n, (enum fault_mode)_i);
        int rc = sha256_of("test", 4, &d, &e);
        reached = fault_disarm() >= n;
        if (rc) {
            ck_failed(rc, CLAAS_ERR_EXHAUSTED, e);
        } else {
            ck_assert(sha256_equal(&d, &right));
        }
        ck_assert(rc == 0 || reached);
        ck_assert(n > 1 || rc != 0);
        ck_assert_int_eq(sha256_of("test", 4, &d, &e), 0);
        ck_assert(sha256_equal(&d, &right));
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("fault");
    TCase *t = tcase_create("fault");
    tcase_set_timeout(t, 1800);
    tcase_add_loop_test(t, json_without_memory, FAULT_ONCE, FAULT_FROM + 1);
    tcase_add_test(t, malformed_json_is_no_lack_of_memory);
    tcase_add_loop_test(t, digest_without_memory, FAULT_ONCE, FAULT_FROM + 1);
    tcase_add_loop_test(t, making_an_adapter, 0, 2 * FAULT_KINDS);
    tcase_add_loop_test(t, feedback_on_an_answer, 0, 2 * FAULT_KINDS);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    const char *sanitizers = getenv("claas_sanitizers");
    if (sanitizers && sanitizers[0]) { /* they allocate themselves, and count what a failed allocation leaves */
        (void)puts("1..0 # SKIP allocations of sanitizers would fail too");
        return 0;
    }
    return test_main(suite());
}
