/* SPDX-License-Identifier: MIT */
/* Speed of the kernels at the shapes of SmolLM2-135M: GFLOP/s of products and attention, GB/s and time of the products of
 * one decoded token. Best of several runs; `bench_kernels [threads [l|g|a|e|d]]`. Prints a table; judges nothing. */
#include "config.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/rng.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct kernels *k;
static struct claas_error err = { .size = sizeof err };

static void check(int rc)
{
    if (rc != 0) {
        fprintf(stderr, "bench_kernels: %s\n", err.message);
        exit(1);
    }
}

static float *floats(size_t n)
{
    void *p = NULL;
    check(kernels_alloc(k, n * sizeof(float), &p, &err));
    float *x = p;
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)rng_uniform(1, 2, i) - 0.5f;
    }
    return x;
}

/* Random rows whose 16-bit scales are small normal numbers. */
static struct kernels_weight *weight(enum kernels_type type, size_t rows, size_t cols, void **data)
{
    size_t bytes = rows * kernels_row_bytes(type, cols);
    check(kernels_alloc(k, bytes, data, &err));
    uint8_t *p = *data;
    for (size_t i = 0; i < bytes; i++) {
        p[i] = (uint8_t)rng_bits(3, 4, i);
    }
    size_t block = type == KERNELS_Q8_0 ? 34 : 20;
    for (size_t i = 0; i < bytes; i += block) {
        p[i + 1] = 0x20;
        if (type == KERNELS_Q4_1) {
            p[i + 3] = 0xa0;
        }
    }
    struct kernels_segment s = { .type = type, .rows = rows, .cols = cols, .data = *data };
    struct kernels_weight *w = NULL;
    check(kernels_weight_create(k, &s, 1, &w, &err));
    return w;
}

#define BEST(SECONDS, RUNS, CALL) \
    double SECONDS = 1e9; \
    for (int run_ = 0; run_ < (RUNS); run_++) { \
        int64_t begin_ = clock_mono_ns(); \
        check(CALL); \
        double now_ = (double)(clock_mono_ns() - begin_) * 1e-9; \
        SECONDS = now_ < SECONDS ? now_ : SECONDS; \
    }

static void linears(size_t m)
{
    static const struct { const char *name; enum kernels_type type; size_t out, in; } shapes[] = {
        { "qkv", KERNELS_Q4_1, 960, 576 },   { "o", KERNELS_Q4_1, 576, 576 },
        { "gate+up", KERNELS_Q4_1, 3072, 576 }, { "down", KERNELS_Q4_1, 576, 1536 },
        { "output", KERNELS_Q8_0, 49152, 576 },
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        size_t rows = i == 4 ? 256 : m;
        void *data = NULL;
        struct kernels_weight *w = weight(shapes[i].type, shapes[i].out, shapes[i].in, &data);
        float *x = floats(rows * shapes[i].in);
        float *y = floats(rows * shapes[i].out);
        double work = 2e-9 * (double)(rows * shapes[i].out * shapes[i].in);
        BEST(forward, 10, kernels_linear(k, w, rows, x, shapes[i].in, y, shapes[i].out, 0, &err));
        BEST(backward, 10, kernels_linear_backward(k, w, rows, y, shapes[i].out, x, shapes[i].in, 0, &err));
        printf("linear %-8s %4zu x %5zu x %4zu   forward %7.1f   backward %7.1f GFLOP/s\n", shapes[i].name, rows,
               shapes[i].out, shapes[i].in, work / forward, work / backward);
        kernels_free(k, x);
        kernels_free(k, y);
        kernels_weight_free(k, w);
        kernels_free(k, data);
    }
}

static void gemms(size_t m, size_t r)
{
    static const struct { const char *name; int ta, tb, rows_m, rows_n, rows_k; size_t other; } shapes[] = {
        { "s = x A^T (576)", 0, 1, 1, 0, 0, 576 },    { "y += s B^T (3072)", 0, 1, 1, 0, 0, 3072 },
        { "ds = dy B (3072)", 0, 0, 1, 0, 0, 3072 },  { "dx += ds A (576)", 0, 0, 1, 0, 0, 576 },
        { "dB += dy^T s (3072)", 1, 0, 0, 0, 1, 3072 }, { "dA += ds^T x (576)", 1, 0, 0, 0, 1, 576 },
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        size_t o = shapes[i].other;
        size_t gm = shapes[i].rows_m ? m : i == 4 ? o : r;
        size_t gk = shapes[i].rows_k ? m : i == 0 || i == 2 ? o : r;
        size_t gn = i == 0 || i == 2 || i == 4 ? r : o;
        float *a = floats(gm * gk);
        float *b = floats(gk * gn);
        float *c = floats(gm * gn);
        BEST(time, 20, kernels_gemm(k, shapes[i].ta, shapes[i].tb, gm, gn, gk, 1, a, shapes[i].ta ? gm : gk, b,
                                    shapes[i].tb ? gk : gn, c, gn, 1, &err));
        printf("gemm   %-20s %5zu x %5zu x %4zu   %7.1f GFLOP/s  %6.0f us\n", shapes[i].name, gm, gn, gk,
               2e-9 * (double)(gm * gn * gk) / time, time * 1e6);
        kernels_free(k, a);
        kernels_free(k, b);
        kernels_free(k, c);
    }
}

