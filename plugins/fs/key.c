/* SPDX-License-Identifier: MIT */
/* Keys: what may be one, and their parts. Nothing else reaches the file system as a name. */
#include "config.h"

#include "fs.h"

#include "base/err.h"

#include <string.h>

static int key_char_ok(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '~' || c == '-';
}

int fs_segment_ok(const char *s, size_t n)
{
    if (n == 0 || n > FS_SEGMENT_MAX || (n == 1 && s[0] == '.') ||
        (n == 2 && s[0] == '.' && s[1] == '.')) {
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        if (!key_char_ok(s[i])) {
            return 0;
        }
    }
    return 1;
}

/* The offset of the first segment that is none, or -1. The last one may be empty or unfinished in a
 * prefix. */
static long key_fault(const char *key, int prefix)
{
    const char *at = key;
    for (;;) {
        size_t n = strcspn(at, "/");
        int last = at[n] == '\0';
        if (!fs_segment_ok(at, n) && !(prefix && last && n <= 2 && strspn(at, ".") == n)) {
            return at - key;
        }
        if (last) {
            return -1;
        }
        at += n + 1;
    }
}

static int key_check(const char *key, int prefix, struct claas_error *err)
{
    if (!key) {
        return err_set(err, CLAAS_ERR_INVALID, "key", "no key given");
    }
    size_t n = strnlen(key, FS_KEY_MAX + 1);
    if (n > FS_KEY_MAX) {
        return err_set(err, CLAAS_ERR_INVALID, "key", "the key '%.60s…' is longer than %d bytes",
                       key, FS_KEY_MAX);
    }
    long fault = key_fault(key, prefix);
    if (fault >= 0) {
        return err_set(err, CLAAS_ERR_INVALID, "key",
                       "'%s' is no key: the segment at byte %ld is empty, '.', '..', longer than "
                       "%d bytes or has other "
                       "characters than letters, digits and . _ ~ -",
                       key, fault, FS_SEGMENT_MAX);
    }
    return 0;
}

int fs_key_check(const char *key, struct claas_error *err)
{
    return key_check(key, 0, err);
}

int fs_prefix_check(const char *prefix, struct claas_error *err)
{
    return key_check(prefix, 1, err);
}

size_t fs_key_dir(const char *key)
{
    const char *slash = strrchr(key, '/');
    return slash ? (size_t)(slash - key) : 0;
}

const char *fs_key_leaf(const char *key)
{
    const char *slash = strrchr(key, '/');
    return slash ? slash + 1 : key;
}

int fs_stop(const struct claas_call *call, const char *key, struct claas_error *err)
{
    if (call && call->left_ms && call->left_ms(call) == 0) {
        return err_set(err, CLAAS_ERR_CANCELLED, NULL,
                       "gave up on '%s': the call was cancelled or its time is over", key);
    }
    return 0;
}
