/* SPDX-License-Identifier: MIT */
/* For the tests of kernels: devices of every instruction set, buffers with guard words, a bound on normalised error. */
#ifndef UNIT_KERNELS_TESTING_H
#define UNIT_KERNELS_TESTING_H

#include "base/rng.h"
#include "kernels/kernels.h"
#include "unit/testing.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define GUARD 0x7fc0deadu /* a NaN that no operation makes */
#define GUARDS 16
#define FLOOR (strcmp(kernels_isa(k), "amx") == 0 ? 1e-7 : 0) /* of elements: where they are 0 by cancellation */

static struct kernels *k;
static struct claas_error err;

static const char *const isas[] = { "portable", "avx2", "avx512", "amx" };
#define ISAS 4

/* Opens the device of instruction set i (or the best the machine has below it) with some threads. */
static inline void device_open(int i, size_t threads)
{
    err = ERR_INIT;
    ck_assert_int_eq(setenv("CLAAS_KERNELS_ISA", isas[i], 1), 0);
    ck_ok(kernels_open(threads, &k, &err), err);
}

static inline void device_close(void)
{
    kernels_close(k);
    k = NULL;
}

static inline uint32_t bits_of(float x)
{
    uint32_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}

static uint64_t buffers_made;

/* A matrix with `pitch`: all between the columns, before and behind is guarded. */
struct buffer {
    float *all;
    float *x; /* the first element */
    size_t rows, cols, pitch;
};

static inline struct buffer buffer_guarded(size_t rows, size_t cols, size_t pitch)
{
    struct buffer b = { .rows = rows, .cols = cols, .pitch = pitch };
    size_t n = rows * pitch + 2 * GUARDS;
    b.all = n < (size_t)1 << 28 ? calloc(n, sizeof *b.all) : NULL;
    ck_assert_ptr_nonnull(b.all);
    uint32_t guard = GUARD;
    for (size_t i = 0; i < n; i++) {
        memcpy(&b.all[i], &guard, sizeof guard);
    }
    b.x = b.all + GUARDS + buffers_made % 3; /* often not aligned */
    buffers_made++;
    return b;
}

static inline struct buffer buffer_random(size_t rows, size_t cols, size_t pitch)
{
    struct buffer b = buffer_guarded(rows, cols, pitch);
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < cols; j++) {
            b.x[i * pitch + j] = (float)(2 * rng_uniform(7, buffers_made, i * cols + j) - 1);
        }
    }
    return b;
}

static inline struct buffer buffer_copy(const struct buffer *from)
{
    struct buffer b = buffer_guarded(from->rows, from->cols, from->pitch);
    for (size_t i = 0; i < b.rows; i++) {
        memcpy(b.x + i * b.pitch, from->x + i * b.pitch, b.cols * sizeof(float));
    }
    return b;
}

/* Guards unharmed, every element written. */
static inline void buffer_check_guards(const struct buffer *b)
{
    const float *end = b->all + b->rows * b->pitch + 2 * GUARDS;
    for (const float *p = b->all; p < end; p++) {
        size_t at = (size_t)(p - b->x);
        int inside = p >= b->x && b->pitch > 0 && at / b->pitch < b->rows && at % b->pitch < b->cols;
        if (inside) {
            ck_assert_msg(bits_of(*p) != GUARD, "element %zu was not written", at);
        } else {
            ck_assert_msg(bits_of(*p) == GUARD, "wrote outside at %td", p - b->x);
        }
    }
}

static inline void buffer_free(struct buffer *b)
{
    free(b->all);
    b->all = NULL;
}

/* sum (x - want)^2 <= bound^2 sum want^2, but for FLOOR in each element. `want` has no gaps. */
static inline void buffer_check(const struct buffer *b, const double *want, double bound, const char *what)
{
    double off = 0;
    double size = 0;
    buffer_check_guards(b);
    for (size_t i = 0; i < b->rows; i++) {
        for (size_t j = 0; j < b->cols; j++) {
            double d = (double)b->x[i * b->pitch + j] - want[i * b->cols + j];
            off += d * d;
            size += want[i * b->cols + j] * want[i * b->cols + j];
        }
    }
    ck_assert_msg(sqrt(off) <= bound * sqrt(size) + FLOOR * sqrt((double)(b->rows * b->cols)) + 1e-30, "%s (%s): error %g of %g, bound %g", what, kernels_isa(k),
                  sqrt(off), sqrt(size), bound);
}

static inline double *doubles(size_t n)
{
    double *p = calloc(n + 1, sizeof *p);
    ck_assert_ptr_nonnull(p);
    return p;
}

#endif
