/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "unit/model_oracle.h"

#include "base/rng.h"
#include "plugins/local/rows.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *zeroed(size_t n, size_t size)
{
    void *p = calloc(n + 1, size);
    ck_assert_ptr_nonnull(p);
    return p;
}

/* ---- weights ---- */

static double symmetric(uint64_t seed, uint64_t stream, uint64_t i)
{
    return 2 * rng_uniform(seed, stream, i) - 1;
}

static void shape_of(const struct model_geometry *g, enum model_part part, size_t *rows, size_t *cols)
{
    int vector = part == MODEL_FINAL_NORM || part == MODEL_ATTENTION_NORM || part == MODEL_MLP_NORM ||
                 part >= MODEL_Q_BIAS;
    int query = part == MODEL_Q || part == MODEL_Q_BIAS;
    int key_value = part == MODEL_K || part == MODEL_V || part == MODEL_K_BIAS || part == MODEL_V_BIAS;
    int inner = part == MODEL_GATE || part == MODEL_UP;
    int table = part == MODEL_EMBEDDING || part == MODEL_OUTPUT;
    size_t out = query       ? g->heads * g->head_dim
                 : key_value ? g->kv_heads * g->head_dim
                 : inner     ? g->intermediate
                 : table     ? g->vocab
                             : g->hidden;
    size_t in = part == MODEL_O ? g->heads * g->head_dim : part == MODEL_DOWN ? g->intermediate : g->hidden;
    *rows = vector ? 1 : out;
    *cols = vector ? out : in;
}

/* Truncated; what is too small for a normal number becomes 0. */
static uint16_t half_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 23 & 255) - 112;
    return (uint16_t)(exponent < 1 ? 0 : (bits >> 16 & 0x8000) | (uint32_t)exponent << 10 | (bits >> 13 & 1023));
}

static void put_u16(uint8_t *p, uint16_t v)
{
    memcpy(p, &v, sizeof v);
}

/* One block (or element) whose values lie about within +-size. */
static void put_block(enum kernels_type type, double size, uint64_t seed, uint64_t stream, uint64_t i, uint8_t *p)
{
    double x = size * symmetric(seed, stream, i);
    float narrow = (float)x;
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    size_t bytes = row_bytes(type, type >= KERNELS_Q8_0 ? 32 : 1);
    for (size_t j = 0; j < bytes; j++) {
        p[j] = (uint8_t)rng_bits(seed, stream + 1, i * bytes + j);
    }
    double spread = size * (1.5 + 0.5 * symmetric(seed, stream, i));
    if (type == KERNELS_F32) {
        memcpy(p, &narrow, sizeof narrow);
    } else if (type == KERNELS_F16) {
        put_u16(p, half_of(narrow));
    } else if (type == KERNELS_BF16) {
        put_u16(p, (uint16_t)(bits >> 16));
    } else if (type == KERNELS_Q8_0) {
        put_u16(p, half_of((float)(spread / 256)));
    } else {
        put_u16(p, half_of((float)(spread / 16)));
    }
    if (type == KERNELS_Q4_1) {
        put_u16(p + 2, half_of((float)(-spread / 2)));
    }
}

/* Half-split pairs of rows become neighbours, as in the GGUF files of the llama architecture. */
static uint32_t *permuted_order(const struct model_geometry *g, size_t rows)
{
    uint32_t *order = zeroed(rows, sizeof *order);
    for (size_t i = 0; i < rows; i++) {
        size_t at = i % g->head_dim;
        size_t half = g->head_dim / 2;
        order[i] = (uint32_t)(i - at + at % half * 2 + at / half);
    }
    return order;
}

