/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "text/pretoken.h"

#include "base/err.h"
#include "base/utf8.h"
#include "text/unicode.h"

#include <string.h>

#define CONTRACTIONS_ANY_CASE "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
#define AFTER_NUMBERS "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const struct pretoken_rule rule_gpt2 = { PRETOKEN_GPT2, 0, 0, 0 };
static const struct pretoken_rule rule_smollm = { PRETOKEN_SMOLLM, 0, 0, 0 };
static const struct pretoken_rule rule_llama3 = { PRETOKEN_LLAMA3, 1, 1, 0 };
static const struct pretoken_rule rule_qwen2 = { PRETOKEN_QWEN2, 0, 0, 1 };

static const struct {
    const char *name;
    const struct pretoken_rule *rule;
} pretoken_names[] = {
    { "smollm", &rule_smollm },  { "starcoder", &rule_smollm }, { "refact", &rule_smollm },
    { "gpt-2", &rule_gpt2 },     { "gpt2", &rule_gpt2 },        { "phi-2", &rule_gpt2 },
    { "mpt", &rule_gpt2 },       { "olmo", &rule_gpt2 },        { "llama-bpe", &rule_llama3 },
    { "llama3", &rule_llama3 },  { "llama-v3", &rule_llama3 },  { "falcon3", &rule_llama3 },
    { "pixtral", &rule_llama3 }, { "qwen2", &rule_qwen2 },      { "deepseek-r1-qwen", &rule_qwen2 },
};

int pretoken_rule_find(const char *name, const struct pretoken_rule **out, struct claas_error *err)
{
    for (size_t i = 0; i < sizeof pretoken_names / sizeof *pretoken_names; i++) {
        if (strcmp(name, pretoken_names[i].name) == 0) {
            *out = pretoken_names[i].rule;
            return 0;
        }
    }
    return err_set(
        err, CLAAS_ERR_UNSUPPORTED, "pre",
        "cannot tokenise for pre-tokenizer '%.60s': known are smollm, gpt-2, llama-bpe and qwen2",
        name);
}

const char *pretoken_name_of_regex(const char *regex)
{
    if (strcmp(regex, CONTRACTIONS_ANY_CASE "{1,3}" AFTER_NUMBERS) == 0) {
        return "llama-bpe";
    }
    return strcmp(regex, CONTRACTIONS_ANY_CASE AFTER_NUMBERS) == 0 ? "qwen2" : NULL;
}

/* The text being cut, and one character of it. */
struct scan {
    const char *s;
    size_t n;
};
struct scan_char {
    uint32_t c;
    size_t len; /* 0 at the end of the stretch */
    enum unicode_class class;
};

static struct scan_char scan_at(const struct scan *t, size_t at)
{
    struct scan_char ch = { 0, 0, UNICODE_OTHER };
    ch.len = utf8_decode(t->s + at, t->n - at, &ch.c);
    if (ch.len > 0) {
        ch.class = unicode_class_of(ch.c);
    }
    return ch;
}

