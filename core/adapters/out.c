/* SPDX-License-Identifier: MIT */
/* What an engine writes: files are hashed while they are written, into the store's own file system,
 * so that putting them is a link; nothing counts before seal and commit. */
#include "config.h"

#include "internal.h"

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "out.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WRITEBACK = 8 << 20, NOTE_MAX = 1024, WORD_CAP = 65, URI_CAP = 2049 };

/* ---- contents ---- */

static void content_file_free(struct content_file *f)
{
    if (f->fd >= 0) {
        (void)close(f->fd); /* given up */
    }
    sha256_free(f->hash);
    (void)pthread_mutex_destroy(&f->lock);
    free(f->name);
    free(f->path);
    free(f);
}

void content_unref(struct content *c)
{
    if (!c || atomic_fetch_sub(&c->refs, 1) != 1) {
        return;
    }
    for (size_t i = 0; i < c->n_files; i++) {
        content_file_free(c->files[i]);
    }
    free(c->files);
    if (c->dir) {
        (void)dir_remove(c->dir, NULL); /* what stays goes with the private directory */
        free(c->dir);
    }
    free(c);
}

static struct adapter_out *out_of(struct claas_out *abi)
{
    return (struct adapter_out *)abi; /* the first member */
}

static struct content_file *content_find(const struct content *c, const char *name)
{
    for (size_t i = 0; i < c->n_files; i++) {
        if (strcmp(c->files[i]->name, name) == 0) {
            return c->files[i];
        }
    }
    return NULL;
}

static int out_check(const struct adapter_out *o, const char *name, uint32_t roles,
                     struct claas_error *err)
{
    if (roles == 0 || roles > (CLAAS_SERVE | CLAAS_TRAIN | CLAAS_ABOUT)) {
        return err_set(err, CLAAS_ERR_INVALID, "roles",
                       "the file '%.80s' of '%s' has no valid role", name ? name : "", o->id);
    }
    return name_check_file(name, err);
}

/* Adds a file under o->lock; with_path: it will have contents of its own. */
static int content_add(struct adapter_out *o, const char *name, uint32_t roles, int with_path,
                       struct content_file **out, struct claas_error *err)
{
    struct content *c = o->content;
    if (o->sealed) {
        return err_set(err, CLAAS_ERR_INVALID, "name", "cannot add '%s' to '%s': it is sealed",
                       name, o->id);
    }
    if (c->n_files >= FILES_MAX) {
        return err_set(err, CLAAS_ERR_EXHAUSTED, "name",
                       "a version of '%s' cannot have more than %d files", o->id, FILES_MAX);
    }
    struct content_file *f = calloc(1, sizeof *f);
    if (!f || mem_grow((void **)&c->files, &c->cap_files, c->n_files + 1, sizeof *c->files)) {
        free(f);
        return err_oom(err, "writing an adapter");
    }
    (void)pthread_mutex_init(&f->lock, NULL); /* cannot fail with these attributes on Linux */
    f->fd = -1;
    f->roles = roles;
    f->name = mem_dup(name, strlen(name));
    if (with_path) {
        struct buf b = BUF_INIT;
        buf_addf(&b, "%s/%zu", c->dir, c->n_files);
        f->path = buf_take(&b);
    }
    if (!f->name || (with_path && !f->path)) {
        content_file_free(f);
        return err_oom(err, "writing an adapter");
    }
    c->files[c->n_files++] = f;
    *out = f;
    return 0;
}

static int out_add(struct adapter_out *o, const char *name, uint32_t roles, int with_path,
                   struct content_file **out, struct claas_error *err)
{
    int rc = out_check(o, name, roles, err);
    if (rc) {
        return rc;
    }
    (void)pthread_mutex_lock(&o->lock);
    rc = content_find(o->content, name)
             ? err_set(err, CLAAS_ERR_INVALID, "name", "the file '%s' of '%s' is there already",
                       name, o->id)
             : content_add(o, name, roles, with_path, out, err);
    (void)pthread_mutex_unlock(&o->lock);
    return rc;
}

/* ---- write ---- */

