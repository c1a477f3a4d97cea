/* SPDX-License-Identifier: MIT */
/* Inside the fs plugin: an instance, its keys, its directories, and the operations each file
 * brings. */
#ifndef FS_FS_H
#define FS_FS_H

#include <claas/plugin.h>

#include <stddef.h>

/* '+' cannot stand in a key, so these two can never be one. */
#define FS_TMP "+tmp"     /* files on their way in */
#define FS_SPOOL "+spool" /* lent to the host: put() links from there */

enum { FS_KEY_MAX = 900, FS_SEGMENT_MAX = 240 };

struct fs {
    char *root; /* absolute, links resolved */
    int root_fd;
    int tmp_fd;
    int sync; /* option fsync */
};

/* ---- key.c ---- */

/* 0 if key is one: [A-Za-z0-9._~-] segments joined by '/', none empty, "." or "..". */
int fs_key_check(const char *key, struct claas_error *err);
/* As fs_key_check, but the beginning of a key is enough (and ""). */
int fs_prefix_check(const char *prefix, struct claas_error *err);
/* 1 if the n bytes may stand between two slashes of a key. */
int fs_segment_ok(const char *s, size_t n);
/* Length of the directory part: up to the last slash, 0 if there is none. */
size_t fs_key_dir(const char *key);
/* The last segment. */
const char *fs_key_leaf(const char *key);
/* CANCELLED when the call is to stop. */
int fs_stop(const struct claas_call *call, const char *key, struct claas_error *err);

/* ---- dir.c ---- */

/* Opens the directory named by the first n bytes of key, below the root and through no link. With
 * `make` what is missing is made, durably. Errors are in errno: ENOENT, ENOTDIR (an object is in
 * the way), ELOOP (a link is). */
int fs_dir_open(const struct fs *fs, const char *key, size_t n, int make);
/* Removes the directories of key that are empty, from the last to the first. */
void fs_dir_prune(const struct fs *fs, const char *key);
/* The error for errno value `errnum` while doing `verb` ("store", "read") to key. */
int fs_error(const struct fs *fs, int errnum, const char *verb, const char *key,
             struct claas_error *err);

/* ---- the operations, one file each: put.c, get.c, list.c, probe.c ---- */

int fs_put_object(const struct fs *fs, const char *key, const struct claas_put *put, int sync,
                  const struct claas_call *call, struct claas_error *err);
int fs_put(void *self, const char *key, const struct claas_put *put, const struct claas_call *call,
           struct claas_error *err);
int fs_get(void *self, const char *key, uint64_t from, uint64_t bytes, int32_t fd,
           struct claas_object *out, const struct claas_call *call, struct claas_error *err);
int fs_head(void *self, const char *key, struct claas_object *out, const struct claas_call *call,
            struct claas_error *err);
int fs_path(void *self, const char *key, char *buf, size_t cap, struct claas_error *err);
int fs_remove(void *self, const char *const *keys, uint32_t n, const struct claas_call *call,
              struct claas_error *err);
int fs_list(void *self, const char *prefix, const char *after, uint32_t limit,
            int (*each)(void *ctx, const char *key, const struct claas_object *), void *ctx,
            const struct claas_call *call, struct claas_error *err);
int fs_probe(void *self, uint32_t *out_caps, const struct claas_call *call,
             struct claas_error *err);

#endif
