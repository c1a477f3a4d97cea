/* SPDX-License-Identifier: MIT */
/* Matrix products of the kernels against plain float64 loops: every weight type, odd shapes, both directions. */
#include "config.h"

#include "unit/kernels_testing.h"

#define BOUND 1e-6 /* of normalised errors */

/* A second, slow way from bits to values. */
static double half_value(uint16_t h)
{
    int exponent = (h >> 10) & 31;
    double f = h & 1023;
    double v = exponent == 0 ? ldexp(f, -24) : ldexp(f + 1024, exponent - 25);
    return h & 0x8000 ? -v : v;
}

static uint16_t u16_at(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

/* Element j of a row, rounded to float32 after each operation as the formulas of the types say. */
static float element(enum kernels_type type, const uint8_t *row, size_t j)
{
    if (type == KERNELS_F32) {
        float f;
        memcpy(&f, row + 4 * j, 4);
        return f;
    }
    if (type == KERNELS_F16) {
        return (float)half_value(u16_at(row + 2 * j));
    }
    if (type == KERNELS_BF16) {
        uint32_t b = (uint32_t)u16_at(row + 2 * j) << 16;
        float f;
        memcpy(&f, &b, 4);
        return f;
    }
    size_t in = j % 32;
    const uint8_t *block = row + j / 32 * kernels_row_bytes(type, 32);
    volatile float d = (float)half_value(u16_at(block));
    if (type == KERNELS_Q8_0) {
        return d * (float)(int8_t)block[2 + in];
    }
    const uint8_t *qs = block + (type == KERNELS_Q4_1 ? 4 : 2);
    int q = in < 16 ? qs[in] & 15 : qs[in - 16] >> 4;
    if (type == KERNELS_Q4_0) {
        return d * (float)(q - 8);
    }
    volatile float product = d * (float)q;
    return product + (float)half_value(u16_at(block + 2));
}

struct matrix {
    struct kernels_weight *w;
    double *values; /* [out][in] */
    uint8_t *data[2];
    uint32_t *order;
    size_t out, in;
};

/* Random bytes that are small finite numbers in this type. */
static uint8_t *random_rows(enum kernels_type type, size_t rows, size_t cols, uint64_t stream)
{
    size_t bytes = rows * kernels_row_bytes(type, cols);
    uint8_t *p = malloc(bytes + 1);
    ck_assert_ptr_nonnull(p);
    for (size_t i = 0; i < bytes; i++) {
        p[i] = (uint8_t)rng_bits(11, stream, i);
    }
    size_t step = type == KERNELS_F32 ? 4 : type == KERNELS_F16 || type == KERNELS_BF16 ? 2 : kernels_row_bytes(type, 32);
    for (size_t i = 0; i < bytes; i += step) {
        if (type == KERNELS_F32) {
            float f = (float)(rng_uniform(12, stream, i) - 0.5);
            memcpy(p + i, &f, 4);
        } else if (type == KERNELS_BF16) {
            p[i + 1] = (uint8_t)(0x3e | (p[i + 1] & 0x80));
        } else {
            p[i + 1] = (uint8_t)((p[i + 1] & 0x83) | (type == KERNELS_F16 ? 0x34 : 0x20));
            if (type == KERNELS_Q4_1) {
                p[i + 3] = (uint8_t)((p[i + 3] & 0x83) | 0x28);
            }
        }
    }
    return p;
}

/* Two parts, of different types when `mixed`, the first with its rows in reverse order when `turned`. */
static struct matrix matrix_make(enum kernels_type type, size_t out, size_t in, int mixed, int turned)
{
    struct matrix m = { .out = out, .in = in };
    struct kernels_segment parts[2] = { { .type = type, .rows = out, .cols = in }, { .cols = in } };
    if (mixed) {
        parts[0].rows = out / 3;
        parts[1].rows = out - out / 3;
        parts[1].type = in % 32 == 0 ? KERNELS_Q8_0 : KERNELS_BF16;
    }
    m.values = doubles(out * in);
    m.order = calloc(parts[0].rows + 1, sizeof *m.order);
    size_t row = 0;
    for (int p = 0; p <= mixed; p++) {
        m.data[p] = random_rows(parts[p].type, parts[p].rows, in, out + (size_t)p);
        parts[p].data = m.data[p];
        for (size_t r = 0; r < parts[p].rows; r++, row++) {
            size_t at = p == 0 && turned ? parts[0].rows - 1 - r : r;
            if (p == 0) {
                m.order[r] = (uint32_t)at;
            }
            for (size_t j = 0; j < in; j++) {
                m.values[row * in + j] =
                    element(parts[p].type, m.data[p] + at * kernels_row_bytes(parts[p].type, in), j);
            }
        }
    }
    parts[0].order = turned ? m.order : NULL;
    ck_ok(kernels_weight_create(k, parts, mixed ? 2 : 1, &m.w, &err), err);
    ck_assert_uint_eq(kernels_weight_out(m.w), out);
    ck_assert_uint_eq(kernels_weight_in(m.w), in);
    return m;
}

static void matrix_free(struct matrix *m)
{
    kernels_weight_free(k, m->w);
    free(m->values);
    free(m->data[0]);
    free(m->data[1]);
    free(m->order);
}

/* want[m][n] (+)= alpha a[m][d] b[d][n] by steps in memory, double. */
static void oracle(size_t m, size_t n, size_t depth, double alpha, const float *a, size_t ai, size_t ak,
                   const double *b, size_t bk, size_t bj, double *want)
{
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            double sum = 0;
            for (size_t d = 0; d < depth; d++) {
                sum += a[i * ai + d * ak] * b[d * bk + j * bj];
            }
            want[i * n + j] += alpha * sum;
        }
    }
}

