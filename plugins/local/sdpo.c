/* SPDX-License-Identifier: MIT */
/* SDPO: generalised Jensen-Shannon divergence on the teacher's renormalised top ids, or the sampled reverse KL; an
 * importance ratio with clamp and cap; a k3 term towards the base model. Everything stays in log space, so that a
 * student probability that underflows costs nothing but its own term. */
#include "config.h"

#include "plugins/local/sdpo.h"

#include "base/err.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

static const double log_clamp = 20;      /* of the log ratios, both ways */
static const double absent_logprob = -20; /* of a sampled token outside the teacher's support */

static double log_sum_exp(const double *x, size_t n)
{
    double top = x[0];
    for (size_t i = 1; i < n; i++) {
        top = x[i] > top ? x[i] : top;
    }
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += exp(x[i] - top);
    }
    return top + log(sum);
}

static double log_add(double a, double b)
{
    double hi = a > b ? a : b;
    double lo = a > b ? b : a;
    return hi + log1p(exp(lo - hi));
}

/* p * x, where p = 0 makes even an infinite x vanish. */
static double weigh(double p, double x)
{
    return p > 0 ? p * x : 0;
}

static int settings_check(const struct sdpo_settings *s, struct claas_error *err)
{
    if (!(s->alpha > 0) || s->alpha > 1) {
        return err_set(err, CLAAS_ERR_INVALID, "alpha",
                       "alpha %g is refused: at 0 the divergence and its gradient vanish, above 1 it is not defined",
                       s->alpha);
    }
    if (!(s->is_clip > 0) || !isfinite(s->is_clip)) {
        return err_set(err, CLAAS_ERR_INVALID, "is_clip", "is_clip %g is refused: not above 0 and finite", s->is_clip);
    }
    if (!(s->kl_reg_weight >= 0) || !isfinite(s->kl_reg_weight)) {
        return err_set(err, CLAAS_ERR_INVALID, "kl_reg_weight", "kl_reg_weight %g is refused: not from 0 and finite",
                       s->kl_reg_weight);
    }
    return 0;
}

static int row_check(const struct sdpo_row *row, struct claas_error *err)
{
    if (row->n == 0) {
        return err_set(err, CLAAS_ERR_INVALID, NULL, "a teacher row without ids");
    }
    double sum = row->lse + row->chosen_logit + row->old;
    for (size_t i = 0; i < row->n; i++) {
        sum += row->logits[i] + row->teacher[i];
    }
    if (!isfinite(sum) || isinf(row->base)) {
        return err_set(err, CLAAS_ERR_INVALID, NULL, "a logit or log-probability of token %d is not finite",
                       (int)row->chosen);
    }
    return 0;
}

/* Finite inputs far apart can still leave the range of double. */
static int value_check(const struct sdpo_row *row, const struct sdpo_value *v, struct claas_error *err)
{
    if (!isfinite(v->logprob + v->divergence + v->k3 + v->dense)) {
        return err_set(err, CLAAS_ERR_INVALID, NULL, "the loss of token %d is not finite", (int)row->chosen);
    }
    return 0;
}

/* Divergence and gradient for alpha < 1; coef is scratch for the mixture's logarithms first. */
static double jensen_shannon(double alpha, const struct sdpo_row *row, double ratio, double *coef)
{
    double teacher_lse = log_sum_exp(row->teacher, row->n);
    double student_lse = log_sum_exp(row->logits, row->n);
    double to_teacher = 0;
    double to_student = 0;
    for (size_t i = 0; i < row->n; i++) {
        double log_t = row->teacher[i] - teacher_lse;
        double log_s = row->logits[i] - student_lse;
        double log_m = log_add(log(alpha) + log_t, log1p(-alpha) + log_s);
        to_teacher += weigh(exp(log_t), log_t - log_m);
        to_student += weigh(exp(log_s), log_s - log_m);
        coef[i] = log_m;
    }
    for (size_t i = 0; i < row->n; i++) {
        double log_s = row->logits[i] - student_lse;
        coef[i] = ratio * (1 - alpha) * weigh(exp(log_s), log_s - coef[i] - to_student);
    }
    return alpha * to_teacher + (1 - alpha) * to_student;
}

static double teacher_of_chosen(const struct sdpo_row *row)
{
    for (size_t i = 0; i < row->n; i++) {
        if (row->ids[i] == row->chosen) {
            return row->teacher[i];
        }
    }
    return absent_logprob;
}

