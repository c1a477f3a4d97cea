/* SPDX-License-Identifier: MIT */
/* The log of an adapter: reading entries, following it to its end, appending. Creating entry n+1 if
 * absent is the commit. */
#include "config.h"

#include "internal.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { PUT_TRIES = 5 };

int log_read(struct adapters *a, const char *id, uint64_t n, const struct claas_call *call,
             struct adapter_entry **out, struct claas_error *err)
{
    if (n == 0 || n > ENTRY_N_MAX) {
        return err_set(err, CLAAS_ERR_NOT_FOUND, "version", "'%s' has no version %llu", id,
                       (unsigned long long)n);
    }
    char key[KEY_CAP];
    key_log(key, id, n);
    struct buf b = BUF_INIT;
    struct claas_error local = ERR_INIT;
    int rc = store_read(a, key, ENTRY_BYTES_MAX, &b, call, &local);
    if (rc == 0) {
        rc = entry_decode(id, n, b.data, b.len, out, err);
    } else if (rc == CLAAS_ERR_NOT_FOUND) {
        rc = err_set(err, rc, "version", "'%s' has no version %llu", id, (unsigned long long)n);
    } else if (err) {
        *err = local;
    }
    buf_clear(&b);
    return rc;
}

/* Entry n must carry the digest of the one before it. */
static int chain_check(const struct adapter_entry *before, const struct adapter_entry *e,
                       struct claas_error *err)
{
    if (before->n + 1 == e->n && sha256_equal(&before->sha256, &e->previous)) {
        return 0;
    }
    char key[KEY_CAP];
    key_log(key, e->id, e->n);
    return err_set(err, CLAAS_ERR_CORRUPT, key,
                   "the log entry '%s' does not follow entry %llu: the digest differs", key,
                   (unsigned long long)before->n);
}

int adapter_entry_get(struct adapters *a, const char *id, uint64_t n, const struct claas_call *call,
                      struct adapter_entry **out, struct claas_error *err)
{
    int rc = adapter_id_check(id, err);
    if (rc) {
        return rc;
    }
    struct adapter_entry *e = cache_get(a, id, n);
    if (!e) {
        rc = log_read(a, id, n, call, &e, err);
        if (rc == 0) {
            cache_put(a, e, 0);
        }
    }
    if (rc == 0) {
        *out = e;
    }
    return rc;
}

struct last_key {
    size_t n_prefix;
    uint64_t n;
};

/* Keys come in order, so the last one that is a number counts. */
static int last_key_each(void *ctx, const char *key, const struct claas_object *object)
{
    (void)object;
    struct last_key *last = ctx;
    const char *digits = key + last->n_prefix;
    if (strlen(digits) == 8 && strspn(digits, "0123456789") == 8) {
        last->n = strtoull(digits, NULL, 10);
    }
    return 0;
}

/* The end as the list shows it, or as far as that lags behind; *out null if it shows none. */
static int log_end_cold(struct adapters *a, const char *id, const struct claas_call *call,
                        struct adapter_entry **out, struct claas_error *err)
{
    char prefix[KEY_CAP];
    key_of(prefix, "log/", id, "/");
    struct last_key last = { .n_prefix = strlen(prefix) };
    int rc = host_storage_list(a->storage, prefix, "", 0, last_key_each, &last, call, err);
    *out = NULL;
    if (rc || last.n == 0) {
        return rc;
    }
    struct adapter_entry *e = NULL;
    struct adapter_entry *before = NULL;
    rc = adapter_entry_get(a, id, last.n, call, &e, err);
    if (rc == 0 && last.n > 1) {
        rc = adapter_entry_get(a, id, last.n - 1, call, &before, err);
        if (rc == CLAAS_ERR_NOT_FOUND) {
            rc = err_set(err, CLAAS_ERR_CORRUPT, prefix, "the log entry %llu of '%s' is missing",
                         (unsigned long long)(last.n - 1), id);
        }
        if (rc == 0) {
            rc = chain_check(before, e, err);
        }
    }
    adapter_entry_unref(before);
    if (rc) {
        adapter_entry_unref(e);
        return rc;
    }
    *out = e;
    return 0;
}

