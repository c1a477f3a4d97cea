/* SPDX-License-Identifier: MIT */
/* For tests of the adapter repository: one opened over a real fs instance in a scratch directory,
 * the whole or in part. */
#ifndef UNIT_REPO_H
#define UNIT_REPO_H

#include "store.h"

#include "adapters/adapters.h"
#include "base/buf.h"
#include "base/sha256.h"
#include "host/host.h"

struct repo {
    struct host *host;
    struct host_instance *storage;
    struct adapters *a;
};

/* The fs plugin, or with `storage` another table in its place. */
static inline int repo_open(struct repo *r, const struct claas_storage *storage,
                            const struct adapters_options *options, struct claas_error *err)
{
    static struct claas_plugin plugin; /* lives as long as the program: instances point into it */
    static char cache[128];
    struct host_module *module = NULL;
    struct option_values values = { 0 };
    char *root = path_join(test_root, "store");
    *r = (struct repo){ 0 };
    plugin = *claas_plugin_entry(CLAAS_ABI);
    if (storage) {
        plugin.storage = storage;
    }
    (void)snprintf(cache, sizeof cache, "%s/cache", test_root);
    struct adapters_options o = options ? *options : (struct adapters_options){ 0 };
    o.cache_dir = cache;
    int rc = host_new(&r->host, NULL, err);
    rc = rc ? rc : host_module_register(r->host, &plugin, &module, err);
    rc = rc ? rc : option_begin(&values, host_module_options(module), err);
    rc = rc ? rc : option_put_text(&values, 0, root, OPTION_PLAIN, NULL, err);
    rc = rc ? rc : option_put_text(&values, 1, "false", OPTION_PLAIN, NULL, err);
    rc = rc ? rc : option_end(&values, NULL, err);
    rc = rc ? rc
            : host_instance_open(module, "storage", CLAAS_STORAGE, &values, NULL, NULL, &r->storage,
                                 err);
    rc = rc ? rc : adapters_open(r->storage, &o, NULL, &r->a, err);
    option_values_clear(&values);
    free(root);
    return rc;
}

static inline void repo_close(struct repo *r)
{
    adapters_close(r->a);
    host_instance_close(r->storage);
    host_free(r->host);
    *r = (struct repo){ 0 };
}

/* An output with weights, moments and a text, made of `content`; sealed. */
static inline int repo_write(struct adapters *a, const char *id, const char *content,
                             struct adapter_out **out, struct claas_error *err)
{
    struct adapter_out_params params = { .id = id, .base = "base-1" };
    struct buf moments = BUF_INIT;
    struct adapter_out *o = NULL;
    buf_addf(&moments, "moments of %s", content);
    int rc = adapter_out_new(a, &params, &o, err);
    struct claas_out *abi = rc ? NULL : adapter_out_abi(o);
    rc = rc ? rc
            : abi->write(abi, "adapter_model.safetensors", CLAAS_SERVE, content, strlen(content),
                         err);
    rc = rc ? rc : abi->write(abi, "adapter_config.json", CLAAS_SERVE, "{\"r\":8}", 7, err);
    rc = rc ? rc
            : abi->write(abi, "moments.safetensors", CLAAS_TRAIN, moments.data, moments.len, err);
    rc = rc ? rc : abi->write(abi, "README.md", CLAAS_ABOUT, "# about\n", 8, err);
    rc = rc ? rc : abi->seal(abi, "peft/1", NULL, NULL, err);
    buf_clear(&moments);
    if (rc) {
        adapter_out_free(o);
        return rc;
    }
    *out = o;
    return 0;
}

/* One version made of `content` after `expected`. */
static inline int repo_commit(struct adapters *a, const char *id, enum adapter_kind kind,
                              uint64_t expected, const char *job, const char *content,
                              uint64_t *out_n, struct claas_error *err)
{
    struct adapter_out *o = NULL;
    struct adapter_entry *e = NULL;
    struct adapter_commit c = {
        .kind = kind,
        .job = job,
        .expected = expected,
        .engine = "test",
        .base_name = "tiny",
        .settings_json = "{\"lr\":1}",
    };
    int rc = repo_write(a, id, content, &o, err);
    rc = rc ? rc : adapter_commit(a, id, &c, o, NULL, &e, err);
    if (rc == 0) {
        *out_n = e->n;
        adapter_entry_unref(e);
    }
    adapter_out_free(o);
    return rc;
}

/* The contents of one file of a version; *out is replaced. */
static inline int repo_file(struct adapters *a, const char *id, uint64_t n, const char *name,
                            struct buf *out, struct claas_error *err)
{
    struct adapter_version *v = NULL;
    const char *path = NULL;
    int rc = adapter_version_get(a, id, n, NULL, &v, err);
    if (rc == 0) {
        const struct claas_version *abi = adapter_version_abi(v);
        rc = abi->path(abi, name, &path, err);
    }
    buf_cut(out, 0);
    rc = rc ? rc : file_read(path, 1 << 20, out, err);
    adapter_version_unref(v);
    return rc;
}

#endif
