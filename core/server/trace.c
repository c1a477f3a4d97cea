/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "server/trace.h"

#include "base/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* n digits in lower case and then a dash or the end; nothing else may stand behind. */
static int trace_digits(const char *text, size_t n)
{
    return strspn(text, "0123456789abcdef") == n && (text[n] == '-' || text[n] == '\0');
}

static int trace_is_zero(const char *text, size_t n)
{
    return strspn(text, "0") >= n;
}

int trace_parse(const char *text, struct trace *out)
{
    memset(out, 0, sizeof *out);
    size_t n = text ? strlen(text) : 0;
    if (n < TRACE_TEXT - 1 || !trace_digits(text, 2) || strncmp(text, "ff", 2) == 0 || !trace_digits(text + 3, 32) ||
        !trace_digits(text + 36, 16) || !trace_digits(text + 53, 2) || text[2] != '-' || text[35] != '-' ||
        text[52] != '-' || trace_is_zero(text + 3, 32) || trace_is_zero(text + 36, 16)) {
        return -1;
    }
    /* Later versions may say more behind a dash; this one may not. */
    if (n > TRACE_TEXT - 1 && (strncmp(text, "00", 2) == 0 || text[TRACE_TEXT - 1] != '-')) {
        return -1;
    }
    memcpy(out->id, text + 3, 32);
    memcpy(out->span, text + 36, 16);
    out->flags = (unsigned)strtoul(text + 53, NULL, 16) & 1;
    return 0;
}

int trace_child(const struct trace *parent, struct trace *out)
{
    *out = *parent;
    do {
        if (rng_hex(out->span, 16)) {
            return -1;
        }
    } while (trace_is_zero(out->span, 16));
    return 0;
}

void trace_print(const struct trace *t, char out[TRACE_TEXT])
{
    (void)snprintf(out, TRACE_TEXT, "00-%.32s-%.16s-%02x", t->id, t->span, t->flags & 0xff);
}
