/* SPDX-License-Identifier: MIT */
/* The adapter repository over a real fs instance: versions, names, history, rollback, aliases, deletion, export, sweep. */
#include "config.h"

#include "repo.h"

#include "base/json.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <zip.h>

static struct repo repo;
static struct adapters *a;
static struct claas_error err;

#define WEIGHTS "adapter_model.safetensors"
#define MOMENTS "moments.safetensors"

static void start(const struct claas_storage *storage, const struct adapters_options *options)
{
    err = ERR_INIT;
    ck_ok(repo_open(&repo, storage, options, &err), err);
    a = repo.a;
}

static void restart(const struct adapters_options *options)
{
    repo_close(&repo);
    start(NULL, options);
}

static void setup(void)
{
    test_root_make();
    start(NULL, NULL);
}

static void teardown(void)
{
    repo_close(&repo);
    test_root_remove();
}

static uint64_t commit(const char *id, enum adapter_kind kind, uint64_t expected, const char *content)
{
    uint64_t n = 0;
    char job[64];
    (void)snprintf(job, sizeof job, "job-%llu-%.20s", (unsigned long long)expected, content);
    ck_ok(repo_commit(a, id, kind, expected, job, content, &n, &err), err);
    ck_assert_uint_eq(n, expected + 1);
    return n;
}

static void check_file(const char *id, uint64_t n, const char *name, const char *expected)
{
    struct buf b = BUF_INIT;
    ck_ok(repo_file(a, id, n, name, &b, &err), err);
    ck_assert_str_eq(buf_str(&b), expected);
    buf_clear(&b);
}

/* ---- versions ---- */

