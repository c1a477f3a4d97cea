/* SPDX-License-Identifier: MIT */
/* Turns. Each kind of holder has an account of the device time it used, divided by its share; when both want the
 * device, the kind with the smaller account gets it. Whoever comes back from a pause starts level with the other,
 * less a small credit, so that idleness cannot be saved up. A decoding thread is away for some microseconds between
 * two tokens; were the device given to training at once, each gap would cost a whole layer, so it is kept free for a
 * moment when serving is owed time. */
#include "config.h"

#include "kernels/cpu/turn.h"

#include "base/clock.h"
#include "base/err.h"
#include "kernels/cpu/device.h"

#include <string.h>
#include <time.h>

#define CREDIT_S 0.05
#define RESERVE_NS 300000

static _Thread_local char thread_mark;

static const void *self(void)
{
    return &thread_mark;
}

int turns_init(struct turns *t, struct claas_error *err)
{
    memset(t, 0, sizeof *t);
    t->share[KERNELS_SERVE] = 0.5;
    t->share[KERNELS_TRAIN] = 0.5;
    int rc = pthread_mutex_init(&t->lock, NULL);
    return rc ? err_errno(err, rc, NULL, "cannot make a lock") : 0;
}

void turns_destroy(struct turns *t)
{
    (void)pthread_mutex_destroy(&t->lock);
}

/* Everything below runs under the lock. */

static void push_back(struct turn_queue *q, struct turn_waiter *w)
{
    w->next = NULL;
    if (q->tail) {
        q->tail->next = w;
    } else {
        q->head = w;
    }
    q->tail = w;
}

static void push_front(struct turn_queue *q, struct turn_waiter *w)
{
    w->next = q->head;
    q->head = w;
    if (!q->tail) {
        q->tail = w;
    }
}

static struct turn_waiter *pop(struct turn_queue *q)
{
    struct turn_waiter *w = q->head;
    q->head = w->next;
    if (!q->head) {
        q->tail = NULL;
    }
    return w;
}

/* Books the time since the last account to the holder. */
static void account(struct turns *t)
{
    int64_t now = clock_mono_ns();
    t->used[t->kind] += (double)(now - t->since_ns) * 1e-9 / t->share[t->kind];
    t->since_ns = now;
}

/* `kind` was away if nobody of it waits or holds: it may not have saved up more than the credit. */
static void catch_up(struct turns *t, enum kernels_turn kind)
{
    enum kernels_turn other = kind == KERNELS_SERVE ? KERNELS_TRAIN : KERNELS_SERVE;
    if (t->queue[kind].head || (t->busy && t->kind == kind)) {
        return;
    }
    if (t->busy) {
        account(t);
    }
    if (t->used[kind] < t->used[other] - CREDIT_S) {
        t->used[kind] = t->used[other] - CREDIT_S;
    }
}

static void take(struct turns *t, enum kernels_turn kind)
{
    t->busy = 1;
    t->kind = kind;
    t->since_ns = clock_mono_ns();
    t->reserved_ns = 0;
}

/* The device is free: gives it to the kind that is owed time. */
static void grant(struct turns *t)
{
    int serve = t->queue[KERNELS_SERVE].head != NULL;
    int train = t->queue[KERNELS_TRAIN].head != NULL;
    if (!serve && !train) {
        return;
    }
    enum kernels_turn kind = serve ? KERNELS_SERVE : KERNELS_TRAIN;
    if (serve && train && t->used[KERNELS_TRAIN] < t->used[KERNELS_SERVE]) {
        kind = KERNELS_TRAIN;
    }
    struct turn_waiter *w = pop(&t->queue[kind]);
    if (kind == KERNELS_SERVE) {
        (void)atomic_fetch_sub(&t->serve_waiting, 1);
    }
    take(t, kind);
    w->granted = 1;
    (void)pthread_cond_signal(&w->wake);
}

/* Sleeps until granted; the first in the training queue also watches for the end of a reservation. */
static void wait_for_turn(struct turns *t, struct turn_waiter *w, enum kernels_turn kind)
{
    while (!w->granted) {
        if (!t->busy && kind == KERNELS_TRAIN && t->queue[kind].head == w) {
            if (clock_mono_ns() >= t->reserved_ns) {
                grant(t);
                continue;
            }
            struct timespec until = { .tv_sec = (time_t)(t->reserved_ns / 1000000000),
                                      .tv_nsec = (long)(t->reserved_ns % 1000000000) };
            (void)pthread_cond_timedwait(&w->wake, &t->lock, &until);
            continue;
        }
        (void)pthread_cond_wait(&w->wake, &t->lock);
    }
}

