/* SPDX-License-Identifier: MIT */
/* What of an answer may be shown while it is still being made: thinking and channels are held back until it is certain
 * what they are, so that the pieces join to the visible text of the whole. */
#include "config.h"

#include "serving/internal.h"

#include "base/err.h"
#include "base/utf8.h"
#include "text/visible.h"

#include <string.h>

static const char *const tags[] = { "<think>", "</think>", "<|channel|>" };

static const char *find(const char *s, size_t n, const char *what)
{
    return n == 0 ? NULL : memmem(s, n, what, strlen(what));
}

/* How many last bytes could be the beginning of a tag. */
static size_t tag_begun(const char *s, size_t n)
{
    size_t most = 0;
    for (size_t t = 0; t < sizeof tags / sizeof tags[0]; t++) {
        for (size_t k = strlen(tags[t]) - 1; k > most; k--) {
            if (k <= n && memcmp(s + n - k, tags[t], k) == 0) {
                most = k;
            }
        }
    }
    return most;
}

/* How many first bytes no later text can change. */
static size_t settled(const char *s, size_t n)
{
    if (find(s, n, "<|channel|>") != NULL) {
        return 0;
    }
    size_t at = 0;
    for (;;) {
        const char *open = find(s + at, n - at, "<think>");
        if (open == NULL) {
            break;
        }
        const char *close = find(open, n - (size_t)(open - s), "</think>");
        if (close == NULL) {
            return (size_t)(open - s);
        }
        at = (size_t)(close - s) + strlen("</think>");
    }
    n -= tag_begun(s, n);
    return n - utf8_incomplete(s, n);
}

static int visible_of(const char *s, size_t n, int last, struct buf *out, struct claas_error *err)
{
    if (!last) {
        return visible_strip_thinking(s, n, out, err);
    }
    struct buf channel = BUF_INIT;
    int rc = visible_final_channel(s, n, &channel, err);
    if (rc == 0) {
        rc = visible_strip_thinking(buf_str(&channel), channel.len, out, err);
    }
    buf_clear(&channel);
    return rc;
}

int visible_stream_add(struct visible_stream *v, const char *text, size_t n, int last, struct buf *out,
                       struct claas_error *err)
{
    struct buf seen = BUF_INIT;
    buf_add(&v->raw, text, n);
    const char *raw = buf_str(&v->raw);
    v->settled = last ? v->raw.len : settled(raw, v->raw.len);
    int rc = visible_of(raw, v->settled, last, &seen, err);
    /* A stray </think> takes back what was shown already: then there is nothing to add. */
    if (rc == 0 && seen.len > v->sent.len && memcmp(buf_str(&seen), buf_str(&v->sent), v->sent.len) == 0) {
        const char *fresh = buf_str(&seen) + v->sent.len;
        size_t n_fresh = seen.len - v->sent.len;
        buf_add(out, fresh, n_fresh);
        buf_add(&v->sent, fresh, n_fresh);
    }
    if (rc == 0 && (v->raw.failed || v->sent.failed || out->failed)) {
        rc = err_oom(err, "a streamed answer");
    }
    buf_clear(&seen);
    return rc;
}

void visible_stream_clear(struct visible_stream *v)
{
    buf_clear(&v->raw);
    buf_clear(&v->sent);
}
