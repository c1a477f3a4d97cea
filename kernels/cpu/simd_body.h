/* SPDX-License-Identifier: MIT */
/* The inner loops, included once by each simd_*.c, which defines: VW (floats in a vector), vf and vi (vectors of floats and
 * of int32), v_fma, v_sqrt, v_sum, v_any, load32, simd_transpose, SUB_M (rows of the register tile), TARGET (function attribute), and the
 * table's name. GCC vector extensions carry the rest, so that a formula stands here once for all instruction sets.
 * Loops run over whole vectors; a rest is loaded into a padded vector, so that it goes through the same arithmetic. */
#include <math.h>
#include <string.h>

#define HOT TARGET static inline __attribute__((always_inline))

typedef float vfu __attribute__((vector_size(VW * 4), aligned(4), may_alias));

HOT vf v_load(const float *p)
{
    return *(const vfu *)p;
}

HOT void v_store(float *p, vf v)
{
    *(vfu *)p = v;
}

HOT vf v_set(float x)
{
    return x - (vf){ 0 };
}

/* The first n < VW elements, `fill` behind them. */
HOT vf v_load_part(const float *p, size_t n, float fill)
{
    vf v = v_set(fill);
    memcpy(&v, p, n * sizeof *p);
    return v;
}

HOT void v_store_part(float *p, vf v, size_t n)
{
    memcpy(p, &v, n * sizeof *p);
}

HOT vf v_select(vi mask, vf a, vf b)
{
    return (vf)((mask & (vi)a) | (~mask & (vi)b));
}

HOT vf v_max(vf a, vf b)
{
    return v_select(a > b, a, b);
}

HOT float v_top(vf v)
{
    float top = v[0];
    for (int i = 1; i < VW; i++) {
        top = v[i] > top ? v[i] : top;
    }
    return top;
}

/* exp to about one unit in the last place: 2^n times a polynomial on |r| <= ln 2 / 2. Below -87.3 it is 0, above 88.7
 * infinity; NaN stays NaN. */
HOT vf v_exp(vf x)
{
    const vf magic = v_set(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    vi under = x < v_set(-87.33654f);
    vi over = x > v_set(88.72283f);
    vf y = v_select(under | over, v_set(0), x);
    vf shifted = v_fma(y, v_set(1.44269504f), magic);
    vi e = (vi)shifted - (vi)magic;
    vf n = shifted - magic;
    vf r = v_fma(n, v_set(-0.693359375f), y);
    r = v_fma(n, v_set(2.12194440e-4f), r);
    vf p = v_fma(v_set(1.9875691500e-4f), r, v_set(1.3981999507e-3f));
    p = v_fma(p, r, v_set(8.3334519073e-3f));
    p = v_fma(p, r, v_set(4.1665795894e-2f));
    p = v_fma(p, r, v_set(1.6666665459e-1f));
    p = v_fma(p, r, v_set(5.0000001201e-1f));
    p = v_fma(p, r * r, r) + 1.0f;
    vi half = e >> 1; /* in two factors: 2^128 is no float */
    p = p * (vf)((half + 127) << 23) * (vf)((e - half + 127) << 23);
    p = v_select(under, v_set(0), p);
    return v_select(over, v_set(INFINITY), p);
}

/* ---- products ---- */

/* One register tile of rows x (vectors * VW), whole; wide: a(i, k) = a[i * ATT_Q + k]. */
HOT void sub_tile(size_t depth, const float *a, size_t a_step, const float *b, size_t b_step, float *c, size_t c_pitch,
                  float alpha, int accumulate, const int rows, const int vectors, const int wide)
{
    vf acc[SUB_M][2];
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) {
            acc[i][j] = (vf){ 0 };
        }
    }
    for (size_t k = 0; k < depth; k++) {
        vf bv[2];
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) {
            bv[j] = v_load(b + VW * j);
        }