int adapter_log_end(struct adapters *a, const char *id, const struct claas_call *call,
                    struct adapter_entry **out, struct claas_error *err)
{
    int rc = adapter_id_check(id, err);
    if (rc) {
        return rc;
    }
    struct adapter_entry *end = cache_head(a, id);
    if (!end) {
        rc = log_end_cold(a, id, call, &end, err);
    }
    while (rc == 0) {
        struct adapter_entry *next = NULL;
        struct claas_error local = ERR_INIT;
        rc = log_read(a, id, end ? end->n + 1 : 1, call, &next, &local);
        if (rc == CLAAS_ERR_NOT_FOUND) {
            if (end) {
                cache_put(a, end, 1);
            }
            *out = end;
            return 0;
        }
        if (rc == 0 && end) {
            rc = chain_check(end, next, &local);
        }
        if (rc) {
            adapter_entry_unref(next);
            if (err) {
                *err = local;
            }
            break;
        }
        adapter_entry_unref(end);
        end = next;
        cache_put(a, end, 1);
    }
    adapter_entry_unref(end);
    return rc;
}

int adapter_head(struct adapters *a, const char *id, const struct claas_call *call,
                 struct adapter_entry **out, struct claas_error *err)
{
    struct adapter_entry *end = NULL;
    int rc = adapter_log_end(a, id, call, &end, err);
    if (rc) {
        return rc;
    }
    if (!end || end->kind == ADAPTER_DELETE) {
        rc = err_set(err, CLAAS_ERR_NOT_FOUND, "lora_id", "there is no adapter '%s'%s", id,
                     end ? ": it was deleted" : "");
        adapter_entry_unref(end);
        return rc;
    }
    *out = end;
    return 0;
}

int adapter_log_find(struct adapters *a, const char *id, uint64_t from, const char *job,
                     const struct claas_call *call, struct adapter_entry **out,
                     struct claas_error *err)
{
    struct adapter_entry *end = NULL;
    int rc = adapter_log_end(a, id, call, &end, err);
    if (rc) {
        return rc;
    }
    uint64_t last = end ? end->n : 0;
    adapter_entry_unref(end);
    for (uint64_t n = from + 1; n <= last; n++) {
        struct adapter_entry *e = NULL;
        rc = adapter_entry_get(a, id, n, call, &e, err);
        if (rc) {
            return rc;
        }
        if (strcmp(e->job, job) == 0) {
            *out = e;
            return 0;
        }
        adapter_entry_unref(e);
    }
    return err_set(err, CLAAS_ERR_NOT_FOUND, "job",
                   "no entry of '%s' after %llu is of the job '%s'", id, (unsigned long long)from,
                   job);
}

void adapter_entries_clear(struct adapter_entries *list)
{
    for (size_t i = 0; i < list->n; i++) {
        adapter_entry_unref(list->at[i]);
    }
    free(list->at);
    *list = (struct adapter_entries){ 0 };
}

/* Entries `n` and below; one more than the page holds is read to check what the last of it
 * follows. */
static int history_page(struct adapters *a, const char *id, uint64_t n, uint32_t limit,
                        const struct claas_call *call, struct adapter_entries *page,
                        struct claas_error *err)
{
    int rc = 0;
    for (; rc == 0 && n > 0; n--) {
        struct adapter_entry *e = NULL;
        rc = adapter_entry_get(a, id, n, call, &e, err);
        if (rc == CLAAS_ERR_NOT_FOUND) {
            rc = err_set(err, CLAAS_ERR_CORRUPT, "version", "the log entry %llu of '%s' is missing",
                         (unsigned long long)n, id);
        }
        if (rc == 0 && page->n > 0) {
            rc = chain_check(e, page->at[page->n - 1], err);
        }
        if (rc || page->n == limit) {
            adapter_entry_unref(e);
            break;
        }
        page->at[page->n++] = e;
    }
    page->next = rc == 0 && n > 0 ? n + 1 : 0;
    return rc;
}

int adapter_history(struct adapters *a, const char *id, uint64_t before, uint32_t limit,
                    const struct claas_call *call, struct adapter_entries *out,
                    struct claas_error *err)
{
    struct adapter_entry *end = NULL;
    int rc = adapter_log_end(a, id, call, &end, err);
    if (rc) {
        return rc;
    }
    if (!end) {
        return err_set(err, CLAAS_ERR_NOT_FOUND, "id", "there is no adapter '%s'", id);
    }
    uint64_t n = before > 0 && before - 1 < end->n ? before - 1 : end->n;
    adapter_entry_unref(end);
    limit = limit == 0 || limit > PAGE_MAX ? PAGE_MAX : limit;
    struct adapter_entries page = { .at = mem_array(limit, sizeof *page.at) };
    if (!page.at) {
        return err_oom(err, "reading a history");
    }
    rc = history_page(a, id, n, limit, call, &page, err);
    if (rc) {
        adapter_entries_clear(&page);
        return rc;
    }
    *out = page;
    return 0;
}

