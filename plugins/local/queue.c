/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "plugins/local/queue.h"

#include "base/err.h"
#include "base/mem.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

struct queue {
    pthread_mutex_t lock; /* all below */
    pthread_cond_t work;  /* a job came, a pause ended, the end */
    pthread_cond_t idle;  /* a job ended, a guest left */
    struct queue_job *first; /* of each scope the oldest waiting job, in the order of their turns; the rest is behind it */
    struct queue_job **last;
    size_t waiting;
    size_t most;
    size_t running;
    size_t guests;  /* what else a pause waits for: work of other threads, and jobs being given up */
    size_t pauses;  /* how many asked for the pause and did not give up */
    size_t resumes; /* so far */
    int ending;
    size_t n_threads;
    pthread_t threads[];
};

static int out_of_time(const struct claas_call *call)
{
    return call && call->left_ms && call->left_ms(call) == 0;
}

/* The conditions go by the clock that nobody sets. */
static void condition_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr); /* these cannot fail on Linux */
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(cond, &attr);
    (void)pthread_condattr_destroy(&attr);
}

static void wait_a_second(pthread_cond_t *cond, pthread_mutex_t *lock)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until); /* cannot fail for this clock */
    until.tv_sec++;
    (void)pthread_cond_timedwait(cond, lock, &until); /* timeout or not: the caller looks again */
}

/* A line of one scope, by its first job, gets the last turn. This and the next three are under the lock. */
static void line_up(struct queue *q, struct queue_job *line)
{
    line->next = NULL;
    *q->last = line;
    q->last = &line->next;
}

/* At the end of a line; null: of a new one. Returns its first job. */
static struct queue_job *line_add(struct queue_job *line, struct queue_job *job)
{
    job->behind = NULL;
    if (line) {
        line->end->behind = job;
    } else {
        line = job;
    }
    line->end = job;
    return line;
}

static void put(struct queue *q, struct queue_job *job)
{
    struct queue_job *line = q->first;
    while (line && line->scope != job->scope) {
        line = line->next;
    }
    if (line_add(line, job) == job) {
        line_up(q, job);
    }
    q->waiting++;
}

/* Takes the job out whose turn it is; the next one of its scope waits until the others had theirs. */
static struct queue_job *pop(struct queue *q)
{
    struct queue_job *job = q->first;
    q->first = job->next;
    if (!q->first) {
        q->last = &q->first;
    }
    if (job->behind) {
        job->behind->end = job->end;
        line_up(q, job->behind);
    }
    q->waiting--;
    return job;
}

/* One guest less, under the lock. */
static void leave(struct queue *q)
{
    q->guests--;
    pthread_cond_broadcast(&q->idle);
}

static void *queue_thread(void *ctx)
{
    struct queue *q = ctx;
    pthread_mutex_lock(&q->lock);
    for (;;) {
        if (q->first && (!q->pauses || q->ending)) {
            struct queue_job *job = pop(q);
            q->running++;
            pthread_mutex_unlock(&q->lock);
            if (out_of_time(job->call)) {
                job->give_up(job);
            } else {
                job->run(job);
            }
            pthread_mutex_lock(&q->lock);
            q->running--;
            pthread_cond_broadcast(&q->idle);
        } else if (q->ending) {
            break;
        } else if (q->first) {
            q->guests++;
            pthread_mutex_unlock(&q->lock);
            queue_tend(q);
            pthread_mutex_lock(&q->lock);
            leave(q);
            if (q->first && q->pauses && !q->ending) {
                wait_a_second(&q->work, &q->lock);
            }
        } else {
            pthread_cond_wait(&q->work, &q->lock);
        }
    }
    pthread_mutex_unlock(&q->lock);
    return NULL;
}

