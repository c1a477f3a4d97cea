/* SPDX-License-Identifier: MIT */
/* Choosing the next token from raw logits, in vLLM's order: allowed ids, penalties, temperature, min_p, top_k, top_p,
 * then a draw by inverse CDF with one uniform number for each (seed, position). Independent of batching and threads. */
#ifndef LOCAL_SAMPLE_H
#define LOCAL_SAMPLE_H

#include <claas/error.h>

#include <stddef.h>
#include <stdint.h>

struct sample_settings {
    double temperature; /* below 1e-5: greedy, lowest id among equals; else at least 0.01 */
    double top_p;       /* 0 < top_p <= 1; 1: off */
    double min_p;       /* 0 to 1; 0: off */
    double repetition;  /* > 0; 1: off */
    double presence;    /* -2 to 2; 0: off */
    double frequency;
    int64_t top_k;      /* 0, -1: off */
    uint64_t seed;
};

struct sampler;

/* Small until the first token is chosen: it may wait. allowed: [vocab] 1 = may be chosen, null = all; borrowed, as is the
 * prompt, which counts for the repetition penalty only. Ids beyond the vocabulary are ignored. INVALID names the setting
 * that is out of range, as claas_generate calls it. */
int sampler_create(size_t vocab, const struct sample_settings *s, const uint8_t *allowed, const int32_t *prompt,
                   size_t n_prompt, struct sampler **out, struct claas_error *err);
void sampler_free(struct sampler *s); /* null is fine */

/* The next token, which then counts as output. banned: ids that may not be chosen this once (end of turn before
 * min_tokens), n of them. INTERNAL when a logit is NaN or +inf, or when nothing is allowed; EXHAUSTED without memory. */
int sampler_next(struct sampler *s, const float *logits, const int32_t *banned, size_t n_banned, int32_t *out,
                 struct claas_error *err);

#endif
