/* SPDX-License-Identifier: MIT */
/* Opening a repository: the probe, repo.json, the private directory. */
#include "config.h"

#include "internal.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REPO_FORMAT = 1, REPO_TRIES = 5 };
#define GRACE_NS (INT64_C(24) * 3600 * 1000000000)

static int repo_parse(struct adapters *a, const struct buf *text, struct claas_error *err)
{
    cJSON *json = NULL;
    int64_t format = 0;
    const char *store = "";
    int rc = json_parse(text->data, text->len, REPO_KEY, &json, err);
    if (rc == 0) {
        rc = json_get_int(json, "format", 1, INT32_MAX, &format, err);
    }
    if (rc == 0 && format > REPO_FORMAT) {
        rc = err_set(err, CLAAS_ERR_UNSUPPORTED, REPO_KEY,
                     "the store was made by a newer claas: its format is %lld, this one knows %d",
                     (long long)format, REPO_FORMAT);
    } else if (rc == 0) {
        rc = json_get_text(json, "store", &store, err);
    }
    if (rc == 0 &&
        (format == 0 || strlen(store) != 32 || strspn(store, "0123456789abcdef") != 32)) {
        rc = err_set(err, CLAAS_ERR_INVALID, REPO_KEY, "it lacks 'format' or 'store'");
    }
    if (rc == 0) {
        memcpy(a->store_id, store, 33);
    }
    cJSON_Delete(json);
    if (rc == CLAAS_ERR_INVALID) {
        char why[sizeof err->message] = "not understood";
        if (err) {
            memcpy(why, err->message, sizeof why);
        }
        rc = err_set(err, CLAAS_ERR_CORRUPT, REPO_KEY,
                     "cannot read '" REPO_KEY "' of the store: %s", why);
    }
    return rc;
}

static int repo_make(struct adapters *a, const struct claas_call *call, struct claas_error *err)
{
    char store[33];
    char time[CLOCK_TEXT];
    struct buf b = BUF_INIT;
    if (rng_hex(store, 32)) {
        return err_set(err, CLAAS_ERR_INTERNAL, NULL, "cannot name the store: no random numbers");
    }
    clock_format(clock_real_ns(), time);
    buf_addf(
        &b,
        "{\"format\":%d,\"store\":\"%s\",\"created\":\"%s\",\"software\":\"claas " PACKAGE_VERSION
        "\"}\n",
        REPO_FORMAT, store, time);
    int rc = b.failed ? err_oom(err, "making a repository")
                      : store_write(a, REPO_KEY, b.data, b.len, CLAAS_IF_ABSENT, call, err);
    buf_clear(&b);
    return rc;
}

/* Reads repo.json, after making it where the store is new; whoever was first counts. */
static int repo_read(struct adapters *a, const struct claas_call *call, struct claas_error *err)
{
    int rc = 0;
    for (int tries = 0; tries < REPO_TRIES; tries++) {
        struct buf b = BUF_INIT;
        struct claas_error local = ERR_INIT;
        rc = store_read(a, REPO_KEY, SMALL_BYTES_MAX, &b, call, &local);
        if (rc == 0) {
            rc = repo_parse(a, &b, err);
            buf_clear(&b);
            return rc;
        }
        buf_clear(&b);
        if (rc == CLAAS_ERR_NOT_FOUND) {
            rc = repo_make(a, call, &local);
        }
        if (rc && rc != CLAAS_ERR_CONFLICT && !(local.flags & CLAAS_MAYBE)) {
            if (err) {
                *err = local;
            }
            return rc;
        }
    }
    return err_set(err, CLAAS_ERR_UNAVAILABLE, REPO_KEY,
                   "cannot read '" REPO_KEY "' right after it was written");
}

/* Where a file can be locked, if the store has local ones. */
static int repo_lock_path(struct adapters *a, struct claas_error *err)
{
    char path[PATH_MAX];
    struct claas_error local = ERR_INIT;
    int rc = host_storage_path(a->storage, REPO_KEY, path, sizeof path, &local);
    if (rc == CLAAS_ERR_UNSUPPORTED) {
        return 0;
    }
    if (rc) {
        if (err) {
            *err = local;
        }
        return rc;
    }
    a->lock_path = mem_dup(path, strlen(path));
    return a->lock_path ? 0 : err_oom(err, "opening a repository");
}

