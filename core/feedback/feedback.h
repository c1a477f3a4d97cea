/* SPDX-License-Identifier: MIT */
/* From a user's words to the next version of an adapter: the feedback transaction, synchronous.
 * Also making an adapter, since that too asks the engine and commits.
 *
 * Any thread may call any function. Feedback on one adapter is worked off one at a time, in the
 * order of arrival.
 *
 * Jobs (jobs.h) plan a request first, journal it, and run it later under its id: `phase` and `end` below
 * are where the journal follows. */
#ifndef FEEDBACK_FEEDBACK_H
#define FEEDBACK_FEEDBACK_H

#include "adapters/adapters.h"
#include "host/option.h"
#include "serving/serving.h"
#include "state/state.h"

#include <cjson/cJSON.h>
#include <claas/error.h>
#include <claas/host.h>

#include <stddef.h>
#include <stdint.h>

struct feedback;
struct host_instance; /* core/host */

struct feedback_options { /* everything is borrowed and outlives the room; strings are copied */
    struct host_instance *engine; /* null: every request is UNAVAILABLE ("no engine configured") */
    struct host_instance *text;   /* the instance with the text table; null: the engine's */
    struct adapters *adapters;
    struct state *state;
    struct serving *serving;
    const char *engine_name; /* for log entries: "cpu" */
    const char *model_name;  /* public name of the base; "" or null: what the plugin says */
    const char *const *allowed_bases;     /* further names that init accepts as base_model,
                                             null-terminated; may be null */
    const struct option_values *training; /* configured defaults of a step, by a table from
                                             feedback_table; null: the tables' */
    struct host_instance *pause; /* inference that gives way around a step; null: none does.
                                  * Steps that it gives way to come one at a time. */
    uint32_t lock_timeout_ms;    /* longest wait for an adapter's turn; 0: none */
};

/* The settings of a step: the engine's table, in its order, and behind it the core's own rows
 * (steps_per_batch, train_end_token) unless the engine has rows of these names. For the `training:`
 * section of the configuration. Null engine: the core's rows only. Free with option_table_clear. */
int feedback_table(struct host_instance *engine, struct option_table *out, struct claas_error *err);

int feedback_open(const struct feedback_options *options, struct feedback **out,
                  struct claas_error *err);
/* No request may be in progress. Null is fine. */
void feedback_close(struct feedback *f);

enum feedback_phase {
    FEEDBACK_VALIDATE, /* a refusal here and in the next phase leaves no record */
    FEEDBACK_LOCK,     /* waits for the adapter's turn */
    FEEDBACK_SLEEP,    /* inference gives the device up, where it is told to */
    FEEDBACK_DISTILL,  /* the engine makes the step */
    FEEDBACK_SAVE,     /* the version is committed */
    FEEDBACK_WAKE,     /* serving loads it and moves on */
    FEEDBACK_DONE,
};
const char *feedback_phase_name(enum feedback_phase phase); /* "validate", "lock", … */

struct feedback_item {
    const char *lora_id;
    const char *completion_id; /* the answer meant; null: it is found by prompt and response */
    const char *prompt;        /* as the client sent it; kept in the record */
    const char *response;      /* visible answer; its normal form's hash is the key */
    const char *feedback;
    const cJSON *training; /* object or null */
};

struct feedback_end; /* how a step ended, below */

struct feedback_request {
    const char *job; /* id of the record and in the log; null: a fresh one */
    /* Instead of a record of this request's own, with a job: where its end is written. Non-zero: it could
     * not be. Not called for refusals in the first phases, nor where a commit's fate is not known
     * (CLAAS_MAYBE). */
    int (*end)(void *ctx, const struct feedback_end *e);
    const struct feedback_item *items;
    size_t n_items;
    const char *owner;       /* null or "": nobody's */
    int anybodys;            /* the answers meant may be of any owner */
    const cJSON *items_json; /* the items as received, for the record; null: made from the items */
    const struct claas_call *call; /* deadline, cancellation, progress; null: none */
    int no_pause;                  /* leave inference alone around the step */
    int strict;                    /* settings nobody knows are INVALID, and not only a warning */
    /* May be null; called in the caller's thread. */
    void (*phase)(void *ctx, enum feedback_phase phase);
    void *ctx;
};