static void tensor_make(const struct oracle_spec *spec, enum model_part part, size_t layer, struct oracle_tensor *t)
{
    size_t rows = 0;
    size_t cols = 0;
    shape_of(&spec->geometry, part, &rows, &cols);
    enum kernels_type type = spec->types[part];
    size_t block = type >= KERNELS_Q8_0 ? 32 : 1;
    size_t bytes = row_bytes(type, block);
    ck_assert_uint_eq(cols % block, 0);
    int norm = part == MODEL_FINAL_NORM || part == MODEL_ATTENTION_NORM || part == MODEL_MLP_NORM;
    double size = norm ? 1 : rows == 1 ? 0.4 : part == MODEL_EMBEDDING ? 1 : 2 / sqrt((double)cols);
    uint64_t stream = (layer * MODEL_PARTS + part) * 2;
    t->data = zeroed(rows * cols / block, bytes);
    for (size_t i = 0; i < rows * cols / block; i++) {
        put_block(type, size, spec->seed, stream, i, (uint8_t *)t->data + i * bytes);
    }
    if (spec->permuted && (part == MODEL_Q || part == MODEL_K)) {
        t->order = permuted_order(&spec->geometry, rows);
    }
    t->segment = (struct kernels_segment){ type, rows, cols, t->data, t->order };
    t->values = zeroed(rows * cols, sizeof *t->values);
    float *row = zeroed(cols, sizeof *row);
    for (size_t i = 0; i < rows; i++) {
        row_of_segment(&t->segment, i, row);
        for (size_t j = 0; j < cols; j++) {
            t->values[i * cols + j] = (double)row[j];
        }
    }
    free(row);
}

static const struct oracle_tensor *tensor_of(const struct oracle *o, enum model_part part, size_t layer)
{
    return &o->tensors[layer * MODEL_PARTS + part];
}

static int tensor_give(void *ctx, enum model_part part, size_t layer, struct kernels_segment *out,
                       struct claas_error *err)
{
    (void)err;
    *out = tensor_of(ctx, part, layer)->segment;
    return 0;
}

struct oracle *oracle_make(const struct oracle_spec *spec)
{
    struct oracle *o = zeroed(1, sizeof *o);
    size_t layers = spec->geometry.layers;
    o->spec = *spec;
    o->source = (struct model_source){ .geometry = spec->geometry, .ctx = o, .tensor = tensor_give };
    o->tensors = zeroed(layers * MODEL_PARTS, sizeof *o->tensors);
    for (size_t i = 0; i < layers; i++) {
        for (int part = 0; part < MODEL_PARTS; part++) {
            int global = part < MODEL_ATTENTION_NORM;
            if ((spec->absent >> part & 1U) == 0 && (i == 0 || !global)) {
                tensor_make(spec, (enum model_part)part, i, &o->tensors[i * MODEL_PARTS + (size_t)part]);
            }
        }
    }
    return o;
}

void oracle_free(struct oracle *o)
{
    if (!o) {
        return;
    }
    for (size_t i = 0; i < o->spec.geometry.layers * MODEL_PARTS; i++) {
        free(o->tensors[i].data);
        free(o->tensors[i].order);
        free(o->tensors[i].values);
    }
    free(o->tensors);
    free(o);
}

double *oracle_adapter(struct lora *lora, uint64_t seed)
{
    struct claas_error err = { .size = sizeof err };
    double *flat = zeroed(lora->n, sizeof *flat);
    for (size_t i = 0; i < lora->n_tensors; i++) {
        const struct lora_tensor *t = &lora->tensors[i];
        float *host = zeroed(t->rows * t->cols, sizeof *host);
        for (size_t j = 0; j < t->rows * t->cols; j++) {
            host[j] = (float)(symmetric(seed, i, j) / sqrt((double)t->cols));
            flat[t->offset + j] = (double)host[j];
        }
        ck_assert_msg(lora_write(lora, i, host, &err) == 0, "%s", err.message);
        free(host);
    }
    return flat;
}

/* ---- the pass ---- */

struct pass {
    const struct oracle *o;
    const struct lora *lora;
    const double *flat;
    size_t layer;
    size_t n;
};

static const double *adapter_tensor(const struct pass *p, enum model_part part, char which)
{
    char name[LORA_NAME_CAP];
    const char *home = part == MODEL_GATE || part == MODEL_UP || part == MODEL_DOWN ? "mlp" : "self_attn";
    if (!p->lora) {
        return NULL;
    }
    (void)snprintf(name, sizeof name, "base_model.model.model.layers.%zu.%s.%s.lora_%c.weight", p->layer, home,
                   model_part_name(part), which);
    size_t at = lora_find(p->lora, name);
    return at == SIZE_MAX ? NULL : p->flat + p->lora->tensors[at].offset;
}