#pragma GCC unroll 12
        for (int i = 0; i < rows; i++) {
            vf av = v_set(a[wide ? i * ATT_Q : i]);
#pragma GCC unroll 2
            for (int j = 0; j < vectors; j++) {
                acc[i][j] = v_fma(av, bv[j], acc[i][j]);
            }
        }
        a += wide ? 1 : a_step;
        b += b_step;
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) {
            float *p = c + (size_t)i * c_pitch + VW * j;
            vf v = acc[i][j] * alpha;
            v_store(p, accumulate ? v_load(p) + v : v);
        }
    }
}

/* Each register tile is its own function: put into one, the compiler would keep the sums in memory. */
typedef void sub_tile_fn(size_t depth, const float *a, size_t a_step, const float *b, size_t b_step, float *c,
                         size_t c_pitch, float alpha, int accumulate);
#define SUB_TILE(ROWS, VECTORS, WIDE) \
    TARGET static __attribute__((noinline)) void sub_tile_##ROWS##_##VECTORS##_##WIDE( \
        size_t depth, const float *a, size_t a_step, const float *b, size_t b_step, float *c, size_t c_pitch, \
        float alpha, int accumulate) \
    { \
        sub_tile(depth, a, a_step, b, b_step, c, c_pitch, alpha, accumulate, ROWS, VECTORS, WIDE); \
    }
