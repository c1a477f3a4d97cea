/* SPDX-License-Identifier: MIT */
/* Who answers: from a model name to a version of an adapter, loaded before it is used and unloaded when nothing names
 * it; one version (one digest) for each answer; every answer recorded before it is acknowledged.
 *
 * Any thread may call any function; the ones that answer block until the answer is complete. */
#ifndef SERVING_SERVING_H
#define SERVING_SERVING_H

#include "adapters/adapters.h"
#include "state/state.h"

#include <cjson/cJSON.h>
#include <claas/error.h>
#include <claas/host.h>

#include <stddef.h>
#include <stdint.h>

struct serving;
struct host_instance; /* core/host */

struct serving_options {              /* everything is borrowed and outlives the serving room; strings are copied */
    struct host_instance *inference;  /* null: every answer is UNAVAILABLE ("no engine configured") */
    struct host_instance *text;       /* the instance with the text table; null: the same */
    struct adapters *adapters;        /* null: the base only */
    struct state *state;              /* null: nothing is recorded (an answer still has an id) */
    const char *default_model;        /* what an empty model name means; "" or null: the base */
    const char *model_name;           /* public name of the base; "" or null: what the plugin's model() says */
    uint32_t max_tokens;              /* bound of an answer's length; 0: the room left in the context */
    uint32_t default_tokens;          /* length where a request names none; 0: as much as may be */
    uint32_t prompt_tokens;           /* bound of a prompt; 0: the context */
    uint32_t keep_loaded;             /* versions that stay loaded though nothing names them; 0: 4 */
    uint32_t retry_ms;                /* first wait before a version that failed to load is tried again; 0: 1000 */
};

int serving_open(const struct serving_options *options, struct serving **out, struct claas_error *err);
/* No request may be in progress. Unloads what is loaded. Null is fine. */
void serving_close(struct serving *s);

/* Public name of the base, "" if unknown; valid until close. */
const char *serving_model_name(const struct serving *s);

/* ---- answering ------------------------------------------------------------------------------- */

struct serving_params {               /* start from serving_params_default() */
    int64_t max_tokens;               /* < 0: the default; more than the bound or the room left counts as those */
    double temperature, top_p, min_p; /* 1, 1, 0 */
    double repetition, presence, frequency; /* 1, 0, 0 */
    int64_t top_k;                    /* 0 or -1: off */
    uint64_t seed;
    int has_seed;                     /* 0: a fresh one for each answer (recorded) */
    const char *const *stop;
    uint32_t n_stop;
    const int32_t *stop_ids;
    uint32_t n_stop_ids;
    uint32_t n_top;                   /* top_logprobs wanted for each token */
};
void serving_params_default(struct serving_params *p);

struct serving_receipt {              /* known before the first piece */
    char id[STATE_ID_CAP];            /* = completion_id = the rollout's id */
    char adapter[ADAPTER_ID_CAP];     /* "" = the base */
    uint64_t version;                 /* 0 = the base */
    struct claas_digest serve;        /* zeros = the base */
    int64_t created_ns;
    uint32_t n_prompt;                /* prompt tokens */
};

struct serving_piece {                /* of a stream; borrowed for the call */
    const char *text;                 /* chat: what becomes visible (no thinking, no blanks at the start); else raw text */
    size_t text_bytes;                /* may be 0 */
    const int32_t *ids;               /* with stream.tokens: those whose text ends in this piece, without the end of turn */
    const float *logprobs;            /* [n], null if the server gives none */
    const int32_t *top_ids;           /* [n][n_top] */
    const float *top_logprobs;
    uint32_t n, n_top;
};

/* Both are called from a thread of the plugin: they must not block and must not call back into this room. Non-zero: the
 * client is gone, stop soon. */
struct serving_stream {
    void *ctx;
    int (*begin)(void *ctx, const struct serving_receipt *); /* once, before the first piece; may be null */
    int (*piece)(void *ctx, const struct serving_piece *);   /* may be null */
    int tokens;                                              /* 1: pieces carry their tokens */
};

struct serving_request {
    const char *model;                /* as the client said it; null or "": default_model */
    const char *owner;                /* null or "": nobody's */
    const char *prefix;               /* adapters equal to it or below only; null or "": any */
    const char *user;                 /* end user that the client names, for the record; null: not named */
    const cJSON *messages;            /* chat: array of {role, content}; content of any JSON is coerced to text */
    const char *prompt;               /* text completion */
    size_t prompt_bytes;
    struct serving_params params;
    const struct serving_stream *stream; /* null: only the answer */
    const struct claas_call *call;    /* deadline and cancellation; null: none */
};

