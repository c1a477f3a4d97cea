/* SPDX-License-Identifier: MIT */
/* Putting an object: a complete, synced file first, then one step that makes it visible: link(2),
 * which fails if the name is there and so has one winner, or rename(2), which replaces. Then the
 * directory is synced. */
#include "config.h"

#include "fs.h"

#include "base/err.h"
#include "base/rng.h"
#include "base/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PUT_TRIES = 1000, COPY_CHUNK = 1 << 20 };

struct temp {
    char name[33];
    int fd;
};

static void temp_drop(const struct fs *fs, struct temp *t)
{
    if (t->fd >= 0) {
        (void)unlinkat(fs->tmp_fd, t->name,
                       0);  /* gone already after a rename; else the next sweep finds it */
        (void)close(t->fd); /* synced before, or given up */
        t->fd = -1;
    }
}

/* 1 if the name still stands in FS_TMP: a sweep may have come before the lock. */
static int temp_stands(const struct fs *fs, const struct temp *t)
{
    struct stat st;
    return fstatat(fs->tmp_fd, t->name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* The file at put->path under a second name, if it is the file behind put->fd. 1: done, 0: copy
 * instead. */
static int temp_link(const struct fs *fs, const struct claas_put *put, struct temp *t)
{
    if (!put->path || linkat(AT_FDCWD, put->path, fs->tmp_fd, t->name, 0)) {
        return 0;
    }
    t->fd = openat(fs->tmp_fd, t->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat mine;
    struct stat theirs;
    if (t->fd >= 0 && fstat(t->fd, &mine) == 0 && S_ISREG(mine.st_mode) &&
        (uint64_t)mine.st_size == put->bytes &&
        (put->fd < 0 || (fstat(put->fd, &theirs) == 0 && theirs.st_ino == mine.st_ino &&
                         theirs.st_dev == mine.st_dev)) &&
        futimens(t->fd, NULL) == 0) { /* an object's age counts from its put */
        return 1;
    }
    if (t->fd < 0) {
        (void)unlinkat(fs->tmp_fd, t->name, 0);
    }
    temp_drop(fs, t);
    return 0;
}

/* pread and write; returns 0, or an errno value; ENODATA: the source ends too early. */
static int copy_by_hand(int from, int to, uint64_t at, uint64_t bytes,
                        const struct claas_call *call)
{
    char *chunk = malloc(COPY_CHUNK);
    int rc = chunk ? 0 : ENOMEM;
    while (rc == 0 && at < bytes) {
        size_t want = bytes - at < COPY_CHUNK ? (size_t)(bytes - at) : COPY_CHUNK;
        ssize_t got = pread(from, chunk, want, (off_t)at);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            rc = got == 0 ? ENODATA : errno;
            break;
        }
        for (ssize_t done = 0; rc == 0 && done < got;) {
            ssize_t put = pwrite(to, chunk + done, (size_t)(got - done),
                                 (off_t)(at + (uint64_t)done));
            if (put < 0 && errno != EINTR) {
                rc = errno;
            }
            done += put > 0 ? put : 0;
        }
        at += (uint64_t)got;
        if (call && call->left_ms && call->left_ms(call) == 0) {
            rc = ECANCELED;
        }
    }
    free(chunk);
    return rc;
}

static int copy_all(int from, int to, uint64_t bytes, const struct claas_call *call)
{
    uint64_t at = 0;
    while (at < bytes) {
        loff_t in = (loff_t)at;
        loff_t out = (loff_t)at;
        size_t want = bytes - at < (64u << 20) ? (size_t)(bytes - at) : 64u << 20;
        ssize_t n = copy_file_range(from, &in, to, &out, want, 0);
        if (n <= 0) {
            return copy_by_hand(from, to, at, bytes,
                                call); /* not between these two; it also names the true reason */
        }
        at += (uint64_t)n;
        if (call && call->left_ms && call->left_ms(call) == 0) {
            return ECANCELED;
        }
    }
    return 0;
}

static int temp_copy(const struct fs *fs, const char *key, const struct claas_put *put,
                     const struct claas_call *call, struct temp *t, struct claas_error *err)
{
    if (put->fd < 0) {
        return err_set(err, CLAAS_ERR_INVALID, key, "cannot store '%s': no open file was given",
                       key);
    }
    t->fd = openat(fs->tmp_fd, t->name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
    if (t->fd < 0) {
        return fs_error(fs, errno, "store", key, err);
    }
    spool_hold(t->fd);
    int failed = copy_all(put->fd, t->fd, put->bytes, call);
    if (failed == ECANCELED) {
        return err_set(err, CLAAS_ERR_CANCELLED, key,
                       "gave up storing '%s': the call was cancelled or is late", key);
    }
    if (failed == ENODATA) {
        return err_set(err, CLAAS_ERR_INVALID, key,
                       "cannot store '%s': its contents end before %llu bytes", key,
                       (unsigned long long)put->bytes);
    }
    return failed ? fs_error(fs, failed, "store", key, err) : 0;
}

/* A complete, synced, locked file in FS_TMP with the contents. */
static int temp_make(const struct fs *fs, const char *key, const struct claas_put *put, int sync,
                     const struct claas_call *call, struct temp *t, struct claas_error *err)
{
    for (int tries = 0; tries < PUT_TRIES; tries++) {
        t->fd = -1;
        if (rng_hex(t->name, sizeof t->name - 1)) {
            return err_set(err, CLAAS_ERR_INTERNAL, key, "cannot store '%s': no random numbers",
                           key);
        }
        int rc = 0;
        if (temp_link(fs, put, t)) {
            spool_hold(t->fd);
        } else {
            rc = temp_copy(fs, key, put, call, t, err);
        }
        if (rc == 0 && sync && fsync(t->fd)) {
            rc = fs_error(fs, errno, "store", key, err);
        }
        if (rc) {
            temp_drop(fs, t);
            return rc;
        }
        if (temp_stands(fs, t)) {
            return 0;
        }
        temp_drop(fs, t);
    }
    return err_set(err, CLAAS_ERR_UNAVAILABLE, key,
                   "cannot store '%s' in '%s': its file is removed again and again", key, fs->root);
}

/* Makes it visible. 0, or an errno value. */
static int temp_publish(const struct fs *fs, const struct temp *t, int dir, const char *leaf,
                        uint32_t flags)
{
    if (!(flags & CLAAS_IF_ABSENT)) {
        return renameat(fs->tmp_fd, t->name, dir, leaf) ? errno : 0;
    }
    if (linkat(fs->tmp_fd, t->name, dir, leaf, 0) == 0) {
        return 0;
    }
    if (errno == EPERM || errno == EOPNOTSUPP || errno == ENOSYS || errno == EMLINK) {
        /* a file system without hard links; where it lacks this too, the error says so */
        return renameat2(fs->tmp_fd, t->name, dir, leaf, RENAME_NOREPLACE) ? errno : 0;
    }
    return errno;
}

/* What to make of a name that is taken. 0: try again. */
static int put_taken(const struct fs *fs, int dir, const char *key, struct claas_error *err)
{
    struct stat st;
    const char *leaf = fs_key_leaf(key);
    if (fstatat(dir, leaf, &st, AT_SYMLINK_NOFOLLOW)) {
        return errno == ENOENT ? 0 : fs_error(fs, errno, "store", key, err);
    }
    if (S_ISLNK(st.st_mode)) {
        return fs_error(fs, ELOOP, "store", key, err);
    }
    if (!S_ISDIR(st.st_mode)) {
        return err_set(err, CLAAS_ERR_CONFLICT, key,
                       "cannot create '%s' in '%s': it is there already", key, fs->root);
    }
    if (unlinkat(dir, leaf, AT_REMOVEDIR) == 0 || errno == ENOENT) {
        return 0; /* an empty one nobody needs */
    }
    return fs_error(fs, EISDIR, "store", key, err);
}

static int put_once(const struct fs *fs, const char *key, const struct claas_put *put, int sync,
                    const struct temp *t, int *out_again, struct claas_error *err)
{
    int dir = fs_dir_open(fs, key, fs_key_dir(key), 1);
    if (dir < 0) {
        *out_again = errno == ENOENT; /* somebody removed an empty directory between two steps */
        return *out_again ? 0 : fs_error(fs, errno, "store", key, err);
    }
    int rc = 0;
    int failed = temp_publish(fs, t, dir, fs_key_leaf(key), put->flags);
    if (failed == EEXIST || failed == EISDIR || failed == ENOTEMPTY) {
        rc = put_taken(fs, dir, key, err);
        *out_again = rc == 0;
    } else if (failed == ENOENT && temp_stands(fs, t)) {
        *out_again = 1;
    } else if (failed) {
        rc = fs_error(fs, failed == ENOENT ? ESTALE : failed, "store", key, err);
    } else if (sync && fsync(dir)) {
        rc = fs_error(fs, errno, "sync the directory of", key, err);
        if (err) {
            err->flags |= CLAAS_MAYBE;
        }
    }
    (void)close(dir); /* a directory: nothing can be lost */
    return rc;
}

int fs_put_object(const struct fs *fs, const char *key, const struct claas_put *put, int sync,
                  const struct claas_call *call, struct claas_error *err)
{
    int rc = fs_key_check(key, err);
    if (rc == 0) {
        rc = fs_stop(call, key, err);
    }
    struct temp t = { .fd = -1 };
    if (rc == 0) {
        rc = temp_make(fs, key, put, sync, call, &t, err);
    }
    int again = rc == 0;
    for (int tries = 0; again && tries < PUT_TRIES; tries++) {
        again = 0;
        rc = put_once(fs, key, put, sync, &t, &again, err);
    }
    if (rc == 0 && again) {
        rc = err_set(err, CLAAS_ERR_UNAVAILABLE, key,
                     "cannot store '%s' in '%s': its directory is removed again and again", key,
                     fs->root);
    }
    temp_drop(fs, &t);
    return rc;
}

int fs_put(void *self, const char *key, const struct claas_put *put, const struct claas_call *call,
           struct claas_error *err)
{
    const struct fs *fs = self;
    return fs_put_object(fs, key, put, fs->sync, call, err);
}