static double dot(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

/* y += scaling B (A x) of all rows */
static void adapt(const struct pass *p, enum model_part part, const double *x, double *y)
{
    const struct kernels_segment *shape = &tensor_of(p->o, part, p->layer)->segment;
    const double *a = adapter_tensor(p, part, 'A');
    const double *b = adapter_tensor(p, part, 'B');
    if (!a || !b) {
        return;
    }
    size_t rank = p->lora->spec.rank;
    double scaling = p->lora->spec.alpha / (p->lora->spec.rank_stable ? sqrt((double)rank) : (double)rank);
    for (size_t i = 0; i < p->n; i++) {
        for (size_t r = 0; r < rank; r++) {
            double s = dot(a + r * shape->cols, x + i * shape->cols, shape->cols);
            for (size_t j = 0; j < shape->rows; j++) {
                y[i * shape->rows + j] += scaling * b[j * rank + r] * s;
            }
        }
    }
}

/* One linear layer with its bias and adapter over all rows, on the heap. */
static double *linear(const struct pass *p, enum model_part part, enum model_part bias, const double *x)
{
    const struct oracle_tensor *w = tensor_of(p->o, part, p->layer);
    const double *b = bias == MODEL_PARTS ? NULL : tensor_of(p->o, bias, p->layer)->values;
    size_t in = w->segment.cols;
    size_t out = w->segment.rows;
    double *y = zeroed(p->n * out, sizeof *y);
    for (size_t i = 0; i < p->n; i++) {
        for (size_t j = 0; j < out; j++) {
            y[i * out + j] = dot(w->values + j * in, x + i * in, in) + (b ? b[j] : 0);
        }
    }
    adapt(p, part, x, y);
    return y;
}

static void normalise(const struct pass *p, const double *weight, const double *x, double *y)
{
    size_t hidden = p->o->spec.geometry.hidden;
    for (size_t i = 0; i < p->n; i++) {
        const double *row = x + i * hidden;
        double scale = 1 / sqrt(dot(row, row, hidden) / (double)hidden + p->o->spec.geometry.eps);
        for (size_t j = 0; j < hidden; j++) {
            y[i * hidden + j] = weight[j] * row[j] * scale;
        }
    }
}

/* Radians from one position to the next for pair j of a head. */
static double frequency(const struct model_geometry *g, size_t j)
{
    const struct model_rope *rope = &g->rope;
    double inv = pow(rope->theta, -(double)(2 * j) / (double)g->head_dim);
    double turns = rope->original * inv / (2 * acos(-1)); /* in the original context */
    if (rope->kind == ROPE_PLAIN || (rope->kind == ROPE_LLAMA3 && turns > rope->high)) {
        return inv;
    }
    if (rope->kind == ROPE_LINEAR || turns < rope->low) {
        return inv / rope->factor;
    }
    double t = (turns - rope->low) / (rope->high - rope->low);
    return inv * ((1 - t) / rope->factor + t);
}

/* Angles are products in float32, as everywhere. */
static void rotate(const struct pass *p, size_t heads, double *x)
{
    const struct model_geometry *g = &p->o->spec.geometry;
    size_t half = g->head_dim / 2;
    for (size_t j = 0; j < half; j++) {
        float inv = (float)frequency(g, j);
        for (size_t i = 0; i < p->n; i++) {
            float angle = (float)i * inv;
            double cosine = cos((double)angle);
            double sine = sin((double)angle);
            for (size_t h = 0; h < heads; h++) {
                double *head = x + (i * heads + h) * g->head_dim;
                double low = head[j];
                double high = head[j + half];
                head[j] = low * cosine - high * sine;
                head[j + half] = high * cosine + low * sine;
            }
        }
    }
}

/* o of one query head at one position */
static void attend_one(const struct model_geometry *g, const double *q, const double *k, const double *v, size_t sees,
                       double *weights, double *o)
{
    size_t pitch = g->kv_heads * g->head_dim;
    double sum = 0;
    for (size_t j = 0; j < sees; j++) { /* scores are small: exp needs no shift in double */
        weights[j] = exp(dot(q, k + j * pitch, g->head_dim) / sqrt((double)g->head_dim));
        sum += weights[j];
    }
    for (size_t j = 0; j < sees; j++) {
        for (size_t d = 0; d < g->head_dim; d++) {
            o[d] += weights[j] / sum * v[j * pitch + d];
        }
    }
}

static void add_and_free(double *sum, double *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        sum[i] += x[i];
    }
    free(x);
}

