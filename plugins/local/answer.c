/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "plugins/local/answer.h"

#include "base/err.h"

#include <string.h>

int answer_init(struct answer *a, const struct tokenizer *tokenizer, const char *const *stops, size_t n_stops,
                struct claas_error *err)
{
    for (size_t i = 0; i < n_stops; i++) {
        if (!stops[i] || !stops[i][0]) {
            return err_set(err, CLAAS_ERR_INVALID, "stop", "stop string %zu is empty", i + 1);
        }
    }
    *a = (struct answer){ .tokenizer = tokenizer, .stops = stops, .n_stops = n_stops };
    return 0;
}

void answer_clear(struct answer *a)
{
    buf_clear(&a->text);
}

/* Cuts at the earliest stop string that is complete. A match may have begun before the newest token: all text that has
 * not been handed out is searched, and what is handed out never holds the beginning of one. */
static void answer_find_stop(struct answer *a)
{
    size_t first = a->text.len;
    for (size_t i = 0; i < a->n_stops; i++) {
        const char *at = a->text.len ? memmem(a->text.data, a->text.len, a->stops[i], strlen(a->stops[i])) : NULL;
        if (at && (size_t)(at - a->text.data) < first) {
            first = (size_t)(at - a->text.data);
            a->stopped = 1;
        }
    }
    if (a->stopped) {
        buf_cut(&a->text, first);
    }
}

int answer_add(struct answer *a, int32_t id, struct claas_error *err)
{
    int rc = tokenizer_stream_add(&a->stream, a->tokenizer, id, 0, &a->text, err);
    if (rc == 0) {
        answer_find_stop(a);
    }
    return rc;
}

int answer_end(struct answer *a, struct claas_error *err)
{
    if (a->stopped) {
        return 0; /* what follows a stop string is no text */
    }
    int rc = tokenizer_stream_end(&a->stream, &a->text, err);
    if (rc == 0) {
        answer_find_stop(a);
        a->n_stops = 0; /* nothing can complete a stop string any more */
    }
    return rc;
}

/* Length of the longest end of the text that is a beginning of `stop`. */
static size_t answer_overlap(const struct buf *text, const char *stop)
{
    size_t n = strlen(stop) - 1;
    n = n < text->len ? n : text->len;
    while (n > 0 && memcmp(text->data + text->len - n, stop, n) != 0) {
        n--;
    }
    return n;
}

size_t answer_ready(const struct answer *a)
{
    size_t held = 0;
    for (size_t i = 0; !a->stopped && i < a->n_stops; i++) {
        size_t n = a->text.len ? answer_overlap(&a->text, a->stops[i]) : 0;
        held = n > held ? n : held;
    }
    return a->text.len - held;
}

void answer_take(struct answer *a, size_t n)
{
    if (n > 0) {
        memmove(a->text.data, a->text.data + n, a->text.len - n);
        buf_cut(&a->text, a->text.len - n);
    }
}
