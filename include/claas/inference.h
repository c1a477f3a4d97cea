/* SPDX-License-Identifier: MIT */
/* The inference kind: generate, score, load, unload. */
#ifndef CLAAS_INFERENCE_H
#define CLAAS_INFERENCE_H

#include <claas/adapter.h>
#include <claas/host.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { CLAAS_CAN_CHAT = 1, CLAAS_CAN_SCORE = 2, CLAAS_CAN_TOP = 4 };
struct claas_inference_info { uint32_t size, flags, max_top, reserved0; const char *const *formats; };
struct claas_generate {            /* lives, with all it points to, until done() returns */
    uint32_t size, n_prompt;
    const struct claas_version *version;              /* null = base; loaded on demand should it be gone */
    const int32_t *prompt;                            /* ids; or, if CAN_CHAT, null and: */
    const char *chat_json;                            /* the client's request, less model and stream */
    const char *extra_json;                           /* fields the core does not know: honour or refuse by name */
    const char *const *stop; const int32_t *stop_ids;
    uint32_t n_stop, n_stop_ids, max_tokens, n_top;
    float    temperature, top_p, min_p, repetition, presence, frequency;
    int32_t  top_k; uint32_t reserved0;
    uint64_t seed, scope;          /* scope: tenant. Caches are not shared between scopes; fairness is among them */
};
enum { CLAAS_PIECE_PROMPT = 1, CLAAS_PIECE_LAST = 2 };
struct claas_piece {               /* PROMPT first, with the exact prompt ids; LAST carries finish */
    uint32_t size, flags;
    const int32_t *ids; const float *logprobs;        /* [n]; finite and <= 0 */
    const int32_t *top_ids; const float *top_logprobs;/* [n][n_top] */
    const char *text, *delta_json, *finish;           /* text bytes join up to the answer; may lag behind ids */
    uint32_t n, n_top, text_bytes, end_tokens;        /* end_tokens: how many last ids spell no text (end of turn) */
};
struct claas_stream {              /* host's; never blocks, never calls back into the plugin */
    uint32_t size, reserved0; void *ctx;
    int  (*piece)(void *ctx, const struct claas_piece *);             /* [cb] non-zero: stop, soon */
    void (*done)(void *ctx, const struct claas_error *or_null);       /* [cb] exactly once, last */
};
struct claas_score {               /* the caller's arrays take the result */
    uint32_t size, n_prompt, n_response, n_top; const int32_t *tokens; const struct claas_version *version;
    float *out_logprobs; int32_t *out_top_ids; float *out_top_logprobs;      /* [n_response], [n_response][n_top] x 2 */
};
struct claas_inference {
    uint32_t size, reserved0;
    int (*info)(void *self, struct claas_inference_info *, struct claas_error *);                     /* [quick] */
    int (*generate)(void *self, const struct claas_generate *, const struct claas_stream *,
                    const struct claas_call *, struct claas_error *);
                                   /* error: refused, done() never comes. 0: done() came or will come, from any thread */
    int (*score)(void *self, const struct claas_score *, const struct claas_call *, struct claas_error *);
                                   /* optional; log-probabilities of a given response, and the best n_top of each row */
    int (*load)(void *self, const struct claas_version *, const struct claas_call *, struct claas_error *);
                                   /* 0: the next generate with it is answered by it. Idempotent */
    int (*unload)(void *self, const struct claas_digest *serve, const struct claas_call *, struct claas_error *);
                                   /* no request names it any more (the host counts); unknown is fine */
    int (*pause)(void *self, const struct claas_call *, struct claas_error *);   /* optional: drained, device freed */
    int (*resume)(void *self, const struct claas_call *, struct claas_error *);  /* optional: idempotent, also unpaused */
};

#ifdef __cplusplus
}
#endif

#endif
