/* SPDX-License-Identifier: MIT */
/* The inference kind: generate, score, load, unload. The version rides in every request, so that
 * evictions and restarts of a server heal by themselves. All of it is since 0.1. */
#ifndef CLAAS_INFERENCE_H
#define CLAAS_INFERENCE_H

#include <claas/adapter.h>
#include <claas/host.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Flags of info. */
enum {
    CLAAS_CAN_CHAT = 1,  /* generate takes chat_json instead of ids */
    CLAAS_CAN_SCORE = 2, /* score works */
    CLAAS_CAN_TOP = 4    /* top log-probabilities, up to max_top */
};

/* What the instance can do. The host sets size; pointers live until close. */
struct claas_inference_info {
    uint32_t size;
    uint32_t flags;
    uint32_t max_top; /* most alternatives a row can have */
    uint32_t reserved0;
    const char *const *formats; /* version formats it reads, ended by a null */
};

/* One answer. Lives, with all it points to, until done() returned. */
struct claas_generate {
    uint32_t size;
    uint32_t n_prompt;
    const struct claas_version *version; /* null: the base; loaded on demand should it be gone */
    const int32_t *prompt;               /* [n_prompt] ids; or, if CAN_CHAT, null and: */
    const char *chat_json;               /* the client's request, less model and stream */
    const char *extra_json;  /* fields the core does not know: honour or refuse by name */
    const char *const *stop; /* [n_stop] texts that end the answer; not part of its text */
    const int32_t *stop_ids; /* [n_stop_ids] further tokens that end it */
    uint32_t n_stop;
    uint32_t n_stop_ids;
    uint32_t max_tokens; /* at least 1 */
    uint32_t n_top;      /* alternatives wanted for each row */
    float temperature;   /* 0: greedy */
    float top_p;         /* 1: off */
    float min_p;         /* 0: off */
    float repetition;    /* penalties: 1, 0 and 0: off */
    float presence;
    float frequency;
    int32_t top_k; /* 0: off */
    uint32_t reserved0;
    uint64_t seed;
    uint64_t scope; /* tenant: caches are not shared between scopes, fairness is
                     * among them */
};

/* Flags of a piece. */
enum {
    CLAAS_PIECE_PROMPT = 1, /* the first one: ids are the exact prompt */
    CLAAS_PIECE_LAST = 2    /* the last one: carries finish */
};

/* A piece of an answer, borrowed for the call. */
struct claas_piece {
    uint32_t size;
    uint32_t flags;
    const int32_t *ids;        /* [n] */
    const float *logprobs;     /* [n] finite, at most 0; null for a prompt */
    const int32_t *top_ids;    /* [n][n_top] */
    const float *top_logprobs; /* [n][n_top] */
    const char *text;       /* [text_bytes]; the pieces join up to the answer; may lag behind ids */
    const char *delta_json; /* a server's own delta (tool calls), or null */
    const char *finish;     /* LAST: "stop", "length", ... */
    uint32_t n;
    uint32_t n_top;
    uint32_t text_bytes;
    uint32_t end_tokens; /* how many last ids spell no text (end of turn) */
};

/* Where an answer goes: the host's; never blocks, never calls back into the plugin. */
struct claas_stream {
    uint32_t size;
    uint32_t reserved0;
    void *ctx;
    /* [cb] One at a time. Not 0: stop, soon, and call done(). */
    int (*piece)(void *ctx, const struct claas_piece *piece);
    /* [cb] Exactly once, last. or_null: why it failed. The stream is gone when it returns. */
    void (*done)(void *ctx, const struct claas_error *or_null);
};

/* Log-probabilities of a given response. The caller's arrays take the result. */
struct claas_score {
    uint32_t size;
    uint32_t n_prompt;
    uint32_t n_response;
    uint32_t n_top;
    const int32_t *tokens;               /* [n_prompt + n_response] */
    const struct claas_version *version; /* null: the base */
    float *out_logprobs;                 /* [n_response] */
    int32_t *out_top_ids;                /* [n_response][n_top], best first */
    float *out_top_logprobs;             /* [n_response][n_top] */
};

/* The table. score, pause and resume are optional. */
struct claas_inference {
    uint32_t size;
    uint32_t reserved0;
    /* [quick] */
    int (*info)(void *self, struct claas_inference_info *out, struct claas_error *err);
    /* [call] An error: refused, done() never comes. 0: done() came or will come, from any thread;
     * later than the return only if CLAAS_PARALLEL. INVALID: a setting out of range, a prompt
     * longer than the context. */
    int (*generate)(void *self, const struct claas_generate *generate,
                    const struct claas_stream *stream, const struct claas_call *call,
                    struct claas_error *err);
    /* [call] Optional. */
    int (*score)(void *self, const struct claas_score *score, const struct claas_call *call,
                 struct claas_error *err);
    /* [call] 0: the next generate with it is answered by it. The same again is fine. */
    int (*load)(void *self, const struct claas_version *version, const struct claas_call *call,
                struct claas_error *err);
    /* [call] No request names it any more (the host counts); unknown is fine. */
    int (*unload)(void *self, const struct claas_digest *serve, const struct claas_call *call,
                  struct claas_error *err);
    /* [call] Optional: drained, device freed when it returns 0. */
    int (*pause)(void *self, const struct claas_call *call, struct claas_error *err);
    /* [call] Optional: serves again; fine also when not paused. */
    int (*resume)(void *self, const struct claas_call *call, struct claas_error *err);
};

#ifdef __cplusplus
}
#endif

#endif