#define SUB_TILES(ROWS) SUB_TILE(ROWS, 1, 0) SUB_TILE(ROWS, 2, 0) SUB_TILE(ROWS, 1, 1) SUB_TILE(ROWS, 2, 1)
#define SUB_ROW(ROWS) \
    { \
        ROWS, { { sub_tile_##ROWS##_1_0, sub_tile_##ROWS##_2_0 }, { sub_tile_##ROWS##_1_1, sub_tile_##ROWS##_2_1 } } \
    }

#if SUB_M == 12
SUB_TILES(12)
SUB_TILES(8)
#endif
#if SUB_M == 6
SUB_TILES(6)
#endif
SUB_TILES(4)
SUB_TILES(2)
SUB_TILES(1)

static const struct sub_tiles {
    size_t rows;
    sub_tile_fn *fn[2][2]; /* [wide][vectors - 1] */
} sub_tiles[] = {
#if SUB_M == 12
    SUB_ROW(12), SUB_ROW(8),
#endif
#if SUB_M == 6
    SUB_ROW(6),
#endif
    SUB_ROW(4), SUB_ROW(2), SUB_ROW(1),
};

/* Any tile: largest register tiles first (the order of each element's sum does not depend on it); a column rest goes
 * through a whole register tile in memory. */
TARGET static void tile_any(size_t depth, const float *a, size_t a_step, const float *b, size_t b_step, float *c,
                            size_t c_pitch, float alpha, int accumulate, size_t rows, size_t cols, const int wide)
{
    for (const struct sub_tiles *s = sub_tiles; rows > 0; s++) {
        for (; rows >= s->rows; rows -= s->rows) {
            for (size_t j = 0; j < cols; j += 2 * VW) {
                size_t left = cols - j;
                if (left >= 2 * VW) {
                    s->fn[wide][1](depth, a, a_step, b + j, b_step, c + j, c_pitch, alpha, accumulate);
                    continue;
                }
                float rest[SUB_M * 2 * VW];
                s->fn[wide][left > VW](depth, a, a_step, b + j, b_step, rest, 2 * VW, alpha, 0);
                for (size_t i = 0; i < s->rows; i++) {
                    for (size_t l = 0; l < left; l++) {
                        float *p = c + i * c_pitch + j + l;
                        *p = accumulate ? *p + rest[i * 2 * VW + l] : rest[i * 2 * VW + l];
                    }
                }
            }
            a += s->rows * (wide ? ATT_Q : 1);
            c += s->rows * c_pitch;
        }
    }
}

TARGET static void simd_tile(size_t depth, const float *a, size_t a_step, const float *b, size_t b_step, float *c,
                             size_t c_pitch, float alpha, int accumulate, size_t rows, size_t cols)
{
    tile_any(depth, a, a_step, b, b_step, c, c_pitch, alpha, accumulate, rows, cols, 0);
}

TARGET static void simd_tile_wide(size_t depth, const float *a, const float *b, size_t b_step, float *c,
                                  size_t c_pitch, float alpha, int accumulate, size_t rows, size_t cols)
{
    tile_any(depth, a, 1, b, b_step, c, c_pitch, alpha, accumulate, rows, cols, 1);
}

/* ---- weights ---- */

HOT size_t block_bytes(enum kernels_type type)
{
    return type == KERNELS_F32    ? 128
           : type == KERNELS_Q8_0 ? 34
           : type == KERNELS_Q4_0 ? 18
           : type == KERNELS_Q4_1 ? 20
                                  : 64;
}

/* One element of a type without blocks. */
HOT float load_one(enum kernels_type type, const uint8_t *row, size_t i)
{
    float f;
    if (type == KERNELS_F16) {
        return half_to_float(load_u16(row + 2 * i));
    }
    if (type == KERNELS_BF16) {
        return bfloat_to_float(load_u16(row + 2 * i));
    }
    memcpy(&f, row + 4 * i, sizeof f);
    return f;
}

HOT void dequantise_as(enum kernels_type type, const uint8_t *row, size_t first, size_t n, float *dst)
{
    size_t size = block_bytes(type);
    if (type == KERNELS_F32 || type == KERNELS_F16 || type == KERNELS_BF16) {
        row += first * (size / 32); /* any element may come first */
    } else {
        row += first / 32 * size;
    }
    size_t i = 0;
    for (; i + 32 <= n; i += 32, row += size) {
        vf v[32 / VW];
        load32(type, row, v);
#pragma GCC unroll 8
        for (int j = 0; j < 32 / VW; j++) {
            v_store(dst + i + (size_t)j * VW, v[j]);
        }
    }
    for (size_t j = 0; i < n; i++, j++) {
        dst[i] = load_one(type, row, j);
    }
}

#define TYPE_SWITCH(CALL) \
    switch (type) { \
    case KERNELS_F16: CALL(KERNELS_F16); break; \
    case KERNELS_BF16: CALL(KERNELS_BF16); break; \
    case KERNELS_Q8_0: CALL(KERNELS_Q8_0); break; \
    case KERNELS_Q4_0: CALL(KERNELS_Q4_0); break; \
    case KERNELS_Q4_1: CALL(KERNELS_Q4_1); break; \
    default: CALL(KERNELS_F32); break; \
    }

TARGET static void simd_dequantise(enum kernels_type type, const void *row, size_t first, size_t n, float *dst)
{
#define DEQUANTISE(TYPE) dequantise_as(TYPE, row, first, n, dst)
    TYPE_SWITCH(DEQUANTISE)
}

/* m rows of x at once; the order of each sum is the same for every m. */
HOT void dots_as(enum kernels_type type, const uint8_t *row, size_t n, const float *x, size_t x_pitch, const int m,
                 float *out, size_t out_pitch, int accumulate)
{
    vf acc[4][2];
    for (int r = 0; r < m; r++) {
        acc[r][0] = acc[r][1] = (vf){ 0 };
    }
    size_t i = 0;
    for (; i + 32 <= n; i += 32, row += block_bytes(type)) {
        vf v[32 / VW];
        load32(type, row, v);
#pragma GCC unroll 4
        for (int r = 0; r < m; r++) {
            const float *p = x + (size_t)r * x_pitch + i;
#pragma GCC unroll 8
            for (int j = 0; j < 32 / VW; j++) {
                acc[r][j & 1] = v_fma(v[j], v_load(p + j * VW), acc[r][j & 1]);
            }
        }
    }
    for (int r = 0; r < m; r++) {
        float sum = v_sum(acc[r][0] + acc[r][1]);
        for (size_t j = i; j < n; j++) {
            sum += load_one(type, row, j - i) * x[(size_t)r * x_pitch + j];
        }
        float *p = out + (size_t)r * out_pitch;
        *p = accumulate ? *p + sum : sum;
    }
}

TARGET static void simd_dots(enum kernels_type type, const void *row, size_t n, const float *x, size_t x_pitch,
                             size_t m, float *out, size_t out_pitch, int accumulate)
{
    while (m > 0) {
        size_t now = m >= 4 ? 4 : m >= 2 ? 2 : 1;
#define DOTS(TYPE) \
    do { \
        if (now == 4) { \
            dots_as(TYPE, row, n, x, x_pitch, 4, out, out_pitch, accumulate); \
        } else if (now == 2) { \
            dots_as(TYPE, row, n, x, x_pitch, 2, out, out_pitch, accumulate); \
        } else { \
            dots_as(TYPE, row, n, x, x_pitch, 1, out, out_pitch, accumulate); \
        } \
    } while (0)
        TYPE_SWITCH(DOTS)
        m -= now;
        x += now * x_pitch;
        out += now * out_pitch;
    }
}

TARGET static void simd_weighted_rows(const float *p, size_t n, const float *rows, size_t pitch, size_t cols, float *out)
{
    size_t c = 0;
    for (; c + 4 * VW <= cols; c += 4 * VW) {
        vf acc[4] = { { 0 }, { 0 }, { 0 }, { 0 } };
        const float *row = rows + c;
        for (size_t j = 0; j < n; j++, row += pitch) {
            vf w = v_set(p[j]);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                __builtin_prefetch(row + 8 * pitch + i * VW);
                acc[i] = v_fma(w, v_load(row + i * VW), acc[i]);
            }
        }
        for (int i = 0; i < 4; i++) {
            v_store(out + c + (size_t)i * VW, acc[i]);
        }
    }
    for (; c < cols; c++) {
        float sum = 0;
        for (size_t j = 0; j < n; j++) {
            sum += p[j] * rows[j * pitch + c];
        }
        out[c] = sum;
    }
}

/* ---- element by element ---- */

TARGET static void simd_axpy(size_t n, float a, const float *x, float *y)
{
    size_t i = 0;
    vf av = v_set(a);
    for (; i + VW <= n; i += VW) {
        v_store(y + i, v_fma(av, v_load(x + i), v_load(y + i)));
    }
    if (i < n) {
        v_store_part(y + i, v_fma(av, v_load_part(x + i, n - i, 0), v_load_part(y + i, n - i, 0)), n - i);
    }
}

TARGET static void simd_scale(size_t n, float a, float *x)
{
    size_t i = 0;
    for (; i + VW <= n; i += VW) {
        v_store(x + i, v_load(x + i) * a);
    }
    for (; i < n; i++) {
        x[i] *= a;
    }
}

TARGET static float simd_rmsnorm(size_t n, const float *x, const float *weight, float eps, float *y)
{
    vf acc[2] = { { 0 }, { 0 } };
    size_t i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) {
        vf a = v_load(x + i);
        vf b = v_load(x + i + VW);
        acc[0] = v_fma(a, a, acc[0]);
        acc[1] = v_fma(b, b, acc[1]);
    }
    for (; i < n; i += VW) {
        vf a = n - i >= VW ? v_load(x + i) : v_load_part(x + i, n - i, 0);
        acc[0] = v_fma(a, a, acc[0]);
    }
    float inverse = 1.0f / sqrtf(v_sum(acc[0] + acc[1]) / (float)n + eps);
    for (i = 0; i + VW <= n; i += VW) {
        v_store(y + i, v_load(x + i) * inverse * v_load(weight + i));
    }
    for (; i < n; i++) {
        y[i] = x[i] * inverse * weight[i];
    }
    return inverse;
}

