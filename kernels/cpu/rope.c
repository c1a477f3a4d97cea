/* SPDX-License-Identifier: MIT */
/* Rotary positions, half-split: the tables and the rotation, forward and backward. */
#include "config.h"

#include "kernels/cpu/device.h"

#include <math.h>

struct rope {
    const struct simd *simd;
    size_t heads;
    size_t half;
    size_t start;
    const float *inv_freq;
    const float *cosine;
    const float *sine;
    float *cosine_out;
    float *sine_out;
    float *x;
    size_t x_pitch;
    float sign;
};

static void table_range(void *context, size_t thread, size_t first, size_t end)
{
    (void)thread;
    struct rope *job = context;
    for (size_t i = first; i < end; i++) {
        for (size_t j = 0; j < job->half; j++) {
            float angle = (float)(job->start + i) * job->inv_freq[j];
            job->cosine_out[i * job->half + j] = cosf(angle);
            job->sine_out[i * job->half + j] = sinf(angle);
        }
    }
}

int kernels_rope_table(struct kernels *k, size_t start, size_t count, size_t half, const float *inv_freq,
                       float *cos_table, float *sin_table, struct claas_error *err)
{
    (void)err;
    struct rope job = { .half = half, .start = start, .inv_freq = inv_freq, .cosine_out = cos_table,
                        .sine_out = sin_table };
    device_rows(k, count, 20 * half, table_range, &job);
    return 0;
}

static void rotate_range(void *context, size_t thread, size_t first, size_t end)
{
    (void)thread;
    struct rope *job = context;
    for (size_t i = first; i < end; i++) {
        const float *cosine = job->cosine + (job->start + i) * job->half;
        const float *sine = job->sine + (job->start + i) * job->half;
        for (size_t h = 0; h < job->heads; h++) {
            job->simd->rotate(job->half, cosine, sine, job->sign, job->x + i * job->x_pitch + h * 2 * job->half);
        }
    }
}

int kernels_rope(struct kernels *k, size_t m, size_t heads, size_t half, size_t start, const float *cos_table,
                 const float *sin_table, float *x, size_t x_pitch, int inverse, struct claas_error *err)
{
    (void)err;
    struct rope job = { .simd = k->simd, .heads = heads, .half = half, .start = start, .cosine = cos_table,
                        .sine = sin_table, .x = x, .x_pitch = x_pitch, .sign = inverse ? -1.0f : 1.0f };
    device_rows(k, m, heads * half * 2, rotate_range, &job);
    return 0;
}
