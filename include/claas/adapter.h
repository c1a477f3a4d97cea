/* SPDX-License-Identifier: MIT */
/* Adapter versions: what an engine or a server reads, and what an engine writes. Engines see
 * neither ids nor storage: every engine works with every storage. All of it is since 0.1. */
#ifndef CLAAS_ADAPTER_H
#define CLAAS_ADAPTER_H

#include <claas/error.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a file of a version is for; several may be combined. */
enum {
    CLAAS_SERVE = 1, /* needed to answer */
    CLAAS_TRAIN = 2, /* needed to go on training (moments, EMA): pruned sooner, never served */
    CLAAS_ABOUT = 4 /* for people */
};

/* One file of a version. */
struct claas_file {
    uint32_t size;
    uint32_t roles; /* CLAAS_SERVE ... */
    uint64_t bytes;
    const char *name; /* as it was written */
    struct claas_digest sha256;
};

/* A version: the host's, immutable, lazy (nothing is fetched until asked for). Lives for the call;
 * that of a load lives until unload returned. */
struct claas_version {
    uint32_t size;
    uint32_t n_files;
    const char *label;  /* "ada/tutor@8": for messages and names, carries no meaning, may repeat */
    const char *format; /* "peft/1", "tinker/1": compared with the formats one reads */
    const struct claas_file *const *files; /* [n_files] */
    struct claas_digest state; /* of all SERVE and TRAIN files: key of warm training state */
    struct claas_digest serve; /* of format, base and SERVE files: key of every cache that an answer
                                * depends on */
    /* [cb] Absolute path of one file, verified, read-only, in *out until the version ends.
     * NOT_FOUND: no such file, or pruned; CORRUPT: it is not what was written. May take long. */
    int (*path)(const struct claas_version *version, const char *name, const char **out,
                struct claas_error *err);
    /* [cb] Absolute path of a directory with the files of these roles, under the same terms. */
    int (*dir)(const struct claas_version *version, uint32_t roles, const char **out,
               struct claas_error *err);
};

/* What an engine writes a new version to: the host's; hashes while it writes. Nothing counts unless
 * the call it belongs to returns 0. Different names may be written from different threads at once.
 * Names: one path segment of [A-Za-z0-9._-]. */
struct claas_out {
    uint32_t size;
    uint32_t reserved0;
    const char *label;   /* adapter id, for messages */
    const char *scratch; /* empty directory on the store's own file system, for take() */
    /* [cb] Appends n bytes to the file `name`, made by the first write. */
    int (*write)(struct claas_out *out, const char *name, uint32_t roles, const void *data,
                 size_t n, struct claas_error *err);
    /* [cb] For those who can only write files: moves `path` out of scratch. */
    int (*take)(struct claas_out *out, const char *name, uint32_t roles, const char *path,
                struct claas_error *err);
    /* [cb] A file whose content is known by digest. 0: there is nothing to send; NOT_FOUND: write
     * it. */
    int (*have)(struct claas_out *out, const char *name, uint32_t roles, uint64_t bytes,
                const struct claas_digest *sha256, struct claas_error *err);
    /* [cb] BEFORE something is made elsewhere: journalled when it returns. Kept if this becomes a
     * version, else handed to release(), after a crash too. */
    int (*claim)(struct claas_out *out, const char *uri, struct claas_error *err);
    /* [cb] A number of step `step` (from 0), finite; the name is borrowed. */
    void (*metric)(struct claas_out *out, uint32_t step, const char *name, double value);
    /* [cb] A remark for people. */
    void (*note)(struct claas_out *out, uint32_t step, const char *name, const char *text);
    /* [cb] Last, once: the digests under which the engine may keep what it has in memory. */
    int (*seal)(struct claas_out *out, const char *format, struct claas_digest *out_state,
                struct claas_digest *out_serve, struct claas_error *err);
};

#ifdef __cplusplus
}
#endif

#endif
