/* SPDX-License-Identifier: MIT */
/* AdamW with clipping by global norm, over flat arrays. */
#include "config.h"

#include "plugins/local/optim.h"

#include "base/err.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

int optim_create(struct kernels *k, size_t n, struct optim **out, struct claas_error *err)
{
    struct optim *o = calloc(1, sizeof *o);
    if (!o) {
        return err_oom(err, "making the state of the optimiser");
    }
    o->kernels = k;
    o->n = n;
    void *mean = NULL;
    void *var = NULL;
    int rc = kernels_alloc(k, n * sizeof *o->mean, &mean, err);
    o->mean = mean;
    if (rc == 0) {
        rc = kernels_alloc(k, n * sizeof *o->var, &var, err);
        o->var = var;
    }
    if (rc != 0) {
        optim_free(o);
        return rc;
    }
    *out = o;
    return 0;
}

int optim_clone(const struct optim *o, struct optim **out, struct claas_error *err)
{
    struct optim *copy = NULL;
    int rc = optim_create(o->kernels, o->n, &copy, err);
    if (rc != 0) {
        return rc;
    }
    rc = kernels_copy_rows(o->kernels, 1, o->n, o->mean, o->n, copy->mean, o->n, err);
    if (rc == 0) {
        rc = kernels_copy_rows(o->kernels, 1, o->n, o->var, o->n, copy->var, o->n, err);
    }
    if (rc != 0) {
        optim_free(copy);
        return rc;
    }
    copy->step = o->step;
    *out = copy;
    return 0;
}

void optim_free(struct optim *o)
{
    if (!o) {
        return;
    }
    kernels_free(o->kernels, o->mean);
    kernels_free(o->kernels, o->var);
    free(o);
}

static float *moment_at(const struct optim *o, enum optim_moment moment)
{
    return moment == OPTIM_MEAN ? o->mean : o->var;
}

static int range_check(const struct optim *o, size_t offset, size_t n, struct claas_error *err)
{
    if (offset > o->n || n > o->n - offset) {
        return err_set(err, CLAAS_ERR_INVALID, NULL, "moments %zu to %zu lie past the end, which is %zu", offset,
                       offset + n, o->n);
    }
    return 0;
}

int optim_read(const struct optim *o, enum optim_moment moment, size_t offset, size_t n, float *host,
               struct claas_error *err)
{
    int rc = range_check(o, offset, n, err);
    return rc != 0 ? rc : kernels_copy_out(o->kernels, host, moment_at(o, moment) + offset, n * sizeof *host, err);
}

int optim_write(struct optim *o, enum optim_moment moment, size_t offset, size_t n, const float *host,
                struct claas_error *err)
{
    int rc = range_check(o, offset, n, err);
    if (rc != 0) {
        return rc;
    }
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(host[i]) || (moment == OPTIM_VAR && host[i] < 0)) {
            return err_set(err, CLAAS_ERR_INVALID, NULL, "moment %zu of the optimiser is %g", offset + i,
                           (double)host[i]);
        }
    }
    return kernels_copy_in(o->kernels, moment_at(o, moment) + offset, host, n * sizeof *host, err);
}

double optim_clip(double norm, double limit)
{
    double scale = limit > 0 ? limit / (norm + 1e-6) : 1;
    return scale < 1 ? scale : 1;
}

int optim_step(struct optim *o, const struct optim_settings *s, const float *grad, float *theta, double *out_norm,
               struct claas_error *err)
{
    double squares = 0;
    int rc = kernels_sum_squares(o->kernels, o->n, grad, &squares, err);
    if (rc != 0) {
        return rc;
    }
    double norm = sqrt(squares);
    if (!isfinite(norm)) {
        return err_set(err, CLAAS_ERR_INVALID, NULL, "step refused: the norm of the gradient is not finite");
    }
    double scale = optim_clip(norm, s->max_grad_norm);
    if (norm * scale > sqrt((double)FLT_MAX)) { /* the variance would be infinite, and no state to go on from */
        return err_set(err, CLAAS_ERR_INVALID, "max_grad_norm",
                       "step refused: the norm of the gradient is %g, which must be clipped", norm);
    }
    struct kernels_adamw adamw = {
        .lr = s->learning_rate,
        .beta1 = s->beta1,
        .beta2 = s->beta2,
        .eps = s->eps,
        .weight_decay = s->weight_decay,
        .grad_scale = scale,
        .step = o->step + 1,
    };
    rc = kernels_adamw(o->kernels, o->n, &adamw, grad, theta, o->mean, o->var, err);
    if (rc != 0) {
        return rc;
    }
    o->step++;
    *out_norm = norm;
    return 0;
}
