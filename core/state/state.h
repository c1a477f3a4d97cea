/* SPDX-License-Identifier: MIT */
/* What this host remembers: rollouts (what was asked and answered, exactly), feedback records, the journal of jobs and
 * the audit, in one SQLite database. The only room with SQL; the others see the structs below.
 *
 * Any thread may call any function. A record is durable (WAL, synchronous FULL) when the function that wrote it has
 * returned 0. A database that cannot be read is CLAAS_ERR_CORRUPT with its path in the message and is never replaced;
 * one made by a newer claas is UNSUPPORTED. `owner` is the id of the caller's key, "" for callers without one. */
#ifndef STATE_STATE_H
#define STATE_STATE_H

#include <claas/error.h>

#include <stddef.h>
#include <stdint.h>

struct state;

#define STATE_ID_CAP 64 /* of a completion or request id, with its zero */

struct state_options {           /* zero: the default in brackets */
    uint64_t rollouts_max;       /* unrated rollouts kept [10000] */
    int64_t rollouts_age_ns;     /* and no longer than this [30 days] */
    uint64_t feedback_max;       /* feedback records kept, with the rollouts they rate [100000] */
    int64_t feedback_age_ns;     /* [without limit] */
    int64_t jobs_age_ns;         /* jobs that have ended are kept so long [7 days] */
    int64_t audit_age_ns;        /* and what the audit tells so long [365 days] */
};

/* Takes the exclusive lock on <dir>/state.lock, for offline commands that write; closing *out_fd, or the end of the process,
 * gives it back. CONFLICT, naming the pid, when another process has it. dir exists. */
int state_lock(const char *dir, int *out_fd, struct claas_error *err);

/* Opens <dir>/state.db (dir is made when absent, mode 0700) under an exclusive lock on <dir>/state.lock, which is held
 * until close: CONFLICT when another process has it. Makes the database when there is none, brings an older one
 * up to date. `options` may be null. */
int state_open(const char *dir, const struct state_options *options, struct state **out, struct claas_error *err);
/* A second connection to the database of a directory that another process may have locked: for keys only. It makes
 * nothing and brings nothing up to date: NOT_FOUND without a database, UNSUPPORTED with one of another version. */
int state_open_beside(const char *dir, struct state **out, struct claas_error *err);
/* Null is fine. */
void state_close(struct state *s);

/* A fresh completion id: prefix ("chatcmpl-" or "cmpl-"), the host's tag, random hexadecimal digits. */
int state_completion_id(const struct state *s, const char *prefix, char out[STATE_ID_CAP], struct claas_error *err);

/* ---- rollouts -------------------------------------------------------------------------------- */

struct state_rollout {
    const char *id;            /* completion id */
    const char *kind;          /* "chat" or "completion" */
    const char *owner;         /* "" */
    const char *user;          /* end user, as the client said; null or "" = not said */
    const char *model;         /* as requested */
    const char *adapter;       /* as resolved, "" = the base */
    uint64_t version;          /* 0 = the base */
    struct claas_digest serve; /* of the version that answered; zeros = the base */
    int64_t time_ns;           /* when it was asked, since 1970 */
    const char *messages_json; /* array; null for a text completion */
    const char *prompt;        /* rendered or given prompt text; null = not kept */
    const char *text;          /* raw answer */
    const char *visible;       /* what the user saw */
    struct claas_digest hash;  /* of the visible text in normal form (text/visible.h) */
    const char *sampler_json;  /* object: temperature, top_p, … */
    const char *finish;        /* "stop", "length", "cancelled" */
    const int32_t *prompt_ids, *response_ids; /* exact; the response with its end-of-turn token when one was sampled */
    const float *logprobs;     /* [n_response], or null when the server gave none */
    uint32_t n_prompt, n_response;
    uint32_t end_tokens;       /* how many last response ids spell no text */
    uint32_t rated;            /* in how many feedback records it is named; ignored by add */
};

/* Adds a rollout and drops what is over the bounds. CONFLICT: the id is there already. */
int state_rollout_add(struct state *s, const struct state_rollout *r, struct claas_error *err);

