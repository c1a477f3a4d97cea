/* SPDX-License-Identifier: MIT */
/* Aliases of adapters and marks on versions. */
#include "config.h"

#include "internal.h"

#include "base/err.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TAG_MAX = 64 };

/* ---- aliases ---- */

int adapter_alias_set(struct adapters *a, const char *alias, const char *id,
                      const struct claas_call *call, struct claas_error *err)
{
    struct adapter_entry *head = NULL;
    struct claas_error local = ERR_INIT;
    int rc = adapter_head(a, alias, call, &head, &local);
    if (rc == 0) {
        adapter_entry_unref(head);
        return err_set(err, CLAAS_ERR_INVALID, "alias",
                       "'%s' is the id of an adapter and cannot be an alias", alias);
    }
    if (rc != CLAAS_ERR_NOT_FOUND) {
        if (err) {
            *err = local;
        }
        return rc;
    }
    rc = adapter_head(a, id, call, &head, err);
    if (rc) {
        return rc;
    }
    adapter_entry_unref(head);
    char key[KEY_CAP];
    key_of(key, "aliases/", alias, "");
    return store_write_id(a, key, id, 0, call, err);
}

int adapter_alias_get(struct adapters *a, const char *alias, const struct claas_call *call,
                      char out[ADAPTER_ID_CAP], struct claas_error *err)
{
    int rc = adapter_id_check(alias, err);
    if (rc) {
        return rc;
    }
    char key[KEY_CAP];
    key_of(key, "aliases/", alias, "");
    struct claas_error local = ERR_INIT;
    rc = store_read_id(a, key, out, call, &local);
    if (rc == CLAAS_ERR_NOT_FOUND) {
        return err_set(err, rc, "alias", "there is no alias '%s'", alias);
    }
    if (rc && err) {
        *err = local;
    }
    return rc;
}

int adapter_alias_delete(struct adapters *a, const char *alias, const struct claas_call *call,
                         struct claas_error *err)
{
    char target[ADAPTER_ID_CAP];
    int rc = adapter_alias_get(a, alias, call, target, err);
    if (rc && rc != CLAAS_ERR_CORRUPT) {
        return rc;
    }
    char key[KEY_CAP];
    key_of(key, "aliases/", alias, "");
    return store_remove(a, key, call, err);
}

/* ---- marks ---- */

static int mark_key(char out[KEY_CAP], const char *id, uint64_t n, const char *tag,
                    struct claas_error *err)
{
    int rc = adapter_id_check(id, err);
    if (rc) {
        return rc;
    }
    size_t len = tag ? strnlen(tag, TAG_MAX + 1) : 0;
    if (len == 0 || len > TAG_MAX ||
        strspn(tag, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") != len) {
        return err_set(err, CLAAS_ERR_INVALID, "tag",
                       "'%.80s' is no tag: 1 to %d letters, digits and . _ -", tag ? tag : "",
                       TAG_MAX);
    }
    char tail[TAG_MAX + 32];
    (void)snprintf(tail, sizeof tail, "/%08" PRIu64 ".%s", n, tag); /* fits */
    key_of(out, "marks/", id, tail);
    return 0;
}

int adapter_mark_set(struct adapters *a, const char *id, uint64_t n, const char *tag,
                     const struct claas_call *call, struct claas_error *err)
{
    char key[KEY_CAP];
    struct adapter_version *v = NULL;
    int rc = mark_key(key, id, n, tag, err);
    if (rc == 0 && n == 0) {
        rc = err_set(err, CLAAS_ERR_INVALID, "version", "a mark needs the number of a version");
    }
    if (rc == 0) {
        rc = adapter_version_get(a, id, n, call, &v, err);
    }
    if (rc) {
        return rc;
    }
    adapter_version_unref(v);
    return store_write_id(a, key, id, 0, call, err);
}

int adapter_mark_clear(struct adapters *a, const char *id, uint64_t n, const char *tag,
                       const struct claas_call *call, struct claas_error *err)
{
    char key[KEY_CAP];
    int rc = mark_key(key, id, n, tag, err);
    return rc ? rc : store_remove(a, key, call, err);
}

struct marks {
    size_t n_prefix;
    struct adapter_names names;
    struct claas_error err;
    int rc;
};

static int marks_each(void *ctx, const char *key, const struct claas_object *object)
{
    (void)object;
    struct marks *m = ctx;
    const char *name = key + m->n_prefix;
    if (strspn(name, "0123456789") == 8 && name[8] == '.') {
        m->rc = names_add(&m->names, name + strspn(name, "0"), &m->err);
    }
    return m->rc;
}

int adapter_mark_list(struct adapters *a, const char *id, const struct claas_call *call,
                      struct adapter_names *out, struct claas_error *err)
{
    char prefix[KEY_CAP];
    int rc = adapter_id_check(id, err);
    if (rc) {
        return rc;
    }
    key_of(prefix, "marks/", id, "/");
    struct marks m = { .n_prefix = strlen(prefix), .err = ERR_INIT };
    rc = host_storage_list(a->storage, prefix, "", 0, marks_each, &m, call, err);
    if (rc == 0 && m.rc) {
        rc = m.rc;
        if (err) {
            *err = m.err;
        }
    }
    if (rc) {
        adapter_names_clear(&m.names);
        return rc;
    }
    *out = m.names;
    return 0;
}
