/* SPDX-License-Identifier: MIT */
/* SHA-256 over OpenSSL: one-shot, incremental, of a file; hexadecimal spelling. */
#ifndef BASE_SHA256_H
#define BASE_SHA256_H

#include <claas/error.h>

#include <stddef.h>
#include <stdint.h>

#define SHA256_HEX 65 /* 64 digits and a zero */
#define SHA256_CHECKED __attribute__((warn_unused_result)) /* a digest that was not made must not be used */

struct sha256; /* a digest being made */

/* Null when out of memory. */
struct sha256 *sha256_new(void);
/* What fails here is told by sha256_end. */
void sha256_add(struct sha256 *s, const void *data, size_t n);
/* Finishes and frees s. */
SHA256_CHECKED int sha256_end(struct sha256 *s, struct claas_digest *out, struct claas_error *err);
/* Gives up; null is fine. */
void sha256_free(struct sha256 *s);

/* Of n bytes. */
SHA256_CHECKED int sha256_of(const void *data, size_t n, struct claas_digest *out, struct claas_error *err);
/* Of `bytes` bytes of an open file from its start, by pread; the file's offset stays. */
SHA256_CHECKED int sha256_of_fd(int fd, uint64_t bytes, struct claas_digest *out, struct claas_error *err);

void sha256_hex(const struct claas_digest *d, char out[SHA256_HEX]);
/* 1 if s is exactly 64 lower-case hexadecimal digits, with the digest in *out. */
int sha256_parse(const char *s, struct claas_digest *out);
int sha256_equal(const struct claas_digest *a, const struct claas_digest *b);

#endif
