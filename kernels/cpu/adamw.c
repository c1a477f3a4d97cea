/* SPDX-License-Identifier: MIT */
/* AdamW with decoupled weight decay over flat arrays. */
#include "config.h"

#include "base/err.h"
#include "kernels/cpu/device.h"

#include <math.h>

#define PIECE 16384

struct adamw {
    const struct simd *simd;
    size_t n;
    struct adamw_floats f;
    const float *grad;
    float *theta;
    float *mean;
    float *var;
};

static void adamw_range(void *context, size_t thread, size_t first, size_t end)
{
    (void)thread;
    struct adamw *job = context;
    size_t i = first * PIECE;
    job->simd->adamw(min_size(job->n, end * PIECE) - i, &job->f, job->grad + i, job->theta + i, job->mean + i,
                     job->var + i);
}

int kernels_adamw(struct kernels *k, size_t n, const struct kernels_adamw *settings, const float *grad,
                  float *theta, float *mean, float *var, struct claas_error *err)
{
    const struct kernels_adamw *s = settings;
    if (s->step == 0) {
        return err_set(err, CLAAS_ERR_INVALID, "step", "cannot update parameters: steps are counted from 1");
    }
    /* The factors of one step in double, so that 1 - beta^step keeps its digits. */
    double correction1 = -expm1((double)s->step * log(s->beta1));
    double correction2 = -expm1((double)s->step * log(s->beta2));
    struct adamw job = { .simd = k->simd,
                         .n = n,
                         .f = { .decay = (float)(1 - s->lr * s->weight_decay),
                                .beta1 = (float)s->beta1,
                                .beta2 = (float)s->beta2,
                                .one_minus_beta1 = (float)(1 - s->beta1),
                                .one_minus_beta2 = (float)(1 - s->beta2),
                                .step = (float)(s->lr / correction1),
                                .inv_sqrt_correction = (float)(1 / sqrt(correction2)),
                                .eps = (float)s->eps,
                                .grad_scale = (float)s->grad_scale },
                         .grad = grad,
                         .theta = theta,
                         .mean = mean,
                         .var = var };
    device_rows(k, ceil_div(n, PIECE), PIECE, adamw_range, &job);
    return 0;
}
