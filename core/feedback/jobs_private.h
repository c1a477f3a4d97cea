/* SPDX-License-Identifier: MIT */
/* What jobs.c (the queue) and work.c (the worker threads) share.
 *
 * Lock: `mutex` guards all of it. It is held while the journal is written for a job that waits, never while a plugin or
 * the store is called. */
#ifndef FEEDBACK_JOBS_PRIVATE_H
#define FEEDBACK_JOBS_PRIVATE_H

#include "feedback/jobs.h"

#include "host/call.h"

#include <pthread.h>

enum { JOBS_WORKERS = 64 };

struct share { /* the turns of an owner, or of an adapter */
    struct share *next;
    char *name;
    uint64_t turn; /* its last one */
    uint32_t n;    /* jobs in the list */
    int busy;      /* of an adapter: a step is being made */
};

struct job { /* in the list until it has ended */
    struct job *next;
    struct jobs *jobs;
    char id[STATE_ID_CAP];
    struct share *owner, *adapter;
    enum feedback_phase phase;
    uint64_t done, total;
    uint32_t attempts;     /* how often it was begun */
    int64_t not_before_ns; /* monotonic clock: when it is tried again */
    uint32_t tries;        /* of looking how a commit ended */
    int64_t began_ns;
    int running, acknowledged, cancelled;
    int committing; /* its commit has begun: no way back */
    int called;     /* `call` is in use */
    struct host_call call;
};

struct jobs {
    struct jobs_options options;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    uint64_t generation; /* counts changes */
    struct job *first;   /* in the order of arrival */
    struct share *owners, *adapters_seen;
    uint64_t turns;
    uint32_t n_waiting, n_running, n_reserved;
    uint64_t n_done, n_failed;
    int64_t mean_ms; /* of a step, the last ones counting most */
    int stopping, ended;
    pthread_t workers[JOBS_WORKERS];
    uint32_t n_workers;
};

/* ---- jobs.c, all under the lock ---- */
void jobs_changed(struct jobs *j);
struct job *jobs_find(struct jobs *j, const char *id);
void jobs_remove(struct jobs *j, struct job *job);
/* The next one to run, marked as running; null: none, before *out_until nothing changes by itself. */
struct job *jobs_pick(struct jobs *j, int64_t *out_until);
void jobs_sleep(struct jobs *j, int64_t until);

/* ---- work.c ---- */
void *jobs_work(void *jobs);

#endif
