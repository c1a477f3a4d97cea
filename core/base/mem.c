/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "base/mem.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void *mem_array(size_t n, size_t size)
{
    return calloc(n ? n : 1, size ? size : 1);
}

int mem_grow(void **array, size_t *cap, size_t need, size_t size)
{
    if (need <= *cap) {
        return 0;
    }
    size_t want = *cap < 8 ? 8 : *cap;
    while (want < need) {
        if (want > SIZE_MAX / 2) {
            return -1;
        }
        want *= 2;
    }
    if (want > SIZE_MAX / size) {
        return -1;
    }
    void *grown = realloc(*array, want * size);
    if (!grown) {
        return -1;
    }
    *array = grown;
    *cap = want;
    return 0;
}

char *mem_dup(const void *data, size_t n)
{
    if (n == SIZE_MAX) {
        return NULL;
    }
    char *copy = malloc(n + 1);
    if (copy) {
        if (n > 0) {
            memcpy(copy, data, n);
        }
        copy[n] = '\0';
    }
    return copy;
}

void *mem_aligned(size_t bytes)
{
    if (bytes > SIZE_MAX - 63) {
        return NULL;
    }
    size_t rounded = (bytes + 63) / 64 * 64;
    void *block = aligned_alloc(64, rounded ? rounded : 64);
    if (block) {
        memset(block, 0, rounded);
    }
    return block;
}