static double *start_values(const struct buffer *b, int accumulate)
{
    double *want = doubles(b->rows * b->cols);
    for (size_t i = 0; accumulate && i < b->rows; i++) {
        for (size_t j = 0; j < b->cols; j++) {
            want[i * b->cols + j] = b->x[i * b->pitch + j];
        }
    }
    return want;
}

static void check_linear(const struct matrix *w, size_t m, int accumulate)
{
    struct buffer x = buffer_random(m, w->in, w->in + 3);
    struct buffer y = accumulate ? buffer_random(m, w->out, w->out + 5) : buffer_guarded(m, w->out, w->out + 5);
    double *want = start_values(&y, accumulate);
    oracle(m, w->out, w->in, 1, x.x, x.pitch, 1, w->values, 1, w->in, want);
    ck_ok(kernels_linear(k, w->w, m, x.x, x.pitch, y.x, y.pitch, accumulate, &err), err);
    buffer_check(&y, want, BOUND, "linear");
    free(want);
    struct buffer dx = accumulate ? buffer_random(m, w->in, w->in + 1) : buffer_guarded(m, w->in, w->in + 1);
    want = start_values(&dx, accumulate);
    oracle(m, w->in, w->out, 1, y.x, y.pitch, 1, w->values, w->in, 1, want);
    ck_ok(kernels_linear_backward(k, w->w, m, y.x, y.pitch, dx.x, dx.pitch, accumulate, &err), err);
    buffer_check(&dx, want, BOUND, "linear backward");
    free(want);
    buffer_free(&x);
    buffer_free(&y);
    buffer_free(&dx);
}

/* Every type, mixed parts and turned rows; rows around the borders of the small path and of tiles. */
START_TEST(test_linear)
{
    static const size_t ms[] = { 0, 1, 2, 3, 8, 9, 12, 13, 31 };
    static const size_t shapes[][2] = { { 1, 32 }, { 33, 64 }, { 97, 224 }, { 31, 416 } };
    device_open(_i, 2);
    for (int type = 0; type < KERNELS_TYPES; type++) {
        for (size_t s = 0; s < 4; s++) {
            struct matrix w = matrix_make((enum kernels_type)type, shapes[s][0], shapes[s][1], s % 2 == 1, s >= 2);
            for (size_t i = 0; i < sizeof ms / sizeof *ms; i++) {
                check_linear(&w, ms[i], (int)((i + s) % 2));
            }
            matrix_free(&w);
        }
    }
    device_close();
}
END_TEST

