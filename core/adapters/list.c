/* SPDX-License-Identifier: MIT */
/* Listing ids by prefix with paging: markers and aliases are one flat prefix each. */
#include "config.h"

#include "internal.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

void adapter_names_clear(struct adapter_names *list)
{
    for (size_t i = 0; i < list->n; i++) {
        free(list->at[i]);
    }
    free(list->at);
    *list = (struct adapter_names){ 0 };
}

int names_add(struct adapter_names *list, const char *name, struct claas_error *err)
{
    /* grown by doubling: the capacity is the power of two at or above n */
    if ((list->n & (list->n - 1)) == 0) {
        char **at = realloc(list->at, (list->n ? list->n * 2 : 1) * sizeof *at);
        if (!at) {
            return err_oom(err, "listing names");
        }
        list->at = at;
    }
    char *copy = mem_dup(name, strlen(name));
    if (!copy) {
        return err_oom(err, "listing names");
    }
    list->at[list->n++] = copy;
    return 0;
}

struct page {
    size_t n_kind; /* length of the key prefix before the id */
    struct adapter_names names;
    struct claas_error err;
    int rc;
};

static int page_each(void *ctx, const char *key, const struct claas_object *object)
{
    (void)object;
    struct page *p = ctx;
    char id[ADAPTER_ID_CAP];
    const char *flat = key + p->n_kind;
    if (key_unflat(flat, strlen(flat), id) == 0) { /* what is none was not put there by us */
        p->rc = names_add(&p->names, id, &p->err);
    }
    return p->rc;
}

/* Ids whose key begins with `key_prefix` and lies behind `key_after`, at most n, as they stand in
 * the store. */
static int page_read(struct adapters *a, const char *kind, const char *key_prefix,
                     const char *key_after, uint32_t n, const struct claas_call *call,
                     struct adapter_names *out, struct claas_error *err)
{
    struct page p = { .n_kind = strlen(kind), .err = ERR_INIT };
    int rc = host_storage_list(a->storage, key_prefix, key_after, n, page_each, &p, call, err);
    if (rc == 0 && p.rc) {
        rc = p.rc;
        if (err) {
            *err = p.err;
        }
    }
    if (rc) {
        adapter_names_clear(&p.names);
        return rc;
    }
    *out = p.names;
    return 0;
}

/* Moves the wanted ids of `from` to out until it is full. */
static int page_keep(struct adapters *a, struct adapter_names *from, uint32_t limit,
                     int (*keep)(struct adapters *a, const char *id, const struct claas_call *,
                                 struct claas_error *),
                     const struct claas_call *call, struct adapter_names *out,
                     struct claas_error *err)
{
    for (size_t i = 0; i < from->n; i++) {
        int rc = keep ? keep(a, from->at[i], call, err) : 0;
        if (rc == CLAAS_ERR_NOT_FOUND) {
            continue;
        }
        if (rc == 0 && out->n == limit) {
            out->more = 1;
            return 0;
        }
        if (rc == 0) {
            rc = names_add(out, from->at[i], err);
        }
        if (rc) {
            return rc;
        }
    }
    return 0;
}

/* All that lie below key_prefix, page by page. */
static int list_below(struct adapters *a, const char *kind, const char *key_prefix,
                      char after[KEY_CAP], uint32_t limit,
                      int (*keep)(struct adapters *a, const char *id, const struct claas_call *,
                                  struct claas_error *),
                      const struct claas_call *call, struct adapter_names *out,
                      struct claas_error *err)
{
    int rc = 0;
    for (;;) {
        struct adapter_names page = { 0 };
        rc = page_read(a, kind, key_prefix, after, PAGE_MAX, call, &page, err);
        if (rc == 0) {
            rc = page_keep(a, &page, limit, keep, call, out, err);
        }
        size_t n = page.n;
        if (n > 0) {
            key_of(after, kind, page.at[n - 1], "");
        }
        adapter_names_clear(&page);
        if (rc || out->more || n == 0) {
            return rc;
        }
    }
}

int list_ids(struct adapters *a, const char *kind, const char *prefix, const char *after,
             uint32_t limit,
             int (*keep)(struct adapters *a, const char *id, const struct claas_call *call,
                         struct claas_error *err),
             const struct claas_call *call, struct adapter_names *out, struct claas_error *err)
{
    char id[ADAPTER_ID_CAP] = "";
    char key[KEY_CAP];
    char behind[KEY_CAP] = "";
    struct adapter_names found = { 0 };
    const char *s = prefix ? prefix + strspn(prefix, "/") : "";
    size_t n = strlen(s);
    int below_only = n > 0 && s[n - 1] == '/';
    while (n > 0 && s[n - 1] == '/') {
        n--;
    }
    if (n >= sizeof id) {
        *out = found;
        return 0;
    }
    memcpy(id, s, n);
    if (n > 0 && adapter_id_check(id, NULL)) {
        *out = found;
        return 0;
    }
    limit = limit == 0 || limit > PAGE_MAX ? PAGE_MAX : limit;
    if (after && after[0] != '\0') {
        int bad = adapter_id_check(after, err);
        if (bad) {
            return bad;
        }
        key_of(behind, kind, after, "");
    }
    int rc = 0;
    key_of(key, kind, id, "");
    struct claas_object object = { .size = sizeof object };
    if (n > 0 && !below_only && strcmp(behind, key) < 0) {
        /* the id itself stands apart from those below it: others ("user1-x", "user10") lie
         * between */
        rc = host_storage_head(a->storage, key, &object, call, err);
        if (rc == 0) {
            rc = keep ? keep(a, id, call, err) : 0;
        }
        rc = rc == CLAAS_ERR_NOT_FOUND ? 0 : rc ? rc : names_add(&found, id, err);
    }
    if (rc == 0) {
        key_of(key, kind, id, n > 0 ? "~" : "");
        rc = list_below(a, kind, key, behind, limit, keep, call, &found, err);
    }
    if (rc) {
        adapter_names_clear(&found);
        return rc;
    }
    *out = found;
    return 0;
}

/* A marker alone proves nothing: a crash may have left it without a log, or behind a deletion. */
static int list_living(struct adapters *a, const char *id, const struct claas_call *call,
                       struct claas_error *err)
{
    struct adapter_entry *head = NULL;
    struct claas_error local = ERR_INIT;
    int rc = adapter_head(a, id, call, &head, &local);
    adapter_entry_unref(rc ? NULL : head);
    if (rc == CLAAS_ERR_CORRUPT) {
        return 0; /* it is there; reading it will say what is wrong */
    }
    if (rc && err) {
        *err = local;
    }
    return rc;
}

int adapter_list(struct adapters *a, const char *prefix, const char *after, uint32_t limit,
                 const struct claas_call *call, struct adapter_names *out, struct claas_error *err)
{
    return list_ids(a, "adapters/", prefix, after, limit, list_living, call, out, err);
}

int adapter_alias_list(struct adapters *a, const char *prefix, const char *after, uint32_t limit,
                       const struct claas_call *call, struct adapter_names *out,
                       struct claas_error *err)
{
    return list_ids(a, "aliases/", prefix, after, limit, NULL, call, out, err);
}