int sdpo_row_loss(const struct sdpo_settings *s, const struct sdpo_row *row, struct sdpo_value *out, double *coef,
                  struct claas_error *err)
{
    int rc = settings_check(s, err);
    rc = rc != 0 ? rc : row_check(row, err);
    if (rc != 0) {
        return rc;
    }
    double logprob = row->chosen_logit - row->lse;
    double gap = fmin(fmax(logprob - row->old, -log_clamp), log_clamp);
    struct sdpo_value v = { .logprob = logprob, .ratio = fmin(exp(gap), s->is_clip) };
    if (s->alpha < 1) {
        v.divergence = jensen_shannon(s->alpha, row, v.ratio, coef);
    } else {
        double advantage = logprob - teacher_of_chosen(row);
        v.divergence = advantage * logprob;
        v.dense = v.ratio * advantage;
        for (size_t i = 0; i < row->n; i++) {
            coef[i] = 0;
        }
    }
    if (!isnan(row->base)) {
        double x = fmin(fmax(logprob - row->base, -log_clamp), log_clamp);
        int clamped = fabs(logprob - row->base) > log_clamp;
        v.k3 = expm1(x) - x;
        v.dense += clamped ? 0 : s->kl_reg_weight * expm1(x);
    }
    rc = value_check(row, &v, err);
    if (rc == 0) {
        *out = v;
    }
    return rc;
}

size_t sdpo_live_rows(const struct sdpo_sample *sample)
{
    size_t live = 0;
    for (size_t i = 0; i < sample->rows; i++) {
        live += !sample->mask || sample->mask[i];
    }
    return live;
}

static void sums_add(struct sdpo_sums *sums, const struct sdpo_settings *s, const struct sdpo_value *v)
{
    sums->distill += v->ratio * v->divergence;
    sums->k3 += v->k3;
    sums->ratio += v->ratio;
    sums->clipped += v->ratio >= s->is_clip;
    sums->tokens++;
}

/* One row of a chunk: its arrays, in double. */
struct chunk_row {
    double *teacher; /* [n] */
    double *logits;  /* [n] */
    double *coef;    /* [n] */
    double lse;
    double chosen_logit;
};

static int sample_row_loss(const struct sdpo_settings *s, const struct sdpo_sample *sample, size_t at,
                           const struct chunk_row *in, struct sdpo_value *out, struct claas_error *err)
{
    if (sample->base && isnan(sample->base[at])) {
        return err_set(err, CLAAS_ERR_INVALID, NULL, "a log-probability of the base model is not a number");
    }
    const struct sdpo_row row = {
        .n = sample->n,
        .ids = sample->ids + at * sample->n,
        .teacher = in->teacher,
        .logits = in->logits,
        .lse = in->lse,
        .chosen_logit = in->chosen_logit,
        .chosen = sample->chosen[at],
        .old = (double)sample->old[at],
        .base = sample->base ? (double)sample->base[at] : (double)NAN,
    };
    return sdpo_row_loss(s, &row, out, in->coef, err);
}

int sdpo_rows_loss(const struct sdpo_settings *s, const struct sdpo_sample *sample, size_t first, size_t rows,
                   const float *logits, const float *lse, const float *chosen_logit, double weight,
                   struct sdpo_sums *sums, float *coef, float *dense, struct claas_error *err)
{
    size_t n = sample->n;
    double *room = mem_array(n, 3 * sizeof *room);
    if (!room) {
        return err_oom(err, "computing the loss");
    }
    struct chunk_row row = { .teacher = room, .logits = room + n, .coef = room + 2 * n };
    int rc = 0;
    for (size_t i = 0; i < rows && rc == 0; i++) {
        size_t at = first + i;
        struct sdpo_value v = { 0 };
        for (size_t j = 0; j < n; j++) {
            row.teacher[j] = (double)sample->teacher[at * n + j];
            row.logits[j] = (double)logits[i * n + j];
            row.coef[j] = 0;
        }
        if (!sample->mask || sample->mask[at]) {
            row.lse = (double)lse[i];
            row.chosen_logit = (double)chosen_logit[i];
            rc = sample_row_loss(s, sample, at, &row, &v, err);
            if (rc == 0) {
                sums_add(sums, s, &v);
            }
        }
        for (size_t j = 0; j < n; j++) {
            coef[i * n + j] = (float)(weight * row.coef[j]);
        }
        dense[i] = (float)(weight * v.dense);
    }
    free(room);
    return rc;
}

void sdpo_metrics(const struct sdpo_settings *s, const struct sdpo_sums *sums, int have_base,
                  struct sdpo_metrics *out)
{
    double n = sums->tokens > 0 ? (double)sums->tokens : 1;
    out->distill_loss = sums->distill / n;
    out->kl_reg = have_base ? sums->k3 / n : (double)NAN;
    out->loss = out->distill_loss + (have_base && s->kl_reg_weight > 0 ? s->kl_reg_weight * out->kl_reg : 0);
    out->mean_is_ratio = sums->ratio / n;
    out->clip_fraction = sums->clipped / n;
}
