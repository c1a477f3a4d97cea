/* SPDX-License-Identifier: MIT */
/* The host's half of the storage contract: keys are checked both ways, lists are held to their
 * order. */
#include "config.h"

#include "base/err.h"
#include "host/internal.h"

#include <string.h>

enum { KEY_MAX = 900, SEGMENT_MAX = 240 };

/* A key, or the beginning of one: [A-Za-z0-9._~-] in segments between single slashes, none of them
 * "." or "..". */
static int key_ok(const char *key, int prefix)
{
    size_t n = strnlen(key, KEY_MAX + 1);
    if (n > KEY_MAX || (n == 0 && !prefix)) {
        return 0;
    }
    const char *segment = key;
    for (const char *c = key;; c++) {
        if (*c == '/' || *c == '\0') {
            size_t len = (size_t)(c - segment);
            int last = *c == '\0';
            int dots =
                (len == 1 && segment[0] == '.') || (len == 2 && strncmp(segment, "..", 2) == 0);
            if (len > SEGMENT_MAX || dots || (len == 0 && !(last && prefix))) {
                return 0;
            }
            if (last) {
                return 1;
            }
            segment = c + 1;
        } else if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-",
                           *c)) {
            return 0;
        }
    }
}

static int key_check(const char *key, struct claas_error *err)
{
    if (!key_ok(key, 0)) {
        return err_set(err, CLAAS_ERR_INVALID, "key", "'%.100s' cannot be a key of a store", key);
    }
    return 0;
}

int host_storage_probe(struct host_instance *i, uint32_t *out_caps, const struct claas_call *call,
                       struct claas_error *err)
{
    struct host_use use;
    uint32_t caps = 0;
    int rc = host_use_begin(&use, i, "storage", "probe", i->storage->probe != NULL, HOST_CALL, call,
                            err);
    if (rc != 0) {
        return rc;
    }
    rc = host_use_end(&use, i->storage->probe(i->self, &caps, call, &use.err), err);
    if (rc == 0) {
        *out_caps = caps;
    }
    return rc;
}

int host_storage_put(struct host_instance *i, const char *key, const struct claas_put *put,
                     const struct claas_call *call, struct claas_error *err)
{
    struct host_use use;
    int rc = key_check(key, err);
    if (rc == 0) {
        rc = host_use_begin(&use, i, "storage", "put", i->storage->put != NULL, HOST_CALL, call,
                            err);
    }
    if (rc != 0) {
        return rc;
    }
    return host_use_end(&use, i->storage->put(i->self, key, put, call, &use.err), err);
}

int host_storage_get(struct host_instance *i, const char *key, uint64_t from, uint64_t bytes,
                     int fd, struct claas_object *out, const struct claas_call *call,
                     struct claas_error *err)
{
    struct host_use use;
    struct claas_object object = { .size = sizeof object };
    int rc = key_check(key, err);
    if (rc == 0) {
        rc = host_use_begin(&use, i, "storage", "get", i->storage->get != NULL, HOST_CALL, call,
                            err);
    }
    if (rc != 0) {
        return rc;
    }
    rc = i->storage->get(i->self, key, from, bytes, fd, &object, call, &use.err);
    rc = host_use_end(&use, rc, err);
    if (rc == 0 && out) {
        object.size = sizeof object;
        *out = object;
    }
    return rc;
}

int host_storage_head(struct host_instance *i, const char *key, struct claas_object *out,
                      const struct claas_call *call, struct claas_error *err)
{
    struct host_use use;
    struct claas_object object = { .size = sizeof object };
    int rc = key_check(key, err);
    if (rc == 0) {
        rc = host_use_begin(&use, i, "storage", "head", i->storage->head != NULL, HOST_CALL, call,
                            err);
    }
    if (rc != 0) {
        return rc;
    }
    rc = host_use_end(&use, i->storage->head(i->self, key, &object, call, &use.err), err);
    if (rc == 0) {
        object.size = sizeof object;
        *out = object;
    }
    return rc;
}

/* What stands between the plugin's list and the caller. */
struct listing {
    int (*each)(void *ctx, const char *key, const struct claas_object *object);
    void *ctx;
    const char *prefix;
    uint32_t left;  /* UINT32_MAX: no limit */
    int ended;      /* each() or the limit ended it: what follows is ignored */
    int disordered; /* the plugin broke its contract */
    char last[KEY_MAX + 1];
};

