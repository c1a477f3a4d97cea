/* SPDX-License-Identifier: MIT */
/* UTF-8: strict validation, decoding one character, incomplete ends. No surrogates, no overlong forms. */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Length (1 to 4) of the character at s, its code point in *out; 0 when the bytes are not valid UTF-8 (or n is 0). */
size_t utf8_decode(const char *s, size_t n, uint32_t *out);

/* Writes code point c (must be a scalar value) to out[4]; returns its length. */
size_t utf8_encode(uint32_t c, char *out);

/* 1 if all n bytes are valid. */
int utf8_valid(const char *s, size_t n);

/* How many last bytes of s are the beginning of a character that is not complete yet (0 to 3). */
size_t utf8_incomplete(const char *s, size_t n);

#endif
