/* SPDX-License-Identifier: MIT */
/* Ids to text, at once or token by token. */
#include "config.h"

#include "text/tokenizer_internal.h"

#include "base/err.h"
#include "base/utf8.h"

#include <string.h>

#define REPLACEMENT "\xEF\xBF\xBD"

/* 1 if c may stand at place i (from 1) of a character that begins with `lead`. */
static int continues(unsigned char lead, size_t i, unsigned char c)
{
    if (i > 1) {
        return (c & 0xC0) == 0x80;
    }
    unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    return c >= low && c <= high;
}

/* Length of the character at s or of the maximal part of one; *whole says which. */
static size_t character_part(const char *s, size_t n, int *whole)
{
    unsigned char lead = (unsigned char)s[0];
    size_t want = lead < 0x80   ? 1
                  : lead < 0xC2 ? 0
                  : lead < 0xE0 ? 2
                  : lead < 0xF0 ? 3
                  : lead < 0xF5 ? 4
                                : 0;
    size_t have = 1;
    while (have < want && have < n && continues(lead, have, (unsigned char)s[have])) {
        have++;
    }
    *whole = have == want;
    return have;
}

/* 1 if the part s of a character, n bytes, could still become one. */
static int part_is_open(const char *s, size_t n)
{
    return utf8_incomplete(s, n) == n;
}

/* Appends valid text; returns how many last bytes were held back (0 when `final`). */
static size_t add_valid(const char *s, size_t n, int final, struct buf *out)
{
    for (size_t at = 0; at < n;) {
        int whole = 0;
        size_t len = character_part(s + at, n - at, &whole);
        if (whole) {
            buf_add(out, s + at, len);
        } else if (!final && at + len == n && part_is_open(s + at, len)) {
            return len;
        } else {
            buf_adds(out, REPLACEMENT);
        }
        at += len;
    }
    return 0;
}

/* The bytes that an id shows; INVALID when there is no such id. */
static int shown_piece(const struct tokenizer *tok, int32_t id, unsigned flags, const char **bytes,
                       size_t *n, struct claas_error *err)
{
    if (tokenizer_piece(tok, id, bytes, n)) {
        return err_set(err, CLAAS_ERR_INVALID, "ids",
                       "cannot decode token %d: the vocabulary has %zu", id, tokenizer_vocab(tok));
    }
    if (tokenizer_type(tok, id) == TOKEN_CONTROL && !(flags & CLAAS_SPECIAL)) {
        *n = 0;
    }
    return 0;
}

int tokenizer_decode(const struct tokenizer *tok, const int32_t *ids, size_t n, unsigned flags,
                     struct buf *out, struct claas_error *err)
{
    struct buf raw = BUF_INIT;
    int rc = 0;
    for (size_t i = 0; i < n && !rc; i++) {
        const char *bytes = NULL;
        size_t len = 0;
        rc = shown_piece(tok, ids[i], flags, &bytes, &len, err);
        if (!rc) {
            buf_add(&raw, bytes, len);
        }
    }
    if (!rc) {
        (void)add_valid(buf_str(&raw), raw.len, 1, out);
        rc = raw.failed || out->failed ? err_oom(err, "decoding") : 0;
    }
    buf_clear(&raw);
    return rc;
}

int tokenizer_stream_add(struct tokenizer_stream *stream, const struct tokenizer *tok, int32_t id,
                         unsigned flags, struct buf *out, struct claas_error *err)
{
    const char *bytes = NULL;
    size_t n = 0;
    int rc = shown_piece(tok, id, flags, &bytes, &n, err);
    if (rc || n == 0) {
        return rc;
    }
    struct buf raw = BUF_INIT;
    buf_add(&raw, stream->held, stream->n_held);
    buf_add(&raw, bytes, n);
    if (!raw.failed) {
        stream->n_held = add_valid(raw.data, raw.len, 0, out);
        memcpy(stream->held, raw.data + raw.len - stream->n_held, stream->n_held);
    }
    rc = raw.failed || out->failed ? err_oom(err, "decoding") : 0;
    buf_clear(&raw);
    return rc;
}

int tokenizer_stream_end(struct tokenizer_stream *stream, struct buf *out, struct claas_error *err)
{
    if (stream->n_held > 0) {
        (void)add_valid(stream->held, stream->n_held, 1, out);
    }
    *stream = (struct tokenizer_stream){ 0 };
    return out->failed ? err_oom(err, "decoding") : 0;
}
