/* SPDX-License-Identifier: MIT */
/* Norms, rotation, activation and attention of the kernels, forward and backward, against plain float64 loops. */
#include "config.h"

#include "unit/kernels_testing.h"

#define BOUND 2e-6

static const size_t lengths[] = { 1, 3, 16, 17, 31, 33, 64, 193 };
#define LENGTHS (sizeof lengths / sizeof *lengths)

static void check_rmsnorm(size_t m, size_t n, int accumulate)
{
    struct buffer x = buffer_random(m, n, n + 2);
    struct buffer w = buffer_random(1, n, n);
    struct buffer dy = buffer_random(m, n, n + 1);
    struct buffer y = buffer_guarded(m, n, n + 3);
    struct buffer inverse = buffer_guarded(1, m, m);
    struct buffer dx = accumulate ? buffer_random(m, n, n) : buffer_guarded(m, n, n);
    double *want = doubles(m * n);
    double *want_inverse = doubles(m);
    double back = n == 1 ? 1e-3 : BOUND; /* of one element next to nothing is left: the rest is rounding */
    double *want_dx = doubles(m * n);
    for (size_t i = 0; i < m; i++) {
        const float *xi = x.x + i * x.pitch;
        const float *gi = dy.x + i * dy.pitch;
        double squares = 0;
        double dot = 0;
        for (size_t j = 0; j < n; j++) {
            squares += (double)xi[j] * xi[j];
            dot += (double)w.x[j] * gi[j] * xi[j];
        }
        double inv = 1 / sqrt(squares / (double)n + 1e-5);
        want_inverse[i] = inv;
        for (size_t j = 0; j < n; j++) {
            want[i * n + j] = xi[j] * inv * w.x[j];
            want_dx[i * n + j] = inv * w.x[j] * gi[j] - xi[j] * inv * inv * inv * dot / (double)n +
                                 (accumulate ? dx.x[i * n + j] : 0);
        }
    }
    ck_ok(kernels_rmsnorm(k, m, n, x.x, x.pitch, w.x, 1e-5f, y.x, y.pitch, inverse.x, &err), err);
    buffer_check(&y, want, BOUND, "rmsnorm");
    buffer_check(&inverse, want_inverse, BOUND, "inverse rms");
    ck_ok(kernels_rmsnorm_backward(k, m, n, x.x, x.pitch, w.x, inverse.x, dy.x, dy.pitch, dx.x, n, accumulate, &err),
          err);
    buffer_check(&dx, want_dx, back, "rmsnorm backward");
    if (!accumulate) { /* in place */
        ck_ok(kernels_rmsnorm_backward(k, m, n, x.x, x.pitch, w.x, inverse.x, dy.x, dy.pitch, dy.x, dy.pitch, 0, &err),
              err);
        buffer_check(&dy, want_dx, back, "rmsnorm backward in place");
        ck_ok(kernels_rmsnorm(k, m, n, x.x, x.pitch, w.x, 1e-5f, x.x, x.pitch, NULL, &err), err);
        buffer_check(&x, want, BOUND, "rmsnorm in place");
    }
    free(want);
    free(want_inverse);
    free(want_dx);
    buffer_free(&x);
    buffer_free(&w);
    buffer_free(&dy);
    buffer_free(&y);
    buffer_free(&inverse);
    buffer_free(&dx);
}

START_TEST(test_rmsnorm)
{
    device_open(_i, 2);
    for (size_t i = 0; i < LENGTHS; i++) {
        check_rmsnorm(i % 2 ? 7 : 1, lengths[i], 0);
        check_rmsnorm(5, lengths[i], 1);
    }
    check_rmsnorm(200, 576, 0);
    check_rmsnorm(0, 5, 0);
    device_close();
}
END_TEST

