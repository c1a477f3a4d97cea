/* SPDX-License-Identifier: MIT */
/* The device on processors: opening, scratch, and how plain row-by-row operations are cut into tasks. */
#include "config.h"

#include "kernels/cpu/device.h"

#include "base/err.h"
#include "base/mem.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define MAX_THREADS 256
#define LITTLE 16384 /* element operations not worth waking a thread for */

static size_t cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) {
        return 1;
    }
    int n = CPU_COUNT(&set);
    return n > 0 ? (size_t)n : 1;
}

int kernels_open(size_t threads, struct kernels **out, struct claas_error *err)
{
    size_t n = threads ? threads : min_size(cores(), MAX_THREADS);
    if (n > MAX_THREADS) {
        return err_set(err, CLAAS_ERR_INVALID, "threads", "cannot compute with %zu threads: at most %d", n,
                       MAX_THREADS);
    }
    struct kernels *k = mem_aligned(sizeof *k);
    if (!k) {
        return err_oom(err, "the device");
    }
    k->threads = n;
    k->simd = simd_choose(getenv("CLAAS_KERNELS_ISA"));
    k->tiles = tiles_choose(getenv("CLAAS_KERNELS_ISA"));
    int rc = turns_init(&k->turns, err);
    if (rc != 0) {
        free(k);
        return rc;
    }
    (void)pthread_mutex_init(&k->keeper.lock, NULL); /* cannot fail with default attributes on Linux */
    k->own = mem_array(n, sizeof *k->own);
    rc = k->own ? pool_create(n, &k->pool, err) : err_oom(err, "the device");
    if (rc != 0) {
        kernels_close(k);
        return rc;
    }
    *out = k;
    return 0;
}

void kernels_close(struct kernels *k)
{
    if (!k) {
        return;
    }
    pool_free(k->pool);
    for (size_t i = 0; k->own && i < k->threads; i++) {
        kernels_free(k, k->own[i].data);
    }
    free(k->own);
    kernels_free(k, k->shared.data);
    kernels_set_kept(k, 0);
    (void)pthread_mutex_destroy(&k->keeper.lock);
    turns_destroy(&k->turns);
    free(k);
}

const char *kernels_isa(const struct kernels *k)
{
    return k->tiles ? "amx" : k->simd->name;
}

size_t kernels_threads(const struct kernels *k)
{
    return k->threads;
}

int kernels_zero(struct kernels *k, void *dst, size_t bytes, struct claas_error *err)
{
    (void)k;
    (void)err;
    if (bytes > 0) {
        memset(dst, 0, bytes);
    }
    return 0;
}

int kernels_copy_in(struct kernels *k, void *dst, const void *host_src, size_t bytes, struct claas_error *err)
{
    (void)k;
    (void)err;
    if (bytes > 0) {
        memcpy(dst, host_src, bytes);
    }
    return 0;
}

int kernels_copy_out(struct kernels *k, void *host_dst, const void *src, size_t bytes, struct claas_error *err)
{
    return kernels_copy_in(k, host_dst, src, bytes, err);
}

static int scratch_grow(struct kernels *k, struct scratch *s, size_t floats, struct claas_error *err)
{
    if (floats <= s->bytes / sizeof(float)) {
        return 0;
    }
    if (floats > SIZE_MAX / 4 / sizeof(float)) {
        return err_set(err, CLAAS_ERR_EXHAUSTED, NULL, "cannot allocate scratch memory: sizes overflow");
    }
    kernels_free(k, s->data);
    *s = (struct scratch){ 0 };
    void *p = NULL;
    int rc = kernels_alloc_raw(k, floats * sizeof(float), &p, err);
    if (rc == 0) {
        s->data = p;
        s->bytes = floats * sizeof(float);
    }
    return rc;
}

int device_scratch(struct kernels *k, size_t shared_floats, size_t own_floats, struct claas_error *err)
{
    int rc = scratch_grow(k, &k->shared, shared_floats, err);
    for (size_t i = 0; rc == 0 && i < k->threads; i++) {
        rc = scratch_grow(k, &k->own[i], own_floats, err);
    }
    return rc;
}

struct rows_job {
    size_t m;
    size_t tasks;
    device_rows_fn *fn;
    void *context;
};

static void rows_task(void *context, size_t thread, size_t task)
{
    struct rows_job *job = context;
    size_t first = job->m * task / job->tasks;
    size_t end = job->m * (task + 1) / job->tasks;
    job->fn(job->context, thread, first, end);
}

void device_rows(struct kernels *k, size_t m, size_t cost, device_rows_fn *fn, void *context)
{
    if (m == 0) {
        return;
    }
    kernels_turn_begin(k, KERNELS_SERVE);
    if (m == 1 || k->threads == 1 || m * cost < LITTLE) {
        fn(context, 0, 0, m);
    } else {
        struct rows_job job = { .m = m, .tasks = min_size(m, 4 * k->threads), .fn = fn, .context = context };
        pool_run(k->pool, job.tasks, rows_task, &job);
    }
    kernels_turn_end(k);
}

struct copy_job {
    size_t cols;
    const float *src;
    size_t src_pitch;
    float *dst;
    size_t dst_pitch;
};

static void copy_range(void *context, size_t thread, size_t first, size_t end)
{
    (void)thread;
    struct copy_job *job = context;
    for (size_t i = first; i < end; i++) {
        memcpy(job->dst + i * job->dst_pitch, job->src + i * job->src_pitch, job->cols * sizeof(float));
    }
}

int kernels_copy_rows(struct kernels *k, size_t rows, size_t cols, const float *src, size_t src_pitch,
                      float *dst, size_t dst_pitch, struct claas_error *err)
{
    (void)err;
    if (cols > 0) {
        struct copy_job job = { cols, src, src_pitch, dst, dst_pitch };
        device_rows(k, rows, cols, copy_range, &job);
    }
    return 0;
}
