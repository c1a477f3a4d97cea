/* SPDX-License-Identifier: MIT */
/* NFC as the models' tokenizers do it. */
#include "config.h"

#include "text/tokenizer_internal.h"

#include "base/err.h"
#include "base/utf8.h"

#include <utf8proc.h>

#include <stdlib.h>

/* Characters that tokenizers leave alone although the library would move or compose them: their
 * tables end with Unicode 9, and what came later is to them a character that nothing is known of.
 * U+11A7 is another matter: the library swallows it behind a Hangul syllable, which is a mistake.
 */
static const struct {
    uint32_t first;
    uint32_t last;
} left_alone[] = {
    { 0x7FD, 0x7FD },     { 0x898, 0x89F },     { 0x8CA, 0x8D3 },     { 0x9FE, 0x9FE },
    { 0xC3C, 0xC3C },     { 0xD3B, 0xD3C },     { 0xEBA, 0xEBA },     { 0x11A7, 0x11A7 },
    { 0x1715, 0x1715 },   { 0x1ABF, 0x1ACE },   { 0x1DF6, 0x1DFA },   { 0xA82C, 0xA82C },
    { 0x10D24, 0x10D27 }, { 0x10EAB, 0x10EAC }, { 0x10EFD, 0x10EFF }, { 0x10F46, 0x10F50 },
    { 0x10F82, 0x10F85 }, { 0x11070, 0x11070 }, { 0x1133B, 0x1133B }, { 0x1145E, 0x1145E },
    { 0x11839, 0x1183A }, { 0x11930, 0x11930 }, { 0x1193D, 0x1193E }, { 0x11943, 0x11943 },
    { 0x119E0, 0x119E0 }, { 0x11A34, 0x11A34 }, { 0x11A47, 0x11A47 }, { 0x11A99, 0x11A99 },
    { 0x11D42, 0x11D42 }, { 0x11D44, 0x11D45 }, { 0x11D97, 0x11D97 }, { 0x11F41, 0x11F42 },
    { 0x16FF0, 0x16FF1 }, { 0x1E08F, 0x1E08F }, { 0x1E130, 0x1E136 }, { 0x1E2AE, 0x1E2AE },
    { 0x1E2EC, 0x1E2EF }, { 0x1E4EC, 0x1E4EF },
};

static int is_left_alone(uint32_t c)
{
    size_t low = 0;
    size_t high = sizeof left_alone / sizeof *left_alone;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (c > left_alone[middle].last) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < sizeof left_alone / sizeof *left_alone && c >= left_alone[low].first;
}

static int nfc_add(const char *s, size_t n, struct buf *out, struct claas_error *err)
{
    utf8proc_uint8_t *mapped = NULL;
    utf8proc_ssize_t len = n == 0 ? 0
                                  : utf8proc_map((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n,
                                                 &mapped, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (len < 0) {
        return err_set(err, CLAAS_ERR_INTERNAL, "text", "cannot normalise text: %s",
                       utf8proc_errmsg(len));
    }
    buf_add(out, mapped, (size_t)len);
    free(mapped);
    return 0;
}

/* Normalises the stretches between characters that are left alone. */
static int nfc_stretches(const char *s, size_t n, struct buf *out, struct claas_error *err)
{
    size_t done = 0;
    int rc = 0;
    uint32_t c = 0;
    for (size_t at = 0, len; at < n && !rc; at += len) {
        len = utf8_decode(s + at, n - at, &c);
        if (c >= left_alone[0].first && is_left_alone(c)) {
            rc = nfc_add(s + done, at - done, out, err);
            buf_add(out, s + at, len);
            done = at + len;
        }
    }
    return rc ? rc : nfc_add(s + done, n - done, out, err);
}

int text_nfc(const char *s, size_t n, const char **out, size_t *out_n, char **owned,
             struct claas_error *err)
{
    size_t ascii = 0;
    while (ascii < n && (unsigned char)s[ascii] < 0x80) {
        ascii++;
    }
    if (ascii == n) {
        *out = s;
        *out_n = n;
        return 0;
    }
    struct buf text = BUF_INIT;
    int rc = nfc_stretches(s, n, &text, err);
    size_t len = text.len;
    char *taken = rc ? NULL : buf_take(&text);
    buf_clear(&text);
    if (!taken) {
        return rc ? rc : err_oom(err, "normalising text");
    }
    *owned = taken;
    *out = taken;
    *out_n = len;
    return 0;
}