/* Rows without blocks may have any length. */
START_TEST(test_linear_odd)
{
    static const size_t shapes[][2] = { { 1, 1 }, { 5, 7 }, { 64, 193 }, { 29, 389 } };
    device_open(_i, 3);
    for (int type = KERNELS_F32; type <= KERNELS_BF16; type++) {
        for (size_t s = 0; s < 4; s++) {
            struct matrix w = matrix_make((enum kernels_type)type, shapes[s][0], shapes[s][1], s == 2, s == 3);
            check_linear(&w, 1, 0);
            check_linear(&w, 7, 1);
            check_linear(&w, 25, 0);
            matrix_free(&w);
        }
    }
    device_close();
}
END_TEST

/* More rows than are packed at a time, and more depth. */
START_TEST(test_linear_chunks)
{
    device_open(2, 2);
    struct matrix w = matrix_make(KERNELS_Q4_1, 40, 64, 0, 0);
    check_linear(&w, 1033, 1);
    check_linear(&w, 1020, 0);
    matrix_free(&w);
    w = matrix_make(KERNELS_Q4_0, 3105, 32, 0, 0);
    check_linear(&w, 13, 0);
    check_linear(&w, 13, 1);
    matrix_free(&w);
    device_close();
}
END_TEST

/* Rows come out bit for bit. Also all 65536 half floats as F16 and as scales. */
START_TEST(test_gather_exact)
{
    device_open(_i, 2);
    for (int type = 0; type < KERNELS_TYPES; type++) {
        struct matrix w = matrix_make((enum kernels_type)type, 19, 96, 1, 1);
        int32_t ids[] = { 18, 0, 5, 5, 7, 6, 1 };
        struct buffer y = buffer_guarded(7, 96, 99);
        ck_ok(kernels_gather(k, w.w, 7, ids, y.x, y.pitch, &err), err);
        buffer_check_guards(&y);
        for (size_t i = 0; i < 7; i++) {
            for (size_t j = 0; j < 96; j++) {
                float want = (float)w.values[(size_t)ids[i] * 96 + j];
                ck_assert_uint_eq(bits_of(y.x[i * y.pitch + j]), bits_of(want));
            }
        }
        ids[3] = 19;
        ck_failed(kernels_gather(k, w.w, 7, ids, y.x, y.pitch, &err), CLAAS_ERR_INVALID, err);
        ids[3] = -1;
        ck_failed(kernels_gather(k, w.w, 7, ids, y.x, y.pitch, &err), CLAAS_ERR_INVALID, err);
        buffer_free(&y);
        matrix_free(&w);
    }
    uint16_t *halves = calloc(65536, sizeof *halves);
    float *values = calloc(65536, sizeof *values);
    for (size_t i = 0; i < 65536; i++) {
        halves[i] = (uint16_t)i;
    }
    struct kernels_segment s = { .type = KERNELS_F16, .rows = 1, .cols = 65536, .data = halves };
    struct kernels_weight *w = NULL;
    ck_ok(kernels_weight_create(k, &s, 1, &w, &err), err);
    ck_ok(kernels_gather(k, w, 1, &(int32_t){ 0 }, values, 65536, &err), err);
    for (uint32_t i = 0; i < 65536; i++) {
        if ((i & 0x7c00) != 0x7c00) {
            ck_assert_uint_eq(bits_of(values[i]), bits_of((float)half_value((uint16_t)i)));
        } else if (i & 1023) {
            ck_assert(isnan(values[i]));
        } else {
            ck_assert(isinf(values[i]) && (values[i] < 0) == (i > 0x8000));
        }
    }
    kernels_weight_free(k, w);
    free(halves);
    free(values);
    device_close();
}
END_TEST