START_TEST(test_rope)
{
    device_open(_i, 2);
    static const size_t halves[] = { 1, 2, 4, 15, 16, 17, 32, 40 };
    for (size_t h = 0; h < 8; h++) {
        size_t half = halves[h];
        enum { M = 9, HEADS = 3, START = 700 };
        struct buffer freq = buffer_guarded(1, half, half);
        struct buffer cosine = buffer_guarded(START + M, half, half);
        struct buffer sine = buffer_guarded(START + M, half, half);
        struct buffer x = buffer_random(M, HEADS * 2 * half, HEADS * 2 * half + 5);
        struct buffer before = buffer_copy(&x);
        double *want = doubles(M * x.cols);
        double *back = doubles(M * x.cols);
        for (size_t j = 0; j < half; j++) {
            freq.x[j] = powf(10000, -(float)j / (float)half);
        }
        for (size_t i = 0; i < M; i++) {
            for (size_t c = 0; c < x.cols; c++) {
                size_t j = c % half;
                int low = c % (2 * half) < half;
                double angle = (float)(START + i) * freq.x[j];
                double self = x.x[i * x.pitch + c];
                double other = low ? -x.x[i * x.pitch + c + half] : x.x[i * x.pitch + c - half];
                want[i * x.cols + c] = self * cos(angle) + other * sin(angle);
                back[i * x.cols + c] = self;
            }
        }
        ck_ok(kernels_rope_table(k, 0, START + M, half, freq.x, cosine.x, sine.x, &err), err);
        buffer_check_guards(&cosine);
        buffer_check_guards(&sine);
        ck_ok(kernels_rope(k, M, HEADS, half, START, cosine.x, sine.x, x.x, x.pitch, 0, &err), err);
        buffer_check(&x, want, BOUND, "rope");
        ck_ok(kernels_rope(k, M, HEADS, half, START, cosine.x, sine.x, x.x, x.pitch, 1, &err), err);
        buffer_check(&x, back, BOUND, "rope back");
        free(want);
        free(back);
        buffer_free(&freq);
        buffer_free(&cosine);
        buffer_free(&sine);
        buffer_free(&x);
        buffer_free(&before);
    }
    device_close();
}
END_TEST

static void check_swiglu(size_t m, size_t n, float size)
{
    struct buffer in = buffer_random(m, 2 * n, 2 * n + 1);
    struct buffer dy = buffer_random(m, n, n + 2);
    struct buffer y = buffer_guarded(m, n, n + 3);
    struct buffer d = buffer_guarded(m, 2 * n, 2 * n);
    double *want = doubles(m * n);
    double *want_d = doubles(m * 2 * n);
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            in.x[i * in.pitch + j] *= size;
            double g = in.x[i * in.pitch + j];
            double u = in.x[i * in.pitch + n + j];
            double s = 1 / (1 + exp(-g));
            want[i * n + j] = g * s * u;
            want_d[i * 2 * n + j] = dy.x[i * dy.pitch + j] * u * (s + g * s * (1 - s));
            want_d[i * 2 * n + n + j] = dy.x[i * dy.pitch + j] * g * s;
        }
    }
    ck_ok(kernels_swiglu(k, m, n, in.x, in.x + n, in.pitch, y.x, y.pitch, &err), err);
    buffer_check(&y, want, BOUND, "swiglu");
    ck_ok(kernels_swiglu_backward(k, m, n, in.x, in.x + n, in.pitch, dy.x, dy.pitch, d.x, d.x + n, d.pitch, &err), err);
    buffer_check(&d, want_d, BOUND, "swiglu backward");
    ck_ok(kernels_swiglu_backward(k, m, n, in.x, in.x + n, in.pitch, dy.x, dy.pitch, in.x, in.x + n, in.pitch, &err), err);
    buffer_check(&in, want_d, BOUND, "swiglu backward in place");
    free(want);
    free(want_d);
    buffer_free(&in);
    buffer_free(&dy);
    buffer_free(&y);
    buffer_free(&d);
}

START_TEST(test_swiglu)
{
    device_open(_i, 2);
    for (size_t i = 0; i < LENGTHS; i++) {
        check_swiglu(3, lengths[i], 1);
        check_swiglu(2, lengths[i], 100); /* exp of the ends overflows */
    }
    check_swiglu(40, 500, 6);
    check_swiglu(0, 4, 1);
    device_close();
}
END_TEST

START_TEST(test_add_scale_copy)
{
    device_open(_i, 2);
    for (size_t i = 0; i < LENGTHS; i++) {
        size_t n = lengths[i];
        struct buffer x = buffer_random(4, n, n + 1);
        struct buffer y = buffer_random(4, n, n + 2);
        struct buffer z = buffer_guarded(4, n, n + 4);
        double *sum = doubles(4 * n);
        for (size_t j = 0; j < 4 * n; j++) {
            sum[j] = y.x[j / n * y.pitch + j % n] - 0.5 * x.x[j / n * x.pitch + j % n];
        }
        ck_ok(kernels_add(k, 4, n, -0.5f, x.x, x.pitch, y.x, y.pitch, &err), err);
        buffer_check(&y, sum, BOUND, "add");
        ck_ok(kernels_copy_rows(k, 4, n, y.x, y.pitch, z.x, z.pitch, &err), err);
        buffer_check(&z, sum, BOUND, "copy rows");
        struct buffer flat = buffer_random(1, 16384 + n, 16384 + n);
        double *half = doubles(flat.cols);
        for (size_t j = 0; j < flat.cols; j++) {
            half[j] = 0.25 * flat.x[j];
        }
        ck_ok(kernels_scale(k, flat.cols, 0.25f, flat.x, &err), err);
        buffer_check(&flat, half, 0, "scale");
        free(half);
        free(sum);
        buffer_free(&flat);
        buffer_free(&x);
        buffer_free(&y);
        buffer_free(&z);
    }
    device_close();
}
END_TEST

