/* SPDX-License-Identifier: MIT */
/* Errors, digests and the size rule: what every other header needs. */
#ifndef CLAAS_ERROR_H
#define CLAAS_ERROR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CLAAS_HAS(p, type, m) ((p)->size >= offsetof(type, m) + sizeof((p)->m))  /* does the other side know m? */

enum { CLAAS_OK, CLAAS_ERR_INVALID, CLAAS_ERR_NOT_FOUND, CLAAS_ERR_CONFLICT, CLAAS_ERR_UNAUTHORISED,
       CLAAS_ERR_FORBIDDEN, CLAAS_ERR_UNSUPPORTED, CLAAS_ERR_EXHAUSTED, CLAAS_ERR_UNAVAILABLE,
       CLAAS_ERR_TIMEOUT, CLAAS_ERR_CANCELLED, CLAAS_ERR_CORRUPT, CLAAS_ERR_INTERNAL };
enum { CLAAS_RETRY = 1,   /* the same call may succeed later */
       CLAAS_MAYBE = 2 }; /* the effect may have taken place (reply lost): settle by reading back or by the same key */
struct claas_error {               /* caller's; 512 bytes, so that no failure path allocates */
    uint32_t size; int32_t code; uint32_t flags, retry_after_ms;
    char     what[48];             /* option, field or file at fault, "" if none: becomes "param" or "loc" over HTTP */
    char     message[448];         /* one line of UTF-8 for a user; carries the peer's own words and request id */
};
struct claas_digest { uint8_t b[32]; };                                  /* SHA-256; frozen */

#ifdef __cplusplus
}
#endif

#endif
