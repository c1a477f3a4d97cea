/* SPDX-License-Identifier: MIT */
/* General product for the low-rank matrices. One row (decoding) goes past the packing. */
#include "config.h"

#include "kernels/cpu/product.h"

#include <string.h>

struct source {
    const float *b;
    size_t pitch;
    size_t n;
    int transposed; /* stored [n][depth] */
};

static void pack_source(const struct simd *simd, const void *context, size_t column, size_t panels, size_t first,
                        size_t depth, float *dst, size_t stride, float *spare)
{
    const struct source *s = context;
    (void)spare;
    for (size_t j = 0; j < panels; j++) {
        size_t from = column + j * TILE_N;
        size_t cols = min_size(TILE_N, s->n - from);
        float *panel = dst + j * stride;
        if (cols < TILE_N) {
            memset(panel, 0, depth * TILE_N * sizeof *panel);
        }
        if (!s->transposed) {
            for (size_t d = 0; d < depth; d++) {
                memcpy(panel + d * TILE_N, s->b + (first + d) * s->pitch + from, cols * sizeof *panel);
            }
            continue;
        }
        for (size_t c = 0; c < cols; c += 16) {
            simd->transpose(s->b + (from + c) * s->pitch + first, s->pitch, min_size(16, cols - c), depth, panel + c,
                            TILE_N);
        }
    }
}

struct vector_job {
    const struct simd *simd;
    size_t n;
    size_t depth;
    float alpha;
    const float *a;
    const struct source *b;
    float *c;
    int accumulate;
};

/* c[first, end) of one row. */
static void vector_range(void *context, size_t thread, size_t first, size_t end)
{
    (void)thread;
    struct vector_job *job = context;
    const struct source *s = job->b;
    if (!s->transposed) {
        if (!job->accumulate) {
            memset(job->c + first, 0, (end - first) * sizeof(float));
        }
        for (size_t d = 0; d < job->depth; d++) {
            job->simd->axpy(end - first, job->alpha * job->a[d], s->b + d * s->pitch + first, job->c + first);
        }
        return;
    }
    for (size_t j = first; j < end; j++) {
        float dot;
        job->simd->dots(KERNELS_F32, s->b + j * s->pitch, job->depth, job->a, 0, 1, &dot, 0, 0);
        job->c[j] = job->accumulate ? job->c[j] + job->alpha * dot : job->alpha * dot;
    }
}

int kernels_gemm(struct kernels *k, int a_transposed, int b_transposed, size_t m, size_t n, size_t depth, float alpha,
                 const float *a, size_t a_pitch, const float *b, size_t b_pitch,
                 float *c, size_t c_pitch, int accumulate, struct claas_error *err)
{
    struct source source = { b, b_pitch, n, b_transposed };
    if (m == 1 && !a_transposed) {
        struct vector_job job = { k->simd, n, depth, alpha, a, &source, c, accumulate };
        device_rows(k, n, depth, vector_range, &job);
        return 0;
    }
    struct product p = { .m = m,
                         .n = n,
                         .depth = depth,
                         .alpha = alpha,
                         .a = a,
                         .a_pitch = a_pitch,
                         .a_transposed = a_transposed,
                         .pack = pack_source,
                         .pack_context = &source,
                         .c = c,
                         .c_pitch = c_pitch,
                         .accumulate = accumulate };
    return product_run(k, &p, err);
}