static void attention(size_t m)
{
    float *qkv = floats(m * 960);
    float *o = floats(m * 576);
    float *g = floats(m * 576);
    float *d = floats(m * 960);
    float *lse = floats(m * 9);
    struct kernels_attention a = { .rows = m, .heads = 9, .kv_heads = 3, .head_dim = 64, .scale = 0.125f,
                                   .q = qkv, .q_pitch = 960, .k = qkv + 576, .k_pitch = 960, .v = qkv + 768,
                                   .v_pitch = 960 };
    double work = 2e-9 * (double)(m * m * 576);
    BEST(forward, 20, kernels_attention(k, &a, o, 576, lse, &err));
    BEST(backward, 20, kernels_attention_backward(k, &a, o, 576, lse, g, 576, d, 960, d + 576, 960, d + 768, 960, &err));
    printf("attention %zu rows   forward %7.1f   backward %7.1f GFLOP/s (causal half counted)  %.0f, %.0f us\n", m,
           work / forward, 2.5 * work / backward, forward * 1e6, backward * 1e6);
    a.start = m - 1;
    a.rows = 1;
    BEST(one, 100, kernels_attention(k, &a, o, 576, NULL, &err));
    printf("attention 1 row over %zu   %.1f us\n", m, one * 1e6);
    kernels_free(k, qkv);
    kernels_free(k, o);
    kernels_free(k, g);
    kernels_free(k, d);
    kernels_free(k, lse);
}

static int token(struct kernels_weight **w, float *x, float *y, size_t layers)
{
    static const size_t in[4] = { 576, 576, 576, 1536 };
    kernels_turn_begin(k, KERNELS_SERVE);
    for (size_t l = 0; l < layers; l++) {
        for (size_t i = 0; i < 4; i++) {
            check(kernels_linear(k, w[4 * l + i], 1, x, in[i], y, 4096, 0, &err));
        }
    }
    check(kernels_linear(k, w[4 * layers], 1, x, 576, y, 49152, 0, &err));
    kernels_turn_end(k);
    return 0;
}

static void decode(void)
{
    static const size_t out[4] = { 960, 576, 3072, 576 };
    static const size_t in[4] = { 576, 576, 576, 1536 };
    struct kernels_weight *w[121];
    void *data[121];
    double bytes = 0;
    for (size_t i = 0; i < 120; i++) {
        w[i] = weight(KERNELS_Q4_1, out[i % 4], in[i % 4], &data[i]);
        bytes += (double)(out[i % 4] * kernels_row_bytes(KERNELS_Q4_1, in[i % 4]));
    }
    w[120] = weight(KERNELS_Q8_0, 49152, 576, &data[120]);
    bytes += 49152.0 * (double)kernels_row_bytes(KERNELS_Q8_0, 576);
    float *x = floats(4096);
    float *y = floats(49152);
    BEST(time, 30, token(w, x, y, 30));
    printf("products of one token: %.2f ms, %.1f GB/s of quantised weights, at most %.0f tokens/s\n", time * 1e3,
           bytes * 1e-9 / time, 1 / time);
    for (size_t i = 0; i < 121; i++) {
        kernels_weight_free(k, w[i]);
        kernels_free(k, data[i]);
    }
    kernels_free(k, x);
    kernels_free(k, y);
}

static void elements(size_t m)
{
    float *a = floats(m * 3072);
    float *b = floats(m * 3072);
    float *c = floats(m * 3072);
    float *logits = floats(64 * 49152);
    int32_t *ids = calloc(64 * 100, sizeof *ids);
    BEST(swiglu, 20, kernels_swiglu(k, m, 1536, a, a + 1536, 3072, c, 1536, &err));
    BEST(back, 20, kernels_swiglu_backward(k, m, 1536, a, a + 1536, 3072, b, 1536, c, c + 1536, 3072, &err));
    BEST(norm, 20, kernels_rmsnorm(k, m, 576, a, 576, b, 1e-5f, c, 576, NULL, &err));
    BEST(add, 20, kernels_add(k, m, 576, 1, a, 576, c, 576, &err));
    BEST(lse, 10, kernels_row_lse(k, 64, 49152, logits, 49152, c, &err));
    BEST(top, 10, ids ? kernels_row_top(k, 64, 49152, logits, 49152, 100, ids, c, &err) : 0);
    printf("%zu rows: swiglu %.0f us, backward %.0f us, rmsnorm %.0f us, add %.0f us; 64 rows of 49152: lse %.0f us, "
           "top 100 %.0f us\n", m, swiglu * 1e6, back * 1e6, norm * 1e6, add * 1e6, lse * 1e6, top * 1e6);
    free(ids);
    kernels_free(k, a);
    kernels_free(k, b);
    kernels_free(k, c);
    kernels_free(k, logits);
}

int main(int argc, char **argv)
{
    check(kernels_open(argc > 1 ? (size_t)strtoul(argv[1], NULL, 10) : 0, &k, &err));
    printf("%s, %zu threads\n", kernels_isa(k), kernels_threads(k));
    const char *parts = argc > 2 ? argv[2] : "lgaed";
    for (const char *p = parts; *p; p++) {
        switch (*p) {
        case 'l': linears(768); break;
        case 'g': gemms(768, 32); break;
        case 'a': attention(768); break;
        case 'e': elements(768); break;
        default: decode(); break;
        }
    }
    kernels_close(k);
    return 0;
}
