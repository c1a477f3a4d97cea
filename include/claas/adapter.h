/* SPDX-License-Identifier: MIT */
/* Adapter versions: what an engine reads and what it writes. */
#ifndef CLAAS_ADAPTER_H
#define CLAAS_ADAPTER_H

#include <claas/error.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { CLAAS_SERVE = 1,            /* needed to answer   */
       CLAAS_TRAIN = 2,            /* needed to go on training (moments, EMA): pruned sooner, never sent to servers */
       CLAAS_ABOUT = 4 };          /* for people         */
struct claas_file { uint32_t size, roles; uint64_t bytes; const char *name; struct claas_digest sha256; };
struct claas_version {             /* host's; immutable; lazy: nothing is fetched until asked for */
    uint32_t size, n_files;
    const char *label;             /* "ada/tutor@8": for messages and names, carries no meaning, may repeat */
    const char *format;            /* "peft/1", "tinker/1": compared with the formats an engine or server reads */
    const struct claas_file *const *files;
    struct claas_digest state;     /* all SERVE and TRAIN files: key of warm training state */
    struct claas_digest serve;     /* format, base and SERVE files: key of every cache an answer depends on */
    int (*path)(const struct claas_version *, const char *name, const char **out, struct claas_error *);     /* [cb] */
    int (*dir)(const struct claas_version *, uint32_t roles, const char **out, struct claas_error *);        /* [cb] */
};                                 /* verified, read-only; a dir of a loaded version stays until unload returns */
struct claas_out {                 /* host's; hashes while it writes; nothing counts unless the call returns 0 */
    uint32_t size, reserved0;
    const char *label, *scratch;   /* adapter id for messages; empty directory on the store's own file system */
    int  (*write)(struct claas_out *, const char *name, uint32_t roles, const void *, size_t, struct claas_error *);
                                   /* [cb] appends; different names may be written from different threads at once */
    int  (*take)(struct claas_out *, const char *name, uint32_t roles, const char *path, struct claas_error *);
                                   /* [cb] for those who can only write files: the host moves it out of scratch */
    int  (*have)(struct claas_out *, const char *name, uint32_t roles, uint64_t bytes,
                 const struct claas_digest *sha256, struct claas_error *);
                                   /* [cb] content known by digest: 0 = nothing to send, NOT_FOUND = write it */
    int  (*claim)(struct claas_out *, const char *uri, struct claas_error *);
                                   /* [cb] BEFORE making something elsewhere: journalled when it returns. Kept if this
                                    * becomes a version, else handed to release(), after a crash too */
    void (*metric)(struct claas_out *, uint32_t step, const char *name, double value);                       /* [cb] */
    void (*note)(struct claas_out *, uint32_t step, const char *name, const char *text);                     /* [cb] */
    int  (*seal)(struct claas_out *, const char *format, struct claas_digest *out_state,
                 struct claas_digest *out_serve, struct claas_error *);
};                                 /* [cb] last: tells the engine under which digests to keep what it has in memory */

#ifdef __cplusplus
}
#endif

#endif
