/* SPDX-License-Identifier: MIT */
/* The one set of threads that computes. Jobs are lists of independent tasks; whoever is free takes the next one, so
 * results cannot depend on who that was. The caller of pool_run works too. One job at a time: turns see to that. */
#ifndef KERNELS_CPU_POOL_H
#define KERNELS_CPU_POOL_H

#include <claas/error.h>

#include <stddef.h>

struct pool;

/* thread: 0 (the caller) to threads - 1, for scratch memory. */
typedef void pool_task_fn(void *context, size_t thread, size_t task);

int pool_create(size_t threads, struct pool **out, struct claas_error *err);
void pool_free(struct pool *pool); /* null is fine */
/* Runs fn for the tasks 0 .. tasks-1 and returns when all are done. */
void pool_run(struct pool *pool, size_t tasks, pool_task_fn *fn, void *context);

#endif