/* dx_j = inv (w_j dy_j - x_j inv^2 mean over i of w_i dy_i x_i) */
TARGET static void simd_rmsnorm_backward(size_t n, const float *x, const float *weight, float inv_rms, const float *dy,
                                         float *dx, int accumulate)
{
    vf acc = { 0 };
    size_t i = 0;
    for (; i < n; i += VW) {
        size_t left = n - i;
        vf xv = left >= VW ? v_load(x + i) : v_load_part(x + i, left, 0);
        vf wv = left >= VW ? v_load(weight + i) : v_load_part(weight + i, left, 0);
        vf gv = left >= VW ? v_load(dy + i) : v_load_part(dy + i, left, 0);
        acc = v_fma(wv * gv, xv, acc);
    }
    float back = v_sum(acc) / (float)n * inv_rms * inv_rms;
    for (i = 0; i + VW <= n; i += VW) {
        vf g = (v_load(weight + i) * v_load(dy + i) - v_load(x + i) * back) * inv_rms;
        v_store(dx + i, accumulate ? v_load(dx + i) + g : g);
    }
    for (; i < n; i++) {
        float g = (weight[i] * dy[i] - x[i] * back) * inv_rms;
        dx[i] = accumulate ? dx[i] + g : g;
    }
}

TARGET static void simd_rotate(size_t half, const float *cosine, const float *sine, float sign, float *x)
{
    size_t i = 0;
    float *y = x + half;
    for (; i + VW <= half; i += VW) {
        vf a = v_load(x + i);
        vf b = v_load(y + i);
        vf c = v_load(cosine + i);
        vf s = v_load(sine + i) * sign;
        v_store(x + i, a * c - b * s);
        v_store(y + i, b * c + a * s);
    }
    for (; i < half; i++) {
        float a = x[i];
        float b = y[i];
        float s = sine[i] * sign;
        x[i] = a * cosine[i] - b * s;
        y[i] = b * cosine[i] + a * s;
    }
}

