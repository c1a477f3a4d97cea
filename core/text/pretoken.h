/* SPDX-License-Identifier: MIT */
/* Cutting text into the pieces that are merged on their own: the regular expressions of known
 * models, as scanners. */
#ifndef TEXT_PRETOKEN_H
#define TEXT_PRETOKEN_H

#include <claas/error.h>

#include <stddef.h>

/* The ways of cutting. The numbers are part of a tokenizer's identity. */
enum pretoken_kind {
    PRETOKEN_GPT2 = 1,
    PRETOKEN_SMOLLM = 2,
    PRETOKEN_LLAMA3 = 3,
    PRETOKEN_QWEN2 = 4
};

/* A way of cutting and what usually goes with it. */
struct pretoken_rule {
    enum pretoken_kind kind;
    int ignore_merges;
    int add_bos;
    int nfc;
};

/* Looks a name up ("smollm", "gpt-2", "llama-bpe", "qwen2" and their other names); UNSUPPORTED when
 * it is none. */
int pretoken_rule_find(const char *name, const struct pretoken_rule **out, struct claas_error *err);

/* Looks up the regular expression of a tokenizer.json's Split; null when it is none of those known.
 */
const char *pretoken_name_of_regex(const char *regex);

/* Length of the first piece of s, which is valid UTF-8 of n > 0 bytes ending where the stretch
 * ends. */
size_t pretoken_next(enum pretoken_kind kind, const char *s, size_t n);

#endif
