/* SPDX-License-Identifier: MIT */
/* The text of an answer while its tokens come in: characters that are not complete and text that could begin a stop
 * string are held back; a stop string that is complete cuts the text before it. Knows no model. */
#ifndef LOCAL_ANSWER_H
#define LOCAL_ANSWER_H

#include "base/buf.h"
#include "text/tokenizer.h"

#include <claas/error.h>

#include <stddef.h>
#include <stdint.h>

struct answer {
    const struct tokenizer *tokenizer;
    const char *const *stops; /* borrowed; none of them empty */
    size_t n_stops;
    struct tokenizer_stream stream;
    struct buf text;          /* decoded, not handed out yet */
    int stopped;              /* a stop string was found: what is in text ends before it */
};

/* Refuses an empty stop string. The strings are borrowed until answer_clear. */
int answer_init(struct answer *a, const struct tokenizer *tokenizer, const char *const *stops, size_t n_stops,
                struct claas_error *err);
void answer_clear(struct answer *a);

/* Adds a sampled token (control tokens spell nothing). Then a->stopped tells whether a stop string is complete. */
int answer_add(struct answer *a, int32_t id, struct claas_error *err);

/* No further tokens: what was held back is text now (an incomplete character becomes U+FFFD). */
int answer_end(struct answer *a, struct claas_error *err);

/* How many bytes of a->text may be shown now. */
size_t answer_ready(const struct answer *a);
/* Drops the first n bytes, which have been shown. */
void answer_take(struct answer *a, size_t n);

#endif
