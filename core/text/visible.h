/* SPDX-License-Identifier: MIT */
/* What a user saw of an answer: thinking and channels removed; and the hash by which a front end
 * that changes white space still finds the answer it means. */
#ifndef TEXT_VISIBLE_H
#define TEXT_VISIBLE_H

#include "base/buf.h"
#include "base/sha256.h"

#include <claas/error.h>

#include <stddef.h>

/* The bytes of s without white space (Unicode, as Python's str.strip) at both ends, inside s. */
void text_strip(const char *s, size_t n, const char **out, size_t *out_n);

/* Appends the text without its thinking: every <think>…</think> goes; if a </think> is left, so
 * does everything up to and including the first one; then strip. A <think> that is never closed
 * stays. */
int visible_strip_thinking(const char *text, size_t n, struct buf *out, struct claas_error *err);

/* Appends the text of gpt-oss's final channel, stripped; nothing when there is only analysis; else
 * the text as it is. */
int visible_final_channel(const char *text, size_t n, struct buf *out, struct claas_error *err);

/* Appends the visible text in normal form: thinking removed, every run of white space one space, no
 * ends. */
int visible_normalise(const char *text, size_t n, struct buf *out, struct claas_error *err);

/* SHA-256 of the normal form. */
int visible_hash(const char *text, size_t n, struct claas_digest *out, struct claas_error *err);

#endif
