/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "base/rng.h"

#include <stdio.h>
#include <sys/random.h>

/* Finaliser of splitmix64: a bijection with good avalanche. */
static uint64_t rng_mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xBF58476D1CE4E5B9u;
    x ^= x >> 27;
    x *= 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

uint64_t rng_bits(uint64_t seed, uint64_t stream, uint64_t counter)
{
    uint64_t key = rng_mix(seed + 0x9E3779B97F4A7C15u) ^ rng_mix(stream * 0xD1B54A32D192ED03u + 1);
    return rng_mix(rng_mix(key + counter * 0x9E3779B97F4A7C15u) + key);
}

double rng_uniform(uint64_t seed, uint64_t stream, uint64_t counter)
{
    return (double)(rng_bits(seed, stream, counter) >> 11) * 0x1p-53;
}

int rng_secret(void *out, size_t n)
{
    char *at = out;
    while (n > 0) {
        ssize_t got = getrandom(at, n < 256 ? n : 256, 0);
        if (got < 0) {
            return -1;
        }
        at += got;
        n -= (size_t)got;
    }
    return 0;
}

int rng_hex(char *out, size_t digits)
{
    static const char hex[] = "0123456789abcdef";
    unsigned char raw[32];
    if (digits / 2 > sizeof raw || rng_secret(raw, digits / 2)) {
        return -1;
    }
    for (size_t i = 0; i < digits / 2; i++) {
        out[2 * i] = hex[raw[i] >> 4];
        out[2 * i + 1] = hex[raw[i] & 15];
    }
    out[digits / 2 * 2] = '\0';
    return 0;
}