struct feedback_timing { /* milliseconds, measured */
    int64_t sleep, distill, save, wake, total;
    int64_t logprobs; /* finding the stored answers and rendering what the teacher reads */
};

struct feedback_result {           /* clear with feedback_result_clear */
    char request_id[STATE_ID_CAP]; /* 32 hexadecimal digits; the id of the record */
    char lora_id[ADAPTER_ID_CAP];  /* as written: aliases resolved */
    uint64_t version_from, version_to;
    struct claas_digest serve; /* of the new version */
    cJSON *metadata;           /* object: the metrics, teacher_scored_texts, … */
    cJSON *warnings; /* array of strings: settings nobody knows, a version not loaded yet; may be
                        empty */
    struct feedback_timing timing;
    int slept, woke; /* serving was paused and resumed around the step */
    int serves;   /* the new version answers now; 0: not loaded, the old one answers, tried again */
    int recorded; /* the record was written */
    size_t batch_size;
};
void feedback_result_clear(struct feedback_result *r);
/* The answer to the caller; takes metadata and warnings out of r. Null when out of memory. */
cJSON *feedback_result_json(struct feedback_result *r);

struct feedback_end {
    struct feedback_result *result;    /* null: it failed */
    const struct claas_error *failure; /* null: it did not */
    enum feedback_phase phase;
    uint64_t version_from, version;
    const char *metrics_json, *timing_json; /* null where there are none */
};

/* What a request means, settled: enough to run it later, whatever else changes meanwhile. */
struct feedback_plan { /* clear with feedback_plan_clear */
    char adapter[ADAPTER_ID_CAP];
    uint64_t head;        /* of the adapter when it was settled */
    cJSON *items;         /* array: each with its completion_id and all settings */
    cJSON *received;      /* array: the items as received */
    cJSON *warnings;      /* array of texts */
    char *settings_json;
    char **rollouts;      /* completion ids, one for each item */
    size_t n;
};
/* Refuses as feedback_run does. */
int feedback_plan(struct feedback *f, const struct feedback_request *r, struct feedback_plan *out,
                  struct claas_error *err);
void feedback_plan_clear(struct feedback_plan *p);

/* Errors: INVALID (422; 400 where feedback_is_mixed); NOT_FOUND: no such adapter (what "lora_id")
 * or no such answer (what "completion_id", or "response" with the first 16 hexadecimal digits of
 * the key in the message); CONFLICT: the adapter's turn did not come, or others kept committing;
 * UNAVAILABLE: no engine. Errors after the turn has come begin with the phase ("distill: …") and
 * leave a record with status "error".
 *
 * Rules of finding by hash: the newest answer of the adapter with that hash, else of the base. By
 * completion id: an answer of this adapter or of the base; one of another adapter is INVALID.
 *
 * Settings: the engine's table, and of the core itself steps_per_batch (1 to 64, default 1: so many
 * updates on the batch in one call of the engine) and train_end_token (default true). Unknown names
 * are ignored with a warning. */
int feedback_run(struct feedback *f, const struct feedback_request *r, struct feedback_result *out,
                 struct claas_error *err);

/* 1 if this INVALID says that items of one batch differ in lora_id or training: status 400 in the
 * HTTP contract. */
int feedback_is_mixed(const struct claas_error *err);

/* ---- making an adapter ----------------------------------------------------------------------- */

struct feedback_create {
    const char *lora_id;    /* -latest, -init and @n are stripped */
    const char *base_model; /* null or "": the served one */
    const cJSON *spec;      /* object with the engine's creation options: lora_r, lora_alpha,
                             * target_modules …; unknown names are ignored */
    const char *owner;
    const struct claas_call *call;
};
struct feedback_created {
    char lora_id[ADAPTER_ID_CAP];
    uint64_t version;
    struct claas_digest serve;
    int serves; /* loaded and answering */
};
/* Makes version n+1 of kind create: of an id that lives already, too (its history stays, rollback
 * leads back). FORBIDDEN, what "base_model": not the served base nor an allowed name (the message
 * lists them). INVALID: all bad options in one message. */
int feedback_create(struct feedback *f, const struct feedback_create *r,
                    struct feedback_created *out, struct claas_error *err);

#endif
