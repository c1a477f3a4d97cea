/* SPDX-License-Identifier: MIT */
/* Texts of any bytes: UTF-8, what is visible of an answer, its normal form. */
#include "config.h"

#include "fuzz.h"

#include "base/buf.h"
#include "base/utf8.h"
#include "text/visible.h"

#include <string.h>

/* One character at a time says the same as the whole. */
static int is_valid_by_characters(const char *s, size_t n)
{
    for (size_t at = 0, m; at < n; at += m) {
        uint32_t c = 0;
        char again[4];
        m = utf8_decode(s + at, n - at, &c);
        if (m == 0) {
            return 0;
        }
        FUZZ_TRUE(m <= 4 && utf8_encode(c, again) == m && memcmp(again, s + at, m) == 0);
    }
    return 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const char *s = (const char *)data;
    struct claas_error err = ERR_INIT;
    struct buf once = BUF_INIT;
    struct buf twice = BUF_INIT;
    struct buf other = BUF_INIT;
    const char *inner;
    size_t m;
    int valid = utf8_valid(s, n);
    FUZZ_TRUE(valid == is_valid_by_characters(s, n));
    size_t cut = utf8_incomplete(s, n);
    FUZZ_TRUE(cut <= 3 && cut <= n && (!valid || cut == 0));
    text_strip(s, n, &inner, &m);
    FUZZ_TRUE(m <= n && (m == 0 || (inner >= s && inner + m <= s + n)));
    int rc = visible_normalise(s, n, &once, &err);
    FUZZ_ERROR(rc, err);
    if (rc == 0) {
        FUZZ_TRUE(once.len <= n && (!valid || utf8_valid(buf_str(&once), once.len)));
    }
    FUZZ_ERROR(visible_strip_thinking(s, n, &twice, &err), err);
    FUZZ_ERROR(visible_final_channel(s, n, &other, &err), err);
    FUZZ_TRUE(twice.len <= n && other.len <= n);
    buf_clear(&once);
    buf_clear(&twice);
    buf_clear(&other);
    return 0;
}
