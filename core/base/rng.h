/* SPDX-License-Identifier: MIT */
/* Random numbers by counter: the same (seed, stream, counter) gives the same number on every machine and in any
 * order, so that results do not depend on batching or threads. Not for secrets: rng_secret is. */
#ifndef BASE_RNG_H
#define BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

/* 64 well-mixed bits. */
uint64_t rng_bits(uint64_t seed, uint64_t stream, uint64_t counter);
/* Uniform in [0, 1), 53 bits. */
double rng_uniform(uint64_t seed, uint64_t stream, uint64_t counter);

/* n bytes from the system's generator; 0, or -1. */
int rng_secret(void *out, size_t n);
/* Fresh identifier of `digits` random lower-case hexadecimal digits (even), with a zero behind; 0, or -1. */
int rng_hex(char *out, size_t digits);

#endif
