/* SPDX-License-Identifier: MIT */
/* Scratch planned from shapes: names are given sizes first, one block of device memory is taken, and each gets its
 * place in it. Nothing is allocated while the work runs. */
#ifndef LOCAL_ARENA_H
#define LOCAL_ARENA_H

#include "kernels/kernels.h"

enum { ARENA_ALIGN = 16 }; /* floats: 64 bytes */

struct arena {
    struct kernels *kernels;
    float *block; /* null while planning: then arena_take only counts */
    size_t used;  /* floats */
    size_t cap;
};

/* n floats (device); while planning null. The caller runs the same takes twice: plan, arena_alloc, take. */
float *arena_take(struct arena *a, size_t n);
/* Ends the planning: allocates what was counted. */
int arena_alloc(struct arena *a, struct claas_error *err);
void arena_free(struct arena *a);

#endif
