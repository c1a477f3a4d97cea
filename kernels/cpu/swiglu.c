/* SPDX-License-Identifier: MIT */
/* silu(gate) * up, forward and backward. */
#include "config.h"

#include "kernels/cpu/device.h"

struct swiglu {
    const struct simd *simd;
    size_t n;
    const float *gate;
    const float *up;
    size_t pitch;
    const float *dy;
    float *y;
    size_t y_pitch;
    float *dgate;
    float *dup;
    size_t d_pitch;
};

static void forward_range(void *context, size_t thread, size_t first, size_t end)
{
    (void)thread;
    struct swiglu *job = context;
    for (size_t i = first; i < end; i++) {
        job->simd->swiglu(job->n, job->gate + i * job->pitch, job->up + i * job->pitch, job->y + i * job->y_pitch);
    }
}

int kernels_swiglu(struct kernels *k, size_t m, size_t n, const float *gate, const float *up, size_t pitch,
                   float *y, size_t y_pitch, struct claas_error *err)
{
    (void)err;
    struct swiglu job = { .simd = k->simd, .n = n, .gate = gate, .up = up, .pitch = pitch, .y = y, .y_pitch = y_pitch };
    device_rows(k, m, 4 * n, forward_range, &job);
    return 0;
}

static void backward_range(void *context, size_t thread, size_t first, size_t end)
{
    (void)thread;
    struct swiglu *job = context;
    for (size_t i = first; i < end; i++) {
        job->simd->swiglu_backward(job->n, job->gate + i * job->pitch, job->up + i * job->pitch,
                                   job->dy + i * job->y_pitch, job->dgate + i * job->d_pitch,
                                   job->dup + i * job->d_pitch);
    }
}

int kernels_swiglu_backward(struct kernels *k, size_t m, size_t n, const float *gate, const float *up, size_t pitch,
                            const float *dy, size_t dy_pitch, float *dgate, float *dup, size_t d_pitch,
                            struct claas_error *err)
{
    (void)err;
    struct swiglu job = { .simd = k->simd, .n = n, .gate = gate, .up = up, .pitch = pitch, .dy = dy,
                          .y_pitch = dy_pitch, .dgate = dgate, .dup = dup, .d_pitch = d_pitch };
    device_rows(k, m, 4 * n, backward_range, &job);
    return 0;
}
