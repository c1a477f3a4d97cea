/* SPDX-License-Identifier: MIT */
/* Versions as plugins see them: files come when asked for, are compared with their digests, and
 * stay as long as the version is held, whatever a sweep does meanwhile. */
#include "config.h"

#include "internal.h"

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct adapter_version *version_of(const struct claas_version *abi)
{
    return (struct adapter_version *)(uintptr_t)abi; /* the first member */
}

/* ---- one file ---- */

/* The private directory of this version, made when first needed. Caller holds the busy mark of some
 * file, not the lock. */
static int version_work(struct adapter_version *v, const char **out, struct claas_error *err)
{
    int rc = 0;
    (void)pthread_mutex_lock(&v->lock);
    if (!v->work) {
        char *path = work_path(v->a, "version");
        if (!path) {
            rc = err_oom(err, "opening a version");
        } else if (mkdir(path, 0700)) {
            rc = err_errno(err, errno, NULL, "cannot make the directory '%s'", path);
            free(path);
        } else {
            v->work = path;
        }
    }
    if (rc == 0) {
        *out = v->work;
    }
    (void)pthread_mutex_unlock(&v->lock);
    return rc;
}

static int file_mismatch(const struct adapter_version *v, const struct claas_file *f,
                         const char *why, struct claas_error *err)
{
    char key[KEY_CAP];
    key_blob(key, &f->sha256);
    return err_set(err, CLAAS_ERR_CORRUPT, f->name, "the blob '%s' (file '%s' of '%s') %s", key,
                   f->name, v->label, why);
}

/* Compares size and digest, the digest only once for the same file. */
static int file_verify(struct adapter_version *v, const struct claas_file *f, const char *path,
                       struct claas_error *err)
{
    struct stat st;
    struct claas_digest found;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        int failed = errno;
        if (fd >= 0) {
            (void)close(fd);
        }
        return err_errno(err, failed, f->name, "cannot open '%s' of '%s'", f->name, v->label);
    }
    struct verified is = {
        .dev = st.st_dev, .ino = st.st_ino, .bytes = (uint64_t)st.st_size, .sha256 = f->sha256
    };
    is.modified_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    int rc = 0;
    if (is.bytes != f->bytes) {
        rc = file_mismatch(v, f, "does not have the size it should", err);
    } else if (!cache_is_verified(v->a, &f->sha256, &is)) {
        rc = sha256_of_fd(fd, f->bytes, &found, err);
        if (rc == 0 && !sha256_equal(&found, &f->sha256)) {
            rc = file_mismatch(v, f, "does not match its digest", err);
        }
        if (rc == 0) {
            cache_set_verified(v->a, &is);
        }
    }
    (void)close(fd); /* opened for reading: nothing can be lost */
    return rc;
}

static int file_download(struct adapter_version *v, const struct claas_file *f, const char *key,
                         const char *to, struct claas_error *err)
{
    int fd = open(to, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        return err_errno(err, errno, f->name, "cannot create '%s'", to);
    }
    struct claas_object object = { .size = sizeof object };
    int rc = host_storage_get(v->a->storage, key, 0, f->bytes, fd, &object, NULL, err);
    if (rc == 0 && object.bytes != f->bytes) {
        rc = file_mismatch(v, f, "does not have the size it should", err);
    }
    if (close(fd) && rc == 0) {
        rc = err_errno(err, errno, f->name, "cannot write '%s'", to);
    }
    return rc;
}

/* A path of the contents: a second link to the store's own file where that is possible, so that it
 * outlives a sweep. */