struct serving_answer {               /* clear with serving_answer_clear */
    struct serving_receipt receipt;
    char finish[24];                  /* "stop", "length", or the plugin's own word */
    char *text;                       /* raw */
    char *visible;                    /* chat: thinking and channels removed; completion: the same as text */
    int32_t *response_ids;            /* n_response, end of turn included */
    float *logprobs;                  /* null if the server gives none */
    int32_t *top_ids;                 /* [n_response][n_top] or null */
    float *top_logprobs;
    uint32_t n_response, n_top, end_tokens;
};
void serving_answer_clear(struct serving_answer *a);

/* NOT_FOUND, what "model": no such model. INVALID: bad messages, an adapter of another base model, or a prompt that leaves
 * no room in the context (the message has the numbers). UNAVAILABLE: no engine configured. CANCELLED: begin or piece asked
 * to stop, or the call was; TIMEOUT: it was out of time. What was said until then is recorded, finish "cancelled". */
int serving_chat(struct serving *s, const struct serving_request *r, struct serving_answer *out,
                 struct claas_error *err);
int serving_complete(struct serving *s, const struct serving_request *r, struct serving_answer *out,
                     struct claas_error *err);

/* ---- scoring --------------------------------------------------------------------------------- */

struct serving_score_request {
    const char *model, *owner, *prefix;
    const cJSON *messages;            /* rendered with the header of an assistant turn */
    const char *completion;
    size_t completion_bytes;
    int without_end;                  /* 1: leave the end-of-turn token away */
    uint32_t n_top;                   /* 0: none */
    const struct claas_call *call;
};
struct serving_score {                /* clear with serving_score_clear */
    char adapter[ADAPTER_ID_CAP];
    uint64_t version;
    struct claas_digest serve;
    uint32_t n_prompt, n, n_top;
    int32_t *ids;                     /* [n] of the completion, and the end of turn */
    float *logprobs;                  /* [n] */
    int32_t *top_ids;                 /* [n][n_top] or null */
    float *top_logprobs;
    double sum;
};
/* The ids scored are prompt ids ++ ids of the completion ++ end-of-turn token: concatenated, never cut out of a rendered
 * conversation, so it holds for templates whose prompt is no prefix of the conversation. An empty completion gives
 * n = 0 and sum 0. */
int serving_score(struct serving *s, const struct serving_score_request *r, struct serving_score *out,
                  struct claas_error *err);
void serving_score_clear(struct serving_score *out);

/* ---- text ------------------------------------------------------------------------------------ */

/* Appends the text of one token (special tokens spelled out): for `token` and `bytes` of log-probabilities. */
struct buf;
int serving_token_text(struct serving *s, int32_t id, struct buf *out, struct claas_error *err);

/* ---- models, versions, health ---------------------------------------------------------------- */

struct serving_model {
    char id[ADAPTER_ID_CAP];          /* the base's name, then adapter ids and aliases */
    char adapter[ADAPTER_ID_CAP];     /* "" = the base; of an alias: its target */
    uint64_t version;                 /* head; 0 = the base */
    int64_t created_ns;               /* of the head; of the base: when serving was opened */
};
struct serving_models {               /* free(at) */
    struct serving_model *at;
    size_t n;
};
/* At most 1000 adapters and 1000 aliases. */
int serving_models(struct serving *s, const struct claas_call *call, struct serving_models *out,
                   struct claas_error *err);

/* The head of `id` has moved (a step, a rollback, a create): loads it and, once that has succeeded, moves the pointer,
 * so that the next request is answered by it. An error: it is not loaded, the old version goes on answering, health is
 * degraded, and it is tried again in the background. Requests
 * follow the log by themselves too, so a commit of another process is seen without this. */
int serving_follow(struct serving *s, const char *id, const struct claas_call *call, struct claas_error *err);

/* The adapter is gone (deleted): its versions are unloaded when no request names them any more. */
void serving_forget(struct serving *s, const char *id);

/* The greatest n_top that can be asked for; 0: the plugin gives none. */
uint32_t serving_max_top(const struct serving *s);

struct serving_health {
    int state;                        /* CLAAS_STARTING, READY, DEGRADED, DOWN */
    char text[248];                   /* why, "" when ready */
    uint32_t n_loaded;                /* versions loaded now */
    uint32_t n_requests;              /* being answered now */
    uint32_t n_behind;                /* adapters whose head could not be loaded */
    uint64_t n_answers, n_tokens;     /* since open: answers finished, tokens sampled */
};
/* Quick: asks no store and waits for nothing. */
void serving_health(struct serving *s, struct serving_health *out);

#endif