int queue_new(size_t threads, size_t most, struct queue **out, struct claas_error *err)
{
    sigset_t all;
    sigset_t before;
    struct queue *q = calloc(1, sizeof *q + threads * sizeof(pthread_t));
    if (!q) {
        return err_oom(err, "starting threads");
    }
    q->last = &q->first;
    q->most = most;
    pthread_mutex_init(&q->lock, NULL); /* these cannot fail with default attributes on Linux */
    condition_init(&q->work);
    condition_init(&q->idle);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (q->n_threads < threads && pthread_create(&q->threads[q->n_threads], NULL, queue_thread, q) == 0) {
        q->n_threads++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (q->n_threads < threads) {
        queue_free(q);
        return err_set(err, CLAAS_ERR_EXHAUSTED, "max_batch", "cannot start %zu threads", threads);
    }
    *out = q;
    return 0;
}

void queue_free(struct queue *q)
{
    if (!q) {
        return;
    }
    pthread_mutex_lock(&q->lock);
    q->ending = 1;
    pthread_cond_broadcast(&q->work);
    pthread_mutex_unlock(&q->lock);
    for (size_t i = 0; i < q->n_threads; i++) {
        pthread_join(q->threads[i], NULL);
    }
    pthread_cond_destroy(&q->work);
    pthread_cond_destroy(&q->idle);
    pthread_mutex_destroy(&q->lock);
    free(q);
}

/* How many jobs are taken at once, under the lock. */
static size_t idle_threads(const struct queue *q)
{
    return q->pauses ? 0 : q->n_threads - q->running;
}

int queue_add(struct queue *q, struct queue_job *job, struct claas_error *err)
{
    int rc = 0;
    pthread_mutex_lock(&q->lock);
    if (q->waiting >= q->most + idle_threads(q)) {
        rc = err_set(err, CLAAS_ERR_EXHAUSTED, NULL, "cannot answer now: %zu requests are being answered, %zu are waiting",
                     q->running, q->waiting);
    } else {
        put(q, job);
        pthread_cond_signal(&q->work);
    }
    pthread_mutex_unlock(&q->lock);
    return rc;
}

void queue_tend(struct queue *q)
{
    struct queue_job *dead = NULL;
    pthread_mutex_lock(&q->lock);
    struct queue_job *lines = q->first;
    q->first = NULL;
    q->last = &q->first;
    while (lines) {
        struct queue_job *job = lines;
        struct queue_job *line = NULL;
        lines = lines->next;
        while (job) {
            struct queue_job *behind = job->behind;
            if (out_of_time(job->call)) {
                job->next = dead;
                dead = job;
                q->waiting--;
            } else {
                line = line_add(line, job);
            }
            job = behind;
        }
        if (line) {
            line_up(q, line);
        }
    }
    pthread_mutex_unlock(&q->lock);
    while (dead) {
        struct queue_job *job = dead;
        dead = job->next;
        job->give_up(job);
    }
}

int queue_pause(struct queue *q, const struct claas_call *call, struct claas_error *err)
{
    int rc = 0;
    pthread_mutex_lock(&q->lock);
    size_t resumes = q->resumes;
    q->pauses++;
    while (q->running + q->guests > 0 && !rc) {
        wait_a_second(&q->idle, &q->lock);
        if (q->running + q->guests > 0 && out_of_time(call)) {
            rc = err_set(err, CLAAS_ERR_CANCELLED, NULL, "pausing was cancelled while %zu requests were being answered",
                         q->running + q->guests);
            q->pauses -= resumes == q->resumes; /* else a resume has ended this pause, and later ones are others' */
            pthread_cond_broadcast(&q->work);
        }
    }
    pthread_mutex_unlock(&q->lock);
    return rc;
}

void queue_resume(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->pauses = 0;
    q->resumes++;
    pthread_cond_broadcast(&q->work);
    pthread_mutex_unlock(&q->lock);
}

int queue_enter(struct queue *q, const struct claas_call *call, struct claas_error *err)
{
    int rc = 0;
    pthread_mutex_lock(&q->lock);
    while (q->pauses > 0 && !rc) {
        if (out_of_time(call)) {
            rc = err_set(err, CLAAS_ERR_CANCELLED, NULL, "the request was cancelled while answering was paused");
        } else {
            wait_a_second(&q->work, &q->lock);
        }
    }
    q->guests += rc == 0;
    pthread_mutex_unlock(&q->lock);
    return rc;
}

void queue_leave(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    leave(q);
    pthread_mutex_unlock(&q->lock);
}

size_t queue_running(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    size_t n = q->running;
    pthread_mutex_unlock(&q->lock);
    return n;
}

size_t queue_waiting(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    size_t n = q->waiting;
    pthread_mutex_unlock(&q->lock);
    return n;
}
