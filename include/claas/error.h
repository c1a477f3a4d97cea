/* SPDX-License-Identifier: MIT */
/* Errors, digests, and the rules that hold in every header of this folder. All of it is since 0.1.
 *
 * Layout  64-bit machines, fixed-width members, no padding, no bool or enum member.
 * size    Whoever ALLOCATES a struct sets it; nobody reads or writes beyond it; zero in a member
 *         behind it means "as before". A struct with `size` grows at its end, therefore crosses
 *         only behind a pointer, never by value within another struct or as element of an array.
 *         Structs without `size` are frozen for ever.
 * Return  0, or one of CLAAS_ERR_... with *err filled. On failure outputs are untouched.
 * Memory  What comes in is borrowed for the call and copied if kept. What goes out goes through the
 *         other side's sinks or the caller's arrays. Nothing is freed across the border.
 * Text    UTF-8. Token ids int32_t, not negative. Log-probabilities float, natural logarithm, of
 *         the unmodified distribution.
 * Tags    [alone] nothing else runs in the instance. [call] one at a time in the whole module, or
 *         any number at once if CLAAS_PARALLEL. [quick] any thread, any time, no I/O, no waiting.
 *         [cb] the plugin calls the host, from any thread. */
#ifndef CLAAS_ERROR_H
#define CLAAS_ERROR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* 1 if the struct at p, of `type`, reaches to the end of member m: whether the other side has it. */
#define CLAAS_HAS(p, type, m) ((p)->size >= offsetof(type, m) + sizeof((p)->m))

/* The closed list of codes. Any other value counts as CLAAS_ERR_INTERNAL. */
enum {
    CLAAS_OK,
    CLAAS_ERR_INVALID,      /* the caller's input is wrong: the same call fails again */
    CLAAS_ERR_NOT_FOUND,    /* what was named is not there */
    CLAAS_ERR_CONFLICT,     /* somebody else was first, or it is there already */
    CLAAS_ERR_UNAUTHORISED, /* a peer does not know us: no key, or a wrong one */
    CLAAS_ERR_FORBIDDEN,    /* known, but not permitted */
    CLAAS_ERR_UNSUPPORTED,  /* this plugin, model or ABI cannot do that */
    CLAAS_ERR_EXHAUSTED,    /* memory, disk, quota, rate */
    CLAAS_ERR_UNAVAILABLE,  /* a peer or device does not answer, or is not ready yet */
    CLAAS_ERR_TIMEOUT,      /* the time of the call has run out */
    CLAAS_ERR_CANCELLED,    /* the caller has called it off */
    CLAAS_ERR_CORRUPT,      /* stored data is not what was stored */
    CLAAS_ERR_INTERNAL      /* a mistake in the program */
};

/* Flags of an error. */
enum {
    CLAAS_RETRY = 1, /* the same call may succeed later */
    CLAAS_MAYBE = 2  /* the effect may have taken place (reply lost): settle by reading back, or by
                      * the same key */
};

/* The caller's, so that no failure path allocates: 512 bytes. */
struct claas_error {
    uint32_t size;
    int32_t code;            /* as returned */
    uint32_t flags;          /* CLAAS_RETRY, CLAAS_MAYBE */
    uint32_t retry_after_ms; /* 0: no advice */
    char what[48];           /* option, field or file at fault, "" if none; "param" over HTTP */
    char message[448]; /* one line for a user, ended by a zero: what could not be done, to what,
                        * why; carries a peer's own words and request id */
};

/* SHA-256. Frozen. */
struct claas_digest {
    uint8_t b[32];
};

#ifdef __cplusplus
}
#endif

#endif
