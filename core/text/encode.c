/* SPDX-License-Identifier: MIT */
/* Text to ids: added tokens are cut out of the raw text, the rest is normalised, added tokens are
 * cut out of that, and what remains goes piece by piece through merging. */
#include "config.h"

#include "text/tokenizer_internal.h"

#include "base/err.h"
#include "base/utf8.h"
#include "text/unicode.h"

#include <stdlib.h>
#include <string.h>

static int added_compare(const void *a, const void *b)
{
    const struct added *x = a;
    const struct added *y = b;
    size_t n = x->n < y->n ? x->n : y->n;
    int order = memcmp(x->s, y->s, n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

int added_set_init(struct added_set *set, struct claas_error *err)
{
    if (set->n > 1) {
        qsort(set->items, set->n, sizeof *set->items, added_compare);
    }
    for (size_t i = 0; i < set->n; i++) {
        set->first[(unsigned char)set->items[i].s[0] + 1]++;
        if (i > 0 && added_compare(&set->items[i - 1], &set->items[i]) == 0) {
            return err_set(err, CLAAS_ERR_INVALID, "tokens",
                           "tokens %d and %d are the same added token", set->items[i - 1].id,
                           set->items[i].id);
        }
    }
    for (size_t b = 0; b < 256; b++) {
        set->first[b + 1] += set->first[b];
    }
    return 0;
}

void added_set_clear(struct added_set *set)
{
    free(set->items);
    set->items = NULL;
    set->n = 0;
}

/* First item of [low, high), all longer than `depth`, whose byte at `depth` is at least `byte`. */
static size_t added_bound(const struct added_set *set, size_t low, size_t high, size_t depth,
                          unsigned byte)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((unsigned char)set->items[middle].s[depth] < byte) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The longest added token that s begins with, or null. */
static const struct added *added_match(const struct added_set *set, const char *s, size_t n)
{
    unsigned byte = (unsigned char)s[0];
    size_t low = set->first[byte];
    size_t high = set->first[byte + 1];
    const struct added *found = NULL;
    for (size_t depth = 1; low < high; depth++) {
        if (set->items[low].n == depth) {
            found = &set->items[low++];
        }
        if (depth == n) {
            break;
        }
        byte = (unsigned char)s[depth];
        low = added_bound(set, low, high, depth, byte);
        high = added_bound(set, low, high, depth, byte + 1);
    }
    return found;
}

/* Start of the character that ends before `at`. */
static size_t char_before(const char *s, size_t at)
{
    do {
        at--;
    } while (at > 0 && ((unsigned char)s[at] & 0xC0) == 0x80);
    return at;
}

/* 1 if the n bytes at s, inside text, have no word character on either side. */
static int added_stands_alone(const char *text, size_t len, size_t start, size_t stop)
{
    uint32_t c = 0;
    if (start > 0) {
        size_t before = char_before(text, start);
        if (utf8_decode(text + before, start - before, &c) && unicode_is_word(c)) {
            return 0;
        }
    }
    return !(stop < len && utf8_decode(text + stop, len - stop, &c) && unicode_is_word(c));
}

/* How many bytes of white space end before `at`, down to `floor`; and begin at `at`. */
static size_t spaces_before(const char *s, size_t at, size_t floor)
{
    uint32_t c = 0;
    while (at > floor) {
        size_t before = char_before(s, at);
        if (utf8_decode(s + before, at - before, &c) == 0 || unicode_class_of(c) != UNICODE_SPACE) {
            break;
        }
        at = before;
    }
    return at;
}

static size_t spaces_behind(const char *s, size_t n, size_t at)
{
    uint32_t c = 0;
    for (size_t len; at < n && (len = utf8_decode(s + at, n - at, &c)) > 0 &&
                     unicode_class_of(c) == UNICODE_SPACE;) {
        at += len;
    }
    return at;
}

/* One call of tokenizer_encode. */
struct encoding {
    const struct tokenizer *tok;
    int control; /* control tokens are recognised */
    struct bpe bpe;
    struct token_list *out;
    struct claas_error *err;
};

static int encode_pieces(struct encoding *e, const char *s, size_t n)
{
    int rc = 0;
    while (n > 0 && !rc) {
        size_t len = pretoken_next(e->tok->kind, s, n);
        rc = bpe_encode(&e->bpe, e->tok, s, len, e->out, e->err);
        s += len;
        n -= len;
    }
    return rc;
}

static int encode_stretch(struct encoding *e, const char *s, size_t n, int normalized);

/* Cuts the tokens of one set out of s and hands the stretches between them on. A control token that
 * is not recognised still hides what stands inside it, as in the reference. */
static int encode_around(struct encoding *e, const struct added_set *set, const char *s, size_t n,
                         int normalized)
{
    size_t done = 0;
    int rc = 0;
    for (size_t at = 0; at < n && !rc;) {
        const struct added *a = added_match(set, s + at, n - at);
        size_t start = at;
        size_t stop = a ? at + a->n : at + 1;
        at = stop;
        if (!a || (a->control && !e->control) ||
            ((a->flags & TOKEN_SINGLE_WORD) && !added_stands_alone(s, n, start, stop))) {
            continue;
        }
        start = a->flags & TOKEN_LSTRIP ? spaces_before(s, start, done) : start;
        stop = a->flags & TOKEN_RSTRIP ? spaces_behind(s, n, stop) : stop;
        rc = start > done ? encode_stretch(e, s + done, start - done, normalized) : 0;
        rc = rc ? rc : token_list_add(e->out, a->id, e->err);
        done = stop;
        at = at > stop ? at : stop;
    }
    return rc || done >= n ? rc : encode_stretch(e, s + done, n - done, normalized);
}

/* What lies between added tokens: normalise, look for those of the second kind, then cut into
 * pieces. */
static int encode_stretch(struct encoding *e, const char *s, size_t n, int normalized)
{
    if (normalized) {
        return encode_pieces(e, s, n);
    }
    char *owned = NULL;
    int rc = e->tok->nfc ? text_nfc(s, n, &s, &n, &owned, e->err) : 0;
    if (!rc) {
        rc = e->tok->normalized.n > 0 ? encode_around(e, &e->tok->normalized, s, n, 1)
                                      : encode_pieces(e, s, n);
    }
    free(owned);
    return rc;
}

int tokenizer_encode(const struct tokenizer *tok, const char *text, size_t n, unsigned flags,
                     struct token_list *out, struct claas_error *err)
{
    if (n > INT32_MAX || !utf8_valid(text, n)) {
        return err_set(err, CLAAS_ERR_INVALID, "text", "cannot tokenise text of %zu bytes: %s", n,
                       n > INT32_MAX ? "too long" : "not valid UTF-8");
    }
    struct encoding e = {
        .tok = tok, .control = (flags & CLAAS_SPECIAL) != 0, .out = out, .err = err
    };
    size_t len = out->len;
    int rc = (flags & TOKENIZER_BOS) && tokenizer_adds_bos(tok) ? token_list_add(out, tok->bos, err)
                                                                : 0;
    if (!rc && n > 0) {
        rc = tok->raw.n > 0 ? encode_around(&e, &tok->raw, text, n, 0)
                            : encode_stretch(&e, text, n, 0);
    }
    bpe_clear(&e.bpe);
    if (rc) {
        out->len = len;
    }
    return rc;
}
