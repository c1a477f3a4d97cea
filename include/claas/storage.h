/* SPDX-License-Identifier: MIT */
/* The storage kind: a flat, strongly consistent object store with one precondition. */
#ifndef CLAAS_STORAGE_H
#define CLAAS_STORAGE_H

#include <claas/host.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { CLAAS_STORE_ATOMIC = 1 };   /* if-absent has one winner, proved by probe(), not believed */
enum { CLAAS_IF_ABSENT = 1 };
struct claas_object { uint32_t size, reserved0; uint64_t bytes; int64_t modified_ns; };   /* the store's own clock */
struct claas_put {                 /* fd: readable, seekable, pread from several threads allowed (memfd or file) */
    uint32_t size, flags; uint64_t bytes; int32_t fd; uint32_t reserved0;
    const char *path;              /* or null; may be linked instead of copied; never changed afterwards */
    const struct claas_digest *sha256;                /* or null */
};
struct claas_storage {             /* keys: [A-Za-z0-9._~-] and '/', at most 900 bytes, a segment at most 240 */
    uint32_t size, reserved0;
    int (*probe)(void *self, uint32_t *out_caps, const struct claas_call *, struct claas_error *);         /* [call] */
    int (*put)(void *self, const char *key, const struct claas_put *, const struct claas_call *, struct claas_error *);
                                   /* durable and visible to all when 0; IF_ABSENT and there: CONFLICT */
    int (*get)(void *self, const char *key, uint64_t from, uint64_t bytes, int32_t fd, struct claas_object *out,
               const struct claas_call *, struct claas_error *);      /* pwrites to fd in any order, from offset 0 */
    int (*head)(void *self, const char *key, struct claas_object *, const struct claas_call *, struct claas_error *);
    int (*list)(void *self, const char *prefix, const char *after, uint32_t limit,
                int (*each)(void *ctx, const char *key, const struct claas_object *), void *ctx,
                const struct claas_call *, struct claas_error *);     /* byte order; each() non-zero ends it */
    int (*remove)(void *self, const char *const *keys, uint32_t n, const struct claas_call *, struct claas_error *);
                                   /* absent counts as removed */
    int (*path)(void *self, const char *key, char *buf, size_t cap, struct claas_error *);   /* optional: local file */
    int (*spool)(void *self, char *buf, size_t cap, struct claas_error *);  /* optional: where put() can link from */
};

#ifdef __cplusplus
}
#endif

#endif
