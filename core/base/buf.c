/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "base/buf.h"

#include "base/mem.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *buf_room(struct buf *b, size_t n)
{
    if (b->failed || n > SIZE_MAX - b->len - 1 ||
        mem_grow((void **)&b->data, &b->cap, b->len + n + 1, 1)) {
        b->failed = 1;
        return NULL;
    }
    return b->data + b->len;
}

void buf_add(struct buf *b, const void *data, size_t n)
{
    char *to = buf_room(b, n);
    if (to) {
        if (n > 0) {
            memcpy(to, data, n);
        }
        b->len += n;
        b->data[b->len] = '\0';
    }
}

void buf_adds(struct buf *b, const char *s)
{
    buf_add(b, s, strlen(s));
}

void buf_addc(struct buf *b, char c)
{
    buf_add(b, &c, 1);
}

void buf_addf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *to = n < 0 ? NULL : buf_room(b, (size_t)n);
    if (!to) {
        b->failed = 1;
        return;
    }
    va_start(ap, fmt);
    (void)vsnprintf(to, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
}

void buf_cut(struct buf *b, size_t n)
{
    if (n < b->len) {
        b->len = n;
        b->data[n] = '\0';
    }
}

const char *buf_str(const struct buf *b)
{
    return b->data && b->len ? b->data : "";
}

char *buf_take(struct buf *b)
{
    char *s = b->failed ? NULL : b->len ? b->data : mem_dup("", 0);
    if (s != b->data) {
        free(b->data);
    }
    *b = BUF_INIT;
    return s;
}

void buf_clear(struct buf *b)
{
    free(b->data);
    *b = BUF_INIT;
}