START_TEST(test_combine)
{
    device_open(_i, 2);
    struct matrix w = matrix_make(KERNELS_Q8_0, 50, 96, 0, 0);
    enum { M = 5, N = 7 };
    struct buffer coef = buffer_random(M, N, N);
    int32_t ids[M * N];
    for (int accumulate = 0; accumulate < 2; accumulate++) {
        struct buffer dx = accumulate ? buffer_random(M, 96, 100) : buffer_guarded(M, 96, 100);
        double *want = start_values(&dx, accumulate);
        for (size_t i = 0; i < M * N; i++) {
            ids[i] = (int32_t)(rng_bits(5, 6, i) % 51) - 1;
            for (size_t j = 0; ids[i] >= 0 && j < 96; j++) {
                want[i / N * 96 + j] += coef.x[i] * w.values[(size_t)ids[i] * 96 + j];
            }
        }
        ck_ok(kernels_combine(k, w.w, M, N, coef.x, ids, dx.x, dx.pitch, accumulate, &err), err);
        buffer_check(&dx, want, BOUND, "combine");
        free(want);
        buffer_free(&dx);
    }
    ids[3] = 50;
    struct buffer dx = buffer_guarded(M, 96, 96);
    ck_failed(kernels_combine(k, w.w, M, N, coef.x, ids, dx.x, 96, 0, &err), CLAAS_ERR_INVALID, err);
    ids[3] = -2;
    ck_failed(kernels_combine(k, w.w, M, N, coef.x, ids, dx.x, 96, 0, &err), CLAAS_ERR_INVALID, err);
    buffer_free(&dx);
    buffer_free(&coef);
    matrix_free(&w);
    device_close();
}
END_TEST

static void check_gemm(int ta, int tb, size_t m, size_t n, size_t depth, int accumulate)
{
    struct buffer a = ta ? buffer_random(depth, m, m + 2) : buffer_random(m, depth, depth + 3);
    struct buffer b = tb ? buffer_random(n, depth, depth + 1) : buffer_random(depth, n, n + 4);
    struct buffer c = accumulate ? buffer_random(m, n, n + 1) : buffer_guarded(m, n, n + 1);
    double *want = start_values(&c, accumulate);
    double *b_values = doubles(b.rows * b.pitch);
    for (size_t i = 0; i < b.rows; i++) {
        for (size_t j = 0; j < b.cols; j++) {
            b_values[i * b.pitch + j] = b.x[i * b.pitch + j];
        }
    }
    oracle(m, n, depth, -0.75, a.x, ta ? 1 : a.pitch, ta ? a.pitch : 1, b_values, tb ? 1 : b.pitch, tb ? b.pitch : 1,
           want);
    ck_ok(kernels_gemm(k, ta, tb, m, n, depth, -0.75f, a.x, a.pitch, b.x, b.pitch, c.x, c.pitch, accumulate, &err), err);
    buffer_check(&c, want, BOUND, "gemm");
    free(b_values);
    free(want);
    buffer_free(&a);
    buffer_free(&b);
    buffer_free(&c);
}

START_TEST(test_gemm)
{
    static const size_t sizes[][3] = { { 0, 3, 2 }, { 3, 0, 2 }, { 3, 2, 0 },    { 1, 1, 1 },    { 1, 33, 17 }, { 2, 5, 193 },
                                       { 13, 31, 7 }, { 37, 8, 64 }, { 100, 16, 96 }, { 11, 97, 5 },  { 16, 64, 211 },
                                       { 301, 4, 33 }, { 64, 300, 16 }, { 5, 40, 3080 }, { 150, 7, 3079 } };
    device_open(_i, 2);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (int way = 0; way < 8; way++) {
            check_gemm(way & 1, way >> 1 & 1, sizes[s][0], sizes[s][1], sizes[s][2], way >> 2);
        }
    }
    device_close();
}
END_TEST

