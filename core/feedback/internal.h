/* SPDX-License-Identifier: MIT */
/* Private to core/feedback: turns, settings, samples and the step itself.
 *
 * Lock: `mutex` guards the list of turns and is never held while a plugin or the store is called.
 */
#ifndef FEEDBACK_INTERNAL_H
#define FEEDBACK_INTERNAL_H

#include "feedback/feedback.h"

#include "base/sha256.h"
#include "host/host.h"

#include <pthread.h>

struct turn { /* on the stack of who waits or works; in the list until left */
    struct turn *next;
    const char *id; /* of the adapter, or TURN_DEVICE */
};

/* No adapter has this id: the turn of whoever has inference paused. */
#define TURN_DEVICE ""

struct feedback {
    struct host_instance *engine, *text, *pause;
    struct adapters *adapters;
    struct state *state;
    struct serving *serving;
    char *engine_name, *model_name;
    const char *const *allowed_bases;
    const struct option_values *training; /* null: the defaults of the table */
    uint32_t lock_timeout_ms;
    struct option_table table; /* of settings: feedback_table() */

    pthread_mutex_t mutex;
    pthread_cond_t left; /* somebody left the list */
    struct turn *turns;  /* in the order of arrival */
};

/* ---- turn.c ---- */

/* Waits until nobody who came earlier has this adapter, or the device; then it is ours until
 * turn_leave. CONFLICT when it takes longer than allowed. `id` lives until then. Who wants both
 * takes the adapter first. */
int turn_take(struct feedback *f, struct turn *t, const char *id, const struct claas_call *call,
              struct claas_error *err);
void turn_leave(struct feedback *f, struct turn *t);

/* ---- settings.c ---- */

struct settings {                /* clear with settings_clear */
    struct option_values values; /* of f->table; the engine's rows come first */
    uint32_t steps;              /* 1 to 64 */
    int train_end;               /* the end-of-turn token is trained */
};
/* From one item's `training` (null: none) over the configured defaults. INVALID with every
 * violation in one message. Adds a warning for each unknown name, once; strict: that is INVALID too. */
int settings_make(struct feedback *f, const cJSON *training, int strict, cJSON *warnings, struct settings *out,
                  struct claas_error *err);
void settings_clear(struct settings *s);

/* Values of `table` from an object; the same about violations. */
int options_from(const struct option_table *table, const cJSON *object,
                 const struct option_values *base, option_unknown_fn unknown, void *ctx,
                 struct option_values *out, struct claas_error *err);

/* Adds a text to the array, where there is still memory for it. */
void warn(cJSON *warnings, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- feedback.c ---- */

cJSON *feedback_items_json(const struct feedback_request *r);
cJSON *feedback_timing_json(const struct feedback_timing *t);

/* ---- samples.c ---- */

struct batch { /* clear with batch_clear */
    size_t n;
    struct state_rollout **rollouts; /* [n], owned; the samples point into them */
    struct host_ids *teachers;       /* [n] */
    struct claas_sample *samples;    /* [n] */
    const struct claas_sample **list;
    const char **ids; /* [n] completion ids */
};
/* Finds the answers the items mean and renders what the teacher reads. */
int batch_make(struct feedback *f, const struct feedback_request *r, const char *adapter,
               const struct settings *settings, struct batch *out, struct claas_error *err);
/* How far each answer is behind version n. */
void batch_age(struct batch *b, uint64_t n);
/* The decoded input of the teacher for each sample; null when out of memory. */
cJSON *batch_teacher_texts(struct feedback *f, const struct batch *b);
void batch_clear(struct batch *b);

/* ---- step.c ---- */

struct step {            /* clear with step_clear */
    const char *adapter; /* id */
    const char *job;     /* names the attempt in the log */
    const struct settings *settings;
    struct batch *batch;
    const struct feedback_request *request;
    struct feedback_timing *timing; /* added to */
    enum feedback_phase phase;      /* last one reached */
    int slept, woke;
    uint64_t from;               /* version */
    struct adapter_entry *entry; /* what was committed */
    cJSON *metrics;              /* of the step that was committed */
};
/* Trains from the head and commits; from the new head again where somebody else was faster. */
int step_run(struct feedback *f, struct step *s, struct claas_error *err);
void step_clear(struct step *s);
/* Tells the caller, and remembers. */
void step_phase(struct step *s, enum feedback_phase phase);

#endif