/* One heap block: free with state_rollout_free (null is fine). `owner` null = anybody's. NOT_FOUND if there is none. */
int state_rollout_get(struct state *s, const char *id, const char *owner, struct state_rollout **out,
                      struct claas_error *err);
/* The newest one of `adapter` ("" = the base) and owner with this hash. */
int state_rollout_find(struct state *s, const struct claas_digest *hash, const char *adapter, const char *owner,
                       struct state_rollout **out, struct claas_error *err);
void state_rollout_free(struct state_rollout *r);

struct state_rollouts { /* newest first; free with state_rollouts_clear */
    struct state_rollout **at;
    size_t n;
    uint64_t next; /* hand this in as `before` for the next page; 0 = that was all */
};
/* At most `limit` (1 to 1000) of `adapter` (null = all, "" = the base) and owner (null = all). Entries of a list have
 * texts but neither ids nor log-probabilities nor messages (null; the counts stand). before: 0 = from the newest. */
int state_rollout_list(struct state *s, const char *adapter, const char *owner, uint64_t before, uint32_t limit,
                       struct state_rollouts *out, struct claas_error *err);
void state_rollouts_clear(struct state_rollouts *list);

/* ---- forgetting ------------------------------------------------------------------------------ */

struct state_forget {   /* what is to be forgotten: of these, what is not null */
    const char *id;     /* one rollout */
    const char *user;   /* those of one end user */
    const char *owner;  /* of this owner only; alone: all that he has, with his feedback records */
    int (*runs)(void *ctx, const char *job); /* 1: a step is being made of it; called under the lock of this room; may be null */
    void *ctx;
};

struct state_trained { /* a version that a record, now empty, made */
    char *adapter;
    uint64_t version;
    char feedback[STATE_ID_CAP];
};

enum { STATE_TRAINED_MAX = 1000 };

struct state_forgotten {
    uint64_t rollouts;  /* deleted */
    uint64_t feedback;  /* records whose texts are gone; the records stay, with the numbers of their step */
    char (*cancelled)[STATE_ID_CAP]; /* jobs that waited to learn from them */
    size_t n_cancelled;
    struct state_trained *trained;   /* oldest first */
    size_t n_trained;
    int more;           /* there are more than STATE_TRAINED_MAX versions */
};

/* All of it or nothing, for good: rollouts, their texts in feedback records, jobs that wait for them. Pages are overwritten, the
 * journal of the database is emptied, space goes back. Nothing found is no error. CONFLICT: a step is being made of it. Clear
 * `out` with state_forgotten_clear. */
int state_forget(struct state *s, const struct state_forget *what, struct state_forgotten *out, struct claas_error *err);
void state_forgotten_clear(struct state_forgotten *f);

/* What is over a bound goes, also when nothing is added, and space goes back. UNAVAILABLE: somebody reads the database; the
 * next time will do. */
int state_tidy(struct state *s, struct claas_error *err);

/* ---- feedback records ------------------------------------------------------------------------ */

struct state_feedback {
    const char *id;            /* request id, 32 hexadecimal digits */
    const char *owner;         /* "" */
    const char *adapter;
    const char *status;        /* "running", "ok", "error"; after a restart a running one reads "interrupted" */
    const char *phase;         /* last phase reached */
    int64_t time_ns;           /* when it began */
    uint64_t version_from, version_to; /* 0 = not known, none */
    uint32_t n_rollouts;
    const char *const *rollouts;       /* completion ids, one for each item; a deleted rollout stays named here */
    const char *items_json;    /* the items as received */
    const char *settings_json; /* effective training settings */
    const char *metrics_json;  /* object; null before success */
    const char *timing_json;   /* object of milliseconds; null before the end */
    int32_t error_code;        /* 0 = none */
    const char *error;         /* null = none */
};

/* Writes or replaces the record of this id. The rollouts it names are its own from now on: they are no longer pruned
 * with the others but live as long as the record. Drops records over the bounds (not running ones). */
int state_feedback_put(struct state *s, const struct state_feedback *f, struct claas_error *err);

