/* SPDX-License-Identifier: MIT */
/* Lanes: bounded queues with their own bounded sets of threads, so that a full lane of slow work (training) does not
 * keep quick work waiting. Threads are made when first needed. */
#ifndef SERVER_POOL_H
#define SERVER_POOL_H

#include <claas/error.h>

#include <stddef.h>
#include <stdint.h>

struct pool;
typedef void (*pool_work)(void *item);

struct pool_lane {
    const char *name;      /* of its threads, at most 15 bytes */
    uint32_t threads;      /* at most; 0: nothing may be added */
    uint32_t waiting;      /* at most so many in the queue */
};

int pool_new(const struct pool_lane *lanes, size_t n, pool_work run, struct pool **out, struct claas_error *err);
/* 0, or EXHAUSTED (the queue is full) or UNAVAILABLE (stopped). */
int pool_add(struct pool *p, size_t lane, void *item, struct claas_error *err);
void pool_load(struct pool *p, uint32_t *out_running, uint32_t *out_waiting);
/* No more work is taken; what waits goes to `drop`, one by one. */
void pool_stop(struct pool *p, pool_work drop);
/* 1: all work had ended within so many milliseconds. */
int pool_wait(struct pool *p, uint32_t ms);
/* Joins the threads; nothing may be running. Null is fine. */
void pool_free(struct pool *p);

#endif