static int file_begin(struct content_file *f, struct claas_error *err)
{
    f->fd = open(f->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC,
                 0440); /* the store may take it as it is */
    if (f->fd < 0) {
        return err_errno(err, errno, f->name, "cannot create '%s'", f->path);
    }
    f->hash = sha256_new();
    return f->hash ? 0 : err_oom(err, "writing an adapter");
}

static int file_append(struct adapter_out *o, struct content_file *f, const void *data, size_t n,
                       struct claas_error *err)
{
    if (o->sealed || f->failed) {
        return err_set(err, CLAAS_ERR_INVALID, "name", "cannot write '%s' of '%s': %s", f->name,
                       o->id, f->failed ? "an earlier write failed" : "it is sealed");
    }
    int rc = f->hash ? 0 : file_begin(f, err);
    if (rc == 0) {
        rc = fd_write_all(f->fd, data, n, f->name, err);
    }
    if (rc) {
        f->failed = 1;
        return rc;
    }
    sha256_add(f->hash, data, n);
    uint64_t before = f->bytes;
    f->bytes += n;
    if (before / WRITEBACK != f->bytes / WRITEBACK) {
        /* start the disk early, so that the sync at the end finds little to do; failing costs only
         * time */
        (void)sync_file_range(f->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    }
    return 0;
}

static int out_write(struct claas_out *abi, const char *name, uint32_t roles, const void *data,
                     size_t n, struct claas_error *err)
{
    struct adapter_out *o = out_of(abi);
    int rc = out_check(o, name, roles, err);
    if (rc) {
        return rc;
    }
    (void)pthread_mutex_lock(&o->lock);
    struct content_file *f = content_find(o->content, name);
    if (!f) {
        rc = content_add(o, name, roles, 1, &f, err);
    } else if (f->roles != roles || !f->path || (f->done && !o->sealed)) {
        rc = err_set(err, CLAAS_ERR_INVALID, "name",
                     "cannot write '%s' of '%s': it was given otherwise before", name, o->id);
    }
    (void)pthread_mutex_unlock(&o->lock);
    if (rc == 0) {
        (void)pthread_mutex_lock(&f->lock);
        rc = file_append(o, f, data, n, err);
        (void)pthread_mutex_unlock(&f->lock);
    }
    return rc;
}

/* ---- take, have ---- */

/* 1 if path, links resolved, lies below the scratch directory. */
static int below_scratch(const struct adapter_out *o, const char *path)
{
    char *root = realpath(o->scratch, NULL);
    char *real = realpath(path, NULL);
    size_t n = root ? strlen(root) : 0;
    int below = root && real && strncmp(real, root, n) == 0 && real[n] == '/';
    free(root);
    free(real);
    return below;
}

static int file_measure(struct content_file *f, struct claas_error *err)
{
    struct stat st;
    int fd = open(f->path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) || fchmod(fd, 0440)) {
        int failed = errno;
        if (fd >= 0) {
            (void)close(fd);
        }
        return err_errno(err, failed, f->name, "cannot read '%s'", f->name);
    }
    int rc = S_ISREG(st.st_mode)
                 ? sha256_of_fd(fd, (uint64_t)st.st_size, &f->sha256, err)
                 : err_set(err, CLAAS_ERR_INVALID, f->name, "'%s' is no regular file", f->name);
    f->bytes = (uint64_t)st.st_size;
    (void)close(fd); /* opened for reading: nothing can be lost */
    return rc;
}

static int out_take(struct claas_out *abi, const char *name, uint32_t roles, const char *path,
                    struct claas_error *err)
{
    struct adapter_out *o = out_of(abi);
    char *full = path && path[0] != '/' ? path_join(o->scratch, path)
                                        : mem_dup(path ? path : "", path ? strlen(path) : 0);
    if (!full) {
        return err_oom(err, "taking a file");
    }
    struct stat st;
    struct content_file *f = NULL;
    int rc = 0;
    if (!below_scratch(o, full) || lstat(full, &st) || !S_ISREG(st.st_mode)) {
        rc = err_set(err, CLAAS_ERR_INVALID, "path",
                     "cannot take '%s': it is no regular file in the scratch directory",
                     path ? path : "");
    }
    if (rc == 0) {
        rc = out_add(o, name, roles, 1, &f, err);
    }
    if (rc == 0) {
        f->failed = 1; /* until it is ours: no other thread writes under this name meanwhile */
        if (rename(full, f->path)) {
            rc = err_errno(err, errno, name, "cannot take '%s'", full);
        } else {
            rc = file_measure(f, err);
        }
        f->failed = rc != 0;
        f->done = 1;
    }
    free(full);
    return rc;
}

