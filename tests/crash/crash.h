/* SPDX-License-Identifier: MIT */
/* Killing claasd: a trial is a life of one store with one or two daemons, drawn from a seed. In each of its rounds clients
 * chat and send feedback, the daemons are killed at a drawn moment, started again, and what they had said must be true.
 *
 * A trial is a process of its own, and ends itself with a message as soon as something is not so. */
#ifndef CRASH_CRASH_H
#define CRASH_CRASH_H

#include <cjson/cJSON.h>

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <sys/types.h>

enum { HOSTS = 2, ADAPTERS = 3, ANSWERS_MAX = 4096 };

/* When a daemon is killed. */
#define MOMENTS_TABLE(X) \
    X(TIME, "any time") \
    X(JOURNAL, "journal written") \
    X(SPOOL, "engine's file begun") \
    X(TEMP, "temporary file made") \
    X(BLOB, "contents put") \
    X(ENTRY, "log entry created") \
    X(DISTILL, "job at distill") \
    X(SAVE, "job at save") \
    X(START, "start")
enum moment_kind {
#define KIND(name, text) MOMENT_##name,
    MOMENTS_TABLE(KIND)
#undef KIND
    MOMENTS
};

struct tally { /* of all trials, in shared memory */
    atomic_uint runs, kills[MOMENTS], late; /* late: the moment had not come when the clients were done */
    atomic_uint answers, jobs, versions, failed_jobs, removed;
    atomic_uint start_ms, work_ms; /* lengths of the first run, which nobody kills */
};

/* ---- what was said ---- */

struct answer { /* of a chat */
    char id[80];
    char *text;
};

struct request { /* feedback that was sent */
    char key[40]; /* Idempotency-Key, "" without */
    char *body;
    int adapter;
    char job[80];     /* "" as long as it was not acknowledged */
    uint64_t version; /* told by an answer that waited, else 0 */
    int sure;         /* the daemon has told its id */
};

struct made { /* versions that were answered with 200 */
    int adapter;
    uint64_t version;
    const char *kind;
};

struct ledger { /* the mutex guards all of it */
    pthread_mutex_t mutex;
    struct answer answers[ANSWERS_MAX];
    struct request requests[ANSWERS_MAX];
    struct made made[ANSWERS_MAX];
    size_t n_answers, n_requests, n_made;
    atomic_int exists[ADAPTERS]; /* 1: creation was acknowledged */
};

struct world;

struct host { /* one daemon over its lives */
    struct world *world;
    int number;
    char dir[300];
    pid_t pid; /* 0: does not run */
    char url[64];
    struct ledger ledger;
    int log_fd;
};

struct world {
    uint64_t seed;
    uint64_t drawn; /* random numbers so far, of the main thread */
    unsigned rounds, round;
    int n_hosts;
    char dir[256], store[280];
    const char *model, *build;
    struct tally *tally;
    struct host hosts[HOSTS];
};

/* ---- trial.c ---- */
/* In a process of its own; returns when all was well. */
void trial_run(struct world *w);
/* Says what was not so, and ends the trial. */
_Noreturn void trial_fail(const struct world *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* 0 to n-1; the main thread's. */
uint64_t trial_draw(struct world *w, uint64_t n);
void trial_sleep_us(uint64_t us);

/* ---- host.c: processes ---- */
void host_prepare(struct host *h);
/* Starts it; host_wait_ready waits until it takes feedback. */
void host_start(struct host *h);
void host_wait_ready(struct host *h);
void host_kill(struct host *h);
/* SIGTERM; it must end with status 0. */
void host_stop(struct host *h);

/* ---- ask.c: HTTP ---- */
struct asker;
struct asker *asker_new(const struct host *h);
void asker_free(struct asker *a);
/* The status, 0 when there was no whole answer. `more` headers end with null; they and `body` may be null. */
long asker_ask(struct asker *a, const char *method, const char *path, const char *const *more, const char *body,
               cJSON **out);
/* The value of a member, or the trial fails. */
const char *answer_text(const struct world *w, const cJSON *o, const char *name);
uint64_t answer_number(const struct world *w, const cJSON *o, const char *name);

/* ---- work.c: clients ---- */
struct workers;
struct workers *work_begin(struct host *h);
int work_done(const struct workers *k);
void work_end(struct workers *k); /* waits for them */
void work_adapter_id(int adapter, char out[16]);

/* ---- moment.c ---- */
/* Kills each daemon at the moment drawn for it; on return all clients are done. */
void moment_kill(struct world *w, struct workers *const *workers);
/* Once or twice in a row, in the middle of starting. */
void moment_kill_starts(struct world *w);

/* ---- check.c ---- */
/* All daemons run: waits for open jobs, then looks at everything. */
void check_all(struct world *w);

/* ---- store.c: the files themselves ---- */
/* As if hours had gone by. */
void store_age(const struct world *w);
/* The file of this digest has it. */
void store_check_blob(const struct world *w, const char *hex);
/* Nothing that is old lies there without need (null: contents are not looked at), nor anything half-made. */
void store_check_clean(const struct world *w, char *const *needed, size_t n);
void store_check_log(const struct world *w, const char *id, uint64_t head);

/* ---- model.c ---- */
int model_make(const char *path);

#endif
