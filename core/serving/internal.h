/* SPDX-License-Identifier: MIT */
/* Private to core/serving: what is loaded, which version answers for an adapter, and the visible part of a stream.
 *
 * Lock: `mutex` guards slots, the pool and everything in them; it is never held while a plugin or the store is called.
 * Who wants to load or unload marks the entry LOADING or UNLOADING and lets go; the others wait for `changed`. */
#ifndef SERVING_INTERNAL_H
#define SERVING_INTERNAL_H

#include "serving/serving.h"

#include "base/buf.h"
#include "host/host.h"

#include <pthread.h>
#include <stdatomic.h>

enum loaded_state { LOADED_NOT, LOADED_COMING, LOADED_THERE, LOADED_GOING };

struct loaded {                      /* one serve digest at the inference instance */
    struct loaded *next;
    struct adapter_version *version; /* keeps its files until unload has returned */
    struct claas_digest serve;
    enum loaded_state state;
    uint32_t users;                  /* slots and requests that name it, and those waiting for it */
    uint64_t last_used;
};

struct slot {                        /* one adapter that was asked for */
    struct slot *next;
    char id[ADAPTER_ID_CAP];
    struct adapter_version *version; /* the pointer: what answers now; null before the first load */
    struct loaded *loaded;           /* of that version, counted */
    uint64_t n;
    uint64_t coming;                 /* somebody is loading this version for the pointer; 0 = nobody */
    uint64_t failed;                 /* this version could not be loaded; 0 = none */
    int64_t retry_at_ns;
    uint32_t retry_ms;
    char why[200];
};

struct serving {
    struct host_instance *inference, *text;
    struct adapters *adapters;
    struct state *state;
    char *default_model, *model_name;
    uint32_t max_tokens, default_tokens, prompt_tokens, keep_loaded, retry_ms;
    int64_t opened_ns;

    pthread_mutex_t mutex;
    pthread_cond_t changed;          /* an entry of the pool changed its state */
    pthread_cond_t work;             /* the keeper has something to do */
    struct loaded *pool;
    struct slot *slots;
    uint64_t clock;                  /* for last_used */
    int closing;
    int has_keeper;
    pthread_t keeper;                /* unloads, and tries again what failed to load */

    pthread_mutex_t end_mutex;       /* guards the next two */
    int end_known;
    int32_t end_token;               /* closes an assistant turn; -1 = none */

    _Atomic(struct spelling *) spelling; /* made when first wanted */
    atomic_uint n_requests;
    atomic_ullong n_answers, n_tokens;
};

/* ---- versions.c ------------------------------------------------------------------------------ */

/* Who answers one request: pinned until lease_release. */
struct lease {
    struct adapter_version *version; /* null = the base */
    struct loaded *loaded;
    char adapter[ADAPTER_ID_CAP];
    uint64_t n;
    struct claas_digest serve;
};
int lease_take(struct serving *s, const char *model, const char *prefix, const struct claas_call *call, struct lease *out,
               struct claas_error *err);
void lease_release(struct serving *s, struct lease *lease);
const struct claas_version *lease_abi(const struct lease *lease);

int versions_open(struct serving *s, struct claas_error *err);
void versions_close(struct serving *s);

/* ---- request.c ------------------------------------------------------------------------------- */

/* INVALID where a parameter is out of its range; what = its name in the HTTP contract, where n_top is called `top`. */
int params_check(const struct serving *s, const struct serving_params *p, const char *top, struct claas_error *err);
/* {"messages": […]} with each content as one string. Free with cJSON_Delete. */
int messages_normalise(const cJSON *messages, cJSON **out, struct claas_error *err);
/* Its ids with the header of an assistant turn. */
int messages_render(struct serving *s, const cJSON *chat, struct host_ids *out, struct claas_error *err);
/* How many tokens an answer may have. */
int room_for(struct serving *s, size_t n_prompt, int64_t wanted, const char *what, uint32_t *out,
             struct claas_error *err);
/* UNAVAILABLE without an inference instance or without a text table. */
int serving_ready(const struct serving *s, struct claas_error *err);
/* What the request was sampled with, for the record. */
char *params_json(const struct serving_params *p, uint32_t max_tokens, uint64_t seed);

/* ---- spelling.c ------------------------------------------------------------------------------ */

/* Of all tokens; made by the first who asks, kept until close. Null: not known (no memory, or the plugin does not say how
 * many tokens there are). Not to be called from a thread of the plugin; the others may be. */
struct spelling;
const struct spelling *spelling_of(struct serving *s);
/* How many bytes of an answer's text a token is: none for special ones. */
size_t spelling_bytes(const struct spelling *p, int32_t id);
/* Its text, special ones spelled out; non-zero: there is no such token. */
int spelling_add(const struct spelling *p, int32_t id, struct buf *out);
void spelling_free(struct spelling *p);

/* ---- visible_stream.c ------------------------------------------------------------------------ */

struct visible_stream {              /* start from all zeros */
    struct buf raw, sent;
    size_t settled;                  /* first bytes of the raw text that were shown, or left out, for good */
};
/* Takes the next bytes of the raw text (last: there are no more) and appends to *out what has become visible for good. */
int visible_stream_add(struct visible_stream *v, const char *text, size_t n, int last, struct buf *out,
                       struct claas_error *err);
void visible_stream_clear(struct visible_stream *v);

#endif