/* One heap block: free with state_feedback_free (null is fine). */
int state_feedback_get(struct state *s, const char *id, const char *owner, struct state_feedback **out,
                       struct claas_error *err);
void state_feedback_free(struct state_feedback *f);

struct state_feedbacks { /* newest first; free with state_feedbacks_clear */
    struct state_feedback **at;
    size_t n;
    uint64_t next;  /* as in state_rollouts */
    uint64_t total; /* records that match, on all pages */
};
int state_feedback_list(struct state *s, const char *adapter, const char *owner, uint64_t before, uint32_t limit,
                        struct state_feedbacks *out, struct claas_error *err);
void state_feedbacks_clear(struct state_feedbacks *list);

/* ---- API keys --------------------------------------------------------------------------------- */

#define STATE_KEY_ID_CAP 16
#define STATE_KEY_NAME_CAP 101   /* 100 bytes and a zero */
#define STATE_KEY_PREFIX_CAP 201

struct state_key {
    const char *id;            /* public part, 12 hexadecimal digits */
    const char *name;          /* for people */
    const char *prefix;        /* adapters below it are its own; "" = all */
    uint32_t rights;           /* bits, access/access.h */
    struct claas_digest hash;  /* SHA-256 of the secret part */
    int64_t created_ns, expires_ns;                        /* expires 0 = never */
    int64_t requests_a_minute, steps_an_hour, bytes_a_day; /* 0 = without bound */
};

struct state_key_use {         /* hour and day: their numbers since 1970, in UTC */
    int64_t used_ns;           /* 0 = never */
    int64_t hour, hour_steps, day, day_bytes;
};

struct state_key_row {
    char id[STATE_KEY_ID_CAP], name[STATE_KEY_NAME_CAP], prefix[STATE_KEY_PREFIX_CAP];
    uint32_t rights;
    struct claas_digest hash;
    int64_t created_ns, expires_ns, revoked_ns; /* revoked 0 = not */
    int64_t requests_a_minute, steps_an_hour, bytes_a_day;
    struct state_key_use use;
};

struct state_keys { /* by id; free with state_keys_clear */
    struct state_key_row *at;
    size_t n;
};

int state_key_add(struct state *s, const struct state_key *k, struct claas_error *err);
/* Revoked keys stay listed. NOT_FOUND if there is none. */
int state_key_revoke(struct state *s, const char *id, int64_t now_ns, struct claas_error *err);
int state_key_used(struct state *s, const char *id, const struct state_key_use *u, struct claas_error *err);
int state_key_list(struct state *s, struct state_keys *out, struct claas_error *err);
void state_keys_clear(struct state_keys *list);
/* A number that changes when another connection has written. */
int state_version(struct state *s, int64_t *out, struct claas_error *err);

/* ---- jobs: the journal ----------------------------------------------------------------------- */

struct state_job {
    const char *id;            /* 32 hexadecimal digits; its feedback record has the same */
    const char *owner;
    const char *adapter;
    const char *state;         /* "queued", "running", "done", "failed", "cancelled" */
    const char *phase;         /* last phase that was journalled */
    const char *request_json;  /* all that is needed to run it; "{}" once it has ended */
    const char *result_json;   /* what the caller is answered; null before it is done */
    const char *key;           /* by which the caller recognises repeats; null = none */
    struct claas_digest body;  /* of the request with that key */
    uint64_t log_from;         /* the adapter's last entry when the job was accepted: its own comes after it */
    uint64_t version;          /* that it made; 0 = none */
    uint32_t attempts;         /* how often it was begun */
    int64_t accepted_ns, started_ns, ended_ns; /* since 1970; 0 = not yet */
    int32_t error_code;        /* 0 = none */
    const char *error, *error_what; /* null = none */
    uint64_t seq;              /* order of arrival; ignored by add */
};

/* Journals an accepted job together with its feedback record `f` (status "running"). CONFLICT: the owner's key is in
 * use by another job. */