/* End of the run of characters of this class that starts at `at`. */
static size_t scan_run(const struct scan *t, size_t at, enum unicode_class class)
{
    for (;;) {
        struct scan_char ch = scan_at(t, at);
        if (ch.len == 0 || ch.class != class) {
            return at;
        }
        at += ch.len;
    }
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

/* Length of 's 't 're 've 'm 'll 'd at the start, or 0. */
static size_t scan_contraction(const struct scan *t, int any_case)
{
    if (t->n < 2 || t->s[0] != '\'') {
        return 0;
    }
    char a = any_case ? lower(t->s[1]) : t->s[1];
    if (a == 's' || a == 't' || a == 'm' || a == 'd') {
        return 2;
    }
    if (t->n < 3) {
        return 0;
    }
    if (any_case && memcmp(t->s + 1, "\xC5\xBF", 2) == 0) {
        return 3; /* U+017F, which folds to s */
    }
    char b = any_case ? lower(t->s[2]) : t->s[2];
    return (b == 'e' && (a == 'r' || a == 'v')) || (a == 'l' && b == 'l') ? 3 : 0;
}

/* White space from 0 to e: all of it at the end of the stretch, else all but its last character,
 * but at least one. */
static size_t scan_blanks(const struct scan *t, size_t e)
{
    if (e == t->n) {
        return e;
    }
    size_t last = e;
    do {
        last--;
    } while (((unsigned char)t->s[last] & 0xC0) == 0x80);
    return last > 0 ? last : e;
}

static size_t scan_gpt2(const struct scan *t)
{
    size_t n = scan_contraction(t, 0);
    if (n > 0) {
        return n;
    }
    size_t start = t->s[0] == ' ' ? 1 : 0;
    struct scan_char ch = scan_at(t, start);
    if (ch.len == 0 || ch.class == UNICODE_SPACE) {
        return scan_blanks(t, scan_run(t, 0, UNICODE_SPACE));
    }
    return scan_run(t, start, ch.class);
}

/* White space that may hold line ends: through the last of them, else as everywhere. */
static size_t scan_lines(const struct scan *t, size_t e)
{
    for (size_t i = e; i > 0; i--) {
        if (t->s[i - 1] == '\n' || t->s[i - 1] == '\r') {
            return i;
        }
    }
    return scan_blanks(t, e);
}

static size_t scan_llama3(const struct scan *t, int digits)
{
    size_t n = scan_contraction(t, 1);
    if (n > 0) {
        return n;
    }
    struct scan_char first = scan_at(t, 0);
    if (first.class == UNICODE_LETTER) {
        return scan_run(t, 0, UNICODE_LETTER);
    }
    if (first.class == UNICODE_NUMBER) {
        size_t end = first.len;
        for (struct scan_char ch; --digits > 0 && (ch = scan_at(t, end)).class == UNICODE_NUMBER;) {
            end += ch.len;
        }
        return end;
    }
    struct scan_char second = scan_at(t, first.len);
    if (first.c != '\r' && first.c != '\n' && second.class == UNICODE_LETTER) {
        return scan_run(t, first.len, UNICODE_LETTER);
    }
    size_t start = first.c == ' ' && second.len > 0 && second.class == UNICODE_OTHER ? first.len
                                                                                     : 0;
    size_t end = scan_run(t, start, UNICODE_OTHER);
    if (end == start) {
        return scan_lines(t, scan_run(t, 0, UNICODE_SPACE));
    }
    while (end < t->n && (t->s[end] == '\r' || t->s[end] == '\n')) {
        end++;
    }
    return end;
}

/* What the first stage of SmolLM2 cuts out. Its tables are newer than the others': two ranges of
 * Unicode 17. */
static int scan_is_digit(const struct scan_char *ch)
{
    return ch->class == UNICODE_NUMBER || (ch->c >= 0x11DE0 && ch->c <= 0x11DE9) ||
           (ch->c >= 0x16FF4 && ch->c <= 0x16FF6);
}

static size_t scan_smollm(const struct scan *t)
{
    struct scan_char ch = scan_at(t, 0);
    if (scan_is_digit(&ch)) {
        return ch.len;
    }
    /* A digit ends the stretch that the second stage sees. Every rule of it but the contractions
     * stops at a digit by itself; white space cares which kind of end it meets, so the stretch is
     * cut when the first piece reaches one. */
    struct scan stretch = *t;
    size_t n = scan_gpt2(&stretch);
    size_t spaces = ch.class == UNICODE_SPACE ? scan_run(t, 0, UNICODE_SPACE) : 0;
    struct scan_char next = scan_at(t, spaces);
    if (spaces > 0 && next.len > 0 && scan_is_digit(&next)) {
        return spaces;
    }
    for (size_t at = ch.len; at < n;) {
        next = scan_at(t, at);
        if (scan_is_digit(&next)) {
            return at;
        }
        at += next.len;
    }
    return n;
}

size_t pretoken_next(enum pretoken_kind kind, const char *s, size_t n)
{
    struct scan t = { s, n };
    switch (kind) {
    case PRETOKEN_SMOLLM:
        return scan_smollm(&t);
    case PRETOKEN_LLAMA3:
        return scan_llama3(&t, 3);
    case PRETOKEN_QWEN2:
        return scan_llama3(&t, 1);
    case PRETOKEN_GPT2:
        break;
    }
    return scan_gpt2(&t);
}