/* x += attention of h */
static void attention(const struct pass *p, const double *h, double *x)
{
    const struct model_geometry *g = &p->o->spec.geometry;
    double *q = linear(p, MODEL_Q, MODEL_Q_BIAS, h);
    double *k = linear(p, MODEL_K, MODEL_K_BIAS, h);
    double *v = linear(p, MODEL_V, MODEL_V_BIAS, h);
    double *o = zeroed(p->n * g->heads * g->head_dim, sizeof *o);
    double *weights = zeroed(p->n, sizeof *weights);
    rotate(p, g->heads, q);
    rotate(p, g->kv_heads, k);
    for (size_t i = 0; i < p->n; i++) {
        for (size_t a = 0; a < g->heads; a++) {
            size_t at = (i * g->heads + a) * g->head_dim;
            size_t kv = a / (g->heads / g->kv_heads) * g->head_dim;
            attend_one(g, q + at, k + kv, v + kv, i + 1, weights, o + at);
        }
    }
    add_and_free(x, linear(p, MODEL_O, MODEL_O_BIAS, o), p->n * g->hidden);
    free(q);
    free(k);
    free(v);
    free(o);
    free(weights);
}

/* x += MLP of h */
static void mlp(const struct pass *p, const double *h, double *x)
{
    const struct model_geometry *g = &p->o->spec.geometry;
    double *gate = linear(p, MODEL_GATE, MODEL_PARTS, h);
    double *up = linear(p, MODEL_UP, MODEL_PARTS, h);
    for (size_t i = 0; i < p->n * g->intermediate; i++) {
        gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
    }
    add_and_free(x, linear(p, MODEL_DOWN, MODEL_PARTS, gate), p->n * g->hidden);
    free(gate);
    free(up);
}

void oracle_hidden(const struct oracle *o, const struct lora *lora, const double *flat, const int32_t *ids, size_t n,
                   double *out)
{
    size_t hidden = o->spec.geometry.hidden;
    struct pass p = { .o = o, .lora = lora, .flat = flat, .n = n };
    double *x = zeroed(n * hidden, sizeof *x);
    for (size_t i = 0; i < n; i++) {
        memcpy(x + i * hidden, tensor_of(o, MODEL_EMBEDDING, 0)->values + (size_t)ids[i] * hidden, hidden * sizeof *x);
    }
    for (; p.layer < o->spec.geometry.layers; p.layer++) {
        normalise(&p, tensor_of(o, MODEL_ATTENTION_NORM, p.layer)->values, x, out);
        attention(&p, out, x);
        normalise(&p, tensor_of(o, MODEL_MLP_NORM, p.layer)->values, x, out);
        mlp(&p, out, x);
    }
    normalise(&p, tensor_of(o, MODEL_FINAL_NORM, 0)->values, x, out);
    free(x);
}

void oracle_logprobs(const struct oracle *o, const double *hidden, double *out, double *lse)
{
    const struct model_geometry *g = &o->spec.geometry;
    int tied = (o->spec.absent & ORACLE_TIED) != 0;
    const double *w = tensor_of(o, tied ? MODEL_EMBEDDING : MODEL_OUTPUT, 0)->values;
    double sum = 0;
    for (size_t i = 0; i < g->vocab; i++) {
        out[i] = dot(w + i * g->hidden, hidden, g->hidden);
        sum += exp(out[i]);
    }
    for (size_t i = 0; i < g->vocab; i++) {
        out[i] -= log(sum);
    }
    if (lse) {
        *lse = log(sum);
    }
}
