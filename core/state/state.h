/* SPDX-License-Identifier: MIT */
/* What this host remembers: rollouts (what was asked and answered, exactly) and feedback records, in one SQLite
 * database. The only room with SQL; the others see the structs below.
 *
 * Any thread may call any function. A record is durable (WAL, synchronous FULL) when the function that wrote it has
 * returned 0. A database that cannot be read is CLAAS_ERR_CORRUPT with its path in the message and is never replaced;
 * one made by a newer claas is UNSUPPORTED. Jobs, journal and keys will be further tables behind further functions:
 * `owner` is the key's owner and is "" as long as there are no keys. */
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
};

/* Takes the exclusive lock on <dir>/state.lock, for offline commands that write; closing *out_fd, or the end of the process,
 * gives it back. CONFLICT, naming the pid, when another process has it. dir exists. */
int state_lock(const char *dir, int *out_fd, struct claas_error *err);

/* Opens <dir>/state.db (dir is made when absent, mode 0700) under an exclusive lock on <dir>/state.lock, which is held
 * until close: CONFLICT when another process has it. Makes the database when there is none, brings an older one
 * up to date. `options` may be null. */
int state_open(const char *dir, const struct state_options *options, struct state **out, struct claas_error *err);
/* Null is fine. */
void state_close(struct state *s);

/* A fresh completion id: prefix ("chatcmpl-" or "cmpl-"), the host's tag, random hexadecimal digits. */
int state_completion_id(const struct state *s, const char *prefix, char out[STATE_ID_CAP], struct claas_error *err);

/* ---- rollouts -------------------------------------------------------------------------------- */

struct state_rollout {
    const char *id;            /* completion id */
    const char *kind;          /* "chat" or "completion" */
    const char *owner;         /* "" */
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

/* For good, also out of feedback records. NOT_FOUND if there is none. */
int state_rollout_delete(struct state *s, const char *id, const char *owner, struct claas_error *err);

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

/* Numbers for /metrics. */
struct state_counts {
    uint64_t rollouts, rated, feedback;
};
int state_count(struct state *s, struct state_counts *out, struct claas_error *err);

#endif