static int file_fetch(struct adapter_version *v, uint32_t i, char **out, struct claas_error *err)
{
    const struct claas_file *f = v->abi.files[i];
    char key[KEY_CAP];
    char local[PATH_MAX];
    const char *work = NULL;
    struct claas_error why = ERR_INIT;
    struct buf to = BUF_INIT;
    key_blob(key, &f->sha256);
    int rc = version_work(v, &work, err);
    if (rc) {
        return rc;
    }
    buf_addf(&to, "%s/%" PRIu32, work, i);
    if (to.failed) {
        return err_oom(err, "opening a version");
    }
    const char *path = to.data;
    rc = host_storage_path(v->a->storage, key, local, sizeof local, &why);
    if (rc == 0) {
        (void)unlink(to.data); /* of an attempt that failed */
        if (link(local, to.data)) {
            path = local;
        }
    } else if (rc == CLAAS_ERR_UNSUPPORTED) {
        rc = file_download(v, f, key, to.data, &why);
    }
    if (rc == CLAAS_ERR_NOT_FOUND) {
        rc = err_set(err, rc, f->name, "the file '%s' of '%s' is no longer kept", f->name,
                     v->label);
    } else if (rc) {
        if (err) {
            *err = why;
        }
    } else {
        rc = file_verify(v, f, path, err);
    }
    if (rc == 0) {
        *out = mem_dup(path, strlen(path));
        rc = *out ? 0 : err_oom(err, "opening a version");
    }
    buf_clear(&to);
    return rc;
}

/* Waits until nobody else is getting this one, then marks it as ours. 1: it is there already. */
static int busy_begin(struct adapter_version *v, struct version_file *f)
{
    (void)pthread_mutex_lock(&v->lock);
    while (f->busy) {
        (void)pthread_cond_wait(&v->change, &v->lock);
    }
    int there = f->path != NULL;
    f->busy = !there;
    (void)pthread_mutex_unlock(&v->lock);
    return there;
}

static void busy_end(struct adapter_version *v, struct version_file *f, char *path)
{
    (void)pthread_mutex_lock(&v->lock);
    f->busy = 0;
    f->path = path;
    (void)pthread_cond_broadcast(&v->change);
    (void)pthread_mutex_unlock(&v->lock);
}

static int version_file_path(struct adapter_version *v, uint32_t i, const char **out,
                             struct claas_error *err)
{
    struct version_file *f = &v->files[i];
    if (!busy_begin(v, f)) {
        char *path = NULL;
        int rc = file_fetch(v, i, &path, err);
        busy_end(v, f, path);
        if (rc) {
            return rc;
        }
    }
    *out = f->path; /* set once, never changed */
    return 0;
}

static int version_path(const struct claas_version *abi, const char *name, const char **out,
                        struct claas_error *err)
{
    struct adapter_version *v = version_of(abi);
    for (uint32_t i = 0; name && i < abi->n_files; i++) {
        if (strcmp(abi->files[i]->name, name) == 0) {
            return version_file_path(v, i, out, err);
        }
    }
    return err_set(err, CLAAS_ERR_NOT_FOUND, "name", "'%s' has no file '%.80s'", v->label,
                   name ? name : "");
}

/* ---- a directory of them ---- */

static int dir_add(const char *dir, const char *name, const char *path, struct claas_error *err)
{
    char *to = path_join(dir, name);
    if (!to) {
        return err_oom(err, "opening a version");
    }
    int rc = 0;
    char *slash = strrchr(to, '/');
    if (strchr(name, '/')) {
        *slash = '\0';
        rc = dir_make(to, 0700, err);
        *slash = '/';
    }
    if (rc == 0 && link(path, to) && symlink(path, to)) {
        rc = err_errno(err, errno, name, "cannot link '%s'", to);
    }
    free(to);
    return rc;
}

