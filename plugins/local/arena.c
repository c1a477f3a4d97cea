/* SPDX-License-Identifier: MIT */
/* A bump allocator that first counts and then hands out. */
#include "config.h"

#include "plugins/local/arena.h"

float *arena_take(struct arena *a, size_t n)
{
    float *p = a->block ? a->block + a->used : NULL;
    a->used += (n + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    return p;
}

int arena_alloc(struct arena *a, struct claas_error *err)
{
    void *block = NULL;
    int rc = kernels_alloc_raw(a->kernels, a->used * sizeof *a->block, &block, err);
    if (rc != 0) {
        return rc;
    }
    a->block = block;
    a->cap = a->used;
    a->used = 0;
    return 0;
}

void arena_free(struct arena *a)
{
    kernels_free(a->kernels, a->block);
    *a = (struct arena){ .kernels = a->kernels };
}
