/* SPDX-License-Identifier: MIT */
/* Lanes of worker threads. One lock for all: held for moments, and never while work runs. */
#include "config.h"

#include "server/pool.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct pool_item {
    struct pool_item *next;
    void *item;
};

struct lane {
    struct pool *pool;
    struct pool_lane is;
    pthread_cond_t more;            /* all below: under pool.lock */
    struct pool_item *first, **last;
    pthread_t *threads;
    uint32_t n_threads, n_idle, n_waiting;
};

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t ended;           /* signalled when n_running falls to 0 */
    pool_work run;
    size_t n;
    uint32_t n_running;             /* under lock */
    int stopped;                    /* under lock */
    struct lane lanes[];
};

static struct pool_item *lane_take(struct lane *l)
{
    struct pool_item *item = l->first;
    if (item) {
        l->first = item->next;
        if (!l->first) {
            l->last = &l->first;
        }
        l->n_waiting--;
    }
    return item;
}

static void *lane_main(void *ctx)
{
    struct lane *l = ctx;
    struct pool *p = l->pool;
    (void)pthread_setname_np(pthread_self(), l->is.name); /* only for those who look on */
    (void)pthread_mutex_lock(&p->lock);
    for (;;) {
        struct pool_item *item = lane_take(l);
        if (!item) {
            if (p->stopped) {
                break;
            }
            l->n_idle++;
            (void)pthread_cond_wait(&l->more, &p->lock);
            l->n_idle--;
            continue;
        }
        p->n_running++;
        (void)pthread_mutex_unlock(&p->lock);
        p->run(item->item);
        free(item);
        (void)pthread_mutex_lock(&p->lock);
        if (--p->n_running == 0) {
            (void)pthread_cond_broadcast(&p->ended);
        }
    }
    (void)pthread_mutex_unlock(&p->lock);
    return NULL;
}

int pool_new(const struct pool_lane *lanes, size_t n, pool_work run, struct pool **out, struct claas_error *err)
{
    struct pool *p = calloc(1, sizeof *p + n * sizeof *p->lanes);
    if (!p) {
        return err_oom(err, "the worker threads");
    }
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&p->lock, NULL);
    (void)pthread_cond_init(&p->ended, &attr);
    (void)pthread_condattr_destroy(&attr);
    p->run = run;
    p->n = n;
    int failed = 0;
    for (size_t i = 0; i < n; i++) {
        struct lane *l = &p->lanes[i];
        l->pool = p;
        l->is = lanes[i];
        l->last = &l->first;
        (void)pthread_cond_init(&l->more, NULL);
        l->threads = mem_array(l->is.threads, sizeof *l->threads);
        failed |= !l->threads;
    }
    if (failed) {
        pool_free(p);
        return err_oom(err, "the worker threads");
    }
    *out = p;
    return 0;
}

int pool_add(struct pool *p, size_t lane, void *what, struct claas_error *err)
{
    struct lane *l = &p->lanes[lane];
    struct pool_item *item = calloc(1, sizeof *item);
    if (!item) {
        return err_oom(err, "a request");
    }
    item->item = what;
    int rc = 0;
    (void)pthread_mutex_lock(&p->lock);
    if (p->stopped) {
        rc = err_set(err, CLAAS_ERR_UNAVAILABLE, "", "the daemon is stopping");
    } else if (l->n_waiting >= l->is.waiting) {
        rc = err_set(err, CLAAS_ERR_EXHAUSTED, "", "too many requests are waiting");
    } else if (l->n_idle <= l->n_waiting && l->n_threads < l->is.threads) {
        if (pthread_create(&l->threads[l->n_threads], NULL, lane_main, l) == 0) {
            l->n_threads++;
        } else if (l->n_threads == 0) {
            rc = err_set(err, CLAAS_ERR_EXHAUSTED, "", "cannot start a thread for the request");
        }
    }
    if (rc == 0) {
        *l->last = item;
        l->last = &item->next;
        l->n_waiting++;
        item = NULL;
        (void)pthread_cond_signal(&l->more);
    }
    (void)pthread_mutex_unlock(&p->lock);
    free(item);
    return rc;
}

void pool_load(struct pool *p, uint32_t *out_running, uint32_t *out_waiting)
{
    uint32_t waiting = 0;
    (void)pthread_mutex_lock(&p->lock);
    for (size_t i = 0; i < p->n; i++) {
        waiting += p->lanes[i].n_waiting;
    }
    *out_running = p->n_running;
    (void)pthread_mutex_unlock(&p->lock);
    *out_waiting = waiting;
}

void pool_stop(struct pool *p, pool_work drop)
{
    (void)pthread_mutex_lock(&p->lock);
    p->stopped = 1;
    for (size_t i = 0; i < p->n; i++) {
        struct pool_item *item;
        while ((item = lane_take(&p->lanes[i])) != NULL) {
            (void)pthread_mutex_unlock(&p->lock);
            drop(item->item);
            free(item);
            (void)pthread_mutex_lock(&p->lock);
        }
        (void)pthread_cond_broadcast(&p->lanes[i].more);
    }
    (void)pthread_mutex_unlock(&p->lock);
}

int pool_wait(struct pool *p, uint32_t ms)
{
    int64_t until = clock_mono_ns() + (int64_t)ms * 1000000;
    struct timespec at = { .tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000) };
    int late = 0;
    (void)pthread_mutex_lock(&p->lock);
    while (p->n_running > 0 && !late) {
        late = pthread_cond_timedwait(&p->ended, &p->lock, &at) != 0;
    }
    int idle = p->n_running == 0;
    (void)pthread_mutex_unlock(&p->lock);
    return idle;
}

void pool_free(struct pool *p)
{
    if (!p) {
        return;
    }
    (void)pthread_mutex_lock(&p->lock);
    p->stopped = 1;
    for (size_t i = 0; i < p->n; i++) {
        (void)pthread_cond_broadcast(&p->lanes[i].more);
    }
    (void)pthread_mutex_unlock(&p->lock);
    for (size_t i = 0; i < p->n; i++) {
        for (uint32_t t = 0; t < p->lanes[i].n_threads; t++) {
            (void)pthread_join(p->lanes[i].threads[t], NULL);
        }
        (void)pthread_cond_destroy(&p->lanes[i].more);
        free(p->lanes[i].threads);
    }
    (void)pthread_cond_destroy(&p->ended);
    (void)pthread_mutex_destroy(&p->lock);
    free(p);
}
