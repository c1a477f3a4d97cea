/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "tests/peers/torch/drive_dirs.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"
#include "base/sha256.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- a version that is a directory ---- */

static int version_path(const struct claas_version *v, const char *name, const char **out, struct claas_error *err)
{
    struct drive_version *d = (struct drive_version *)(uintptr_t)v;
    for (uint32_t i = 0; i < v->n_files; i++) {
        if (strcmp(v->files[i]->name, name) == 0) {
            (void)snprintf(d->path, sizeof d->path, "%s/%s", d->dir, name);
            *out = d->path;
            return 0;
        }
    }
    return err_set(err, CLAAS_ERR_NOT_FOUND, name, "no file '%s' in '%s'", name, d->dir);
}

static int version_dir(const struct claas_version *v, uint32_t roles, const char **out, struct claas_error *err)
{
    (void)roles;
    (void)err;
    *out = ((const struct drive_version *)v)->dir;
    return 0;
}

int drive_version_open(struct drive_version *v, const char *dir, struct claas_error *err)
{
    static const struct { const char *name; uint32_t roles; } known[] = {
        { "adapter_config.json", CLAAS_SERVE },
        { "adapter_model.safetensors", CLAAS_SERVE },
        { "optimizer.safetensors", CLAAS_TRAIN },
    };
    *v = (struct drive_version){ .dir = dir };
    struct sha256 *all = sha256_new();
    int rc = all ? 0 : err_oom(err, "reading an adapter");
    for (size_t i = 0; rc == 0 && i < sizeof known / sizeof known[0]; i++) {
        char *path = path_join(dir, known[i].name);
        struct buf data = BUF_INIT;
        struct claas_error ignored = ERR_INIT;
        if (path && file_read(path, 1u << 30, &data, &ignored) == 0) {
            struct claas_file *f = &v->files[v->abi.n_files];
            *f = (struct claas_file){ .size = sizeof *f, .roles = known[i].roles, .bytes = data.len,
                                      .name = known[i].name };
            rc = sha256_of(data.data, data.len, &f->sha256, err);
            sha256_add(all, f->sha256.b, sizeof f->sha256.b);
            v->list[v->abi.n_files++] = f;
        }
        buf_clear(&data);
        free(path);
    }
    if (rc == 0 && v->abi.n_files < 2) {
        rc = err_set(err, CLAAS_ERR_NOT_FOUND, dir, "no adapter in '%s'", dir);
    }
    if (rc) {
        sha256_free(all);
        return rc;
    }
    rc = sha256_end(all, &v->abi.state, err);
    if (rc) {
        return rc;
    }
    v->abi.serve = v->abi.state;
    v->abi.size = sizeof v->abi;
    v->abi.label = "peer/case@1";
    v->abi.format = "peft/1";
    v->abi.files = v->list;
    v->abi.path = version_path;
    v->abi.dir = version_dir;
    return 0;
}

/* ---- what an engine writes, into a directory ---- */

static int out_write(struct claas_out *o, const char *name, uint32_t roles, const void *data, size_t n,
                     struct claas_error *err)
{
    (void)roles;
    const struct drive_out *d = (const struct drive_out *)o;
    char *path = path_join(d->dir, name);
    FILE *to = path ? fopen(path, "ab") : NULL;
    int rc = to && fwrite(data, 1, n, to) == n ? 0 : err_set(err, CLAAS_ERR_INTERNAL, name, "cannot write '%s'", name);
    if (to && fclose(to) && rc == 0) {
        rc = err_set(err, CLAAS_ERR_INTERNAL, name, "cannot write '%s'", name);
    }
    free(path);
    return rc;
}

static int out_take(struct claas_out *o, const char *name, uint32_t roles, const char *path, struct claas_error *err)
{
    struct buf data = BUF_INIT;
    int rc = file_read(path, 1u << 30, &data, err);
    if (rc == 0) {
        rc = out_write(o, name, roles, buf_str(&data), data.len, err);
    }
    buf_clear(&data);
    return rc;
}

static int out_have(struct claas_out *o, const char *name, uint32_t roles, uint64_t bytes,
                    const struct claas_digest *sha256, struct claas_error *err)
{
    (void)o;
    (void)roles;
    (void)bytes;
    (void)sha256;
    return err_set(err, CLAAS_ERR_NOT_FOUND, name, "'%s' is not known here", name);
}

static int out_claim(struct claas_out *o, const char *uri, struct claas_error *err)
{
    (void)o;
    return err_set(err, CLAAS_ERR_UNSUPPORTED, "", "cannot claim '%s' here", uri);
}

static void out_metric(struct claas_out *o, uint32_t step, const char *name, double value)
{
    (void)step;
    cJSON_AddNumberToObject(((struct drive_out *)o)->metrics, name, value);
}

static void out_note(struct claas_out *o, uint32_t step, const char *name, const char *text)
{
    (void)o;
    (void)step;
    (void)name;
    (void)text;
}

static int out_seal(struct claas_out *o, const char *format, struct claas_digest *state, struct claas_digest *serve,
                    struct claas_error *err)
{
    const struct drive_out *d = (const struct drive_out *)o;
    int rc = sha256_of(d->dir, strlen(d->dir), state, err);
    return rc ? rc : sha256_of(format, strlen(format), serve, err);
}

void drive_out_open(struct drive_out *out, const char *dir, cJSON *metrics)
{
    *out = (struct drive_out){ .abi = { .size = sizeof out->abi, .label = "peer/case", .scratch = dir,
                                        .write = out_write, .take = out_take, .have = out_have, .claim = out_claim,
                                        .metric = out_metric, .note = out_note, .seal = out_seal },
                               .dir = dir, .metrics = metrics };
}
