/* SPDX-License-Identifier: MIT */
/* Retention: blobs are listed first, then logs and marks are read, then what nothing needs and what
 * is old goes. What was put meanwhile is young, so it is safe. Any doubt about a log ends the sweep
 * with nothing deleted. */
#include "config.h"

#include "internal.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

#define DAY_NS (INT64_C(24) * 3600 * 1000000000)

struct blob {
    struct claas_digest sha256;
    uint64_t bytes;
};

struct sweeping {
    struct adapters *a;
    const struct claas_call *call;
    struct adapter_sweep result;
    int64_t older_than_ns; /* the store's clock */
    struct blob *old;      /* candidates */
    size_t n_old, cap_old;
    struct claas_digest *keep; /* sorted before use */
    size_t n_keep, cap_keep;
    struct claas_error err; /* of callbacks */
    int rc;
};

/* ---- which blobs there are ---- */

static int blob_each(void *ctx, const char *key, const struct claas_object *object)
{
    struct sweeping *s = ctx;
    struct blob b = { .bytes = object->bytes };
    if (!key_blob_parse(key, &b.sha256)) {
        return 0; /* not ours: never touched */
    }
    s->result.n_blobs++;
    s->result.bytes += object->bytes;
    if (object->modified_ns >= s->older_than_ns) {
        return 0;
    }
    if (mem_grow((void **)&s->old, &s->cap_old, s->n_old + 1, sizeof *s->old)) {
        s->rc = err_oom(&s->err, "sweeping");
        return 1;
    }
    s->old[s->n_old++] = b;
    return 0;
}

/* ---- which are needed ---- */

static int keep_add(struct sweeping *s, const struct claas_digest *d, struct claas_error *err)
{
    if (mem_grow((void **)&s->keep, &s->cap_keep, s->n_keep + 1, sizeof *s->keep)) {
        return err_oom(err, "sweeping");
    }
    s->keep[s->n_keep++] = *d;
    return 0;
}

static int keep_files(struct sweeping *s, const struct claas_file *const *files, uint32_t n,
                      uint32_t roles, struct claas_error *err)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        if (files[i]->roles & roles) {
            rc = keep_add(s, &files[i]->sha256, err);
        }
    }
    return rc;
}

static int mark_on(const struct adapter_names *marks, uint64_t n)
{
    for (size_t i = 0; i < marks->n; i++) {
        if (strtoull(marks->at[i], NULL, 10) == n) {
            return 1;
        }
    }
    return 0;
}

static uint64_t mark_lowest(const struct adapter_names *marks)
{
    return marks->n ? strtoull(marks->at[0], NULL, 10) : UINT64_MAX; /* they are listed in order */
}

/* The policy, newest version first. An entry at `low` or below is read for its mark only. */
static int keep_log(struct sweeping *s, struct adapter_entry *end,
                    const struct adapter_names *marks, struct claas_error *err)
{
    const struct adapters_options *opt = &s->a->options;
    uint64_t low = mark_lowest(marks);
    int64_t oldest = clock_real_ns() - (int64_t)opt->keep_days * DAY_NS;
    int64_t day = INT64_MAX;
    uint32_t versions = 0;
    int past = 0; /* beyond what count and days keep */
    struct adapter_entry *e = adapter_entry_ref(end);
    int rc = 0;
    for (;;) {
        uint32_t roles = 0;
        int64_t today = e->time_ns / DAY_NS;
        if (e->kind == ADAPTER_DELETE) {
            break; /* what lies before belongs to an adapter that is gone */
        }
        roles |= versions < opt->keep_train ? CLAAS_TRAIN : 0;
        roles |= versions < opt->keep_serve ? CLAAS_SERVE | CLAAS_ABOUT : 0;
        roles |= today != day && e->time_ns >= oldest ? CLAAS_SERVE | CLAAS_ABOUT : 0;
        roles |= mark_on(marks, e->n) ? CLAAS_SERVE | CLAAS_ABOUT : 0;
        rc = keep_files(s, e->files, e->n_files, roles, err);
        versions++;
        day = today;
        past = versions >= opt->keep_serve && versions >= opt->keep_train && e->time_ns < oldest;
        uint64_t n = e->n;
        if (rc || n == 1 || (past && n <= low)) {
            break;
        }
        adapter_entry_unref(e);
        e = NULL;
        rc = log_read(s->a, end->id, n - 1, s->call, &e, err);
        if (rc) {
            break;
        }
    }
    adapter_entry_unref(e);
    return rc;
}

static int keep_adapter(struct sweeping *s, const char *id, int dry, struct claas_error *err)
{
    struct adapter_entry *end = NULL;
    struct adapter_names marks = { 0 };
    int rc = adapter_log_end(s->a, id, s->call, &end, err);
    if (rc || !end) {
        return rc;
    }
    if (end->kind != ADAPTER_DELETE) {
        rc = adapter_mark_list(s->a, id, s->call, &marks, err);
        if (rc == 0) {
            rc = keep_log(s, end, &marks, err);
        }
        if (rc == 0 && !dry) {
            /* a marker that a crash left out is put back while we are here */
            char key[KEY_CAP];
            struct claas_object object = { .size = sizeof object };
            key_of(key, "adapters/", id, "");
            if (host_storage_head(s->a->storage, key, &object, s->call, NULL) ==
                CLAAS_ERR_NOT_FOUND) {
                (void)store_write_id(s->a, key, id, CLAAS_IF_ABSENT, s->call,
                                     NULL); /* the next sweep tries again */
            }
        }
    }
    adapter_names_clear(&marks);
    adapter_entry_unref(end);
    return rc;
}

