/* SPDX-License-Identifier: MIT */
/* Reading, looking at and removing single objects. */
#include "config.h"

#include "fs.h"

#include "base/err.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { GET_CHUNK = 1 << 20 };

/* The caller's struct may be older than ours: only what it has room for is written. */
static void object_fill(struct claas_object *out, const struct stat *st)
{
    if (!out) {
        return;
    }
    if (CLAAS_HAS(out, struct claas_object, bytes)) {
        out->bytes = (uint64_t)st->st_size;
    }
    if (CLAAS_HAS(out, struct claas_object, modified_ns)) {
        out->modified_ns = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
    }
}

static int object_stat(const struct fs *fs, const char *key, struct stat *st,
                       struct claas_error *err)
{
    int rc = fs_key_check(key, err);
    if (rc) {
        return rc;
    }
    int dir = fs_dir_open(fs, key, fs_key_dir(key), 0);
    int failed = dir < 0 || fstatat(dir, fs_key_leaf(key), st, AT_SYMLINK_NOFOLLOW) ? errno : 0;
    if (dir >= 0) {
        (void)close(dir); /* a directory: nothing can be lost */
    }
    if (failed == 0 && S_ISLNK(st->st_mode)) {
        failed = ELOOP;
    } else if (failed == ENOTDIR || (failed == 0 && !S_ISREG(st->st_mode))) {
        failed = ENOENT; /* the beginning of other keys is no object */
    }
    return failed ? fs_error(fs, failed, "read", key, err) : 0;
}

int fs_head(void *self, const char *key, struct claas_object *out, const struct claas_call *call,
            struct claas_error *err)
{
    struct stat st;
    int rc = fs_stop(call, key ? key : "", err);
    if (rc == 0) {
        rc = object_stat(self, key, &st, err);
    }
    if (rc == 0) {
        object_fill(out, &st);
    }
    return rc;
}

int fs_path(void *self, const char *key, char *buf, size_t cap, struct claas_error *err)
{
    const struct fs *fs = self;
    struct stat st;
    int rc = object_stat(fs, key, &st, err);
    if (rc) {
        return rc;
    }
    if (strlen(fs->root) + 1 + strlen(key) + 1 > cap) {
        return err_set(err, CLAAS_ERR_INVALID, key, "the path of '%s' does not fit into %zu bytes",
                       key, cap);
    }
    (void)snprintf(buf, cap, "%s/%s", strcmp(fs->root, "/") == 0 ? "" : fs->root,
                   key); /* checked: fits */
    return 0;
}

static int object_open(const struct fs *fs, const char *key, struct stat *st, int *out_fd,
                       struct claas_error *err)
{
    int dir = fs_dir_open(fs, key, fs_key_dir(key), 0);
    if (dir < 0) {
        return fs_error(fs, errno == ENOTDIR ? ENOENT : errno, "read", key, err);
    }
    int fd = openat(dir, fs_key_leaf(key), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    int failed = fd < 0 || fstat(fd, st) ? errno : 0;
    (void)close(dir); /* a directory: nothing can be lost */
    if (failed == 0 && !S_ISREG(st->st_mode)) {
        failed = ENOENT;
    }
    if (failed) {
        if (fd >= 0) {
            (void)close(fd);
        }
        return fs_error(fs, failed, "read", key, err);
    }
    *out_fd = fd;
    return 0;
}

static int object_send(int from, uint64_t at, uint64_t bytes, int to, const char *key,
                       const struct claas_call *call, struct claas_error *err)
{
    size_t cap = bytes < GET_CHUNK ? (size_t)bytes : GET_CHUNK;
    char *chunk = malloc(cap ? cap : 1);
    if (!chunk) {
        return err_oom(err, "reading an object");
    }
    int rc = 0;
    for (uint64_t done = 0; rc == 0 && done < bytes;) {
        size_t n = bytes - done < cap ? (size_t)(bytes - done) : cap;
        rc = fd_pread_all(from, chunk, n, at + done, key, err);
        if (rc == 0) {
            rc = fd_pwrite_all(to, chunk, n, done, "the receiving file", err);
        }
        done += n;
        if (rc == 0 && done < bytes) {
            rc = fs_stop(call, key, err);
        }
    }
    free(chunk);
    return rc;
}

int fs_get(void *self, const char *key, uint64_t from, uint64_t bytes, int32_t fd,
           struct claas_object *out, const struct claas_call *call, struct claas_error *err)
{
    const struct fs *fs = self;
    int rc = fs_key_check(key, err);
    if (rc == 0) {
        rc = fs_stop(call, key, err);
    }
    int in = -1;
    struct stat st;
    if (rc == 0) {
        rc = object_open(fs, key, &st, &in, err);
    }
    if (rc) {
        return rc;
    }
    uint64_t whole = (uint64_t)st.st_size;
    if (from > whole) {
        rc = err_set(err, CLAAS_ERR_INVALID, key,
                     "cannot read '%s' from byte %llu: it has only %llu", key,
                     (unsigned long long)from, (unsigned long long)whole);
    } else {
        rc = object_send(in, from, bytes < whole - from ? bytes : whole - from, fd, key, call, err);
    }
    (void)close(in); /* opened for reading: nothing can be lost */
    if (rc == 0) {
        object_fill(out, &st);
    }
    return rc;
}

static int remove_one(const struct fs *fs, const char *key, struct claas_error *err)
{
    int dir = fs_dir_open(fs, key, fs_key_dir(key), 0);
    if (dir < 0) {
        return errno == ENOENT || errno == ENOTDIR ? 0 : fs_error(fs, errno, "remove", key, err);
    }
    struct stat st;
    int rc = 0;
    int there = fstatat(dir, fs_key_leaf(key), &st, AT_SYMLINK_NOFOLLOW) == 0 &&
                !S_ISDIR(st.st_mode);
    if (there && unlinkat(dir, fs_key_leaf(key), 0) && errno != ENOENT) {
        rc = fs_error(fs, errno, "remove", key, err);
    } else if (there && fs->sync && fsync(dir)) {
        rc = fs_error(fs, errno, "sync the directory of", key, err);
    }
    (void)close(dir); /* a directory: nothing can be lost */
    if (rc == 0) {
        fs_dir_prune(fs, key);
    }
    return rc;
}

int fs_remove(void *self, const char *const *keys, uint32_t n, const struct claas_call *call,
              struct claas_error *err)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        rc = fs_key_check(keys[i], err);
    }
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        rc = fs_stop(call, keys[i], err);
        if (rc == 0) {
            rc = remove_one(self, keys[i], err);
        }
    }
    return rc;
}