HOT vf swiglu_vector(vf gate, vf up)
{
    return gate / (v_exp(-gate) + 1.0f) * up;
}

TARGET static void simd_swiglu(size_t n, const float *gate, const float *up, float *y)
{
    size_t i = 0;
    for (; i + VW <= n; i += VW) {
        v_store(y + i, swiglu_vector(v_load(gate + i), v_load(up + i)));
    }
    if (i < n) {
        vf v = swiglu_vector(v_load_part(gate + i, n - i, 0), v_load_part(up + i, n - i, 0));
        v_store_part(y + i, v, n - i);
    }
}

/* silu'(t) = s (1 + t (1 - s)), s = 1 / (1 + exp(-t)); written so that an infinite exp gives 0, not NaN. */
HOT void swiglu_back_vector(vf gate, vf up, vf dy, vf *dgate, vf *dup)
{
    vf s = 1.0f / (v_exp(-gate) + 1.0f);
    *dup = dy * (gate * s);
    *dgate = dy * up * (s * (gate * (1.0f - s) + 1.0f));
}

TARGET static void simd_swiglu_backward(size_t n, const float *gate, const float *up, const float *dy, float *dgate,
                                        float *dup)
{
    size_t i = 0;
    vf g;
    vf u;
    for (; i + VW <= n; i += VW) {
        swiglu_back_vector(v_load(gate + i), v_load(up + i), v_load(dy + i), &g, &u);
        v_store(dgate + i, g);
        v_store(dup + i, u);
    }
    if (i < n) {
        size_t left = n - i;
        swiglu_back_vector(v_load_part(gate + i, left, 0), v_load_part(up + i, left, 0),
                           v_load_part(dy + i, left, 0), &g, &u);
        v_store_part(dgate + i, g, left);
        v_store_part(dup + i, u, left);
    }
}