static int out_have(struct claas_out *abi, const char *name, uint32_t roles, uint64_t bytes,
                    const struct claas_digest *sha256, struct claas_error *err)
{
    struct adapter_out *o = out_of(abi);
    struct content_file *f = NULL;
    int rc = out_check(o, name, roles, err);
    if (rc) {
        return rc;
    }
    struct claas_file file = { sizeof file, roles, bytes, name, *sha256 };
    rc = store_keep_blob(o->a, &file, 1, NULL, err);
    if (rc == CLAAS_ERR_CORRUPT) {
        rc = err_set(err, CLAAS_ERR_NOT_FOUND, name,
                     "the store's copy of '%s' is damaged: write it", name);
    }
    if (rc == 0) {
        rc = out_add(o, name, roles, 0, &f, err);
    }
    if (rc == 0) {
        f->bytes = bytes;
        f->sha256 = *sha256;
        f->done = 1;
    }
    return rc;
}

/* ---- claim, metric, note ---- */

static int out_claim(struct claas_out *abi, const char *uri, struct claas_error *err)
{
    struct adapter_out *o = out_of(abi);
    if (!name_word_ok(uri, URI_CAP)) {
        return err_set(err, CLAAS_ERR_INVALID, "uri",
                       "a claim of '%s' is empty, too long or has blanks", o->id);
    }
    char *copy = mem_dup(uri, strlen(uri));
    if (!copy) {
        return err_oom(err, "claiming");
    }
    (void)pthread_mutex_lock(&o->lock);
    int full = o->n_claims == CLAIMS_MAX || o->sealed;
    if (!full) {
        o->claims[o->n_claims++] = copy;
    }
    (void)pthread_mutex_unlock(&o->lock);
    if (full) {
        free(copy);
        return err_set(err, CLAAS_ERR_EXHAUSTED, "uri",
                       "'%s' cannot claim more: %d is the limit, none after seal", o->id,
                       CLAIMS_MAX);
    }
    return o->claim ? o->claim(o->ctx, uri, err) : 0;
}

static void out_metric(struct claas_out *abi, uint32_t step, const char *name, double value)
{
    struct adapter_out *o = out_of(abi);
    int number = isfinite(value);
    if (!name_word_ok(name, WORD_CAP)) {
        if (number) {
            return;
        }
        name = "metric"; /* what it is called does not make it a number */
    }
    char *copy = mem_dup(name, strlen(name));
    (void)pthread_mutex_lock(&o->lock);
    if (!number && o->spoilt[0] == '\0') {
        memcpy(o->spoilt, name, strlen(name) + 1);
    }
    if (copy && number && o->n_metrics < METRICS_MAX &&
        mem_grow((void **)&o->metrics, &o->cap_metrics, o->n_metrics + 1, sizeof *o->metrics) ==
            0) {
        o->metrics[o->n_metrics++] = (struct adapter_metric){ step, copy, value };
        copy = NULL;
    }
    (void)pthread_mutex_unlock(&o->lock);
    free(copy);
}

