/* SPDX-License-Identifier: MIT */
/* The engine kind: one adapter version in, the next one out. All of it is since 0.1. */
#ifndef CLAAS_ENGINE_H
#define CLAAS_ENGINE_H

#include <claas/adapter.h>
#include <claas/host.h>
#include <claas/option.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One sample: numbers only, the core has rendered every prompt. Rows are response positions: row t
 * predicts response[t]. Pointers are null where an objective does not need them. */
struct claas_sample {
    uint32_t size;
    uint32_t group;        /* samples of one group belong together (pairs, GRPO); 0: alone */
    const char *objective; /* "sdpo", "cross_entropy", "importance_sampling", or an engine's own */
    const int32_t *prompt; /* [n_prompt] */
    const int32_t *response; /* [n_response], the end-of-turn token with it when it was sampled */
    const int32_t *teacher;  /* [n_teacher] sdpo: the teacher's prompt; the same response follows */
    const float *logprobs;   /* [n_response] of the sampling policy */
    const float *advantages; /* [n_response] importance_sampling */
    const uint8_t *mask;     /* [n_response] 1: counts; null: all count */
    const int32_t *top_ids;  /* [n_response][n_top] teacher rows already known (remote teacher,
                              * replay): the engine then makes no teacher pass; with cross_entropy:
                              * soft targets */
    const float *top_logprobs; /* [n_response][n_top] */
    uint32_t n_prompt;
    uint32_t n_response;
    uint32_t n_teacher;
    uint32_t n_top;
    float weight; /* of this sample in the batch (trust); 1: normal */
    uint32_t age; /* versions between the one that answered and `from` */
};

/* One update of the weights. */
struct claas_step {
    uint32_t size;
    uint32_t n_samples;
    const struct claas_sample *const *samples; /* [n_samples] */
    const struct claas_value *settings;        /* in the order of info.settings */
};

/* Several steps in one call: updates per batch, replay, undo. */
struct claas_train {
    uint32_t size;
    uint32_t n_steps;
    const struct claas_step *const *steps; /* [n_steps], one after the other */
    const struct claas_version *from;      /* where to start */
    struct claas_digest key; /* over job, from.state and steps. A repeat gives the stored
                              * result or starts again from `from`; never a second step on
                              * top of the first */
    uint64_t seed;           /* the same seed, key and version: the same bytes */
};

/* A fresh adapter. */
struct claas_create {
    uint32_t size;
    uint32_t reserved0;
    const struct claas_value *spec; /* in the order of info.creation */
    struct claas_digest key;        /* as in struct claas_train */
    uint64_t seed;
};

/* What the instance can do: a remote engine knows it only after open. The host sets size; pointers
 * live until close. */
struct claas_engine_info {
    uint32_t size;
    uint32_t parallel;             /* steps that may run at once; the host queues and is fair */
    const char *const *objectives; /* these three end with a null: what samples may ask for, */
    const char *const *formats;    /* version formats it reads, */
    const char *const *exports;    /* formats convert() makes; null: none */
    const struct claas_option *settings; /* of a step */
    const struct claas_option *creation; /* of an adapter */
    uint32_t option_size;                /* distance of the rows of both tables */
    uint32_t reserved0;
};

/* The table. check, convert and release are optional. */
struct claas_engine {
    uint32_t size;
    uint32_t reserved0;
    /* [quick] UNAVAILABLE while it is not known yet. */
    int (*info)(void *self, struct claas_engine_info *out, struct claas_error *err);
    /* [call] Writes version 0 of an adapter to out, and seals it. INVALID: a spec that the model
     * cannot have. */
    int (*create)(void *self, const struct claas_create *create, struct claas_out *out,
                  const struct claas_call *call, struct claas_error *err);
    /* [call] Trains from train->from, writes the result to out, and seals it. Refuses before any
     * work what it cannot do (UNSUPPORTED) or what cannot be (INVALID). A loss or gradient that is
     * not finite is INTERNAL, and nothing is sealed. */
    int (*train)(void *self, const struct claas_train *train, struct claas_out *out,
                 const struct claas_call *call, struct claas_error *err);
    /* [call] Optional: could I train and serve this? For imports, verify, another base. */
    int (*check)(void *self, const struct claas_version *version, const struct claas_call *call,
                 struct claas_error *err);
    /* [call] Optional: writes the version in another format, one of info.exports. */
    int (*convert)(void *self, const struct claas_version *version, const char *format,
                   struct claas_out *out, const struct claas_call *call, struct claas_error *err);
    /* [call] Optional: deletes claimed things that no version needs; gone already counts as done.
     */
    int (*release)(void *self, const char *const *uris, uint32_t n, const struct claas_call *call,
                   struct claas_error *err);
};

#ifdef __cplusplus
}
#endif

#endif