START_TEST(versions_come_back)
{
    struct adapter_entry *e = NULL;
    commit("ada/tutor", ADAPTER_CREATE, 0, "one");
    commit("ada/tutor", ADAPTER_STEP, 1, "two");
    for (int round = 0; round < 2; round++) {
        ck_ok(adapter_head(a, "ada/tutor", NULL, &e, &err), err);
        ck_assert_uint_eq(e->n, 2);
        ck_assert_int_eq(e->kind, ADAPTER_STEP);
        ck_assert_str_eq(e->format, "peft/1");
        ck_assert_str_eq(e->base, "base-1");
        ck_assert_str_eq(e->base_name, "tiny");
        ck_assert_str_eq(e->engine, "test");
        ck_assert_str_eq(e->settings_json, "{\"lr\":1}");
        ck_assert_uint_eq(e->n_files, 4);
        ck_assert_int_gt(e->time_ns, INT64_C(1600000000) * 1000000000);
        adapter_entry_unref(e);
        check_file("ada/tutor", 0, WEIGHTS, "two");
        check_file("ada/tutor", 1, WEIGHTS, "one");
        check_file("ada/tutor", 2, MOMENTS, "moments of two");
        restart(NULL); /* and so they do for another process */
    }
    struct buf b = BUF_INIT;
    ck_failed(repo_file(a, "ada/tutor", 3, WEIGHTS, &b, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_failed(repo_file(a, "ada/other", 0, WEIGHTS, &b, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_failed(repo_file(a, "ada/tutor", 1, "../x", &b, &err), CLAAS_ERR_NOT_FOUND, err);
    buf_clear(&b);
}
END_TEST

START_TEST(a_version_is_a_directory_too)
{
    struct adapter_version *v = NULL;
    struct adapter_version *same = NULL;
    const char *dir = NULL;
    const char *again = NULL;
    char name[ADAPTER_SERVING_CAP];
    char hex[SHA256_HEX];
    commit("ada/tutor", ADAPTER_CREATE, 0, "one");
    ck_ok(adapter_version_get(a, "ada/tutor", 0, NULL, &v, &err), err);
    ck_ok(adapter_version_get(a, "ada/tutor", 1, NULL, &same, &err), err);
    ck_assert_ptr_eq(v, same);
    const struct claas_version *abi = adapter_version_abi(v);
    ck_assert_str_eq(abi->label, "ada/tutor@1");
    ck_ok(abi->dir(abi, CLAAS_SERVE, &dir, &err), err);
    ck_ok(abi->dir(abi, CLAAS_SERVE, &again, &err), err);
    ck_assert_ptr_eq(dir, again);
    char *inside = path_join(dir, WEIGHTS);
    char *moments = path_join(dir, MOMENTS);
    ck_assert_int_eq(access(inside, R_OK), 0);
    ck_assert_int_eq(access(moments, R_OK), -1);
    ck_failed(abi->dir(abi, 8, &dir, &err), CLAAS_ERR_INVALID, err);
    adapter_serving_name(abi, name);
    sha256_hex(&abi->serve, hex);
    ck_assert_int_eq(strncmp(name, "ada-tutor-", 10), 0);
    ck_assert_int_eq(strncmp(name + 10, hex, 12), 0);
    ck_assert_uint_eq(strlen(name), 22);
    adapter_version_unref(same);
    ck_assert_int_eq(access(inside, R_OK), 0);
    adapter_version_unref(v);
    ck_assert_int_eq(access(inside, R_OK), -1); /* nothing is left lying about */
    free(inside);
    free(moments);
}
END_TEST

START_TEST(digests_are_as_documented)
{
    struct claas_digest zero = { { 0 } };
    struct claas_file w = { sizeof w, CLAAS_SERVE, 3, "w", zero };
    struct claas_file m = { sizeof m, CLAAS_TRAIN, 4, "m", zero };
    struct claas_file t = { sizeof t, CLAAS_ABOUT, 5, "t", zero };
    const struct claas_file *files[] = { &w, &t, &m };
    const struct claas_file *mixed[] = { &m, &w, &t };
    struct claas_digest state;
    struct claas_digest serve;
    struct claas_digest expected;
    struct buf b = BUF_INIT;
    static const char zeros[] = "0000000000000000000000000000000000000000000000000000000000000000";
    ck_ok(adapter_digests("peft/1", "b", files, 3, &state, &serve, &err), err);
    buf_addf(&b, "1 w 3 %s\n2 m 4 %s\n", zeros, zeros);
    ck_assert_int_eq(sha256_of(b.data, b.len, &expected, NULL), 0);
    ck_assert(sha256_equal(&state, &expected));
    buf_cut(&b, 0);
    buf_addf(&b, "format peft/1\nbase b\n1 w 3 %s\n", zeros);
    ck_assert_int_eq(sha256_of(b.data, b.len, &expected, NULL), 0);
    ck_assert(sha256_equal(&serve, &expected));
    ck_ok(adapter_digests("peft/1", "b", mixed, 3, &expected, &serve, &err), err);
    ck_assert(sha256_equal(&state, &expected));
    buf_clear(&b);
}
END_TEST

START_TEST(a_candidate_can_be_loaded)
{
    struct adapter_out *o = NULL;
    struct adapter_version *v = NULL;
    const char *path = NULL;
    const char *dir = NULL;
    struct buf b = BUF_INIT;
    ck_ok(repo_write(a, "ada/tutor", "fresh", &o, &err), err);
    ck_ok(adapter_out_version(o, &v, &err), err);
    const struct claas_version *abi = adapter_version_abi(v);
    ck_assert_ptr_null(adapter_version_entry(v));
    ck_ok(abi->dir(abi, CLAAS_SERVE | CLAAS_TRAIN, &dir, &err), err);
    adapter_out_free(o);
    ck_ok(abi->path(abi, WEIGHTS, &path, &err), err);
    ck_ok(file_read(path, 100, &b, &err), err);
    ck_assert_str_eq(buf_str(&b), "fresh");
    adapter_version_unref(v);
    ck_assert_int_eq(access(path, F_OK), -1);
    buf_clear(&b);
}
END_TEST

/* ---- what an engine writes ---- */

struct writer {
    struct claas_out *out;
    char name[16];
    int rc;
};

static void *writer_run(void *arg)
{
    struct writer *w = arg;
    struct claas_error local = ERR_INIT;
    for (int i = 0; i < 200 && w->rc == 0; i++) {
        w->rc = w->out->write(w->out, w->name, CLAAS_SERVE, w->name, strlen(w->name), &local);
    }
    return NULL;
}

START_TEST(names_are_written_at_once)
{
    struct adapter_out_params params = { .id = "x/y" };
    struct adapter_out *o = NULL;
    struct claas_digest state;
    struct claas_digest serve;
    struct writer w[4];
    pthread_t threads[4];
    ck_ok(adapter_out_new(a, &params, &o, &err), err);
    struct claas_out *abi = adapter_out_abi(o);
    for (int i = 0; i < 4; i++) {
        w[i] = (struct writer){ .out = abi };
        (void)snprintf(w[i].name, sizeof w[i].name, "file%d", i);
        ck_assert_int_eq(pthread_create(&threads[i], NULL, writer_run, &w[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        ck_assert_int_eq(w[i].rc, 0);
    }
    ck_ok(abi->seal(abi, "peft/1", &state, &serve, &err), err);
    struct adapter_version *v = NULL;
    ck_ok(adapter_out_version(o, &v, &err), err);
    const struct claas_version *version = adapter_version_abi(v);
    ck_assert(sha256_equal(&version->state, &state));
    ck_assert(sha256_equal(&version->serve, &serve));
    for (int i = 0; i < 4; i++) {
        struct buf b = BUF_INIT;
        struct claas_digest d;
        for (int k = 0; k < 200; k++) {
            buf_adds(&b, w[i].name);
        }
        ck_assert_int_eq(sha256_of(b.data, b.len, &d, NULL), 0);
        ck_assert_str_eq(version->files[i]->name, w[i].name);
        ck_assert_uint_eq(version->files[i]->bytes, b.len);
        ck_assert(sha256_equal(&version->files[i]->sha256, &d));
        buf_clear(&b);
    }
    adapter_version_unref(v);
    adapter_out_free(o);
}
END_TEST

static int claim_refuse(void *ctx, const char *uri, struct claas_error *e)
{
    ++*(int *)ctx;
    return strcmp(uri, "tinker://no") == 0 ? err_set(e, CLAAS_ERR_UNAVAILABLE, NULL, "no journal") : 0;
}

START_TEST(outputs_are_checked)
{
    static const char *const bad[] = { "", "..", "../x", "/etc/x", "a/../b", ".hidden", "a b", "a//b", "a/", "a/.b", "\xFF" };
    struct adapter_out *o = NULL;
    int claimed = 0;
    struct adapter_out_params params = { .id = "x/y", .claim = claim_refuse, .ctx = &claimed };
    ck_ok(adapter_out_new(a, &params, &o, &err), err);
    struct claas_out *abi = adapter_out_abi(o);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ck_failed(abi->write(abi, bad[i], CLAAS_SERVE, "x", 1, &err), CLAAS_ERR_INVALID, err);
    }
    ck_failed(abi->write(abi, "ok", 0, "x", 1, &err), CLAAS_ERR_INVALID, err);
    ck_failed(abi->write(abi, "ok", 8, "x", 1, &err), CLAAS_ERR_INVALID, err);
    ck_ok(abi->write(abi, "moments", CLAAS_TRAIN, "x", 1, &err), err);
    ck_failed(abi->write(abi, "moments", CLAAS_SERVE, "x", 1, &err), CLAAS_ERR_INVALID, err);
    ck_failed(abi->seal(abi, "peft/1", NULL, NULL, &err), CLAAS_ERR_INVALID, err); /* nothing to serve */
    struct adapter_version *v = NULL;
    ck_failed(adapter_out_version(o, &v, &err), CLAAS_ERR_INVALID, err);
    ck_failed(adapter_out_put(o, NULL, &err), CLAAS_ERR_INVALID, err);
    char *outside = path_join(test_root, "outside");
    char *inside = path_join(abi->scratch, "made");
    char *link_to = path_join(abi->scratch, "link");
    ck_ok(file_write_durable(outside, "o", 1, 0600, &err), err);
    ck_ok(file_write_durable(inside, "taken", 5, 0600, &err), err);
    ck_assert_int_eq(symlink(outside, link_to), 0);
    ck_failed(abi->take(abi, "t", CLAAS_SERVE, outside, &err), CLAAS_ERR_INVALID, err);
    ck_failed(abi->take(abi, "t", CLAAS_SERVE, "../made", &err), CLAAS_ERR_INVALID, err);
    ck_failed(abi->take(abi, "t", CLAAS_SERVE, "link", &err), CLAAS_ERR_INVALID, err);
    ck_failed(abi->take(abi, "t", CLAAS_SERVE, "absent", &err), CLAAS_ERR_INVALID, err);
    ck_ok(abi->take(abi, "t", CLAAS_SERVE, inside, &err), err);
    ck_assert_int_eq(access(inside, F_OK), -1);
    ck_failed(abi->take(abi, "t", CLAAS_SERVE, "again", &err), CLAAS_ERR_INVALID, err);
    ck_failed(abi->claim(abi, "tinker://no", &err), CLAAS_ERR_UNAVAILABLE, err);
    ck_ok(abi->claim(abi, "tinker://yes", &err), err);
    ck_failed(abi->claim(abi, "two words", &err), CLAAS_ERR_INVALID, err);
    ck_assert_int_eq(claimed, 2);
    ck_failed(abi->seal(abi, "", NULL, NULL, &err), CLAAS_ERR_INVALID, err);
    ck_ok(abi->seal(abi, "peft/1", NULL, NULL, &err), err);
    ck_ok(abi->seal(abi, "peft/1", NULL, NULL, &err), err);
    ck_failed(abi->write(abi, "late", CLAAS_SERVE, "x", 1, &err), CLAAS_ERR_INVALID, err);
    ck_failed(abi->write(abi, "moments", CLAAS_TRAIN, "x", 1, &err), CLAAS_ERR_INVALID, err);
    adapter_out_free(o);
    free(outside);
    free(inside);
    free(link_to);
}
END_TEST

START_TEST(metrics_reach_the_entry)
{
    struct adapter_out *o = NULL;
    struct adapter_entry *e = NULL;
    const struct adapter_metric *m = NULL;
    const struct adapter_note *notes = NULL;
    double value = 0;
    struct adapter_out_params params = { .id = "x/y" };
    ck_ok(adapter_out_new(a, &params, &o, &err), err);
    struct claas_out *abi = adapter_out_abi(o);
    abi->metric(abi, 0, "loss", 2.5);
    ck_assert_ptr_null(adapter_out_spoilt(o));
    abi->metric(abi, 0, "bad", 0.0 / 0.0);
    abi->metric(abi, 0, "worse", 1.0 / 0.0);
    abi->metric(abi, 1, "loss", 1.5);
    abi->note(abi, 1, "moments", "started anew");
    abi->note(abi, 1, "moments", "\xFF");
    ck_ok(abi->write(abi, "w", CLAAS_SERVE, "x", 1, &err), err);
    ck_ok(abi->claim(abi, "tinker://c", &err), err);
    ck_ok(abi->seal(abi, "peft/1", NULL, NULL, &err), err);
    ck_assert_uint_eq(adapter_out_metrics(o, &m), 2);
    ck_assert_str_eq(adapter_out_spoilt(o), "bad");
    ck_assert_uint_eq(adapter_out_notes(o, &notes), 1);
    ck_assert_str_eq(notes[0].text, "started anew");
    ck_assert_int_eq(adapter_out_metric(o, "loss", &value), 1);
    ck_assert_double_eq(value, 1.5);
    ck_assert_int_eq(adapter_out_metric(o, "bad", &value), 0);
    struct adapter_commit c = { .kind = ADAPTER_CREATE, .job = "j" };
    ck_ok(adapter_commit(a, "x/y", &c, o, NULL, &e, &err), err);
    ck_assert_str_eq(e->metrics_json, "{\"loss\":1.5,\"steps\":[{\"step\":0,\"loss\":2.5},{\"step\":1,\"loss\":1.5}]}");
    ck_assert_uint_eq(e->n_claims, 1);
    ck_assert_str_eq(e->claims[0], "tinker://c");
    adapter_entry_unref(e);
    adapter_out_free(o);
}
END_TEST

START_TEST(known_contents_need_no_sending)
{
    struct adapter_out *o = NULL;
    struct adapter_entry *e = NULL;
    struct adapter_out_params params = { .id = "ada/tutor", .base = "base-1" };
    commit("ada/tutor", ADAPTER_CREATE, 0, "one");
    struct claas_digest d;
    ck_assert_int_eq(sha256_of("one", 3, &d, NULL), 0);
    ck_ok(adapter_out_new(a, &params, &o, &err), err);
    struct claas_out *abi = adapter_out_abi(o);
    ck_ok(abi->have(abi, WEIGHTS, CLAAS_SERVE, 3, &d, &err), err);
    ck_failed(abi->have(abi, "w2", CLAAS_SERVE, 4, &d, &err), CLAAS_ERR_NOT_FOUND, err);
    d.b[0] ^= 1;
    ck_failed(abi->have(abi, "w2", CLAAS_SERVE, 3, &d, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_ok(abi->seal(abi, "peft/1", NULL, NULL, &err), err);
    struct adapter_commit c = { .kind = ADAPTER_STEP, .job = "j2", .expected = 1 };
    ck_ok(adapter_commit(a, "ada/tutor", &c, o, NULL, &e, &err), err);
    check_file("ada/tutor", 2, WEIGHTS, "one");
    adapter_entry_unref(e);
    adapter_out_free(o);
}
END_TEST

/* ---- commits ---- */

START_TEST(commits_compare_and_swap)
{
    uint64_t n = 0;
    commit("ada/tutor", ADAPTER_CREATE, 0, "one");
    ck_failed(repo_commit(a, "ada/tutor", ADAPTER_CREATE, 0, "other", "x", &n, &err), CLAAS_ERR_CONFLICT, err);
    ck_failed(repo_commit(a, "ada/tutor", ADAPTER_STEP, 5, "other", "x", &n, &err), CLAAS_ERR_INVALID, err);
    ck_failed(repo_commit(a, "ada/none", ADAPTER_STEP, 0, "other", "x", &n, &err), CLAAS_ERR_CONFLICT, err);
    ck_failed(repo_commit(a, "ada/tutor", ADAPTER_STEP, 1, "", "x", &n, &err), CLAAS_ERR_INVALID, err);
    ck_failed(repo_commit(a, "ada/tutor", ADAPTER_DELETE, 1, "j", "x", &n, &err), CLAAS_ERR_INVALID, err);
    ck_failed(repo_commit(a, "../tutor", ADAPTER_CREATE, 0, "j", "x", &n, &err), CLAAS_ERR_INVALID, err);
    ck_ok(repo_commit(a, "ada/tutor", ADAPTER_STEP, 1, "job-a", "two", &n, &err), err);
    /* the same job again, as after a lost reply or a crash: it is done, and done once */
    ck_ok(repo_commit(a, "ada/tutor", ADAPTER_STEP, 1, "job-a", "two again", &n, &err), err);
    ck_assert_uint_eq(n, 2);
    check_file("ada/tutor", 0, WEIGHTS, "two");
    struct adapter_entry *e = NULL;
    ck_ok(adapter_log_find(a, "ada/tutor", 0, "job-a", NULL, &e, &err), err);
    ck_assert_uint_eq(e->n, 2);
    adapter_entry_unref(e);
    ck_failed(adapter_log_find(a, "ada/tutor", 2, "job-a", NULL, &e, &err), CLAAS_ERR_NOT_FOUND, err);
}
END_TEST

START_TEST(rollback_restores_and_numbers_go_on)
{
    struct adapter_entry *first = NULL;
    struct adapter_entry *e = NULL;
    commit("ada/tutor", ADAPTER_CREATE, 0, "one");
    commit("ada/tutor", ADAPTER_STEP, 1, "two");
    ck_ok(adapter_rollback(a, "ada/tutor", 1, "back", NULL, &e, &err), err);
    ck_assert_uint_eq(e->n, 3);
    ck_assert_int_eq(e->kind, ADAPTER_RESTORE);
    ck_assert_uint_eq(e->of, 1);
    ck_ok(adapter_entry_get(a, "ada/tutor", 1, NULL, &first, &err), err);
    ck_assert(sha256_equal(&first->serve, &e->serve));
    ck_assert(sha256_equal(&first->state, &e->state));
    adapter_entry_unref(first);
    adapter_entry_unref(e);
    check_file("ada/tutor", 0, WEIGHTS, "one");
    ck_failed(adapter_rollback(a, "ada/tutor", 9, NULL, NULL, &e, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_failed(adapter_rollback(a, "ada/tutor", 0, NULL, NULL, &e, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_failed(adapter_rollback(a, "ada/none", 1, NULL, NULL, &e, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_ok(adapter_delete(a, "ada/tutor", NULL, NULL, &err), err);
    ck_failed(adapter_head(a, "ada/tutor", NULL, &e, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_failed(adapter_delete(a, "ada/tutor", NULL, NULL, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_failed(adapter_rollback(a, "ada/tutor", 1, NULL, NULL, &e, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_ok(adapter_log_end(a, "ada/tutor", NULL, &e, &err), err);
    ck_assert_uint_eq(e->n, 4);
    ck_assert_int_eq(e->kind, ADAPTER_DELETE);
    adapter_entry_unref(e);
    commit("ada/tutor", ADAPTER_CREATE, 4, "anew");
    check_file("ada/tutor", 0, WEIGHTS, "anew");
    struct buf b = BUF_INIT;
    ck_failed(repo_file(a, "ada/tutor", 4, WEIGHTS, &b, &err), CLAAS_ERR_NOT_FOUND, err);
}
END_TEST

START_TEST(history_pages)
{
    struct adapter_entries page = { 0 };
    ck_failed(adapter_history(a, "x/y", 0, 10, NULL, &page, &err), CLAAS_ERR_NOT_FOUND, err);
    for (uint64_t n = 0; n < 7; n++) {
        char content[8];
        (void)snprintf(content, sizeof content, "v%d", (int)n);
        commit("x/y", n ? ADAPTER_STEP : ADAPTER_CREATE, n, content);
    }
    restart(NULL);
    uint64_t before = 0;
    uint64_t expected = 7;
    do {
        ck_ok(adapter_history(a, "x/y", before, 3, NULL, &page, &err), err);
        for (size_t i = 0; i < page.n; i++) {
            ck_assert_uint_eq(page.at[i]->n, expected--);
        }
        before = page.next;
        adapter_entries_clear(&page);
    } while (before);
    ck_assert_uint_eq(expected, 0);
    ck_ok(adapter_history(a, "x/y", 1, 3, NULL, &page, &err), err);
    ck_assert_uint_eq(page.n, 0);
    adapter_entries_clear(&page);
}
END_TEST

/* ---- names ---- */

START_TEST(ids_are_checked)
{
    static const char *const bad[] = {
        "", "/", "..", "a/..", "../a", "a/../b", "a//b", "/a", "a/", ".a", "-a", "_a", "a/.b", "a b", "a~b", "a@1", "a\\b",
        "\xC3\xA9", "a/b/c/d/e/f/g/h/i", "a\n", "%2e%2e",
    };
    char id[ADAPTER_ID_CAP];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ck_failed(adapter_id_check(bad[i], &err), CLAAS_ERR_INVALID, err);
    }
    ck_ok(adapter_id_check("a/b/c/d/e/f/g/h", &err), err);
    ck_ok(adapter_id_check("Ada_9/t.u-t", &err), err);
    char longer[300];
    memset(longer, 'a', sizeof longer);
    longer[64] = '\0';
    ck_ok(adapter_id_check(longer, &err), err);
    longer[64] = 'a';
    longer[65] = '\0';
    ck_failed(adapter_id_check(longer, &err), CLAAS_ERR_INVALID, err);
    memset(longer, 'a', sizeof longer);
    longer[60] = longer[121] = longer[182] = '/';
    longer[200] = '\0';
    ck_ok(adapter_id_check(longer, &err), err);
    longer[200] = 'a';
    longer[201] = '\0';
    ck_failed(adapter_id_check(longer, &err), CLAAS_ERR_INVALID, err);
    static const char *const strip[][2] = {
        { "user/m", "user/m" }, { "/user/m/", "user/m" }, { "user/m-latest", "user/m" }, { "user/m-init", "user/m" },
        { "user/m@12", "user/m" }, { "user/m-init@3", "user/m" }, { "m-latest-init", "m" },
    };
    for (size_t i = 0; i < sizeof strip / sizeof *strip; i++) {
        ck_ok(adapter_id_strip(strip[i][0], id, &err), err);
        ck_assert_str_eq(id, strip[i][1]);
    }
    ck_failed(adapter_id_strip("-init", id, &err), CLAAS_ERR_INVALID, err);
    ck_failed(adapter_id_strip("user/../m-init", id, &err), CLAAS_ERR_INVALID, err);
}
END_TEST

static void check_resolve(const char *name, const char *id, uint64_t n, int alias)
{
    struct adapter_name found;
    ck_ok(adapter_resolve(a, name, "user/m", NULL, &found, &err), err);
    ck_assert_str_eq(found.id, id);
    ck_assert_uint_eq(found.n, n);
    ck_assert_int_eq(found.alias, alias);
}

START_TEST(names_resolve_in_order)
{
    struct adapter_name found;
    commit("user/m", ADAPTER_CREATE, 0, "m");
    commit("user-m", ADAPTER_CREATE, 0, "flat-twin");
    commit("ada/b-c", ADAPTER_CREATE, 0, "1");
    commit("ada-b/c", ADAPTER_CREATE, 0, "2");
    commit("solo/x.y", ADAPTER_CREATE, 0, "3");
    ck_ok(adapter_alias_set(a, "prod", "user/m", NULL, &err), err);
    check_resolve("user/m", "user/m", 0, 0);
    check_resolve("user/m-latest", "user/m", 0, 0);
    check_resolve("user/m-init", "user/m", 0, 0);
    check_resolve("user/m@1", "user/m", 1, 0);
    check_resolve("prod", "user/m", 0, 1);
    check_resolve("prod@1", "user/m", 1, 1);
    check_resolve("user-m", "user-m", 0, 0); /* an exact id wins over the flattened form */
    check_resolve("solo-x.y", "solo/x.y", 0, 0);
    check_resolve("solo-x.y-init", "solo/x.y", 0, 0);
    check_resolve("solo-x.y-latest", "solo/x.y", 0, 0);
    ck_failed(adapter_resolve(a, "late-comer", "", NULL, &found, &err), CLAAS_ERR_NOT_FOUND, err);
    commit("late/comer", ADAPTER_CREATE, 0, "late");
    check_resolve("late-comer", "late/comer", 0, 0); /* at once, although names are read every two seconds */
    check_resolve("", "user/m", 0, 0);
    check_resolve(NULL, "user/m", 0, 0);
    static const char *const none[] = {
        "ada-b-c", "nobody", "user/m@0", "user/m@x", "user/m@", "user", "../user/m", "user/m@123456789", "@1", "solo",
        "ada-b-c-init", "solo-init",
    };
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        ck_failed(adapter_resolve(a, none[i], "user/m", NULL, &found, &err), CLAAS_ERR_NOT_FOUND, err);
    }
    ck_ok(adapter_resolve(a, "", "", NULL, &found, &err), err);
    ck_assert_str_eq(found.id, "");
    ck_ok(adapter_delete(a, "user/m", NULL, NULL, &err), err);
    ck_failed(adapter_resolve(a, "prod", "", NULL, &found, &err), CLAAS_ERR_NOT_FOUND, err);
}
END_TEST

static void check_names(struct adapter_names *names, const char *expected)
{
    struct buf b = BUF_INIT;
    for (size_t i = 0; i < names->n; i++) {
        buf_addf(&b, "%s ", names->at[i]);
    }
    ck_assert_str_eq(buf_str(&b), expected);
    buf_clear(&b);
    adapter_names_clear(names);
}

static void check_list(const char *prefix, const char *after, uint32_t limit, int more, const char *expected)
{
    struct adapter_names names = { 0 };
    ck_ok(adapter_list(a, prefix, after, limit, NULL, &names, &err), err);
    ck_assert_int_eq(names.more, more);
    check_names(&names, expected);
}

START_TEST(lists_end_at_segments)
{
    static const char *const ids[] = { "user1", "user1/a", "user1/b/c", "user10", "user10/a", "user1-x", "zoe" };
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        commit(ids[i], ADAPTER_CREATE, 0, ids[i]);
    }
    check_list("", "", 0, 0, "user1 user1-x user10 user10/a user1/a user1/b/c zoe ");
    check_list("user1", NULL, 0, 0, "user1 user1/a user1/b/c ");
    check_list("/user1/", "", 0, 0, "user1/a user1/b/c ");
    check_list("user1/b", "", 0, 0, "user1/b/c ");
    check_list("user", "", 0, 0, "");
    check_list("..", "", 0, 0, "");
    check_list("user1", "", 2, 1, "user1 user1/a ");
    check_list("user1", "user1/a", 2, 0, "user1/b/c ");
    check_list("", "user1-x", 1, 1, "user10 ");
    ck_ok(adapter_delete(a, "user1", NULL, NULL, &err), err); /* not what lies below it */
    check_list("user1", "", 0, 0, "user1/a user1/b/c ");
    /* a marker without a log, as a crash before the first entry leaves it, is not shown */
    char *marker = path_join(test_root, "store/adapters/ghost");
    ck_ok(file_write_durable(marker, "{\"id\":\"ghost\"}", 14, 0600, &err), err);
    check_list("", "zoe", 0, 0, "");
    check_list("ghost", "", 0, 0, "");
    free(marker);
}
END_TEST

START_TEST(aliases_come_and_go)
{
    char id[ADAPTER_ID_CAP];
    struct adapter_names names = { 0 };
    commit("user/m", ADAPTER_CREATE, 0, "m");
    commit("user/k", ADAPTER_CREATE, 0, "k");
    ck_ok(adapter_alias_set(a, "prod/x", "user/m", NULL, &err), err);
    ck_ok(adapter_alias_set(a, "prod/y", "user/m", NULL, &err), err);
    ck_ok(adapter_alias_set(a, "prod/y", "user/k", NULL, &err), err);
    ck_failed(adapter_alias_set(a, "user/m", "user/k", NULL, &err), CLAAS_ERR_INVALID, err);
    ck_failed(adapter_alias_set(a, "new", "user/none", NULL, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_failed(adapter_alias_set(a, "../new", "user/m", NULL, &err), CLAAS_ERR_INVALID, err);
    ck_ok(adapter_alias_get(a, "prod/y", NULL, id, &err), err);
    ck_assert_str_eq(id, "user/k");
    ck_ok(adapter_alias_list(a, "prod", "", 0, NULL, &names, &err), err);
    check_names(&names, "prod/x prod/y ");
    ck_ok(adapter_delete(a, "prod/x", NULL, NULL, &err), err); /* the mapping only */
    check_file("user/m", 0, WEIGHTS, "m");
    ck_ok(adapter_delete(a, "user/k-init", NULL, NULL, &err), err); /* the id that init returned; aliases go with it */
    ck_ok(adapter_alias_list(a, "", "", 0, NULL, &names, &err), err);
    check_names(&names, "");
    ck_failed(adapter_alias_delete(a, "prod/y", NULL, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_failed(adapter_delete(a, "user/m@1", NULL, NULL, &err), CLAAS_ERR_INVALID, err);
    ck_failed(adapter_delete(a, "../m", NULL, NULL, &err), CLAAS_ERR_INVALID, err);
}
END_TEST

/* ---- damage ---- */

static char *store_path(const char *key)
{
    struct buf b = BUF_INIT;
    buf_addf(&b, "%s/store/%s", test_root, key);
    return buf_take(&b);
}

static void damage(const char *key, const char *text)
{
    char *path = store_path(key);
    ck_assert_int_eq(access(path, F_OK), 0);
    ck_assert_int_eq(unlink(path), 0);
    ck_ok(file_write_durable(path, text, strlen(text), 0600, &err), err);
    free(path);
}

START_TEST(corrupt_entries_are_refused)
{
    static const char *const texts[] = {
        "", "{", "[]", "{\"v\":1}", "\xFF\xFE",
        "{\"v\":1,\"id\":\"x/y\",\"n\":1,\"kind\":\"create\",\"job\":\"j\",\"files\":[]}",
        "{\"v\":1,\"id\":\"x/y\",\"n\":2,\"kind\":\"step\",\"job\":\"j\",\"files\":[]}",
        "{\"v\":1,\"id\":\"x/z\",\"n\":2,\"kind\":\"step\",\"job\":\"j\",\"previous\":"
        "\"0000000000000000000000000000000000000000000000000000000000000000\",\"files\":[]}",
        "{\"v\":1,\"id\":\"x/y\",\"n\":2,\"kind\":\"delete\",\"job\":\"j\",\"previous\":"
        "\"0000000000000000000000000000000000000000000000000000000000000000\",\"files\":[]}", /* well formed, wrong chain */
        "{\"v\":1,\"id\":\"x/y\",\"n\":2,\"kind\":\"step\",\"job\":\"j\",\"previous\":"
        "\"0000000000000000000000000000000000000000000000000000000000000000\",\"files\":[{\"name\":\"../x\",\"roles\":"
        "[\"serve\"],\"bytes\":1,\"sha256\":\"0000000000000000000000000000000000000000000000000000000000000000\"}]}",
    };
    struct adapter_entry *e = NULL;
    struct adapter_sweep swept;
    uint64_t n = 0;
    commit("x/y", ADAPTER_CREATE, 0, "one");
    commit("x/y", ADAPTER_STEP, 1, "two");
    damage("log/x~y/00000002", texts[_i]);
    restart(NULL);
    ck_failed(adapter_head(a, "x/y", NULL, &e, &err), CLAAS_ERR_CORRUPT, err);
    ck_assert_msg(strstr(err.message, "log/x~y/00000002"), "%s", err.message);
    ck_failed(repo_commit(a, "x/y", ADAPTER_STEP, 2, "j3", "three", &n, &err), CLAAS_ERR_CORRUPT, err);
    ck_failed(repo_commit(a, "x/y", ADAPTER_STEP, 1, "j3", "three", &n, &err), CLAAS_ERR_CORRUPT, err);
    ck_failed(adapter_rollback(a, "x/y", 1, NULL, NULL, &e, &err), CLAAS_ERR_CORRUPT, err);
    ck_failed(adapter_sweep(a, 0, NULL, &swept, &err), CLAAS_ERR_CORRUPT, err);
    char *third = store_path("log/x~y/00000003");
    ck_assert_int_eq(access(third, F_OK), -1);
    ck_ok(adapter_entry_get(a, "x/y", 1, NULL, &e, &err), err); /* what is sound can be read */
    adapter_entry_unref(e);
    free(third);
}
END_TEST

START_TEST(missing_and_newer_entries_are_refused)
{
    struct adapter_entry *e = NULL;
    struct adapter_entries page;
    commit("x/y", ADAPTER_CREATE, 0, "one");
    commit("x/y", ADAPTER_STEP, 1, "two");
    commit("x/y", ADAPTER_STEP, 2, "three");
    char *second = store_path("log/x~y/00000002");
    ck_assert_int_eq(unlink(second), 0);
    restart(NULL);
    ck_failed(adapter_head(a, "x/y", NULL, &e, &err), CLAAS_ERR_CORRUPT, err);
    ck_failed(adapter_history(a, "x/y", 0, 10, NULL, &page, &err), CLAAS_ERR_CORRUPT, err);
    commit("new/er", ADAPTER_CREATE, 0, "one");
    damage("log/new~er/00000001", "{\"v\":2,\"id\":\"new/er\",\"n\":1}");
    restart(NULL);
    ck_failed(adapter_head(a, "new/er", NULL, &e, &err), CLAAS_ERR_UNSUPPORTED, err);
    free(second);
}
END_TEST

START_TEST(corrupt_blobs_are_refused)
{
    static const char *const texts[] = { "eno", "on", "", "one more" };
    struct claas_digest d;
    char hex[SHA256_HEX];
    char key[100];
    struct buf b = BUF_INIT;
    struct adapter_entry *e = NULL;
    commit("x/y", ADAPTER_CREATE, 0, "one");
    ck_assert_int_eq(sha256_of("one", 3, &d, NULL), 0);
    sha256_hex(&d, hex);
    (void)snprintf(key, sizeof key, "blobs/%.2s/%s", hex, hex);
    damage(key, texts[_i]);
    ck_failed(repo_file(a, "x/y", 0, WEIGHTS, &b, &err), CLAAS_ERR_CORRUPT, err);
    ck_assert_msg(strstr(err.message, hex), "%s", err.message);
    check_file("x/y", 0, MOMENTS, "moments of one");
    ck_ok(adapter_head(a, "x/y", NULL, &e, &err), err);
    ck_assert_uint_eq(e->n, 1);
    adapter_entry_unref(e);
    commit("x/y", ADAPTER_STEP, 1, "two");
    ck_failed(adapter_rollback(a, "x/y", 1, NULL, NULL, &e, &err), CLAAS_ERR_CORRUPT, err);
    ck_assert_msg(strstr(err.message, hex), "%s", err.message);
    check_file("x/y", 0, WEIGHTS, "two");
    commit("x/y", ADAPTER_STEP, 2, "one"); /* the same contents written again mend the blob */
    check_file("x/y", 0, WEIGHTS, "one");
    check_file("x/y", 1, WEIGHTS, "one");
    buf_clear(&b);
}
END_TEST

START_TEST(a_foreign_store_is_refused)
{
    static const char *const texts[] = { "", "no json", "{}", "{\"format\":1,\"store\":\"x\"}", "{\"format\":0}", "[1]" };
    char id[33];
    memcpy(id, adapters_store_id(a), 33);
    ck_assert_int_eq(adapters_shared(a), 1);
    restart(NULL);
    ck_assert_str_eq(id, adapters_store_id(a));
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        damage("repo.json", texts[i]);
        repo_close(&repo);
        ck_failed(repo_open(&repo, NULL, NULL, &err), CLAAS_ERR_CORRUPT, err);
        ck_assert_ptr_nonnull(strstr(err.message, "repo.json"));
    }
    damage("repo.json", "{\"format\":2}");
    repo_close(&repo);
    ck_failed(repo_open(&repo, NULL, NULL, &err), CLAAS_ERR_UNSUPPORTED, err);
}
END_TEST

/* ---- export ---- */

START_TEST(the_zip_holds_the_files)
{
    static const char *const expected[][2] = {
        { WEIGHTS, "weights" }, { "adapter_config.json", "{\"r\":8}" }, { MOMENTS, "moments of weights" },
        { "README.md", "# about\n" },
    };
    struct adapter_version *v = NULL;
    int fd = -1;
    uint64_t bytes = 0;
    char name[420];
    commit("ada/tutor", ADAPTER_CREATE, 0, "weights");
    ck_ok(adapter_version_get(a, "ada/tutor", 0, NULL, &v, &err), err);
    ck_ok(adapter_export(a, v, NULL, &fd, &bytes, &err), err);
    adapter_version_unref(v);
    struct stat st;
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_uint_eq((uint64_t)st.st_size, bytes);
    int code = 0;
    zip_t *zip = zip_fdopen(fd, ZIP_CHECKCONS, &code);
    ck_assert_ptr_nonnull(zip);
    ck_assert_int_eq(zip_get_num_entries(zip, 0), 4);
    for (size_t i = 0; i < 4; i++) {
        char text[64] = "";
        zip_file_t *f = zip_fopen(zip, expected[i][0], 0);
        ck_assert_ptr_nonnull(f);
        ck_assert_int_eq(zip_fread(f, text, sizeof text), (zip_int64_t)strlen(expected[i][1]));
        ck_assert_str_eq(text, expected[i][1]);
        ck_assert_int_eq(zip_fclose(f), 0);
    }
    zip_discard(zip);
    adapter_export_name("ada/tutor", name, sizeof name);
    ck_assert_str_eq(name, "ada__tutor.zip");
}
END_TEST

/* ---- retention ---- */

/* 1 if the contents of a file of that version can be had. */
static int kept(const char *id, uint64_t n, const char *name)
{
    struct buf b = BUF_INIT;
    int rc = repo_file(a, id, n, name, &b, &err);
    ck_assert(rc == 0 || rc == CLAAS_ERR_NOT_FOUND);
    buf_clear(&b);
    return rc == 0;
}

START_TEST(the_sweep_keeps_what_it_must)
{
    const struct adapters_options options = { .keep_serve = 3, .keep_train = 2, .keep_days = 1, .grace_ns = 1 };
    struct adapter_sweep swept;
    static const char *const contents[] = { "c1", "c2", "c3", "c4", "c5", "c6", "c7" };
    restart(&options);
    for (uint64_t n = 0; n < 7; n++) {
        commit("x/y", n ? ADAPTER_STEP : ADAPTER_CREATE, n, contents[n]);
    }
    commit("go/ne", ADAPTER_CREATE, 0, "gone");
    ck_ok(adapter_delete(a, "go/ne", NULL, NULL, &err), err);
    ck_ok(adapter_mark_set(a, "x/y", 2, "good", NULL, &err), err);
    ck_failed(adapter_mark_set(a, "x/y", 99, "good", NULL, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_failed(adapter_mark_set(a, "x/y", 2, "../x", NULL, &err), CLAAS_ERR_INVALID, err);
    char *foreign = store_path("blobs/notes.txt");
    ck_ok(file_write_durable(foreign, "x", 1, 0600, &err), err);
    usleep(20000); /* the grace time is over for all */
    ck_ok(adapter_sweep(a, 1, NULL, &swept, &err), err);
    /* moments of 1 to 5, weights of 1, 3 and 4, both of the deleted */
    ck_assert_uint_eq(swept.n_removed, 10);
    ck_assert_uint_eq(swept.keys.n, 10);
    ck_assert_uint_eq(swept.n_blobs, 18); /* 8 x 2 and the two all share */
    adapter_names_clear(&swept.keys);
    ck_assert(kept("x/y", 1, WEIGHTS));
    ck_ok(adapter_sweep(a, 0, NULL, &swept, &err), err);
    ck_assert_uint_eq(swept.n_removed, 10);
    adapter_names_clear(&swept.keys);
    for (uint64_t n = 1; n <= 7; n++) {
        ck_assert_int_eq(kept("x/y", n, WEIGHTS), n >= 5 || n == 2);
        ck_assert_int_eq(kept("x/y", n, MOMENTS), n >= 6);
        ck_assert_int_eq(kept("x/y", n, "adapter_config.json"), 1); /* shared by all */
    }
    ck_assert_int_eq(access(foreign, F_OK), 0);
    struct adapter_entry *e = NULL;
    ck_failed(adapter_rollback(a, "x/y", 1, NULL, NULL, &e, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_ok(adapter_rollback(a, "x/y", 2, NULL, NULL, &e, &err), err); /* the moments are gone: it restarts them */
    ck_assert_uint_eq(e->n_files, 3);
    adapter_entry_unref(e);
    check_file("x/y", 0, WEIGHTS, "c2");
    struct adapter_names marks = { 0 };
    ck_ok(adapter_mark_list(a, "x/y", NULL, &marks, &err), err);
    check_names(&marks, "2.good ");
    ck_ok(adapter_mark_clear(a, "x/y", 2, "good", NULL, &err), err);
    ck_ok(adapter_mark_clear(a, "x/y", 2, "good", NULL, &err), err);
    ck_ok(adapter_sweep(a, 0, NULL, &swept, &err), err);
    adapter_names_clear(&swept.keys);
    ck_assert(kept("x/y", 8, WEIGHTS)); /* still the head's */
    free(foreign);
}
END_TEST

START_TEST(the_sweep_spares_the_young_and_the_used)
{
    const struct adapters_options quick = { .grace_ns = 1 };
    struct adapter_sweep swept;
    struct adapter_version *v = NULL;
    const char *path = NULL;
    const char *late = NULL;
    commit("x/y", ADAPTER_CREATE, 0, "old");
    ck_ok(adapter_version_get(a, "x/y", 0, NULL, &v, &err), err);
    const struct claas_version *abi = adapter_version_abi(v);
    ck_ok(abi->path(abi, WEIGHTS, &path, &err), err);
    ck_ok(adapter_delete(a, "x/y", NULL, NULL, &err), err);
    ck_ok(adapter_sweep(a, 0, NULL, &swept, &err), err); /* with a day of grace */
    ck_assert_uint_eq(swept.n_removed, 0);
    ck_assert_uint_eq(swept.n_blobs, 4);
    struct repo other; /* another process's sweep, without any */
    ck_ok(repo_open(&other, NULL, &quick, &err), err);
    usleep(20000);
    ck_ok(adapter_sweep(other.a, 0, NULL, &swept, &err), err);
    ck_assert_uint_eq(swept.n_removed, 4);
    adapter_names_clear(&swept.keys);
    repo_close(&other);
    ck_assert_int_eq(access(path, R_OK), 0); /* what was fetched stays as long as it is held */
    ck_failed(abi->path(abi, MOMENTS, &late, &err), CLAAS_ERR_NOT_FOUND, err);
    adapter_version_unref(v);
}
END_TEST

/* ---- what is put again while a sweep looks at it ---- */

static atomic_int put_again; /* 1: has begun, 2: is done */
static pthread_t putter;

static void *put_same(void *ctx)
{
    struct claas_error e = ERR_INIT;
    uint64_t n = 0;
    (void)ctx;
    int rc = repo_commit(a, "x/z", ADAPTER_CREATE, 0, "job-z", "same", &n, &e);
    atomic_store(&put_again, 2);
    return rc ? &put_again : NULL;
}

/* Right behind the sweep's look somebody else commits the same contents, in half a second if nothing holds him up. */
static int head_then_put(void *self, const char *key, struct claas_object *out, const struct claas_call *call,
                         struct claas_error *e)
{
    int rc = claas_plugin_entry(CLAAS_ABI)->storage->head(self, key, out, call, e);
    if (strncmp(key, "blobs/", 6) == 0 && atomic_load(&put_again) == 0) {
        atomic_store(&put_again, 1);
        ck_assert_int_eq(pthread_create(&putter, NULL, put_same, NULL), 0);
        for (int i = 0; i < 50 && atomic_load(&put_again) != 2; i++) {
            usleep(10000);
        }
    }
    return rc;
}

START_TEST(the_sweep_spares_what_is_put_again)
{
    static struct claas_storage slow;
    const struct adapters_options quick = { .grace_ns = 1 };
    struct adapter_sweep swept;
    struct repo other;
    void *failed = NULL;
    slow = *claas_plugin_entry(CLAAS_ABI)->storage;
    slow.head = head_then_put;
    commit("x/y", ADAPTER_CREATE, 0, "same");
    ck_ok(adapter_delete(a, "x/y", NULL, NULL, &err), err);
    ck_ok(repo_open(&other, &slow, &quick, &err), err);
    usleep(20000);
    ck_ok(adapter_sweep(other.a, 0, NULL, &swept, &err), err);
    adapter_names_clear(&swept.keys);
    ck_assert_int_eq(pthread_join(putter, &failed), 0);
    ck_assert_ptr_null(failed);
    repo_close(&other);
    restart(NULL);
    check_file("x/z", 0, WEIGHTS, "same");
    check_file("x/z", 0, "adapter_config.json", "{\"r\":8}");
}
END_TEST

START_TEST(the_sweep_puts_markers_back)
{
    struct adapter_sweep swept;
    commit("x/y", ADAPTER_CREATE, 0, "one");
    char *marker = store_path("adapters/x~y");
    ck_assert_int_eq(unlink(marker), 0);
    ck_ok(adapter_sweep(a, 0, NULL, &swept, &err), err);
    ck_assert_int_eq(access(marker, F_OK), 0);
    free(marker);
}
END_TEST

/* ---- other kinds of stores ---- */

static int probe_weak(void *self, uint32_t *out_caps, const struct claas_call *call, struct claas_error *e)
{
    (void)self;
    (void)call;
    (void)e;
    *out_caps = 0;
    return 0;
}

START_TEST(a_store_without_local_files_works)
{
    const struct adapters_options options = { .grace_ns = 2 };
    static struct claas_storage bare;
    bare = *claas_plugin_entry(CLAAS_ABI)->storage;
    bare.path = NULL;
    bare.spool = NULL;
    bare.probe = probe_weak;
    repo_close(&repo);
    start(&bare, &options);
    ck_assert_int_eq(adapters_shared(a), 0);
    commit("x/y", ADAPTER_CREATE, 0, "one");
    commit("x/y", ADAPTER_STEP, 1, "two");
    uint64_t n = 0;
    ck_failed(repo_commit(a, "x/y", ADAPTER_STEP, 1, "late", "x", &n, &err), CLAAS_ERR_CONFLICT, err);
    check_file("x/y", 1, WEIGHTS, "one");
    usleep(1000);
    struct adapter_entry *e = NULL;
    ck_ok(adapter_rollback(a, "x/y", 1, NULL, NULL, &e, &err), err); /* its blobs are too old: fetched and sent again */
    adapter_entry_unref(e);
    check_file("x/y", 0, WEIGHTS, "one");
    struct claas_digest d;
    char hex[SHA256_HEX];
    char key[100];
    struct buf b = BUF_INIT;
    ck_assert_int_eq(sha256_of("two", 3, &d, NULL), 0);
    sha256_hex(&d, hex);
    (void)snprintf(key, sizeof key, "blobs/%.2s/%s", hex, hex);
    damage(key, "owt");
    ck_failed(repo_file(a, "x/y", 2, WEIGHTS, &b, &err), CLAAS_ERR_CORRUPT, err);
    buf_clear(&b);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("adapters");
    TCase *t = tcase_create("adapters");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 30);
    tcase_add_test(t, versions_come_back);
    tcase_add_test(t, a_version_is_a_directory_too);
    tcase_add_test(t, digests_are_as_documented);
    tcase_add_test(t, a_candidate_can_be_loaded);
    tcase_add_test(t, names_are_written_at_once);
    tcase_add_test(t, outputs_are_checked);
    tcase_add_test(t, metrics_reach_the_entry);
    tcase_add_test(t, known_contents_need_no_sending);
    tcase_add_test(t, commits_compare_and_swap);
    tcase_add_test(t, rollback_restores_and_numbers_go_on);
    tcase_add_test(t, history_pages);
    tcase_add_test(t, ids_are_checked);
    tcase_add_test(t, names_resolve_in_order);
    tcase_add_test(t, lists_end_at_segments);
    tcase_add_test(t, aliases_come_and_go);
    tcase_add_loop_test(t, corrupt_entries_are_refused, 0, 10);
    tcase_add_test(t, missing_and_newer_entries_are_refused);
    tcase_add_loop_test(t, corrupt_blobs_are_refused, 0, 4);
    tcase_add_test(t, a_foreign_store_is_refused);
    tcase_add_test(t, the_zip_holds_the_files);
    tcase_add_test(t, the_sweep_keeps_what_it_must);
    tcase_add_test(t, the_sweep_spares_the_young_and_the_used);
    tcase_add_test(t, the_sweep_spares_what_is_put_again);
    tcase_add_test(t, the_sweep_puts_markers_back);
    tcase_add_test(t, a_store_without_local_files_works);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