struct first_log {
    char id[ADAPTER_ID_CAP];
    char flat[KEY_CAP]; /* as it stands in the key */
};

static int first_log_each(void *ctx, const char *key, const struct claas_object *object)
{
    (void)object;
    struct first_log *f = ctx;
    const char *flat = key + strlen("log/");
    size_t n = strcspn(flat, "/");
    if (n < sizeof f->flat) {
        memcpy(f->flat, flat, n);
        f->flat[n] = '\0';
        if (key_unflat(flat, n, f->id)) {
            f->id[0] = '\0';
        }
    }
    return 1;
}

/* Every log there is, deleted adapters too: from one to the next by a list of one key. Logs, not
 * markers: those can lie. */
static int keep_all(struct sweeping *s, int dry, struct claas_error *err)
{
    struct buf after = BUF_INIT;
    int rc = 0;
    for (;;) {
        struct first_log f = { .id = "", .flat = "" };
        rc = host_storage_list(s->a->storage, "log/", buf_str(&after), 1, first_log_each, &f,
                               s->call, err);
        if (rc || f.flat[0] == '\0') {
            break;
        }
        buf_cut(&after, 0);
        buf_addf(&after, "log/%s/~", f.flat); /* behind all its entries */
        rc = after.failed ? err_oom(err, "sweeping")
             : f.id[0]    ? keep_adapter(s, f.id, dry, err)
                          : 0;
        if (rc) {
            break;
        }
    }
    buf_clear(&after);
    return rc;
}

/* Versions in use here may not have fetched their files yet. */
static int keep_living(struct sweeping *s, struct claas_error *err)
{
    int rc = 0;
    (void)pthread_mutex_lock(&s->a->lock);
    for (const struct adapter_version *v = s->a->live; rc == 0 && v; v = v->next) {
        rc = keep_files(s, v->abi.files, v->abi.n_files, CLAAS_SERVE | CLAAS_TRAIN | CLAAS_ABOUT,
                        err);
    }
    (void)pthread_mutex_unlock(&s->a->lock);
    return rc;
}

static int digest_order(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct claas_digest));
}

/* ---- removal ---- */

/* Somebody may have put it again since it was listed. */
static int blob_remove_old(struct sweeping *s, const char *key, int *out_removed,
                           struct claas_error *err)
{
    struct claas_object object = { .size = sizeof object };
    struct claas_error local = ERR_INIT;
    int lock = -1;
    int rc = store_lock(s->a, LOCK_EX, &lock, &local);
    if (rc == 0) {
        rc = host_storage_head(s->a->storage, key, &object, s->call, &local);
        *out_removed = rc == 0 && object.modified_ns < s->older_than_ns;
        if (*out_removed) {
            rc = store_remove(s->a, key, s->call, &local);
        }
    }
    store_unlock(lock);
    if (rc == CLAAS_ERR_NOT_FOUND) {
        return 0;
    }
    if (rc && err) {
        *err = local;
    }
    return rc;
}

static int blob_remove(struct sweeping *s, const struct blob *b, int dry, struct claas_error *err)
{
    char key[KEY_CAP];
    int removed = dry;
    key_blob(key, &b->sha256);
    int rc = dry ? 0 : blob_remove_old(s, key, &removed, err);
    if (rc || !removed) {
        return rc;
    }
    s->result.n_removed++;
    s->result.bytes_removed += b->bytes;
    if (s->result.keys.n >= PAGE_MAX) {
        s->result.keys.more = 1;
        return 0;
    }
    return names_add(&s->result.keys, key, err);
}

static int sweep_run(struct sweeping *s, int dry, struct claas_error *err)
{
    int64_t now = 0;
    int rc = store_now(s->a, &now, s->call, err);
    if (rc) {
        return rc;
    }
    s->older_than_ns = now - s->a->options.grace_ns;
    rc = host_storage_list(s->a->storage, "blobs/", "", 0, blob_each, s, s->call, err);
    if (rc == 0 && s->rc) {
        rc = s->rc;
        if (err) {
            *err = s->err;
        }
    }
    if (rc == 0) {
        rc = keep_all(s, dry, err);
    }
    if (rc == 0) {
        rc = keep_living(s, err);
    }
    if (rc) {
        return rc;
    }
    if (s->n_keep > 1) {
        qsort(s->keep, s->n_keep, sizeof *s->keep, digest_order);
    }
    for (size_t i = 0; rc == 0 && i < s->n_old; i++) {
        const struct blob *b = &s->old[i];
        if (s->n_keep == 0 ||
            !bsearch(&b->sha256, s->keep, s->n_keep, sizeof *s->keep, digest_order)) {
            rc = blob_remove(s, b, dry, err);
        }
    }
    return rc;
}

int adapter_sweep(struct adapters *a, int dry, const struct claas_call *call,
                  struct adapter_sweep *out, struct claas_error *err)
{
    struct sweeping s = { .a = a, .call = call, .err = ERR_INIT };
    int rc = sweep_run(&s, dry, err);
    free(s.old);
    free(s.keep);
    if (rc) {
        adapter_names_clear(&s.result.keys);
        return rc;
    }
    *out = s.result;
    return 0;
}