/* ---- appending ---- */

static void append_begin(struct adapters *a)
{
    (void)pthread_mutex_lock(&a->lock);
    while (a->appending) {
        (void)pthread_cond_wait(&a->turn, &a->lock);
    }
    a->appending = 1;
    (void)pthread_mutex_unlock(&a->lock);
}

static void append_end(struct adapters *a)
{
    (void)pthread_mutex_lock(&a->lock);
    a->appending = 0;
    (void)pthread_cond_signal(&a->turn);
    (void)pthread_mutex_unlock(&a->lock);
}

/* The entry as it is to be written, and as readers will see it: what they would refuse is not written, and behind the
 * commit nothing is left that can fail. */
static int append_make(const struct entry_draft *d, struct buf *text, struct adapter_entry **out,
                       struct claas_error *err)
{
    int rc = entry_encode(d, text, err);
    return rc ? rc : entry_decode(d->id, d->n, text->data, text->len, out, err);
}

/* Somebody's entry n, or ours whose reply was lost. NOT_FOUND: there is none after all. */
static int append_settle(struct adapters *a, const struct entry_draft *d,
                         const struct claas_call *call, struct adapter_entry **out,
                         struct claas_error *err)
{
    struct adapter_entry *there = NULL;
    int rc = log_read(a, d->id, d->n, call, &there, err);
    if (rc) {
        return rc;
    }
    if (strcmp(there->job, d->job) == 0) {
        *out = there;
        return 0;
    }
    rc = err_set(err, CLAAS_ERR_CONFLICT, "version",
                 "cannot append version %llu of '%s': the job '%s' was first",
                 (unsigned long long)d->n, d->id, there->job);
    adapter_entry_unref(there);
    return rc;
}

/* *out: another entry than ours as it was made, where one was found. */
static int append_put(struct adapters *a, const struct entry_draft *d, const struct buf *text,
                      const struct claas_call *call, struct adapter_entry **out,
                      struct claas_error *err)
{
    char key[KEY_CAP];
    key_log(key, d->id, d->n);
    struct claas_error local = ERR_INIT;
    int rc = 0;
    for (int tries = 0; tries < PUT_TRIES; tries++) {
        err_clear(&local);
        local.size = sizeof local;
        if (!(a->caps & CLAAS_STORE_ATOMIC)) {
            /* one host only, and here one at a time: looking first is enough */
            rc = append_settle(a, d, call, out, &local);
            if (rc != CLAAS_ERR_NOT_FOUND) {
                break;
            }
        }
        rc = store_write(a, key, text->data, text->len, CLAAS_IF_ABSENT, call, &local);
        if (rc == 0) {
            return 0;
        }
        if (rc != CLAAS_ERR_CONFLICT && !(local.flags & CLAAS_MAYBE)) {
            break;
        }
        struct claas_error seen = ERR_INIT;
        int settled = append_settle(a, d, call, out, &seen);
        if (settled != CLAAS_ERR_NOT_FOUND) {
            rc = settled;
            local = seen;
            if (rc && rc != CLAAS_ERR_CONFLICT) {
                local.flags |= CLAAS_MAYBE; /* it could not be read who was first */
            }
            break;
        }
    }
    if (rc && err) {
        *err = local;
    }
    return rc;
}

int log_append(struct adapters *a, const struct entry_draft *d, const struct claas_call *call,
               struct adapter_entry **out, struct claas_error *err)
{
    if (d->n > ENTRY_N_MAX) {
        return err_set(err, CLAAS_ERR_EXHAUSTED, "version",
                       "'%s' has as many versions as can be numbered", d->id);
    }
    struct buf text = BUF_INIT;
    struct adapter_entry *made = NULL;
    struct adapter_entry *found = NULL;
    int rc = append_make(d, &text, &made, err);
    if (rc == 0) {
        int alone = !(a->caps & CLAAS_STORE_ATOMIC);
        if (alone) {
            append_begin(a);
        }
        rc = append_put(a, d, &text, call, &found, err);
        if (alone) {
            append_end(a);
        }
    }
    buf_clear(&text);
    if (rc == 0) {
        *out = found ? found : adapter_entry_ref(made);
        cache_put(a, *out, 1);
    }
    adapter_entry_unref(made);
    return rc;
}
