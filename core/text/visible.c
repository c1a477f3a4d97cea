/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "text/visible.h"

#include "base/err.h"
#include "base/utf8.h"
#include "text/unicode.h"

#include <string.h>

#define THINK "<think>"
#define END_THINK "</think>"

/* Where `what` first stands in s, or null. */
static const char *find(const char *s, size_t n, const char *what)
{
    return memmem(s, n, what, strlen(what));
}

/* Length of the white space character at s, or 0. */
static size_t blank_at(const char *s, size_t n)
{
    uint32_t c = 0;
    size_t len = utf8_decode(s, n, &c);
    return len > 0 && unicode_is_blank(c) ? len : 0;
}

void text_strip(const char *s, size_t n, const char **out, size_t *out_n)
{
    for (size_t len; (len = blank_at(s, n)) > 0;) {
        s += len;
        n -= len;
    }
    while (n > 0) {
        size_t at = n;
        do {
            at--;
        } while (at > 0 && ((unsigned char)s[at] & 0xC0) == 0x80);
        if (blank_at(s + at, n - at) != n - at) {
            break;
        }
        n = at;
    }
    *out = s;
    *out_n = n;
}

int visible_strip_thinking(const char *text, size_t n, struct buf *out, struct claas_error *err)
{
    struct buf rest = BUF_INIT;
    const char *end = text + n;
    const char *open;
    const char *close;
    while ((open = find(text, (size_t)(end - text), THINK)) &&
           (close = find(open + strlen(THINK), (size_t)(end - open) - strlen(THINK), END_THINK))) {
        buf_add(&rest, text, (size_t)(open - text));
        text = close + strlen(END_THINK);
    }
    buf_add(&rest, text, (size_t)(end - text));
    const char *s = buf_str(&rest);
    size_t len = rest.len;
    close = find(s, len, END_THINK);
    if (close) {
        len -= (size_t)(close - s) + strlen(END_THINK);
        s = close + strlen(END_THINK);
    }
    text_strip(s, len, &s, &len);
    buf_add(out, s, len);
    int failed = rest.failed || out->failed;
    buf_clear(&rest);
    return failed ? err_oom(err, "reading an answer") : 0;
}

int visible_final_channel(const char *text, size_t n, struct buf *out, struct claas_error *err)
{
    static const char final[] = "<|channel|>final<|message|>";
    const char *at = find(text, n, final);
    if (at) {
        const char *s = at + strlen(final);
        size_t len = (size_t)(text + n - s);
        const char *end = find(s, len, "<|end|>");
        len = end ? (size_t)(end - s) : len;
        end = find(s, len, "<|return|>");
        len = end ? (size_t)(end - s) : len;
        text_strip(s, len, &s, &len);
        buf_add(out, s, len);
    } else if (!find(text, n, "<|channel|>analysis<|message|>")) {
        buf_add(out, text, n);
    }
    return out->failed ? err_oom(err, "reading an answer") : 0;
}

int visible_normalise(const char *text, size_t n, struct buf *out, struct claas_error *err)
{
    struct buf seen = BUF_INIT;
    int rc = visible_strip_thinking(text, n, &seen, err);
    const char *s = buf_str(&seen);
    for (size_t at = 0; at < seen.len && !rc;) {
        size_t blank = blank_at(s + at, seen.len - at);
        if (blank == 0) {
            buf_addc(out, s[at++]);
            continue;
        }
        while (blank > 0) {
            at += blank;
            blank = blank_at(s + at, seen.len - at);
        }
        buf_addc(out, ' ');
    }
    buf_clear(&seen);
    return rc || !out->failed ? rc : err_oom(err, "reading an answer");
}

int visible_hash(const char *text, size_t n, struct claas_digest *out, struct claas_error *err)
{
    struct buf normal = BUF_INIT;
    int rc = visible_normalise(text, n, &normal, err);
    if (!rc) {
        rc = sha256_of(buf_str(&normal), normal.len, out, err);
    }
    buf_clear(&normal);
    return rc;
}
