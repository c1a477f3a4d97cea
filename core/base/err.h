/* SPDX-License-Identifier: MIT */
/* Errors: filling struct claas_error, and the one table from codes to names, HTTP statuses and exit codes. */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <claas/error.h>

/* X(code, name, http_status, exit_code, retry_makes_sense) */
#define ERR_TABLE(X) \
    X(CLAAS_OK, "ok", 200, 0, 0) \
    X(CLAAS_ERR_INVALID, "invalid", 422, 1, 0) \
    X(CLAAS_ERR_NOT_FOUND, "not_found", 404, 1, 0) \
    X(CLAAS_ERR_CONFLICT, "conflict", 409, 1, 1) \
    X(CLAAS_ERR_UNAUTHORISED, "unauthorised", 401, 4, 0) \
    X(CLAAS_ERR_FORBIDDEN, "forbidden", 403, 4, 0) \
    X(CLAAS_ERR_UNSUPPORTED, "unsupported", 501, 3, 0) \
    X(CLAAS_ERR_EXHAUSTED, "exhausted", 429, 1, 1) \
    X(CLAAS_ERR_UNAVAILABLE, "unavailable", 503, 1, 1) \
    X(CLAAS_ERR_TIMEOUT, "timeout", 504, 1, 1) \
    X(CLAAS_ERR_CANCELLED, "cancelled", 499, 1, 0) \
    X(CLAAS_ERR_CORRUPT, "corrupt", 500, 1, 0) \
    X(CLAAS_ERR_INTERNAL, "internal", 500, 1, 0)

/* An empty error, ready to be handed down. */
#define ERR_INIT ((struct claas_error){ .size = sizeof(struct claas_error) })

/* Fills *err (null is fine) and returns code. `what` names the option, field or file at fault, or null.
 * The message: what could not be done, to what (quoted), why; lower case, no full stop. */
int err_set(struct claas_error *err, int code, const char *what, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* As err_set, with ": " and the text of errno value `errnum` appended; the code is derived from it
 * (ENOENT: not found, EACCES and EPERM: forbidden, ENOSPC, EDQUOT, ENOMEM, EMFILE, ENFILE: exhausted, else internal). */
int err_errno(struct claas_error *err, int errnum, const char *what, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Out of memory while doing `what_for`. */
int err_oom(struct claas_error *err, const char *what_for);

/* Puts "prefix: " before the message, keeping code and flags. Returns the code. */
int err_prefix(struct claas_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Back to no error. */
void err_clear(struct claas_error *err);

/* The table, as functions; an unknown code counts as internal. */
const char *err_name(int code);
int err_http_status(int code);
int err_exit_code(int code);
int err_from_http_status(int status);

#endif