static int listing_each(void *ctx, const char *key, const struct claas_object *object)
{
    struct listing *listing = ctx;
    if (listing->ended || listing->disordered) {
        return 1;
    }
    if (!key || !object || !key_ok(key, 0) ||
        strncmp(key, listing->prefix, strlen(listing->prefix)) != 0 ||
        strcmp(key, listing->last) <= 0) {
        listing->disordered = 1;
        return 1;
    }
    struct claas_object mine;
    host_clamp(&mine, sizeof mine, object, object->size);
    mine.size = sizeof mine;
    memcpy(listing->last, key, strlen(key) + 1);
    listing->left -= listing->left != UINT32_MAX;
    listing->ended = listing->each(listing->ctx, listing->last, &mine) != 0 || listing->left == 0;
    return listing->ended;
}

int host_storage_list(struct host_instance *i, const char *prefix, const char *after,
                      uint32_t limit,
                      int (*each)(void *ctx, const char *key, const struct claas_object *object),
                      void *ctx, const struct claas_call *call, struct claas_error *err)
{
    struct listing listing = {
        .each = each, .ctx = ctx, .prefix = prefix ? prefix : "", .left = limit ? limit : UINT32_MAX
    };
    struct host_use use;
    after = after ? after : "";
    if (!key_ok(listing.prefix, 1) || !key_ok(after, 1)) {
        return err_set(err, CLAAS_ERR_INVALID, "prefix",
                       "'%.100s' cannot be the beginning of a key",
                       key_ok(listing.prefix, 1) ? after : listing.prefix);
    }
    memcpy(listing.last, after, strlen(after) + 1);
    int rc =
        host_use_begin(&use, i, "storage", "list", i->storage->list != NULL, HOST_CALL, call, err);
    if (rc != 0) {
        return rc;
    }
    rc = i->storage->list(i->self, listing.prefix, after, limit, listing_each, &listing, call,
                          &use.err);
    rc = host_use_end(&use, rc, err);
    if (rc == 0 && listing.disordered) {
        rc = err_set(err, CLAAS_ERR_INTERNAL, "",
                     "plugin '%s' lists keys that are no keys, out of order or not asked for, "
                     "behind '%.100s'",
                     i->module->name, listing.last);
    }
    return rc;
}

int host_storage_remove(struct host_instance *i, const char *const *keys, uint32_t n,
                        const struct claas_call *call, struct claas_error *err)
{
    struct host_use use;
    int rc = 0;
    for (uint32_t k = 0; k < n && rc == 0; k++) {
        rc = key_check(keys[k], err);
    }
    if (rc == 0) {
        rc = host_use_begin(&use, i, "storage", "remove", i->storage->remove != NULL, HOST_CALL,
                            call, err);
    }
    if (rc != 0) {
        return rc;
    }
    return host_use_end(&use, i->storage->remove(i->self, keys, n, call, &use.err), err);
}

/* A path from a plugin: absolute, ended within the buffer. */
static int path_check(const struct host_instance *i, const char *buf, size_t cap,
                      struct claas_error *err)
{
    if (cap == 0 || strnlen(buf, cap) == cap || buf[0] != '/') {
        return err_set(err, CLAAS_ERR_INTERNAL, "", "plugin '%s' names a path that is none",
                       i->module->name);
    }
    return 0;
}

int host_storage_path(struct host_instance *i, const char *key, char *buf, size_t cap,
                      struct claas_error *err)
{
    struct host_use use;
    int rc = key_check(key, err);
    if (rc == 0) {
        rc = host_use_begin(&use, i, "storage", "path", i->storage->path != NULL, HOST_QUICK, NULL,
                            err);
    }
    if (rc != 0) {
        return rc;
    }
    rc = host_use_end(&use, i->storage->path(i->self, key, buf, cap, &use.err), err);
    return rc == 0 ? path_check(i, buf, cap, err) : rc;
}

int host_storage_spool(struct host_instance *i, char *buf, size_t cap, struct claas_error *err)
{
    struct host_use use;
    int rc = host_use_begin(&use, i, "storage", "spool", i->storage->spool != NULL, HOST_QUICK,
                            NULL, err);
    if (rc != 0) {
        return rc;
    }
    rc = host_use_end(&use, i->storage->spool(i->self, buf, cap, &use.err), err);
    return rc == 0 ? path_check(i, buf, cap, err) : rc;
}
