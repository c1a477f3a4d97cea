/* SPDX-License-Identifier: MIT */
/* The SDPO loss and its gradient, row by row, in double precision and in log space. A row is one response token. The
 * caller has the student's logits at the teacher's top ids, the log of the sum over the whole vocabulary, and the logit
 * of the sampled token; it gets values and a gradient that is sparse on the support plus one multiple of
 * (onehot(sampled) - p). Nothing here sees a whole row of the vocabulary. */
#ifndef LOCAL_SDPO_H
#define LOCAL_SDPO_H

#include <claas/error.h>

#include <stddef.h>
#include <stdint.h>

struct sdpo_settings {
    double alpha;         /* > 0: weight of the teacher in the mixture; >= 1: sampled reverse KL. 0 is refused */
    double is_clip;       /* cap of the importance ratio, >= 1 */
    double kl_reg_weight; /* of the k3 term to the base model */
};

struct sdpo_row {
    size_t n;              /* size of the support, >= 1 */
    const int32_t *ids;    /* [n] the teacher's best ids */
    const double *teacher; /* [n] their log-probabilities, not renormalised */
    const double *logits;  /* [n] the student's logits at these ids */
    double lse;            /* log of the sum of exp over all student logits */
    double chosen_logit;   /* the student's logit of the sampled token */
    int32_t chosen;        /* the sampled token */
    double old;            /* its log-probability when it was sampled */
    double base;           /* its log-probability under the base model; NaN: not known, no k3 term */
};

struct sdpo_value {
    double logprob;    /* of the sampled token under the student */
    double ratio;      /* importance ratio after clamp and cap */
    double divergence; /* not yet multiplied by the ratio */
    double k3;         /* 0 without base */
    double dense;      /* gradient of ratio * divergence + kl_reg_weight * k3 : dense * (onehot(chosen) - p) ... */
};

/* ... plus coef[n] on the support. INVALID when any input or result is not finite, or alpha is not in (0, 1]. */
int sdpo_row_loss(const struct sdpo_settings *s, const struct sdpo_row *row, struct sdpo_value *out, double *coef,
                  struct claas_error *err);

/* One sample in float, as the engine has it. */
struct sdpo_sample {
    size_t rows;
    size_t n;               /* support of each row */
    const int32_t *ids;     /* [rows][n] */
    const float *teacher;   /* [rows][n] */
    const int32_t *chosen;  /* [rows] */
    const float *old;       /* [rows] */
    const float *base;      /* [rows], null: no k3 term */
    const uint8_t *mask;    /* [rows], null: all count. Rows that do not count are not looked at */
};

struct sdpo_sums {          /* over the rows that count, divided by max(their number, 1) in sdpo_metrics */
    double distill;
    double k3;
    double ratio;
    double clipped;
    size_t tokens;
};

struct sdpo_metrics {
    double loss;
    double distill_loss;
    double kl_reg;          /* NaN without base */
    double mean_is_ratio;
    double clip_fraction;
};

/* Rows first .. first + rows of the sample (a chunk). logits [rows][n] at the ids, lse and chosen_logit [rows] belong to
 * the chunk. The gradient (coef [rows][n], dense [rows]; zero where the mask is) is multiplied by `weight`. Sums are
 * added to *sums. */
int sdpo_rows_loss(const struct sdpo_settings *s, const struct sdpo_sample *sample, size_t first, size_t rows,
                   const float *logits, const float *lse, const float *chosen_logit, double weight,
                   struct sdpo_sums *sums, float *coef, float *dense, struct claas_error *err);

size_t sdpo_live_rows(const struct sdpo_sample *sample);
void sdpo_metrics(const struct sdpo_settings *s, const struct sdpo_sums *sums, int have_base,
                  struct sdpo_metrics *out);

#endif
