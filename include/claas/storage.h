/* SPDX-License-Identifier: MIT */
/* The storage kind: a flat, strongly consistent object store with one precondition, "if absent".
 * Keys: segments of [A-Za-z0-9._~-], 1 to 240 bytes, joined by '/', at most 900 bytes in all, none
 * "." or ".."; the host sends no others. All of it is since 0.1. */
#ifndef CLAAS_STORAGE_H
#define CLAAS_STORAGE_H

#include <claas/host.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What probe() found out. */
enum { CLAAS_STORE_ATOMIC = 1 }; /* if-absent has one winner: proved, not believed */

/* Flags of a put. */
enum { CLAAS_IF_ABSENT = 1 }; /* only if there is no such object yet */

/* An object as it is stored. The caller sets size. */
struct claas_object {
    uint32_t size;
    uint32_t reserved0;
    uint64_t bytes;      /* of the whole object */
    int64_t modified_ns; /* since 1970, by the store's own clock */
};

/* What is to be stored. */
struct claas_put {
    uint32_t size;
    uint32_t flags; /* CLAAS_IF_ABSENT */
    uint64_t bytes; /* of the file, from its start */
    int32_t fd;     /* readable, seekable; pread from several threads is allowed */
    uint32_t reserved0;
    const char *path; /* of the same file, or null: it may be linked instead of copied,
                       * nobody changes it afterwards */
    const struct claas_digest *sha256; /* of the content, or null */
};

/* The table. path and spool are optional. */
struct claas_storage {
    uint32_t size;
    uint32_t reserved0;
    /* [call] Races sixteen if-absent puts on a fresh key, and sets CLAAS_STORE_ATOMIC only where
     * exactly one won and its content was read back. Removes the key. */
    int (*probe)(void *self, uint32_t *out_caps, const struct claas_call *call,
                 struct claas_error *err);
    /* [call] Durable and visible to everybody when it returns 0. CONFLICT: IF_ABSENT, and it is
     * there. An unclear outcome is UNAVAILABLE with CLAAS_MAYBE. */
    int (*put)(void *self, const char *key, const struct claas_put *put,
               const struct claas_call *call, struct claas_error *err);
    /* [call] Writes at most `bytes` bytes, counted from `from`, to fd by pwrite, in any order, the
     * first one at offset 0; fewer where the object ends before. from behind its end is INVALID.
     * NOT_FOUND: no such object. */
    int (*get)(void *self, const char *key, uint64_t from, uint64_t bytes, int32_t fd,
               struct claas_object *out, const struct claas_call *call, struct claas_error *err);
    /* [call] NOT_FOUND: no such object. */
    int (*head)(void *self, const char *key, struct claas_object *out,
                const struct claas_call *call, struct claas_error *err);
    /* [call] Calls each() for keys that begin with `prefix` and come behind `after` ("": from the
     * first), in the order of their bytes, at most `limit` (0: all). each() other than 0 ends it,
     * which is no error. Key and object are borrowed. */
    int (*list)(void *self, const char *prefix, const char *after, uint32_t limit,
                int (*each)(void *ctx, const char *key, const struct claas_object *object),
                void *ctx, const struct claas_call *call, struct claas_error *err);
    /* [call] Removes n objects; what is absent counts as removed. */
    int (*remove)(void *self, const char *const *keys, uint32_t n, const struct claas_call *call,
                  struct claas_error *err);
    /* [quick] Optional: absolute path of the object as a local file that does not change, to buf.
     */
    int (*path)(void *self, const char *key, char *buf, size_t cap, struct claas_error *err);
    /* [quick] Optional: a directory from which put() can link. */
    int (*spool)(void *self, char *buf, size_t cap, struct claas_error *err);
};

#ifdef __cplusplus
}
#endif

#endif