static int dir_build(struct adapter_version *v, uint32_t roles, char **out, struct claas_error *err)
{
    const char *work = NULL;
    int rc = version_work(v, &work, err);
    if (rc) {
        return rc;
    }
    struct buf dir = BUF_INIT;
    buf_addf(&dir, "%s/dir-%" PRIu32, work, roles);
    rc = dir.failed ? err_oom(err, "opening a version") : dir_remove(dir.data, err);
    if (rc == 0) {
        rc = dir_make(dir.data, 0700, err);
    }
    for (uint32_t i = 0; rc == 0 && i < v->abi.n_files; i++) {
        const char *path = NULL;
        if (v->abi.files[i]->roles & roles) {
            rc = version_file_path(v, i, &path, err);
            if (rc == 0) {
                rc = dir_add(dir.data, v->abi.files[i]->name, path, err);
            }
        }
    }
    if (rc) {
        buf_clear(&dir);
        return rc;
    }
    *out = buf_take(&dir);
    return 0;
}

static int version_dir(const struct claas_version *abi, uint32_t roles, const char **out,
                       struct claas_error *err)
{
    struct adapter_version *v = version_of(abi);
    if (roles == 0 || roles > (CLAAS_SERVE | CLAAS_TRAIN | CLAAS_ABOUT)) {
        return err_set(err, CLAAS_ERR_INVALID, "roles", "no such roles: %u", roles);
    }
    struct version_file *d = &v->dirs[roles];
    if (!busy_begin(v, d)) {
        char *path = NULL;
        int rc = dir_build(v, roles, &path, err);
        busy_end(v, d, path);
        if (rc) {
            return rc;
        }
    }
    *out = d->path; /* set once, never changed */
    return 0;
}

/* ---- life ---- */

static void version_free(struct adapter_version *v)
{
    if (v->work) {
        (void)dir_remove(v->work, NULL); /* what stays goes with the private directory */
        free(v->work);
    }
    for (uint32_t i = 0; v->files && i < v->abi.n_files; i++) {
        free(v->files[i].path);
    }
    for (size_t i = 0; i < sizeof v->dirs / sizeof *v->dirs; i++) {
        free(v->dirs[i].path);
    }
    free(v->files);
    free(v->list);
    free(v->facts);
    free(v->label);
    free(v->format);
    adapter_entry_unref(v->entry);
    content_unref(v->content);
    (void)pthread_cond_destroy(&v->change);
    (void)pthread_mutex_destroy(&v->lock);
    free(v);
}

static struct adapter_version *version_new(struct adapters *a, const char *id, uint64_t n)
{
    struct adapter_version *v = calloc(1, sizeof *v);
    struct buf label = BUF_INIT;
    if (!v) {
        return NULL;
    }
    (void)pthread_mutex_init(&v->lock, NULL); /* cannot fail with these attributes on Linux */
    (void)pthread_cond_init(&v->change, NULL);
    v->a = a;
    v->refs = 1;
    if (n) {
        buf_addf(&label, "%s@%" PRIu64, id, n);
    } else {
        buf_addf(&label, "%s@new", id);
    }
    v->label = buf_take(&label);
    v->abi.size = sizeof v->abi;
    v->abi.label = v->label;
    v->abi.path = version_path;
    v->abi.dir = version_dir;
    if (!v->label) {
        version_free(v);
        return NULL;
    }
    return v;
}

/* Joins the list of living versions, or gives way to one of the same entry that is there. */
static struct adapter_version *version_register(struct adapter_version *v)
{
    struct adapters *a = v->a;
    struct adapter_version *same = NULL;
    (void)pthread_mutex_lock(&a->lock);
    for (struct adapter_version *o = a->live; o && v->entry && !same; o = o->next) {
        if (o->entry && o->entry->n == v->entry->n && strcmp(o->entry->id, v->entry->id) == 0) {
            same = o;
        }
    }
    if (same) {
        same->refs++;
    } else {
        v->next = a->live;
        a->live = v;
    }
    (void)pthread_mutex_unlock(&a->lock);
    if (same) {
        version_free(v);
    }
    return same ? same : v;
}

struct adapter_version *adapter_version_ref(struct adapter_version *v)
{
    (void)pthread_mutex_lock(&v->a->lock);
    v->refs++;
    (void)pthread_mutex_unlock(&v->a->lock);
    return v;
}