/* ---- attention ---- */

struct reference {
    double *o, *lse, *dq, *dk, *dv;
};

/* Everything by the definition; d_o null: forward only. */
static struct reference attend(const struct kernels_attention *a, const float *d_o, size_t do_pitch)
{
    size_t keys = a->start + a->rows;
    size_t d = a->head_dim;
    size_t wide = a->heads * d;
    size_t narrow = a->kv_heads * d;
    struct reference r = { doubles(a->rows * wide), doubles(a->rows * a->heads), doubles(a->rows * wide),
                           doubles(keys * narrow), doubles(keys * narrow) };
    double *p = doubles(keys);
    for (size_t h = 0; h < a->heads; h++) {
        size_t kv = h / (a->heads / a->kv_heads);
        for (size_t i = 0; i < a->rows; i++) {
            size_t seen = a->start + i + 1;
            const float *q = a->q + i * a->q_pitch + h * d;
            double sum = 0;
            for (size_t j = 0; j < seen; j++) {
                double s = 0;
                for (size_t c = 0; c < d; c++) {
                    s += (double)q[c] * a->k[j * a->k_pitch + kv * d + c];
                }
                p[j] = exp(s * a->scale);
                sum += p[j];
            }
            r.lse[i * a->heads + h] = log(sum);
            double *o = r.o + i * wide + h * d;
            for (size_t j = 0; j < seen; j++) {
                p[j] /= sum;
                for (size_t c = 0; c < d; c++) {
                    o[c] += p[j] * a->v[j * a->v_pitch + kv * d + c];
                }
            }
            const float *g = d_o ? d_o + i * do_pitch + h * d : NULL;
            double dot = 0;
            for (size_t c = 0; g && c < d; c++) {
                dot += g[c] * o[c];
            }
            for (size_t j = 0; g && j < seen; j++) {
                double dp = 0;
                for (size_t c = 0; c < d; c++) {
                    dp += (double)g[c] * a->v[j * a->v_pitch + kv * d + c];
                    r.dv[j * narrow + kv * d + c] += p[j] * g[c];
                }
                double ds = p[j] * (dp - dot) * a->scale;
                for (size_t c = 0; c < d; c++) {
                    r.dq[i * wide + h * d + c] += ds * a->k[j * a->k_pitch + kv * d + c];
                    r.dk[j * narrow + kv * d + c] += ds * q[c];
                }
            }
        }
    }
    free(p);
    return r;
}

static void check_attention(size_t rows, size_t start, size_t heads, size_t kv_heads, size_t d, float size)
{
    size_t keys = start + rows;
    struct buffer q = buffer_random(rows, heads * d, heads * d + 3);
    struct buffer kv = buffer_random(keys, 2 * kv_heads * d, 2 * kv_heads * d + 1);
    struct buffer g = buffer_random(rows, heads * d, heads * d);
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < heads * d; j++) {
            q.x[i * q.pitch + j] *= size;
        }
    }
    struct kernels_attention a = { .rows = rows, .start = start, .heads = heads, .kv_heads = kv_heads, .head_dim = d,
                                   .scale = (float)(1 / sqrt((double)d)), .q = q.x, .q_pitch = q.pitch, .k = kv.x,
                                   .k_pitch = kv.pitch, .v = kv.x + kv_heads * d, .v_pitch = kv.pitch };
    struct buffer o = buffer_guarded(rows, heads * d, heads * d + 2);
    struct buffer lse = buffer_guarded(rows, heads, heads);
    struct buffer dq = buffer_guarded(rows, heads * d, heads * d + 1);
    struct buffer dk = buffer_guarded(keys, kv_heads * d, kv_heads * d + 2);
    struct buffer dv = buffer_guarded(keys, kv_heads * d, kv_heads * d + 4);
    struct reference r = attend(&a, g.x, g.pitch);
    ck_ok(kernels_attention(k, &a, o.x, o.pitch, lse.x, &err), err);
    buffer_check(&o, r.o, BOUND, "attention");
    buffer_check(&lse, r.lse, BOUND, "log-sum-exp");
    ck_ok(kernels_attention_backward(k, &a, o.x, o.pitch, lse.x, g.x, g.pitch, dq.x, dq.pitch, dk.x, dk.pitch, dv.x,
                                     dv.pitch, &err), err);
    buffer_check(&dq, r.dq, 5 * BOUND, "attention dq");
    buffer_check(&dk, r.dk, 5 * BOUND, "attention dk");
    buffer_check(&dv, r.dv, 5 * BOUND, "attention dv");
    free(r.o);
    free(r.lse);
    free(r.dq);
    free(r.dk);
    free(r.dv);
    buffer_free(&q);
    buffer_free(&kv);
    buffer_free(&g);
    buffer_free(&o);
    buffer_free(&lse);
    buffer_free(&dq);
    buffer_free(&dk);
    buffer_free(&dv);
}

