/* SPDX-License-Identifier: MIT */
/* State of the optimiser: AdamW's two moments beside the flat array of an adapter, and how many updates they have seen.
 * Hyper-parameters are not part of it: they come with each request. */
#ifndef LOCAL_OPTIM_H
#define LOCAL_OPTIM_H

#include "kernels/kernels.h"

struct optim {
    struct kernels *kernels;
    size_t n;      /* elements, the adapter's n, in the adapter's order (offsets of its tensor table hold here too) */
    float *mean;   /* device */
    float *var;    /* device */
    uint64_t step; /* updates so far */
};

enum optim_moment { OPTIM_MEAN, OPTIM_VAR };

struct optim_settings {
    double learning_rate;
    double weight_decay;
    double beta1;
    double beta2;
    double eps;
    double max_grad_norm; /* 0: no clipping */
};

/* Zero moments. */
int optim_create(struct kernels *k, size_t n, struct optim **out, struct claas_error *err);
int optim_clone(const struct optim *o, struct optim **out, struct claas_error *err);
void optim_free(struct optim *o); /* null is fine */

/* n elements from `offset` to or from host memory. Writing refuses what is not finite, and negative variances. */
int optim_read(const struct optim *o, enum optim_moment moment, size_t offset, size_t n, float *host,
               struct claas_error *err);
int optim_write(struct optim *o, enum optim_moment moment, size_t offset, size_t n, const float *host,
                struct claas_error *err);

/* min(1, limit / (norm + 1e-6)); 1 when limit is 0. */
double optim_clip(double norm, double limit);

/* One update of theta[n] (device) from grad[n] (device). *out_norm: global norm before clipping. A norm that is not
 * finite, or still has no finite square in float after clipping, refuses the update (INVALID) before anything is
 * changed. */
int optim_step(struct optim *o, const struct optim_settings *s, const float *grad, float *theta, double *out_norm,
               struct claas_error *err);

#endif