void adapter_version_unref(struct adapter_version *v)
{
    if (!v) {
        return;
    }
    struct adapters *a = v->a;
    (void)pthread_mutex_lock(&a->lock);
    int last = --v->refs == 0;
    if (last) {
        struct adapter_version **at = &a->live;
        while (*at != v) {
            at = &(*at)->next;
        }
        *at = v->next;
    }
    (void)pthread_mutex_unlock(&a->lock);
    if (last) {
        version_free(v);
    }
}

const struct claas_version *adapter_version_abi(const struct adapter_version *v)
{
    return &v->abi;
}

const struct adapter_entry *adapter_version_entry(const struct adapter_version *v)
{
    return v->entry;
}

int adapter_version_get(struct adapters *a, const char *id, uint64_t n,
                        const struct claas_call *call, struct adapter_version **out,
                        struct claas_error *err)
{
    struct adapter_entry *e = NULL;
    int rc = adapter_head(a, id, call, &e, err);
    if (rc == 0 && n != 0 && n != e->n) {
        uint64_t last = e->n;
        adapter_entry_unref(e);
        e = NULL;
        rc = n > last
                 ? err_set(err, CLAAS_ERR_NOT_FOUND, "version",
                           "'%s' has no version %" PRIu64 ": the last is %" PRIu64, id, n, last)
                 : adapter_entry_get(a, id, n, call, &e, err);
    }
    if (rc == 0 && e->n_files == 0) {
        rc = err_set(err, CLAAS_ERR_NOT_FOUND, "version",
                     "'%s@%" PRIu64 "' is a deletion and no version", id, e->n);
    }
    struct adapter_version *v = rc == 0 ? version_new(a, id, e->n) : NULL;
    if (rc == 0 && v) {
        v->files = mem_array(e->n_files, sizeof *v->files);
    }
    if (rc || !v || !v->files) {
        if (v) {
            version_free(v);
        }
        adapter_entry_unref(e);
        return rc ? rc : err_oom(err, "opening a version");
    }
    v->entry = e;
    v->abi.format = e->format;
    v->abi.files = e->files;
    v->abi.n_files = e->n_files;
    v->abi.state = e->state;
    v->abi.serve = e->serve;
    *out = version_register(v);
    return 0;
}

int version_candidate(struct adapters *a, const char *id, const char *format, struct content *c,
                      const struct claas_digest *state, const struct claas_digest *serve,
                      struct adapter_version **out, struct claas_error *err)
{
    struct adapter_version *v = version_new(a, id, 0);
    if (!v) {
        return err_oom(err, "opening a candidate");
    }
    v->format = mem_dup(format, strlen(format));
    v->files = mem_array(c->n_files, sizeof *v->files);
    v->facts = mem_array(c->n_files, sizeof *v->facts);
    v->list = mem_array(c->n_files, sizeof *v->list);
    int rc = v->format && v->files && v->facts && v->list ? 0 : err_oom(err, "opening a candidate");
    for (size_t i = 0; rc == 0 && i < c->n_files; i++) {
        const struct content_file *f = c->files[i];
        v->facts[i] = (struct claas_file){ sizeof v->facts[i], f->roles, f->bytes, f->name,
                                           f->sha256 };
        v->list[i] = &v->facts[i];
        v->abi.n_files = (uint32_t)i + 1;
        if (f->path) {
            v->files[i].path = mem_dup(f->path, strlen(f->path));
            rc = v->files[i].path ? 0 : err_oom(err, "opening a candidate");
        }
    }
    if (rc) {
        version_free(v);
        return rc;
    }
    (void)atomic_fetch_add(&c->refs, 1);
    v->content = c;
    v->abi.format = v->format;
    v->abi.files = v->list;
    v->abi.state = *state;
    v->abi.serve = *serve;
    *out = version_register(v);
    return 0;
}
