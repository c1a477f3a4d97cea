/* SPDX-License-Identifier: MIT */
/* The inside of `struct kernels` on processors: threads, turns, scratch memory and the chosen instruction set.
 * Every operation is: begin (nest into, or take, a turn), reserve scratch, run tasks on the pool, end. */
#ifndef KERNELS_CPU_DEVICE_H
#define KERNELS_CPU_DEVICE_H

#include "kernels/cpu/pool.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/tiles.h"
#include "kernels/cpu/turn.h"
#include "kernels/kernels.h"

struct scratch {
    float *data;
    size_t bytes;
};

/* Large blocks that were freed and wait for the next allocation: giving them back to the system and touching new ones
 * costs more than the computing of a small model's step leaves room for. */
struct kept_block {
    void *map;
    size_t bytes;
};
struct keeper {
    pthread_mutex_t lock;
    struct kept_block blocks[16]; /* oldest first */
    size_t n;
    size_t bytes;
    size_t limit;
};

struct kernels {
    const struct simd *simd;
    const struct tiles *tiles; /* null: none */
    struct pool *pool;
    struct turns turns;
    size_t threads;
    struct keeper keeper;
    struct scratch shared; /* both: only under a turn */
    struct scratch *own;   /* one for each thread of the pool */
};

/* Makes shared scratch and each thread's own at least this large (floats); contents are not kept. */
int device_scratch(struct kernels *k, size_t shared_floats, size_t own_floats, struct claas_error *err);

/* Cuts `m` independent rows of about `cost` element operations each into tasks and runs them under a turn:
 * fn(context, thread, first, end). Little work stays on the calling thread. */
typedef void device_rows_fn(void *context, size_t thread, size_t first, size_t end);
void device_rows(struct kernels *k, size_t m, size_t cost, device_rows_fn *fn, void *context);

static inline size_t ceil_div(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

static inline size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

#endif
