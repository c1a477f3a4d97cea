/* SPDX-License-Identifier: MIT */
/* What may be set for a step and for a new adapter. */
#include "config.h"

#include "plugins/local/train.h"

#include "base/err.h"

#include <math.h>

enum {
    SETTING_LEARNING_RATE, SETTING_ALPHA, SETTING_IS_CLIP, SETTING_MAX_GRAD_NORM, SETTING_KL_REG_WEIGHT, SETTING_TOP_K,
    SETTING_WEIGHT_DECAY, SETTING_BETA1, SETTING_BETA2, SETTING_EPS, SETTING_RECOMPUTE, SETTING_REPORT_KL_REG
};

const struct claas_option train_options[] = {
    { "learning_rate", "3e-5", NULL, "learning rate of AdamW; above 0", 0, 1, CLAAS_REAL, CLAAS_ABOVE },
    { "alpha", "0.5", NULL, "weight of the teacher in the mixture; above 0, and at 1 the sampled reverse KL", 0, 1,
      CLAAS_REAL, CLAAS_ABOVE },
    { "is_clip", "5", NULL, "cap of the importance ratio", 1, 20, CLAAS_REAL, 0 },
    { "max_grad_norm", "1", NULL, "global norm to which gradients are clipped; 0: not clipped", 0, 1e9, CLAAS_REAL, 0 },
    { "kl_reg_weight", "0", NULL, "weight of the k3 term that holds the student near the base model", 0, 1, CLAAS_REAL, 0 },
    { "teacher_top_k", "100", NULL, "how many of the teacher's best tokens are compared at each position", 10, 100, CLAAS_INT,
      0 },
    { "weight_decay", "0.01", NULL, "decoupled weight decay of AdamW", 0, 1, CLAAS_REAL, 0 },
    { "beta1", "0.9", NULL, "decay of AdamW's first moment; below 1", 0, 1, CLAAS_REAL, CLAAS_BELOW },
    { "beta2", "0.999", NULL, "decay of AdamW's second moment; below 1", 0, 1, CLAAS_REAL, CLAAS_BELOW },
    { "eps", "1e-8", NULL, "AdamW's epsilon; above 0", 0, 1, CLAAS_REAL, CLAAS_ABOVE },
    { "recompute", "false", NULL, "keep only the inputs of blocks and compute activations again: slower, less memory", 1, 0,
      CLAAS_BOOL, 0 },
    { "report_kl_reg", "false", NULL, "make the base model's pass for kl_reg also when its weight is 0", 1, 0, CLAAS_BOOL,
      0 },
    { .name = NULL },
};

enum { CREATION_RANK, CREATION_ALPHA, CREATION_MODULES, CREATION_RANK_STABLE };

const struct claas_option train_creation[] = {
    { "lora_r", "32", NULL, "rank of the adapter", 1, LORA_MAX_RANK, CLAAS_INT, 0 },
    { "lora_alpha", "64", NULL, "the adapter is scaled by lora_alpha / lora_r; above 0", 0, 65536, CLAAS_REAL,
      CLAAS_ABOVE },
    { "target_modules", "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
      "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj", "which linear layers of each block are adapted", 1,
      LORA_MODULES, CLAAS_LIST, 0 },
    { "use_rslora", "false", NULL, "scale by lora_alpha / sqrt(lora_r) instead", 1, 0, CLAAS_BOOL, 0 },
    { .name = NULL },
};

/* The host holds values to the table; who calls without it is told here. */
static int refuse(struct claas_error *err, const char *name, const char *why)
{
    return err_set(err, CLAAS_ERR_INVALID, name, "'%s' must be %s", name, why);
}

int train_settings_read(const struct claas_value *values, struct train_settings *out, struct claas_error *err)
{
    const struct train_settings s = {
        .optim = { .learning_rate = values[SETTING_LEARNING_RATE].d, .weight_decay = values[SETTING_WEIGHT_DECAY].d,
                   .beta1 = values[SETTING_BETA1].d, .beta2 = values[SETTING_BETA2].d, .eps = values[SETTING_EPS].d,
                   .max_grad_norm = values[SETTING_MAX_GRAD_NORM].d },
        .sdpo = { .alpha = values[SETTING_ALPHA].d, .is_clip = values[SETTING_IS_CLIP].d,
                  .kl_reg_weight = values[SETTING_KL_REG_WEIGHT].d },
        .teacher_top_k = (size_t)values[SETTING_TOP_K].i,
        .recompute = values[SETTING_RECOMPUTE].i != 0,
        .report_kl_reg = values[SETTING_REPORT_KL_REG].i != 0,
    };
    if (!(s.optim.learning_rate > 0)) {
        return refuse(err, "learning_rate", "above 0");
    }
    if (!(s.sdpo.alpha > 0)) {
        return refuse(err, "alpha", "above 0: at 0 the mixture is the student and nothing is learnt");
    }
    if (!(s.optim.beta1 < 1)) {
        return refuse(err, "beta1", "below 1");
    }
    if (!(s.optim.beta2 < 1)) {
        return refuse(err, "beta2", "below 1");
    }
    if (!(s.optim.eps > 0)) {
        return refuse(err, "eps", "above 0");
    }
    *out = s;
    return 0;
}

int train_creation_read(const struct claas_value *values, struct lora_spec *out, struct claas_error *err)
{
    struct lora_spec spec = { .rank = (size_t)values[CREATION_RANK].i, .alpha = values[CREATION_ALPHA].d,
                              .rank_stable = values[CREATION_RANK_STABLE].i != 0 };
    const struct claas_value *modules = &values[CREATION_MODULES];
    if (!(spec.alpha > 0)) {
        return refuse(err, "lora_alpha", "above 0");
    }
    int rc = lora_modules_parse(modules->list, modules->n_list, &spec.modules, err);
    if (!rc) {
        *out = spec;
    }
    return rc;
}
