/* SPDX-License-Identifier: MIT */
/* Whose turn it is: a fair queue of two classes, weighted by the share training may take. */
#ifndef KERNELS_CPU_TURN_H
#define KERNELS_CPU_TURN_H

#include "kernels/kernels.h"

#include <pthread.h>
#include <stdatomic.h>

struct turn_waiter {
    struct turn_waiter *next;
    pthread_cond_t wake;
    int granted;
};

struct turn_queue {
    struct turn_waiter *head;
    struct turn_waiter *tail;
};

struct turns {
    pthread_mutex_t lock;
    _Atomic(const void *) holder;  /* the holding thread's mark; written under lock, compared with one's own without */
    _Atomic unsigned serve_waiting; /* written under lock */
    unsigned depth;                /* the holder's own: nested begins */
    enum kernels_turn kind;        /* the holder's own */
    /* under lock: */
    int busy;
    struct turn_queue queue[2];
    double used[2];       /* device time of each kind divided by its share, seconds: the smaller one is owed time */
    int64_t since_ns;     /* of the present turn, or of its last account */
    int64_t reserved_ns;  /* free, but kept for serving until then */
    double share[2];
};

int turns_init(struct turns *t, struct claas_error *err);
void turns_destroy(struct turns *t);

#endif
