/* SPDX-License-Identifier: MIT */
/* Feedback as jobs: journalled before it is acknowledged, worked off by threads of this room in a fair order, and gone on
 * with after a crash: a job that is named in its adapter's log was committed, any other runs again.
 *
 * Any thread may call any function. */
#ifndef FEEDBACK_JOBS_H
#define FEEDBACK_JOBS_H

#include "feedback/feedback.h"

struct jobs;

struct jobs_options { /* borrowed rooms outlive this one; zero: the default in brackets */
    struct feedback *feedback;
    struct adapters *adapters;
    struct state *state;
    struct serving *serving;
    uint32_t workers;     /* steps at one time, of different adapters [1] */
    uint32_t queue;       /* jobs that wait, in all [64] */
    uint32_t queue_key;   /* and of one owner [16] */
    int64_t key_age_ms;   /* how long repeats are recognised [24 hours] */
    int64_t step_ms;      /* longest a step may take [without limit] */
    /* [worker] A job has ended: what its step took, null if it failed. May be null. */
    void (*ended)(void *ctx, const struct feedback_timing *took);
    void *ctx;
    uint32_t lock_ms;     /* how long a caller that waits does so while its adapter is busy */
};

/* Puts the jobs that the last process left open into the queue. */
int jobs_open(const struct jobs_options *options, struct jobs **out, struct claas_error *err);
/* Begins no further job, and after `grace_ms` calls off what runs: that stays in the journal and is gone on with at the next
 * start. Who waits is told UNAVAILABLE. */
void jobs_stop(struct jobs *j, uint32_t grace_ms);
/* After jobs_stop; nobody waits any more. Null is fine. */
void jobs_close(struct jobs *j);

struct jobs_submit {
    const struct feedback_request *request; /* its hooks are not used */
    const char *key;          /* Idempotency-Key, null = none */
    struct claas_digest body; /* of the whole request, for repeats */
    int acknowledged;         /* 1: the caller goes away with the id, so the job stays */
};
/* 0: the job is in the journal, or was (*repeated). Errors as of feedback_run; INVALID, what "Idempotency-Key": another
 * request had this key; EXHAUSTED with a time to come back: the queue is full. */
int jobs_submit(struct jobs *j, const struct jobs_submit *s, char out_id[STATE_ID_CAP], int *repeated,
                struct claas_error *err);

/* Waits for the end of a job. CONFLICT: the adapter was busy all the time the caller may wait, and the job, if nobody else
 * knows of it, is as if it had never been. `gone` (may be null) tells that the caller has hung up: CANCELLED, and the job stays. */
int jobs_wait(struct jobs *j, const char *id, int may_drop, int (*gone)(void *ctx), void *ctx, struct claas_error *err);

/* Waiting ones at once, running ones before their commit. CONFLICT: too late. */
int jobs_cancel(struct jobs *j, const char *id, const char *owner, struct claas_error *err);

/* state_forget, and the jobs that waited for what is gone are out of the queue. CONFLICT: one of them runs. */
int jobs_forget(struct jobs *j, const struct state_forget *what, struct state_forgotten *out, struct claas_error *err);

struct jobs_view { /* clear with jobs_view_clear */
    struct state_job *job;
    const char *state, *phase; /* as of now, which may be ahead of the journal */
    uint64_t done, total;      /* progress of the phase; total 0 = not told */
};
/* `owner` null: anybody's. */
int jobs_look(struct jobs *j, const char *id, const char *owner, struct jobs_view *out, struct claas_error *err);
void jobs_view_clear(struct jobs_view *v);
/* Waits until any job has changed since *seen (start from 0), or for so long; 0 when stopping. */
int jobs_watch(struct jobs *j, uint64_t *seen, uint32_t ms);

struct jobs_load {
    uint32_t waiting, running;
    uint64_t done, failed; /* since the start */
};
void jobs_load(struct jobs *j, struct jobs_load *out);

#endif
