/* SPDX-License-Identifier: MIT */
/* Listing in byte order of the keys. A directory sorts as its name with the slash behind it, so
 * walking depth first gives the order of the flat key space while only the names of the directories
 * on the way are held. */
#include "config.h"

#include "fs.h"

#include "base/err.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct names {
    char **at; /* directories with a slash at the end */
    size_t n;
    size_t cap;
};

struct listing {
    const struct fs *fs;
    const char *prefix;
    const char *after;
    size_t n_prefix;
    uint64_t left;
    int (*each)(void *ctx, const char *key, const struct claas_object *);
    void *ctx;
    const struct claas_call *call;
    int ended;
    char path[FS_KEY_MAX + 2]; /* of the entry at hand, from the root */
};

static void names_clear(struct names *names)
{
    for (size_t i = 0; i < names->n; i++) {
        free(names->at[i]);
    }
    free(names->at);
    *names = (struct names){ 0 };
}

static int names_order(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* 1 for a directory, 0 for an object, -1 for what is no part of the store. */
static int entry_kind(int dir, const struct dirent *e)
{
    if (!fs_segment_ok(e->d_name, strlen(e->d_name))) {
        return -1;
    }
    if (e->d_type == DT_DIR || e->d_type == DT_REG) {
        return e->d_type == DT_DIR;
    }
    struct stat st;
    if (e->d_type != DT_UNKNOWN || fstatat(dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW)) {
        return -1;
    }
    return S_ISDIR(st.st_mode) ? 1 : S_ISREG(st.st_mode) ? 0 : -1;
}

/* 1 if the object (or, for a name that ends in a slash, something below the directory) is asked
 * for. */
static int entry_wanted(const struct listing *l, const char *path, size_t n)
{
    int is_dir = path[n - 1] == '/';
    size_t common = n < l->n_prefix ? n : l->n_prefix;
    if (memcmp(path, l->prefix, common) != 0 || (!is_dir && n < l->n_prefix)) {
        return 0;
    }
    return is_dir ? strncmp(path, l->after, n) >= 0 : strcmp(path, l->after) > 0;
}

/* Reads the names of the directory whose path (with slash, or "") is the first n bytes of
 * l->path. */
static int names_read(struct listing *l, DIR *dir, size_t n, struct names *out,
                      struct claas_error *err)
{
    errno = 0;
    for (struct dirent *e; (e = readdir(dir)); errno = 0) {
        int is_dir = entry_kind(dirfd(dir), e);
        size_t len = strlen(e->d_name);
        if (is_dir < 0 || n + len + (size_t)is_dir > FS_KEY_MAX) {
            continue;
        }
        memcpy(l->path + n, e->d_name, len);
        len += (size_t)is_dir;
        if (is_dir) {
            l->path[n + len - 1] = '/';
        }
        l->path[n + len] = '\0';
        if (!entry_wanted(l, l->path, n + len)) {
            continue;
        }
        char *name = mem_dup(l->path + n, len);
        if (!name || mem_grow((void **)&out->at, &out->cap, out->n + 1, sizeof *out->at)) {
            free(name);
            return err_oom(err, "listing objects");
        }
        out->at[out->n++] = name;
    }
    l->path[n] = '\0';
    if (errno) {
        return err_errno(err, errno, "key", "cannot list '%s' in '%s'", l->path, l->fs->root);
    }
    if (out->n > 1) {
        qsort(out->at, out->n, sizeof *out->at, names_order);
    }
    return 0;
}

static int list_dir(struct listing *l, size_t n, struct claas_error *err);

static int list_entry(struct listing *l, int dir, size_t n, const char *name,
                      struct claas_error *err)
{
    size_t len = strlen(name);
    memcpy(l->path + n, name, len + 1);
    int rc = fs_stop(l->call, l->prefix, err);
    if (rc) {
        return rc;
    }
    if (name[len - 1] == '/') {
        return list_dir(l, n + len, err);
    }
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW)) {
        return errno == ENOENT ? 0 : fs_error(l->fs, errno, "list", l->path, err);
    }
    struct claas_object object = { .size = sizeof object };
    object.bytes = (uint64_t)st.st_size;
    object.modified_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    l->ended = l->each(l->ctx, l->path, &object) != 0 || --l->left == 0;
    return 0;
}

static int list_dir(struct listing *l, size_t n, struct claas_error *err)
{
    int fd = fs_dir_open(l->fs, l->path, n > 0 ? n - 1 : 0, 0);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        int failed = errno;
        if (fd >= 0) {
            (void)close(fd);
        }
        if (failed == ENOENT || failed == ENOTDIR) {
            return 0; /* nothing there, or removed while we looked */
        }
        return fs_error(l->fs, failed, "list", n > 0 ? l->path : "/", err);
    }
    struct names names = { 0 };
    int rc = names_read(l, dir, n, &names, err);
    for (size_t i = 0; rc == 0 && !l->ended && i < names.n; i++) {
        rc = list_entry(l, dirfd(dir), n, names.at[i], err);
    }
    names_clear(&names);
    (void)closedir(dir);
    return rc;
}

int fs_list(void *self, const char *prefix, const char *after, uint32_t limit,
            int (*each)(void *ctx, const char *key, const struct claas_object *), void *ctx,
            const struct claas_call *call, struct claas_error *err)
{
    struct listing l = {
        .fs = self,
        .prefix = prefix ? prefix : "",
        .after = after ? after : "",
        .left = limit ? limit : UINT64_MAX,
        .each = each,
        .ctx = ctx,
        .call = call,
    };
    int rc = fs_prefix_check(l.prefix, err);
    if (rc == 0) {
        rc = fs_stop(call, l.prefix, err);
    }
    if (rc) {
        return rc;
    }
    l.n_prefix = strlen(l.prefix);
    size_t n = fs_key_dir(l.prefix);
    if (n > 0) {
        memcpy(l.path, l.prefix, n + 1);
        n++;
    }
    l.path[n] = '\0';
    return list_dir(&l, n, err);
}