START_TEST(test_weight_refused)
{
    device_open(2, 1);
    float data[64] = { 0 };
    uint32_t order[] = { 0, 2 };
    struct kernels_weight *w = NULL;
    struct kernels_segment s = { .type = KERNELS_Q4_1, .rows = 1, .cols = 33, .data = data };
    ck_failed(kernels_weight_create(k, &s, 1, &w, &err), CLAAS_ERR_INVALID, err);
    s.type = (enum kernels_type)KERNELS_TYPES;
    s.cols = 32;
    ck_failed(kernels_weight_create(k, &s, 1, &w, &err), CLAAS_ERR_INVALID, err);
    s.type = KERNELS_F32;
    s.data = NULL;
    ck_failed(kernels_weight_create(k, &s, 1, &w, &err), CLAAS_ERR_INVALID, err);
    s.data = data;
    s.rows = 2;
    s.order = order;
    ck_failed(kernels_weight_create(k, &s, 1, &w, &err), CLAAS_ERR_INVALID, err);
    struct kernels_segment two[2] = { { .type = KERNELS_F32, .rows = 1, .cols = 8, .data = data },
                                      { .type = KERNELS_F32, .rows = 1, .cols = 9, .data = data } };
    ck_failed(kernels_weight_create(k, two, 2, &w, &err), CLAAS_ERR_INVALID, err);
    ck_failed(kernels_weight_create(k, two, 0, &w, &err), CLAAS_ERR_INVALID, err);
    ck_assert_ptr_null(w);
    ck_assert_uint_eq(kernels_row_bytes(KERNELS_F32, SIZE_MAX / 2), 0);
    ck_assert_uint_eq(kernels_row_bytes(KERNELS_Q8_0, 576), 612);
    ck_assert_uint_eq(kernels_row_bytes(KERNELS_Q4_1, 576), 360);
    ck_assert_uint_eq(kernels_row_bytes(KERNELS_Q4_0, 576), 324);
    device_close();
}
END_TEST

/* The same bytes twice, and with other numbers of threads; the narrow product is cut another way by many threads. */
START_TEST(test_same_bytes)
{
    enum { M = 61, OUT = 331, IN = 416, TALL = 143, NARROW = 81, DEEP = 889 };
    float *first = NULL;
    float *first_narrow = NULL;
    for (size_t round = 0; round < 4; round++) {
        static const size_t threads[] = { 2, 2, 1, 5 };
        device_open(_i, threads[round]);
        buffers_made = 1;
        struct matrix w = matrix_make(KERNELS_Q4_1, OUT, IN, 1, 0);
        float *all = calloc(M * (OUT + 2 * IN), sizeof *all);
        float *narrow = calloc(TALL * NARROW, sizeof *narrow);
        struct buffer a = buffer_random(TALL, DEEP, DEEP);
        struct buffer b = buffer_random(DEEP, NARROW, NARROW);
        struct buffer x = buffer_random(M, IN, IN);
        ck_ok(kernels_linear(k, w.w, M, x.x, IN, all, OUT, 0, &err), err);
        ck_ok(kernels_linear_backward(k, w.w, M, all, OUT, all + M * OUT, IN, 0, &err), err);
        ck_ok(kernels_gemm(k, 0, 0, M, 16, OUT, 1, all, OUT, x.x, 16, all + M * (OUT + IN), 16, 0, &err), err);
        ck_ok(kernels_gemm(k, 0, 0, TALL, NARROW, DEEP, 1, a.x, DEEP, b.x, NARROW, narrow, NARROW, 0, &err), err);
        if (first) {
            ck_assert_mem_eq(first, all, M * (OUT + 2 * IN) * sizeof *all);
            ck_assert_mem_eq(first_narrow, narrow, TALL * NARROW * sizeof *narrow);
            free(all);
            free(narrow);
        } else {
            first = all;
            first_narrow = narrow;
        }
        buffer_free(&a);
        buffer_free(&b);
        buffer_free(&x);
        matrix_free(&w);
        device_close();
    }
    free(first);
    free(first_narrow);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("kernels_products");
    TCase *t = tcase_create("products");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, test_linear, 0, ISAS);
    tcase_add_loop_test(t, test_linear_odd, 0, ISAS);
    tcase_add_test(t, test_linear_chunks);
    tcase_add_loop_test(t, test_gather_exact, 0, ISAS);
    tcase_add_loop_test(t, test_combine, 0, ISAS);
    tcase_add_loop_test(t, test_gemm, 0, ISAS);
    tcase_add_test(t, test_weight_refused);
    tcase_add_loop_test(t, test_same_bytes, 0, ISAS);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
