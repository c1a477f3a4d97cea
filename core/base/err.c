/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct err_row {
    const char *name;
    int http_status;
    int exit_code;
    int retry;
};

static const struct err_row *err_row(int code)
{
    static const struct err_row rows[] = {
#define ROW(c, name, http, exit_code, retry) [c] = { name, http, exit_code, retry },
        ERR_TABLE(ROW)
#undef ROW
    };
    if (code < 0 || (size_t)code >= sizeof rows / sizeof rows[0]) {
        return &rows[CLAAS_ERR_INTERNAL];
    }
    return &rows[code];
}

/* Cuts at a character's border, so that a shortened message stays valid UTF-8. */
static void utf8_trim(char *s, size_t cap)
{
    size_t n = strnlen(s, cap);
    if (n + 1 < cap) {
        return;
    }
    while (n > 0 && ((unsigned char)s[n - 1] & 0xC0) == 0x80) {
        n--;
    }
    if (n > 0 && (unsigned char)s[n - 1] >= 0xC0) {
        n--;
    }
    s[n] = '\0';
}

static void err_fill(struct claas_error *err, int code, const char *what, const char *fmt, va_list ap)
{
    err->size = sizeof *err;
    err->code = code;
    err->flags = err_row(code)->retry ? CLAAS_RETRY : 0;
    err->retry_after_ms = 0;
    (void)snprintf(err->what, sizeof err->what, "%s", what ? what : "");
    utf8_trim(err->what, sizeof err->what);
    if (vsnprintf(err->message, sizeof err->message, fmt, ap) >= (int)sizeof err->message) {
        utf8_trim(err->message, sizeof err->message);
    }
}

int err_set(struct claas_error *err, int code, const char *what, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        err_fill(err, code, what, fmt, ap);
        va_end(ap);
    }
    return code;
}

static int err_code_of_errno(int errnum)
{
    switch (errnum) {
    case ENOENT:
    case ENOTDIR:
        return CLAAS_ERR_NOT_FOUND;
    case EACCES:
    case EPERM:
    case EROFS:
        return CLAAS_ERR_FORBIDDEN;
    case ENOSPC:
    case EDQUOT:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
        return CLAAS_ERR_EXHAUSTED;
    default:
        return CLAAS_ERR_INTERNAL;
    }
}

int err_errno(struct claas_error *err, int errnum, const char *what, const char *fmt, ...)
{
    int code = err_code_of_errno(errnum);
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        err_fill(err, code, what, fmt, ap);
        va_end(ap);
        char reason[128];
        size_t n = strlen(err->message);
        (void)snprintf(err->message + n, sizeof err->message - n, ": %s",
                       strerror_r(errnum, reason, sizeof reason));
    }
    return code;
}

int err_oom(struct claas_error *err, const char *what_for)
{
    return err_set(err, CLAAS_ERR_EXHAUSTED, "", "out of memory while %s", what_for);
}

int err_prefix(struct claas_error *err, const char *fmt, ...)
{
    if (!err) {
        return CLAAS_ERR_INTERNAL;
    }
    char prefix[sizeof err->message];
    char old[sizeof err->message];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(prefix, sizeof prefix, fmt, ap);
    va_end(ap);
    memcpy(old, err->message, sizeof old);
    size_t n = (size_t)snprintf(err->message, sizeof err->message, "%.*s", (int)sizeof err->message - 1, prefix);
    if (n + 2 < sizeof err->message) {
        memcpy(err->message + n, ": ", 3);
        size_t room = sizeof err->message - n - 3;
        size_t take = strnlen(old, sizeof old);
        take = take < room ? take : room;
        memcpy(err->message + n + 2, old, take);
        err->message[n + 2 + take] = '\0';
    }
    utf8_trim(err->message, sizeof err->message);
    return err->code;
}

void err_clear(struct claas_error *err)
{
    if (err) {
        *err = ERR_INIT;
    }
}

const char *err_name(int code)
{
    return err_row(code)->name;
}

int err_http_status(int code)
{
    return err_row(code)->http_status;
}

int err_exit_code(int code)
{
    return err_row(code)->exit_code;
}

int err_from_http_status(int status)
{
    if (status == 400) {
        return CLAAS_ERR_INVALID;
    }
    for (int code = 0; code <= CLAAS_ERR_INTERNAL; code++) {
        if (err_row(code)->http_status == status) {
            return code;
        }
    }
    return status < 300 ? CLAAS_OK : status < 500 ? CLAAS_ERR_INVALID : CLAAS_ERR_INTERNAL;
}