static void waiter_init(struct turn_waiter *w)
{
    pthread_condattr_t attr;
    memset(w, 0, sizeof *w);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&w->wake, &attr);
    (void)pthread_condattr_destroy(&attr);
}

static void acquire(struct turns *t, enum kernels_turn kind)
{
    catch_up(t, kind);
    int others = t->queue[KERNELS_SERVE].head || t->queue[KERNELS_TRAIN].head;
    int reserved = kind == KERNELS_TRAIN && clock_mono_ns() < t->reserved_ns;
    /* Free with somebody queued happens only in a reservation, and that is for serving. */
    if (!t->busy && !reserved && (!others || kind == KERNELS_SERVE)) {
        take(t, kind);
        return;
    }
    struct turn_waiter w;
    waiter_init(&w);
    push_back(&t->queue[kind], &w);
    if (kind == KERNELS_SERVE) {
        (void)atomic_fetch_add(&t->serve_waiting, 1);
    }
    wait_for_turn(t, &w, kind);
    (void)pthread_cond_destroy(&w.wake);
}

void kernels_turn_begin(struct kernels *k, enum kernels_turn kind)
{
    struct turns *t = &k->turns;
    if (atomic_load(&t->holder) == self()) {
        t->depth++;
        return;
    }
    (void)pthread_mutex_lock(&t->lock);
    acquire(t, kind);
    atomic_store(&t->holder, self());
    t->depth = 1;
    (void)pthread_mutex_unlock(&t->lock);
}

/* True when serving has just left, will probably be back, and is owed time. */
static int worth_reserving(const struct turns *t)
{
    return t->kind == KERNELS_SERVE && !t->queue[KERNELS_SERVE].head && t->queue[KERNELS_TRAIN].head &&
           t->used[KERNELS_SERVE] < t->used[KERNELS_TRAIN];
}

void kernels_turn_end(struct kernels *k)
{
    struct turns *t = &k->turns;
    if (atomic_load(&t->holder) != self() || --t->depth > 0) {
        return;
    }
    (void)pthread_mutex_lock(&t->lock);
    account(t);
    atomic_store(&t->holder, NULL);
    t->busy = 0;
    if (worth_reserving(t)) {
        t->reserved_ns = clock_mono_ns() + RESERVE_NS;
        (void)pthread_cond_signal(&t->queue[KERNELS_TRAIN].head->wake);
    } else {
        grant(t);
    }
    (void)pthread_mutex_unlock(&t->lock);
}

void kernels_turn_yield(struct kernels *k)
{
    struct turns *t = &k->turns;
    if (atomic_load(&t->serve_waiting) == 0 || atomic_load(&t->holder) != self() || t->depth != 1 ||
        t->kind != KERNELS_TRAIN) {
        return;
    }
    (void)pthread_mutex_lock(&t->lock);
    account(t);
    if (t->queue[KERNELS_SERVE].head && t->used[KERNELS_TRAIN] >= t->used[KERNELS_SERVE]) {
        struct turn_waiter w;
        waiter_init(&w);
        push_front(&t->queue[KERNELS_TRAIN], &w);
        atomic_store(&t->holder, NULL);
        t->busy = 0;
        grant(t);
        wait_for_turn(t, &w, KERNELS_TRAIN);
        (void)pthread_cond_destroy(&w.wake);
        atomic_store(&t->holder, self());
        t->depth = 1;
    }
    (void)pthread_mutex_unlock(&t->lock);
}

void kernels_set_train_share(struct kernels *k, double share)
{
    double train = share >= 0.02 ? share : 0.02; /* NaN becomes 0.02 too */
    train = train <= 0.98 ? train : 0.98;
    (void)pthread_mutex_lock(&k->turns.lock);
    k->turns.share[KERNELS_TRAIN] = train;
    k->turns.share[KERNELS_SERVE] = 1 - train;
    (void)pthread_mutex_unlock(&k->turns.lock);
}
