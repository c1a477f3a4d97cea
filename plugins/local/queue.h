/* SPDX-License-Identifier: MIT */
/* Requests on their way: a bounded number of threads answer them, the rest waits. Scopes take turns, and within one it
 * is first come, first served: so who sends many requests makes himself wait, and not the others. A pause lets those in
 * progress finish and keeps the others waiting. Knows nothing of what a job does. */
#ifndef LOCAL_QUEUE_H
#define LOCAL_QUEUE_H

#include <claas/host.h>

#include <stddef.h>
#include <stdint.h>

struct queue;

struct queue_job {
    struct queue_job *next, *behind, *end;             /* the queue's */
    uint64_t scope;                                    /* whose it is */
    const struct claas_call *call;                     /* may be null: looked at while the job waits */
    void (*run)(struct queue_job *job);                /* in one of the queue's threads; frees the job */
    void (*give_up)(struct queue_job *job);            /* its call had no time left before it began; frees the job */
};

/* Starts `threads` threads, with all signals blocked; at most `most` jobs wait beyond those that a thread is free for. */
int queue_new(size_t threads, size_t most, struct queue **out, struct claas_error *err);
/* Waits for all jobs; null is fine. */
void queue_free(struct queue *q);

/* EXHAUSTED when too many wait already; the job stays the caller's then. */
int queue_add(struct queue *q, struct queue_job *job, struct claas_error *err);

/* Gives up waiting jobs whose time has run out: for threads that work on something long, about once a second. */
void queue_tend(struct queue *q);

/* Returns when no job is in progress and no guest is here; none begins until queue_resume, which ends all pauses. CANCELLED
 * when the call has no time left: then nothing is paused, but for others who asked. */
int queue_pause(struct queue *q, const struct claas_call *call, struct claas_error *err);
void queue_resume(struct queue *q);

/* Around work of the caller's own thread that a pause must wait for. Entering waits while there is a pause; CANCELLED when
 * the call has no time left: then there is nothing to leave. */
int queue_enter(struct queue *q, const struct claas_call *call, struct claas_error *err);
void queue_leave(struct queue *q);

size_t queue_running(struct queue *q);
size_t queue_waiting(struct queue *q);

#endif