/* ---- rows of logits ---- */

TARGET static float simd_max(size_t n, const float *x)
{
    vf top = v_set(-INFINITY);
    size_t i = 0;
    for (; i + VW <= n; i += VW) {
        top = v_max(v_load(x + i), top);
    }
    if (i < n) {
        top = v_max(v_load_part(x + i, n - i, -INFINITY), top);
    }
    return v_top(top);
}

TARGET static float simd_exp_sum(size_t n, const float *x, float max, float *out)
{
    vf acc = { 0 };
    size_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf e = v_exp(v_load(x + i) - max);
        acc += e;
        if (out) {
            v_store(out + i, e);
        }
    }
    if (i < n) {
        vf e = v_exp(v_load_part(x + i, n - i, -INFINITY) - max);
        acc += e;
        if (out) {
            v_store_part(out + i, e, n - i);
        }
    }
    return v_sum(acc);
}

TARGET static void simd_softmax_grad(size_t n, float *x, float lse, float coef)
{
    size_t i = 0;
    for (; i + VW <= n; i += VW) {
        v_store(x + i, v_exp(v_load(x + i) - lse) * -coef);
    }
    if (i < n) {
        v_store_part(x + i, v_exp(v_load_part(x + i, n - i, 0) - lse) * -coef, n - i);
    }
}

TARGET static size_t simd_find_above(size_t n, const float *x, size_t from, float bound)
{
    size_t i = from;
    vf b = v_set(bound);
    for (; i + VW <= n; i += VW) {
        vi above = v_load(x + i) > b;
        if (v_any(above)) {
            break;
        }
    }
    while (i < n && !(x[i] > bound)) {
        i++;
    }
    return i;
}

/* ---- attention ---- */

/* Which lanes of vector `v` see key j: lane + v VW + visible >= j. */
HOT vi seen(int v, ptrdiff_t j, ptrdiff_t visible)
{
    vi lane;
    for (int i = 0; i < VW; i++) {
        lane[i] = v * VW + i;
    }
    ptrdiff_t first = j - visible; /* clipped: may be far outside of int32 */
    first = first < 0 ? 0 : first > ATT_Q ? ATT_Q : first;
    return lane >= (int32_t)first;
}

TARGET static void simd_attention_forward(size_t keys, ptrdiff_t visible, float *s, float *max, float *sum, size_t dim,
                                          float *out)
{
    int whole = visible >= (ptrdiff_t)keys - 1; /* every lane sees every key */
    for (int v = 0; v < ATT_Q / VW; v++) {
        float *column = s + v * VW;
        vf old = v_load(max + v * VW);
        vf top = old;
        for (size_t j = 0; j < keys; j++) {
            vf x = v_load(column + j * ATT_Q);
            if (!whole) {
                x = v_select(seen(v, (ptrdiff_t)j, visible), x, v_set(-INFINITY));
                v_store(column + j * ATT_Q, x);
            }
            top = v_max(x, top);
        }
        /* A lane that has seen nothing yet keeps -inf; subtract 0 then, so that no inf - inf arises. */
        vf base = v_select(top > v_set(-INFINITY), top, v_set(0));
        vf acc = { 0 };
        for (size_t j = 0; j < keys; j++) {
            vf e = v_exp(v_load(column + j * ATT_Q) - base);
            v_store(column + j * ATT_Q, e);
            acc += e;
        }
        vf factor = v_exp(old - base);
        v_store(max + v * VW, top);
        v_store(sum + v * VW, v_load(sum + v * VW) * factor + acc);
        for (size_t c = 0; c < dim; c++) {
            float *p = out + c * ATT_Q + v * VW;
            v_store(p, v_load(p) * factor);
        }
    }
}

