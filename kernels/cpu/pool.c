/* SPDX-License-Identifier: MIT */
/* Threads that wait for work by spinning briefly, since the next operation of a layer comes within microseconds,
 * then sleep. A job is published through one 64-bit ticket, (generation << 32 | next task): a thread that comes late
 * holds an old generation, its compare-and-swap fails, and it can never run a task of one job with another's data. */
#include "config.h"

#include "kernels/cpu/pool.h"

#include "base/err.h"
#include "base/mem.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#define SPINS 2000 /* with a pause of 40 ns each: 80 microseconds */
#define CLOSED UINT32_MAX

struct worker {
    struct pool *pool;
    size_t index;
    pthread_t thread;
};

struct pool {
    size_t threads;
    struct worker *workers; /* threads - 1 */
    size_t started;
    _Atomic uint64_t ticket;
    _Atomic(pool_task_fn *) fn;
    _Atomic(void *) context;
    _Atomic uint32_t tasks;
    _Atomic uint32_t done;
    _Atomic uint32_t sleepers;
    _Atomic int stop;
    pthread_mutex_t lock; /* guards only the sleeping */
    pthread_cond_t wake;
};

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* Takes tasks of the open job until there are none. Returns the generation it saw last. */
static uint32_t work(struct pool *pool, size_t thread)
{
    uint64_t ticket = atomic_load(&pool->ticket);
    for (;;) {
        uint32_t next = (uint32_t)ticket;
        pool_task_fn *fn = atomic_load(&pool->fn);
        void *context = atomic_load(&pool->context);
        uint32_t tasks = atomic_load(&pool->tasks);
        if (next == CLOSED || next >= tasks) {
            return (uint32_t)(ticket >> 32);
        }
        if (atomic_compare_exchange_strong(&pool->ticket, &ticket, ticket + 1)) {
            fn(context, thread, next);
            (void)atomic_fetch_add(&pool->done, 1);
            ticket = atomic_load(&pool->ticket);
        }
    }
}

static int changed(struct pool *pool, uint32_t generation)
{
    return (uint32_t)(atomic_load(&pool->ticket) >> 32) != generation || atomic_load(&pool->stop);
}

static void *worker_main(void *context)
{
    struct worker *self = context;
    struct pool *pool = self->pool;
    while (!atomic_load(&pool->stop)) {
        uint32_t generation = work(pool, self->index);
        int spins = 0;
        while (spins < SPINS && !changed(pool, generation)) {
            relax();
            spins++;
        }
        if (changed(pool, generation)) {
            continue;
        }
        (void)pthread_mutex_lock(&pool->lock);
        (void)atomic_fetch_add(&pool->sleepers, 1);
        while (!changed(pool, generation)) {
            (void)pthread_cond_wait(&pool->wake, &pool->lock);
        }
        (void)atomic_fetch_sub(&pool->sleepers, 1);
        (void)pthread_mutex_unlock(&pool->lock);
    }
    return NULL;
}

static void wake_all(struct pool *pool)
{
    (void)pthread_mutex_lock(&pool->lock);
    (void)pthread_cond_broadcast(&pool->wake);
    (void)pthread_mutex_unlock(&pool->lock);
}

int pool_create(size_t threads, struct pool **out, struct claas_error *err)
{
    struct pool *pool = calloc(1, sizeof *pool);
    if (!pool) {
        return err_oom(err, "computing threads");
    }
    pool->threads = threads;
    pool->ticket = CLOSED;
    (void)pthread_mutex_init(&pool->lock, NULL);
    (void)pthread_cond_init(&pool->wake, NULL);
    pool->workers = mem_array(threads, sizeof *pool->workers);
    if (!pool->workers) {
        pool_free(pool);
        return err_oom(err, "computing threads");
    }
    for (size_t i = 0; i + 1 < threads; i++) {
        struct worker *w = &pool->workers[i];
        w->pool = pool;
        w->index = i + 1;
        int rc = pthread_create(&w->thread, NULL, worker_main, w);
        if (rc != 0) {
            pool_free(pool);
            return err_errno(err, rc, "threads", "cannot start computing thread %zu", i + 1);
        }
        pool->started++;
    }
    *out = pool;
    return 0;
}

void pool_free(struct pool *pool)
{
    if (!pool) {
        return;
    }
    atomic_store(&pool->stop, 1);
    wake_all(pool);
    for (size_t i = 0; i < pool->started; i++) {
        (void)pthread_join(pool->workers[i].thread, NULL);
    }
    (void)pthread_cond_destroy(&pool->wake);
    (void)pthread_mutex_destroy(&pool->lock);
    free(pool->workers);
    free(pool);
}

void pool_run(struct pool *pool, size_t tasks, pool_task_fn *fn, void *context)
{
    if (tasks <= 1 || pool->threads == 1) {
        for (size_t i = 0; i < tasks; i++) {
            fn(context, 0, i);
        }
        return;
    }
    /* Closed before the fields change, open after: see the top of the file. */
    uint64_t generation = (atomic_load(&pool->ticket) >> 32) + 1;
    atomic_store(&pool->ticket, generation << 32 | CLOSED);
    atomic_store(&pool->fn, fn);
    atomic_store(&pool->context, context);
    atomic_store(&pool->tasks, (uint32_t)tasks);
    atomic_store(&pool->done, 0);
    generation++;
    atomic_store(&pool->ticket, (generation & UINT32_MAX) << 32);
    if (atomic_load(&pool->sleepers) > 0) {
        wake_all(pool);
    }
    (void)work(pool, 0);
    int spins = 0;
    while (atomic_load(&pool->done) != tasks) {
        if (spins < SPINS) {
            relax();
            spins++;
        } else {
            (void)sched_yield(); /* a task's thread was pushed aside by another program */
        }
    }
}
