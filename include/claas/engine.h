/* SPDX-License-Identifier: MIT */
/* The engine kind: one adapter version in, the next one out. */
#ifndef CLAAS_ENGINE_H
#define CLAAS_ENGINE_H

#include <claas/adapter.h>
#include <claas/host.h>
#include <claas/option.h>

#ifdef __cplusplus
extern "C" {
#endif

struct claas_sample {              /* numbers only: the core has rendered every prompt. Rows are response positions */
    uint32_t size, group;          /* samples of one group belong together (pairs, GRPO); 0 = alone */
    const char    *objective;      /* "sdpo", "cross_entropy", "importance_sampling", or one of the engine's own */
    const int32_t *prompt, *response;
    const int32_t *teacher;        /* sdpo: teacher's prompt ids; the same response follows */
    const float   *logprobs;       /* [n_response] natural log, of the sampling policy, unmodified distribution */
    const float   *advantages;     /* [n_response] importance_sampling */
    const uint8_t *mask;           /* [n_response] 1 = counts; null = all */
    const int32_t *top_ids;        /* [n_response][n_top] teacher rows already known (remote teacher, replay): */
    const float   *top_logprobs;   /* the engine then makes no teacher pass; with cross_entropy: soft targets */
    uint32_t n_prompt, n_response, n_teacher, n_top;
    float    weight;               /* of this sample in the batch (trust), 1 = normal */
    uint32_t age;                  /* versions between the one that answered and `from` */
};
struct claas_step  { uint32_t size, n_samples; const struct claas_sample *const *samples;
                     const struct claas_value *settings; };           /* order of info.settings */
struct claas_train {               /* several steps in one call: updates per batch, replay, undo */
    uint32_t size, n_steps;
    const struct claas_step *const *steps;
    const struct claas_version *from;
    struct claas_digest key;       /* = H(job, from.state, steps): a repeat gives the stored result, or starts
                                    * again from `from`; never a second step on top of the first */
    uint64_t seed;
};
struct claas_create { uint32_t size, reserved0; const struct claas_value *spec; struct claas_digest key; uint64_t seed; };
struct claas_engine_info {         /* of this instance: a remote engine knows it only after open; lives until close */
    uint32_t size, parallel;       /* steps that may run at once; the host queues and is fair */
    const char *const *objectives, *const *formats, *const *exports;  /* null-terminated */
    const struct claas_option *settings, *creation;
    uint32_t option_size, reserved0;
};
struct claas_engine {
    uint32_t size, reserved0;
    int (*info)(void *self, struct claas_engine_info *, struct claas_error *);                        /* [quick] */
    int (*create)(void *self, const struct claas_create *, struct claas_out *, const struct claas_call *,
                  struct claas_error *);
    int (*train)(void *self, const struct claas_train *, struct claas_out *, const struct claas_call *,
                 struct claas_error *);                               /* both [call] */
    int (*check)(void *self, const struct claas_version *, const struct claas_call *, struct claas_error *);
                                   /* optional: could I train and serve this? For imports, verify, another base */
    int (*convert)(void *self, const struct claas_version *, const char *format, struct claas_out *,
                   const struct claas_call *, struct claas_error *);  /* optional: to one of info.exports */
    int (*release)(void *self, const char *const *uris, uint32_t n, const struct claas_call *, struct claas_error *);
};                                 /* optional: claimed things no version needs; gone already counts as done */

#ifdef __cplusplus
}
#endif

#endif
