/* SPDX-License-Identifier: MIT */
/* A growable byte string. A failed allocation is remembered in `failed`, so that a run of additions is checked once. */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stddef.h>

struct buf {
    char *data;   /* null, or `len` bytes followed by a zero */
    size_t len;
    size_t cap;
    int failed;   /* an allocation failed: contents are incomplete */
};

#define BUF_INIT ((struct buf){ 0 })

void buf_add(struct buf *b, const void *data, size_t n);
void buf_adds(struct buf *b, const char *s);
void buf_addc(struct buf *b, char c);
void buf_addf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Room for n more bytes at data + len; the caller fills it and raises len. Null when out of memory. */
char *buf_room(struct buf *b, size_t n);

/* Cuts to n bytes (n at most len). */
void buf_cut(struct buf *b, size_t n);

/* The contents as a C string, "" when empty; valid until the next change. */
const char *buf_str(const struct buf *b);

/* Hands the heap string over (never null unless out of memory) and empties b. */
char *buf_take(struct buf *b);

void buf_clear(struct buf *b);

#endif