/* Where put() can link from if the storage says so, else in the cache directory. */
static int repo_work(struct adapters *a, struct claas_error *err)
{
    char spool[PATH_MAX];
    struct claas_error local = ERR_INIT;
    int rc = host_storage_spool(a->storage, spool, sizeof spool, &local);
    if (rc == 0) {
        return spool_make(spool, &a->work, err);
    }
    if (rc != CLAAS_ERR_UNSUPPORTED) {
        if (err) {
            *err = local;
        }
        return rc;
    }
    char *work = path_join(a->options.cache_dir, "work");
    if (!work) {
        return err_oom(err, "opening a repository");
    }
    rc = dir_make(work, 0700, err);
    if (rc == 0) {
        spool_sweep(work);
        rc = spool_make(work, &a->work, err);
    }
    free(work);
    return rc;
}

static int repo_options(struct adapters *a, const struct adapters_options *options,
                        struct claas_error *err)
{
    if (!options || !options->cache_dir || options->cache_dir[0] == '\0' || options->grace_ns < 0) {
        return err_set(err, CLAAS_ERR_INVALID, "cache_dir",
                       "the adapter repository needs a cache directory");
    }
    a->options = *options;
    a->options.cache_dir = mem_dup(options->cache_dir, strlen(options->cache_dir));
    a->options.keep_serve = options->keep_serve ? options->keep_serve : 10;
    a->options.keep_train = options->keep_train ? options->keep_train : 2;
    a->options.keep_days = options->keep_days ? options->keep_days : 30;
    a->options.grace_ns = options->grace_ns ? options->grace_ns : GRACE_NS;
    if (!a->options.cache_dir) {
        return err_oom(err, "opening a repository");
    }
    return dir_make(a->options.cache_dir, 0700, err);
}

int adapters_open(struct host_instance *storage, const struct adapters_options *options,
                  const struct claas_call *call, struct adapters **out, struct claas_error *err)
{
    struct adapters *a = calloc(1, sizeof *a);
    if (!a) {
        return err_oom(err, "opening a repository");
    }
    a->storage = storage;
    a->work.fd = -1;
    atomic_init(&a->sequence, 0);
    (void)pthread_mutex_init(&a->lock, NULL); /* cannot fail with these attributes on Linux */
    (void)pthread_cond_init(&a->turn, NULL);
    int rc = repo_options(a, options, err);
    if (rc == 0) {
        rc = host_storage_probe(storage, &a->caps, call, err);
    }
    if (rc == 0) {
        rc = repo_read(a, call, err);
    }
    if (rc == 0) {
        rc = repo_lock_path(a, err);
    }
    if (rc == 0) {
        rc = repo_work(a, err);
    }
    if (rc) {
        adapters_close(a);
        return rc;
    }
    if (!adapters_shared(a)) {
        log_line(LOG_WARNING, "adapters",
                 "the storage cannot create atomically: only this host may use it");
    }
    *out = a;
    return 0;
}

void adapters_close(struct adapters *a)
{
    if (!a) {
        return;
    }
    cache_clear(a);
    adapter_names_clear(&a->flat);
    spool_drop(&a->work);
    (void)pthread_cond_destroy(&a->turn);
    (void)pthread_mutex_destroy(&a->lock);
    free((char *)(uintptr_t)a->options.cache_dir);
    free(a->lock_path);
    free(a);
}

int adapters_shared(const struct adapters *a)
{
    return (a->caps & CLAAS_STORE_ATOMIC) != 0;
}

const char *adapters_store_id(const struct adapters *a)
{
    return a->store_id;
}

char *work_path(struct adapters *a, const char *kind)
{
    struct buf b = BUF_INIT;
    buf_addf(&b, "%s/%s-%" PRIuFAST64, a->work.path, kind, atomic_fetch_add(&a->sequence, 1));
    return buf_take(&b);
}
