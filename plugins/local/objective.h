/* SPDX-License-Identifier: MIT */
/* One sample of a step: what the frozen model says about its response, the loss of the student, and its gradient.
 * "sdpo": see sdpo.h. "cross_entropy": the mean over response tokens of -log p(token), or with given rows of
 * -sum_k q_k log p(k), q renormalised over the row. "importance_sampling": -sum exp(new - old) * advantage. */
#ifndef LOCAL_OBJECTIVE_H
#define LOCAL_OBJECTIVE_H

#include "plugins/local/pulse.h"
#include "plugins/local/train.h"

enum objective_kind { OBJECTIVE_SDPO, OBJECTIVE_CROSS_ENTROPY, OBJECTIVE_IMPORTANCE_SAMPLING, OBJECTIVES };

extern const char *const objective_names[]; /* in the order above; null-terminated */
enum objective_kind objective_kind(const char *name); /* OBJECTIVES: unknown */

/* What does not change while the student learns: made once for all steps that use the sample. */
struct objective_teacher {
    size_t n;              /* ids of each row; 0: the objective has none */
    const int32_t *ids;    /* [n_response][n], the sample's own or `owned` */
    const float *logprobs; /* [n_response][n] */
    void *owned;
    float *base;           /* [n_response] log-probabilities of the response under the base model; null: not needed */
};

/* The passes without gradient of this sample: teacher rows unless it brings them, the base model's when settings ask. */
int objective_teach(const struct model *m, const struct train_settings *settings, const struct claas_sample *sample,
                    struct pulse *pulse, struct objective_teacher *out, struct claas_error *err);
void objective_teacher_clear(struct objective_teacher *t);
/* How many beats of the pulse objective_teach makes, and objective_learn. */
uint64_t objective_teach_beats(const struct model *m, const struct train_settings *settings,
                               const struct claas_sample *sample);
uint64_t objective_learn_beats(const struct model *m);

/* Whoever calls holds a training turn. Adds scale * gradient of the sample's loss to grad (laid out as lora->flat).
 * out: metrics of the sample alone, not scaled; for objectives but sdpo only the loss is a number. */
int objective_learn(const struct model *m, const struct lora *lora, const struct train_settings *settings,
                    const struct claas_sample *sample, const struct objective_teacher *teacher, double scale,
                    struct pulse *pulse, float *grad, struct sdpo_metrics *out, struct claas_error *err);

#endif