START_TEST(test_attention)
{
    device_open(_i, 2);
    static const size_t cases[][5] = {
        { 0, 0, 2, 1, 8 },    { 1, 0, 1, 1, 1 },    { 1, 300, 6, 2, 16 },  { 2, 255, 3, 1, 33 }, { 8, 0, 2, 2, 5 },
        { 9, 0, 2, 1, 12 },   { 12, 3, 4, 2, 13 },  { 63, 0, 3, 1, 16 },   { 64, 0, 1, 1, 64 },  { 65, 1, 2, 1, 32 },
        { 97, 95, 3, 3, 24 }, { 200, 0, 9, 3, 64 }, { 33, 500, 2, 1, 128 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const size_t *c = cases[i];
        check_attention(c[0], c[1], c[2], c[3], c[4], 1);
    }
    check_attention(100, 0, 2, 1, 16, 40); /* sharp: the running maximum moves */
    check_attention(3, 600, 2, 1, 16, 40);
    struct kernels_attention bad = { .rows = 1, .heads = 3, .kv_heads = 2, .head_dim = 4 };
    ck_failed(kernels_attention(k, &bad, NULL, 0, NULL, &err), CLAAS_ERR_INVALID, err);
    device_close();
}
END_TEST

/* Rows one by one over a cache give what the whole gives; the same bytes for any number of threads. */
START_TEST(test_attention_ways)
{
    enum { T = 150, H = 4, KV = 2, D = 16, WIDE = (H + 2 * KV) * D };
    float *first = NULL;
    for (size_t round = 0; round < 3; round++) {
        device_open(2, round == 2 ? 5 : round + 1);
        buffers_made = 3;
        struct buffer x = buffer_random(T, WIDE, WIDE);
        struct buffer g = buffer_random(T, H * D, H * D);
        struct kernels_attention a = { .rows = T, .heads = H, .kv_heads = KV, .head_dim = D, .scale = 0.25f, .q = x.x,
                                       .q_pitch = WIDE, .k = x.x + H * D, .k_pitch = WIDE,
                                       .v = x.x + (H + KV) * D, .v_pitch = WIDE };
        float *all = calloc(T * (H * D + H + WIDE), sizeof *all);
        float *lse = all + T * H * D;
        float *d = lse + T * H;
        ck_ok(kernels_attention(k, &a, all, H * D, lse, &err), err);
        ck_ok(kernels_attention_backward(k, &a, all, H * D, lse, g.x, H * D, d, WIDE, d + H * D, WIDE,
                                         d + (H + KV) * D, WIDE, &err), err);
        if (first) {
            ck_assert_mem_eq(first, all, T * (H * D + H + WIDE) * sizeof *all);
        }
        for (size_t i = 0; i < T; i++) {
            float o[H * D];
            struct kernels_attention one = a;
            one.rows = 1;
            one.start = i;
            one.q = x.x + i * WIDE;
            ck_ok(kernels_attention(k, &one, o, H * D, NULL, &err), err);
            for (size_t j = 0; j < H * D; j++) {
                ck_assert_float_eq_tol(o[j], all[i * H * D + j], 2e-6f);
            }
        }
        if (first) {
            free(all);
        } else {
            first = all;
        }
        buffer_free(&x);
        buffer_free(&g);
        device_close();
    }
    free(first);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("kernels_layers");
    TCase *t = tcase_create("layers");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, test_rmsnorm, 0, ISAS);
    tcase_add_loop_test(t, test_rope, 0, ISAS);
    tcase_add_loop_test(t, test_swiglu, 0, ISAS);
    tcase_add_loop_test(t, test_add_scale_copy, 0, ISAS);
    tcase_add_loop_test(t, test_attention, 0, ISAS);
    tcase_add_test(t, test_attention_ways);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