int state_job_add(struct state *s, const struct state_job *j, const struct state_feedback *f, struct claas_error *err);
/* Takes back a job that has not begun, and its record, as if it had never been. NOT_FOUND if it is not queued. */
int state_job_drop(struct state *s, const char *id, struct claas_error *err);
/* It runs, once more. */
int state_job_start(struct state *s, const char *id, struct claas_error *err);
int state_job_phase(struct state *s, const char *id, const char *phase, struct claas_error *err);

struct state_job_end {
    const char *id;
    const char *state, *phase;
    const char *result_json;   /* null = none */
    uint64_t version_from, version;
    const char *metrics_json, *timing_json; /* of the feedback record; null = none */
    int32_t error_code;
    const char *error, *error_what;
};
/* Job, feedback record and audit tell the end at one time. CONFLICT: it has ended already. */
int state_job_end(struct state *s, const struct state_job_end *e, struct claas_error *err);

/* One heap block: free with state_job_free (null is fine). `owner` null = anybody's. NOT_FOUND if there is none. */
int state_job_get(struct state *s, const char *id, const char *owner, struct state_job **out, struct claas_error *err);
/* The job with this key of an owner that was accepted at `since_ns` or later; an older one gives its key up. */
int state_job_by_key(struct state *s, const char *owner, const char *key, int64_t since_ns, struct state_job **out,
                     struct claas_error *err);
void state_job_free(struct state_job *j);

struct state_jobs { /* free with state_jobs_clear */
    struct state_job **at;
    size_t n;
    uint64_t next; /* as in state_rollouts */
};
/* Newest first, at most `limit` (1 to 1000), of owner (null = all). */
int state_job_list(struct state *s, const char *owner, uint64_t before, uint32_t limit, struct state_jobs *out,
                   struct claas_error *err);
/* The next job behind `after` (0 = from the start) that has not ended, in the order of arrival. NOT_FOUND at the end. */
int state_job_next_open(struct state *s, uint64_t after, struct state_job **out, struct claas_error *err);
void state_jobs_clear(struct state_jobs *list);

/* ---- audit: who did what, append-only -------------------------------------------------------- */

struct state_audit {
    int64_t time_ns;     /* 0 = now */
    const char *owner;
    const char *action;  /* "step", "failed", "cancelled", "refused" */
    const char *adapter; /* "" = not known */
    const char *job;     /* "" = none */
    uint64_t version;    /* that was made; 0 = none */
    int32_t code;        /* of the error; 0 = none */
    const char *reason;  /* null = none */
    uint64_t seq;        /* ignored by add */
};
int state_audit_add(struct state *s, const struct state_audit *a, struct claas_error *err);
struct state_audits { /* newest first; free with state_audits_clear */
    struct state_audit **at;
    size_t n;
    uint64_t next;
};
/* At most `limit` (1 to 1000) of owner and adapter (null = all). */
int state_audit_list(struct state *s, const char *owner, const char *adapter, uint64_t before, uint32_t limit,
                     struct state_audits *out, struct claas_error *err);
void state_audits_clear(struct state_audits *list);
/* Whose feedback the job was, also after the job itself is no longer kept. NOT_FOUND: nobody knows. */
int state_audit_owner(struct state *s, const char *job, char **out, struct claas_error *err);

/* ---- copies ---------------------------------------------------------------------------------- */

/* Copies <dir>/state.db, also while a daemon uses it, into `file`, which appears whole or not at all. CONFLICT: there is
 * such a file already, and it is not to be replaced. */
int state_backup(const char *dir, const char *file, int replace, struct claas_error *err);
/* Puts a checked copy of `file` in the place of <dir>/state.db, under the lock of the directory: CONFLICT while a daemon
 * has it. CORRUPT, and nothing changed, when the file is damaged or no state database. What was there stays beside it, as
 * *out_kept (on the heap; null: there was none). */
int state_restore(const char *dir, const char *file, char **out_kept, struct claas_error *err);

/* Numbers for /metrics. */
struct state_counts {
    uint64_t rollouts, rated, feedback;
};
int state_count(struct state *s, struct state_counts *out, struct claas_error *err);

#endif
