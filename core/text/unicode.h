/* SPDX-License-Identifier: MIT */
/* The classes of characters that pre-tokenizers and white space rules ask for. */
#ifndef TEXT_UNICODE_H
#define TEXT_UNICODE_H

#include <stddef.h>
#include <stdint.h>

/* At most one of these for a character. */
enum unicode_class { UNICODE_OTHER, UNICODE_LETTER, UNICODE_NUMBER, UNICODE_SPACE };

/* Letter: general category L; number: N; space: the property White_Space. Unicode 16. */
enum unicode_class unicode_class_of(uint32_t c);

/* 1 for what regular expressions call \w: letters, marks, decimal digits, connectors and the like.
 */
int unicode_is_word(uint32_t c);

/* 1 for what Python's str.strip and str.split take for white space: White_Space and U+001C to
 * U+001F. */
int unicode_is_blank(uint32_t c);

#endif
