/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "base/sha256.h"

#include "base/err.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct sha256 {
    EVP_MD_CTX *ctx;
    int failed;
};

static EVP_MD *algorithm;

/* Before main, and before a plugin's first call: OpenSSL makes itself ready at its first use, and where memory runs out
 * in the midst of that it stays broken or crashes. It is held until the process ends, as OpenSSL itself is. */
__attribute__((constructor)) static void sha256_start(void)
{
    algorithm = EVP_MD_fetch(NULL, "SHA256", NULL);
}

static int digest_failed(struct claas_error *err)
{
    return algorithm ? err_oom(err, "making a digest")
                     : err_set(err, CLAAS_ERR_INTERNAL, "openssl", "cannot make a digest: OpenSSL offers no SHA-256");
}

struct sha256 *sha256_new(void)
{
    struct sha256 *s = calloc(1, sizeof *s);
    if (!s) {
        return NULL;
    }
    s->ctx = EVP_MD_CTX_new();
    if (!s->ctx || !algorithm || EVP_DigestInit_ex(s->ctx, algorithm, NULL) != 1) {
        sha256_free(s);
        return NULL;
    }
    return s;
}

void sha256_add(struct sha256 *s, const void *data, size_t n)
{
    s->failed |= EVP_DigestUpdate(s->ctx, data, n) != 1;
}

int sha256_end(struct sha256 *s, struct claas_digest *out, struct claas_error *err)
{
    struct claas_digest d;
    int failed = s->failed || EVP_DigestFinal_ex(s->ctx, d.b, NULL) != 1;
    sha256_free(s);
    if (failed) {
        return digest_failed(err);
    }
    *out = d;
    return 0;
}

void sha256_free(struct sha256 *s)
{
    if (s) {
        EVP_MD_CTX_free(s->ctx);
        free(s);
    }
}

int sha256_of(const void *data, size_t n, struct claas_digest *out, struct claas_error *err)
{
    struct sha256 *s = sha256_new();
    if (!s) {
        return digest_failed(err);
    }
    sha256_add(s, data, n);
    return sha256_end(s, out, err);
}

int sha256_of_fd(int fd, uint64_t bytes, struct claas_digest *out, struct claas_error *err)
{
    enum { CHUNK = 1 << 18 };
    struct sha256 *s = sha256_new();
    char *chunk = malloc(CHUNK);
    int rc = s && chunk ? 0 : !s ? digest_failed(err) : err_oom(err, "hashing a file");
    for (uint64_t at = 0; rc == 0 && at < bytes;) {
        size_t want = bytes - at < CHUNK ? (size_t)(bytes - at) : CHUNK;
        ssize_t got = pread(fd, chunk, want, (off_t)at);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            rc = got < 0 ? err_errno(err, errno, "", "cannot read a file to hash it")
                         : err_set(err, CLAAS_ERR_CORRUPT, "", "a file ended while it was hashed");
            break;
        }
        sha256_add(s, chunk, (size_t)got);
        at += (uint64_t)got;
    }
    free(chunk);
    if (rc) {
        sha256_free(s);
        return rc;
    }
    return sha256_end(s, out, err);
}

void sha256_hex(const struct claas_digest *d, char out[SHA256_HEX])
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < sizeof d->b; i++) {
        out[2 * i] = digits[d->b[i] >> 4];
        out[2 * i + 1] = digits[d->b[i] & 15];
    }
    out[2 * sizeof d->b] = '\0';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int sha256_parse(const char *s, struct claas_digest *out)
{
    struct claas_digest d;
    if (strnlen(s, SHA256_HEX) != SHA256_HEX - 1) {
        return 0;
    }
    for (size_t i = 0; i < sizeof d.b; i++) {
        int hi = hex_value(s[2 * i]);
        int lo = hex_value(s[2 * i + 1]);
        if (hi < 0 || lo < 0) {
            return 0;
        }
        d.b[i] = (uint8_t)(hi << 4 | lo);
    }
    *out = d;
    return 1;
}

int sha256_equal(const struct claas_digest *a, const struct claas_digest *b)
{
    return memcmp(a->b, b->b, sizeof a->b) == 0;
}