static void out_note(struct claas_out *abi, uint32_t step, const char *name, const char *text)
{
    struct adapter_out *o = out_of(abi);
    size_t n = text ? strnlen(text, NOTE_MAX) : 0;
    n -= text ? utf8_incomplete(text, n) : 0;
    if (!text || !name_word_ok(name, WORD_CAP) || !utf8_valid(text, n)) {
        return;
    }
    char *copy = mem_dup(name, strlen(name));
    char *said = mem_dup(text, n);
    (void)pthread_mutex_lock(&o->lock);
    if (copy && said && o->n_notes < NOTES_MAX &&
        mem_grow((void **)&o->notes, &o->cap_notes, o->n_notes + 1, sizeof *o->notes) == 0) {
        o->notes[o->n_notes++] = (struct adapter_note){ step, copy, said };
        copy = NULL;
        said = NULL;
    }
    (void)pthread_mutex_unlock(&o->lock);
    free(copy);
    free(said);
}

size_t adapter_out_metrics(const struct adapter_out *o, const struct adapter_metric **out)
{
    *out = o->metrics;
    return o->n_metrics;
}

const char *adapter_out_spoilt(const struct adapter_out *o)
{
    return o->spoilt[0] == '\0' ? NULL : o->spoilt;
}

size_t adapter_out_notes(const struct adapter_out *o, const struct adapter_note **out)
{
    *out = o->notes;
    return o->n_notes;
}

int adapter_out_metric(const struct adapter_out *o, const char *name, double *value)
{
    for (size_t i = o->n_metrics; i-- > 0;) {
        if (strcmp(o->metrics[i].name, name) == 0) {
            *value = o->metrics[i].value;
            return 1;
        }
    }
    return 0;
}

/* ---- seal ---- */

static int file_finish(struct adapter_out *o, struct content_file *f, struct claas_error *err)
{
    int rc = 0;
    (void)pthread_mutex_lock(&f->lock);
    if (f->failed) {
        rc = err_set(err, CLAAS_ERR_INVALID, f->name, "cannot seal '%s': writing '%s' failed",
                     o->id, f->name);
    } else if (!f->done && !f->hash && (rc = file_begin(f, err))) {
        f->failed = 1;
    }
    if (rc == 0 && !f->done) {
        rc = sha256_end(f->hash, &f->sha256, err);
        f->hash = NULL;
        if (close(f->fd) && rc == 0) {
            rc = err_errno(err, errno, f->name, "cannot write '%s' of '%s'", f->name, o->id);
        }
        f->fd = -1;
        f->done = 1;
        f->failed = rc != 0;
    }
    (void)pthread_mutex_unlock(&f->lock);
    return rc;
}

static int file_order(const void *a, const void *b)
{
    return strcmp((*(struct content_file *const *)a)->name,
                  (*(struct content_file *const *)b)->name);
}

void out_list(const struct adapter_out *o, struct claas_file *facts, const struct claas_file **list)
{
    for (size_t i = 0; i < o->content->n_files; i++) {
        const struct content_file *f = o->content->files[i];
        facts[i] = (struct claas_file){ sizeof facts[i], f->roles, f->bytes, f->name, f->sha256 };
        list[i] = &facts[i];
    }
}

static int seal_digests(struct adapter_out *o, const char *format, struct claas_error *err)
{
    size_t n = o->content->n_files;
    struct claas_file *facts = mem_array(n, sizeof *facts);
    const struct claas_file **list = mem_array(n, sizeof *list);
    int rc = facts && list ? 0 : err_oom(err, "sealing an adapter");
    if (rc == 0) {
        out_list(o, facts, list);
        rc = adapter_digests(format, o->base, list, (uint32_t)n, &o->state, &o->serve, err);
    }
    free(facts);
    free(list);
    return rc;
}

static int seal_locked(struct adapter_out *o, const char *format, struct claas_error *err)
{
    struct content *c = o->content;
    if (o->sealed) {
        return strcmp(o->format, format) == 0
                   ? 0
                   : err_set(err, CLAAS_ERR_INVALID, "format", "'%s' is sealed already as '%s'",
                             o->id, o->format);
    }
    int serves = 0;
    for (size_t i = 0; i < c->n_files; i++) {
        serves |= c->files[i]->roles & CLAAS_SERVE;
        int rc = file_finish(o, c->files[i], err);
        if (rc) {
            return rc;
        }
    }
    if (!serves) {
        return err_set(err, CLAAS_ERR_INVALID, NULL,
                       "cannot seal '%s': it has no file with the role serve", o->id);
    }
    qsort(c->files, c->n_files, sizeof *c->files, file_order);
    int rc = seal_digests(o, format, err);
    if (rc == 0) {
        memcpy(o->format, format, strlen(format) + 1);
        o->sealed = 1;
    }
    return rc;
}

