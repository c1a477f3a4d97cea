/* SPDX-License-Identifier: MIT */
/* Training runs: steps of samples on an adapter, one AdamW update for each step. */
#ifndef LOCAL_TRAIN_H
#define LOCAL_TRAIN_H

#include "plugins/local/lora.h"
#include "plugins/local/model.h"
#include "plugins/local/optim.h"
#include "plugins/local/sdpo.h"

#include <claas/engine.h>

/* The tables that info hands out: settings of a step, and creation parameters of an adapter. End with a null name. */
extern const struct claas_option train_options[];
extern const struct claas_option train_creation[];

struct train_settings {
    struct optim_settings optim;
    struct sdpo_settings sdpo;
    size_t teacher_top_k;
    int recompute;     /* keep only block inputs and compute the rest again: slower, less memory */
    int report_kl_reg; /* make the base pass for kl_reg also when its weight is 0 */
};
/* From values in the order of the tables; INVALID names the option that is out of range (alpha 0 among them). */
int train_settings_read(const struct claas_value *values, struct train_settings *out, struct claas_error *err);
int train_creation_read(const struct claas_value *values, struct lora_spec *out, struct claas_error *err);

struct train_metrics { /* of one step; names as reported. NaN: not computed, or no sample of objective sdpo */
    double total_loss;
    double distill_loss;
    double kl_reg; /* only with a weight, or when asked for */
    double mean_is_ratio;
    double clip_fraction;
    double grad_norm;          /* before clipping */
    uint64_t tokens_processed; /* response tokens */
    uint64_t batch_size;
};

/* Makes the updates train->steps describe, from `from` and `moments` (null: fresh; left alone, both of them), and hands
 * out new objects. A step's loss is the mean over its samples, weighted with their weights; samples of objective
 * importance_sampling add weight * loss and are not in the mean, as in the service it comes from. metrics: [n_steps], filled as far
 * as it came. Nothing is handed out on failure: INVALID for samples that cannot be trained on (what = field), INTERNAL "step refused"
 * for a loss, gradient or parameter that is not finite, CANCELLED by the call. Takes a TRAIN turn of the device and yields
 * it at layer boundaries. Same input, same bytes. */
int train_run(const struct model *m, const struct lora *from, const struct optim *moments,
              const struct claas_train *train, const struct claas_call *call, struct lora **out_lora,
              struct optim **out_moments, struct train_metrics *metrics, struct claas_error *err);

#endif