TARGET static void simd_attention_backward(size_t keys, ptrdiff_t visible, float *s, float *dp, const float *lse,
                                           const float *d, float scale)
{
    int whole = visible >= (ptrdiff_t)keys - 1;
    for (size_t j = 0; j < keys; j++) {
#pragma GCC unroll 4
        for (int v = 0; v < ATT_Q / VW; v++) {
            float *sp = s + j * ATT_Q + v * VW;
            float *gp = dp + j * ATT_Q + v * VW;
            vf p = v_exp(v_load(sp) - v_load(lse + v * VW));
            vf g = p * (v_load(gp) - v_load(d + v * VW)) * scale;
            if (!whole) {
                vi mask = seen(v, (ptrdiff_t)j, visible);
                p = v_select(mask, p, v_set(0));
                g = v_select(mask, g, v_set(0));
            }
            v_store(sp, p);
            v_store(gp, g);
        }
    }
}

/* ---- optimiser ---- */

HOT vf adamw_vector(const struct adamw_floats *f, vf grad, vf theta, vf *mean, vf *var)
{
    vf g = grad * f->grad_scale;
    vf m = *mean * f->beta1 + g * f->one_minus_beta1;
    vf v = *var * f->beta2 + g * g * f->one_minus_beta2;
    *mean = m;
    *var = v;
    return theta * f->decay - m * f->step / (v_sqrt(v) * f->inv_sqrt_correction + f->eps);
}

TARGET static void simd_adamw(size_t n, const struct adamw_floats *f, const float *grad, float *theta, float *mean,
                              float *var)
{
    for (size_t i = 0; i < n; i += VW) {
        size_t left = n - i;
        if (left >= VW) {
            vf m = v_load(mean + i);
            vf v = v_load(var + i);
            v_store(theta + i, adamw_vector(f, v_load(grad + i), v_load(theta + i), &m, &v));
            v_store(mean + i, m);
            v_store(var + i, v);
        } else {
            vf m = v_load_part(mean + i, left, 0);
            vf v = v_load_part(var + i, left, 0);
            vf t = adamw_vector(f, v_load_part(grad + i, left, 0), v_load_part(theta + i, left, 0), &m, &v);
            v_store_part(theta + i, t, left);
            v_store_part(mean + i, m, left);
            v_store_part(var + i, v, left);
        }
    }
}

TARGET static double simd_sum_squares(size_t n, const float *x)
{
    double acc[8] = { 0 };
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        for (int j = 0; j < 8; j++) {
            acc[j] += (double)x[i + (size_t)j] * x[i + (size_t)j];
        }
    }
    for (; i < n; i++) {
        acc[i & 7] += (double)x[i] * x[i];
    }
    return ((acc[0] + acc[4]) + (acc[2] + acc[6])) + ((acc[1] + acc[5]) + (acc[3] + acc[7]));
}

TARGET static int simd_all_finite(size_t n, const float *x)
{
    int32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bad |= (bits & 0x7f800000) == 0x7f800000;
    }
    return !bad;
}

const struct simd SIMD_TABLE = {
    .name = SIMD_NAME,
    .tile = simd_tile,
    .tile_wide = simd_tile_wide,
    .transpose = simd_transpose,
    .dequantise = simd_dequantise,
    .dots = simd_dots,
    .weighted_rows = simd_weighted_rows,
    .axpy = simd_axpy,
    .scale = simd_scale,
    .rmsnorm = simd_rmsnorm,
    .rmsnorm_backward = simd_rmsnorm_backward,
    .rotate = simd_rotate,
    .swiglu = simd_swiglu,
    .swiglu_backward = simd_swiglu_backward,
    .max = simd_max,
    .exp_sum = simd_exp_sum,
    .softmax_grad = simd_softmax_grad,
    .find_above = simd_find_above,
    .attention_forward = simd_attention_forward,
    .attention_backward = simd_attention_backward,
    .adamw = simd_adamw,
    .sum_squares = simd_sum_squares,
    .all_finite = simd_all_finite,
};
