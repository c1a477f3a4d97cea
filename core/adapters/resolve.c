/* SPDX-License-Identifier: MIT */
/* What a model name means. */
#include "config.h"

#include "internal.h"

#include "base/clock.h"
#include "base/err.h"

#include <stdlib.h>
#include <string.h>

#define FLAT_VALID_NS (INT64_C(2) * 1000000000)
enum { FLAT_IDS_MAX = 100000 };

static int is_living(struct adapters *a, const char *id, const struct claas_call *call,
                     struct claas_error *err)
{
    struct adapter_entry *head = NULL;
    int rc = adapter_head(a, id, call, &head, err);
    if (rc == 0) {
        adapter_entry_unref(head);
    }
    return rc;
}

/* Exact id, then alias. NOT_FOUND: neither, or no id at all. */
static int resolve_plain(struct adapters *a, const char *name, const struct claas_call *call,
                         struct adapter_name *out, struct claas_error *err)
{
    if (adapter_id_check(name, NULL)) {
        return CLAAS_ERR_NOT_FOUND;
    }
    int rc = is_living(a, name, call, err);
    if (rc == 0) {
        memcpy(out->id, name, strlen(name) + 1);
        return 0;
    }
    if (rc == CLAAS_ERR_NOT_FOUND) {
        rc = adapter_alias_get(a, name, call, out->id, err);
        if (rc == 0) {
            rc = is_living(a, out->id, call, err);
        }
        out->alias = rc == 0;
    }
    return rc;
}

static int resolve_number(struct adapters *a, const char *name, const struct claas_call *call,
                          struct adapter_name *out, struct claas_error *err)
{
    const char *at = strrchr(name, '@');
    if (!at || at == name || (size_t)(at - name) >= ADAPTER_ID_CAP) {
        return CLAAS_ERR_NOT_FOUND;
    }
    size_t digits = strspn(at + 1, "0123456789");
    uint64_t n = digits > 0 && digits <= 8 && at[1 + digits] == '\0' ? strtoull(at + 1, NULL, 10)
                                                                     : 0;
    char id[ADAPTER_ID_CAP];
    memcpy(id, name, (size_t)(at - name));
    id[at - name] = '\0';
    int rc = n ? resolve_plain(a, id, call, out, err) : CLAAS_ERR_NOT_FOUND;
    if (rc == 0) {
        out->n = n;
    }
    return rc;
}

static int resolve_suffix(struct adapters *a, const char *name, const struct claas_call *call,
                          struct adapter_name *out, struct claas_error *err)
{
    char id[ADAPTER_ID_CAP];
    if (strchr(name, '@') || adapter_id_strip(name, id, NULL) || strcmp(id, name) == 0) {
        return CLAAS_ERR_NOT_FOUND;
    }
    int rc = is_living(a, id, call, err);
    if (rc == 0) {
        memcpy(out->id, id, strlen(id) + 1);
    }
    return rc;
}

/* 1 if id with '-' for '/' is name. */
static int flat_equal(const char *id, const char *name)
{
    for (; *id; id++, name++) {
        if ((*id == '/' ? '-' : *id) != *name) {
            return 0;
        }
    }
    return *name == '\0';
}

/* All ids, read anew when what we have is older than two seconds: such names come with every
 * request of old clients. */
static int flat_refresh(struct adapters *a, const struct claas_call *call, struct claas_error *err)
{
    (void)pthread_mutex_lock(&a->lock);
    int fresh = a->flat_read_ns != 0 && clock_mono_ns() - a->flat_read_ns < FLAT_VALID_NS;
    (void)pthread_mutex_unlock(&a->lock);
    if (fresh) {
        return 0;
    }
    struct adapter_names all = { 0 };
    int rc = 0;
    int more = 1;
    while (rc == 0 && more && all.n < FLAT_IDS_MAX) {
        struct adapter_names page = { 0 };
        rc = list_ids(a, "adapters/", "", all.n ? all.at[all.n - 1] : "", PAGE_MAX, NULL, call,
                      &page, err);
        more = page.more;
        for (size_t i = 0; rc == 0 && i < page.n; i++) {
            rc = names_add(&all, page.at[i], err);
        }
        adapter_names_clear(&page);
    }
    if (rc) {
        adapter_names_clear(&all);
        return rc;
    }
    (void)pthread_mutex_lock(&a->lock);
    struct adapter_names old = a->flat;
    a->flat = all;
    a->flat_read_ns = clock_mono_ns();
    (void)pthread_mutex_unlock(&a->lock);
    adapter_names_clear(&old);
    return 0;
}

/* The living id that flattens to name, if there is exactly one. */
static int resolve_flat(struct adapters *a, const char *name, const struct claas_call *call,
                        struct adapter_name *out, struct claas_error *err)
{
    int rc = flat_refresh(a, call, err);
    if (rc) {
        return rc;
    }
    struct adapter_names found = { 0 };
    (void)pthread_mutex_lock(&a->lock);
    for (size_t i = 0; rc == 0 && i < a->flat.n; i++) {
        if (flat_equal(a->flat.at[i], name)) {
            rc = names_add(&found, a->flat.at[i], err);
        }
    }
    (void)pthread_mutex_unlock(&a->lock);
    const char *only = NULL;
    int n = 0;
    for (size_t i = 0; rc == 0 && i < found.n; i++) {
        rc = is_living(a, found.at[i], call, err);
        if (rc == 0) {
            only = found.at[i];
            n++;
        }
        rc = rc == CLAAS_ERR_NOT_FOUND ? 0 : rc;
    }
    if (rc == 0 && n == 1) {
        memcpy(out->id, only, strlen(only) + 1);
    } else if (rc == 0) {
        rc = CLAAS_ERR_NOT_FOUND;
    }
    adapter_names_clear(&found);
    return rc;
}

/* What existing clients send for the id that init answered: the flattened form of user/m-init. */
static int resolve_flat_suffix(struct adapters *a, const char *name, const struct claas_call *call,
                               struct adapter_name *out, struct claas_error *err)
{
    char id[ADAPTER_ID_CAP];
    if (adapter_id_strip(name, id, NULL) || strcmp(id, name) == 0) {
        return CLAAS_ERR_NOT_FOUND;
    }
    return resolve_flat(a, id, call, out, err);
}

static int resolve_name(struct adapters *a, const char *name, const struct claas_call *call,
                        struct adapter_name *out, struct claas_error *err)
{
    static int (*const ways[])(
        struct adapters *, const char *, const struct claas_call *, struct adapter_name *,
        struct claas_error *) = { resolve_plain, resolve_number, resolve_suffix, resolve_flat,
                                  resolve_flat_suffix };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct adapter_name found = { 0 };
        int rc = ways[i](a, name, call, &found, err);
        if (rc == 0) {
            *out = found;
        }
        if (rc != CLAAS_ERR_NOT_FOUND) {
            return rc;
        }
    }
    return err_set(err, CLAAS_ERR_NOT_FOUND, "model", "there is no model or adapter '%.200s'",
                   name);
}

int adapter_resolve(struct adapters *a, const char *name, const char *default_model,
                    const struct claas_call *call, struct adapter_name *out,
                    struct claas_error *err)
{
    struct claas_error local = ERR_INIT;
    if (!name || name[0] == '\0') {
        name = default_model;
    }
    if (!name || name[0] == '\0') {
        *out = (struct adapter_name){ 0 };
        return 0;
    }
    int rc = resolve_name(a, name, call, out, &local);
    if (rc && err) {
        *err = local;
    }
    return rc;
}
