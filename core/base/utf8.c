/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "base/utf8.h"

/* Length that the first byte announces; 0 for a byte that cannot stand first. */
static size_t utf8_announced(unsigned char c)
{
    if (c < 0x80) {
        return 1;
    }
    if (c < 0xC2 || c > 0xF4) {
        return 0;
    }
    return c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

size_t utf8_decode(const char *s, size_t n, uint32_t *out)
{
    static const uint32_t least[5] = { 0, 0, 0x80, 0x800, 0x10000 };
    if (n == 0) {
        return 0;
    }
    const unsigned char *u = (const unsigned char *)s;
    size_t len = utf8_announced(u[0]);
    if (len == 0 || len > n) {
        return 0;
    }
    uint32_t c = len == 1 ? u[0] : u[0] & (0x7Fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((u[i] & 0xC0) != 0x80) {
            return 0;
        }
        c = c << 6 | (u[i] & 0x3Fu);
    }
    if (c < least[len] || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) {
        return 0;
    }
    *out = c;
    return len;
}

size_t utf8_encode(uint32_t c, char *out)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t len = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = len; i-- > 1; c >>= 6) {
        out[i] = (char)(0x80 | (c & 0x3F));
    }
    out[0] = (char)((0xF00u >> len & 0xFF) | c);
    return len;
}

int utf8_valid(const char *s, size_t n)
{
    uint32_t c;
    for (size_t i = 0; i < n;) {
        size_t len = utf8_decode(s + i, n - i, &c);
        if (len == 0) {
            return 0;
        }
        i += len;
    }
    return 1;
}

size_t utf8_incomplete(const char *s, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = (unsigned char)s[n - back];
        if ((c & 0xC0) == 0x80) {
            continue;
        }
        return utf8_announced(c) > back ? back : 0;
    }
    return 0;
}
