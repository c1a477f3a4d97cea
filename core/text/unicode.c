/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "text/unicode.h"

#include <utf8proc.h>

struct unicode_range {
    uint32_t first;
    uint32_t last;
};

/* utf8proc 2.8 knows Unicode 15.0; what 15.1 and 16.0 added stands here, as tokenizers already see
 * it so. */
static const struct unicode_range new_letters[] = {
    { 0x1C89, 0x1C8A },   { 0xA7CB, 0xA7CD },   { 0xA7DA, 0xA7DC },   { 0x105C0, 0x105C9 },
    { 0x105CA, 0x105F3 }, { 0x10D4A, 0x10D65 }, { 0x10D6F, 0x10D85 }, { 0x10EC2, 0x10EC4 },
    { 0x11380, 0x11389 }, { 0x1138B, 0x1138B }, { 0x1138E, 0x1138E }, { 0x11390, 0x113B5 },
    { 0x113B7, 0x113B7 }, { 0x113D1, 0x113D1 }, { 0x113D3, 0x113D3 }, { 0x11BC0, 0x11BE0 },
    { 0x13460, 0x143FA }, { 0x16100, 0x1611D }, { 0x16D40, 0x16D6C }, { 0x18CFF, 0x18CFF },
    { 0x1E5D0, 0x1E5ED }, { 0x1E5F0, 0x1E5F0 }, { 0x2EBF0, 0x2EE5D },
};
static const struct unicode_range new_numbers[] = {
    { 0x10D40, 0x10D49 }, { 0x116D0, 0x116E3 }, { 0x11BF0, 0x11BF9 }, { 0x16130, 0x16139 },
    { 0x16D70, 0x16D79 }, { 0x1CCF0, 0x1CCF9 }, { 0x1E5F1, 0x1E5FA },
};

static int unicode_in(uint32_t c, const struct unicode_range *ranges, size_t n)
{
    for (size_t i = 0; i < n && c >= ranges[i].first; i++) {
        if (c <= ranges[i].last) {
            return 1;
        }
    }
    return 0;
}

static int unicode_is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

static enum unicode_class unicode_class_ascii(uint32_t c)
{
    if ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') {
        return UNICODE_LETTER;
    }
    if (c >= '0' && c <= '9') {
        return UNICODE_NUMBER;
    }
    return unicode_is_space(c) ? UNICODE_SPACE : UNICODE_OTHER;
}

enum unicode_class unicode_class_of(uint32_t c)
{
    if (c < 0x80) {
        return unicode_class_ascii(c);
    }
    if (unicode_is_space(c)) {
        return UNICODE_SPACE;
    }
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    if (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) {
        return UNICODE_LETTER;
    }
    if (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO) {
        return UNICODE_NUMBER;
    }
    if (k != UTF8PROC_CATEGORY_CN) {
        return UNICODE_OTHER;
    }
    if (unicode_in(c, new_letters, sizeof new_letters / sizeof *new_letters)) {
        return UNICODE_LETTER;
    }
    return unicode_in(c, new_numbers, sizeof new_numbers / sizeof *new_numbers) ? UNICODE_NUMBER
                                                                                : UNICODE_OTHER;
}

int unicode_is_word(uint32_t c)
{
    /* Symbols that count as alphabetic, and the joiners. */
    static const struct unicode_range more[] = {
        { 0x200C, 0x200D },   { 0x24B6, 0x24E9 },   { 0x1F130, 0x1F149 },
        { 0x1F150, 0x1F169 }, { 0x1F170, 0x1F189 },
    };
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return unicode_class_of(c) == UNICODE_LETTER || k == UTF8PROC_CATEGORY_MN ||
           k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_ME || k == UTF8PROC_CATEGORY_ND ||
           k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_PC ||
           unicode_in(c, more, sizeof more / sizeof *more);
}

int unicode_is_blank(uint32_t c)
{
    return unicode_is_space(c) || (c >= 0x1C && c <= 0x1F);
}
