/* SPDX-License-Identifier: MIT */
/* RMSNorm, forward and backward (its weight is frozen, so no sums across rows). */
#include "config.h"

#include "kernels/cpu/device.h"

struct norm {
    const struct simd *simd;
    size_t n;
    const float *x;
    size_t x_pitch;
    const float *weight;
    float eps;
    float *inv_rms_out;
    const float *inv_rms;
    const float *dy;
    size_t dy_pitch;
    float *y;
    size_t y_pitch;
    int accumulate;
};

static void forward_range(void *context, size_t thread, size_t first, size_t end)
{
    (void)thread;
    struct norm *job = context;
    for (size_t i = first; i < end; i++) {
        float inverse = job->simd->rmsnorm(job->n, job->x + i * job->x_pitch, job->weight, job->eps,
                                           job->y + i * job->y_pitch);
        if (job->inv_rms_out) {
            job->inv_rms_out[i] = inverse;
        }
    }
}

int kernels_rmsnorm(struct kernels *k, size_t m, size_t n, const float *x, size_t x_pitch, const float *weight,
                    float eps, float *y, size_t y_pitch, float *inv_rms, struct claas_error *err)
{
    (void)err;
    if (n > 0) {
        struct norm job = { .simd = k->simd, .n = n, .x = x, .x_pitch = x_pitch, .weight = weight, .eps = eps,
                            .inv_rms_out = inv_rms, .y = y, .y_pitch = y_pitch };
        device_rows(k, m, n, forward_range, &job);
    }
    return 0;
}

static void backward_range(void *context, size_t thread, size_t first, size_t end)
{
    (void)thread;
    struct norm *job = context;
    for (size_t i = first; i < end; i++) {
        job->simd->rmsnorm_backward(job->n, job->x + i * job->x_pitch, job->weight, job->inv_rms[i],
                                    job->dy + i * job->dy_pitch, job->y + i * job->y_pitch, job->accumulate);
    }
}

int kernels_rmsnorm_backward(struct kernels *k, size_t m, size_t n, const float *x, size_t x_pitch,
                             const float *weight, const float *inv_rms, const float *dy, size_t dy_pitch,
                             float *dx, size_t dx_pitch, int accumulate, struct claas_error *err)
{
    (void)err;
    if (n > 0) {
        struct norm job = { .simd = k->simd, .n = n, .x = x, .x_pitch = x_pitch, .weight = weight,
                            .inv_rms = inv_rms, .dy = dy, .dy_pitch = dy_pitch, .y = dx, .y_pitch = dx_pitch,
                            .accumulate = accumulate };
        device_rows(k, m, n, backward_range, &job);
    }
    return 0;
}
