/* SPDX-License-Identifier: MIT */
/* Memory: overflow-checked arrays, aligned blocks, duplicates. Everything is freed with free(). */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stddef.h>

/* Zeroed array of n elements; null when out of memory or when n * size overflows. n = 0 gives a unique pointer. */
void *mem_array(size_t n, size_t size);

/* Grows *array (elements of `size` bytes, capacity *cap) so that it holds at least `need`; 0, or -1 with nothing changed. */
int mem_grow(void **array, size_t *cap, size_t need, size_t size);

/* Copy of n bytes with a zero behind them. */
char *mem_dup(const void *data, size_t n);

/* Zeroed block aligned to 64 bytes (one cache line, one AVX-512 register). */
void *mem_aligned(size_t bytes);

#endif