static int out_seal(struct claas_out *abi, const char *format, struct claas_digest *out_state,
                    struct claas_digest *out_serve, struct claas_error *err)
{
    struct adapter_out *o = out_of(abi);
    if (!name_word_ok(format, sizeof o->format)) {
        return err_set(err, CLAAS_ERR_INVALID, "format", "'%s' has no valid format", o->id);
    }
    (void)pthread_mutex_lock(&o->lock);
    int rc = seal_locked(o, format, err);
    (void)pthread_mutex_unlock(&o->lock);
    if (rc == 0 && out_state) {
        *out_state = o->state;
    }
    if (rc == 0 && out_serve) {
        *out_serve = o->serve;
    }
    return rc;
}

/* ---- life ---- */

static int out_dirs(struct adapter_out *o, struct claas_error *err)
{
    struct content *c = o->content;
    c->dir = work_path(o->a, "out");
    if (!c->dir) {
        return err_oom(err, "opening an output");
    }
    int rc = dir_make(c->dir, 0700, err);
    if (rc == 0) {
        o->scratch = path_join(c->dir, "scratch");
        rc = o->scratch ? dir_make(o->scratch, 0700, err) : err_oom(err, "opening an output");
    }
    return rc;
}

int adapter_out_new(struct adapters *a, const struct adapter_out_params *params,
                    struct adapter_out **out, struct claas_error *err)
{
    struct adapter_out *o = calloc(1, sizeof *o);
    if (!o) {
        return err_oom(err, "opening an output");
    }
    (void)pthread_mutex_init(&o->lock, NULL); /* cannot fail with these attributes on Linux */
    o->a = a;
    o->id = mem_dup(params->id, strlen(params->id));
    o->base = mem_dup(params->base ? params->base : "", params->base ? strlen(params->base) : 0);
    o->claim = params->claim;
    o->ctx = params->ctx;
    o->content = calloc(1, sizeof *o->content);
    int rc = o->id && o->base && o->content ? 0 : err_oom(err, "opening an output");
    if (rc == 0) {
        atomic_init(&o->content->refs, 1);
        rc = out_dirs(o, err);
    }
    if (rc) {
        adapter_out_free(o);
        return rc;
    }
    o->abi = (struct claas_out){
        .size = sizeof o->abi,
        .label = o->id,
        .scratch = o->scratch,
        .write = out_write,
        .take = out_take,
        .have = out_have,
        .claim = out_claim,
        .metric = out_metric,
        .note = out_note,
        .seal = out_seal,
    };
    *out = o;
    return 0;
}

struct claas_out *adapter_out_abi(struct adapter_out *o)
{
    return &o->abi;
}

void adapter_out_free(struct adapter_out *o)
{
    if (!o) {
        return;
    }
    content_unref(o->content);
    for (size_t i = 0; i < o->n_metrics; i++) {
        free((char *)(uintptr_t)o->metrics[i].name);
    }
    for (size_t i = 0; i < o->n_notes; i++) {
        free((char *)(uintptr_t)o->notes[i].name);
        free((char *)(uintptr_t)o->notes[i].text);
    }
    for (size_t i = 0; i < o->n_claims; i++) {
        free(o->claims[i]);
    }
    free(o->metrics);
    free(o->notes);
    free(o->scratch);
    free(o->id);
    free(o->base);
    (void)pthread_mutex_destroy(&o->lock);
    free(o);
}

int adapter_out_version(struct adapter_out *o, struct adapter_version **out,
                        struct claas_error *err)
{
    if (!o->sealed) {
        return err_set(err, CLAAS_ERR_INVALID, NULL, "'%s' is not sealed yet", o->id);
    }
    return version_candidate(o->a, o->id, o->format, o->content, &o->state, &o->serve, out, err);
}
