/* SPDX-License-Identifier: MIT */
/* Building the transformer: every tensor is asked for, checked against the geometry and handed to the device. */
#include "config.h"

#include "plugins/local/model.h"

#include "base/err.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

void model_rope_frequencies(const struct model_geometry *g, float *out)
{
    const struct model_rope *rope = &g->rope;
    size_t half = g->head_dim / 2;
    for (size_t j = 0; j < half; j++) {
        double inv = pow(rope->theta, -2.0 * (double)j / (double)g->head_dim);
        if (rope->kind == ROPE_LINEAR) {
            inv /= rope->factor;
        } else if (rope->kind == ROPE_LLAMA3) {
            double wave = 2 * acos(-1.0) / inv;
            double blend = (rope->original / wave - rope->low) / (rope->high - rope->low);
            blend = wave < rope->original / rope->high ? 1 : wave > rope->original / rope->low ? 0 : blend;
            inv = (1 - blend) * inv / rope->factor + blend * inv;
        }
        out[j] = (float)inv;
    }
}

static void part_shape(const struct model_geometry *g, enum model_part part, size_t *rows, size_t *cols)
{
    size_t q = g->heads * g->head_dim;
    size_t kv = g->kv_heads * g->head_dim;
    const size_t shapes[MODEL_PARTS][2] = {
        [MODEL_EMBEDDING] = { g->vocab, g->hidden }, [MODEL_OUTPUT] = { g->vocab, g->hidden },
        [MODEL_FINAL_NORM] = { 1, g->hidden },       [MODEL_ATTENTION_NORM] = { 1, g->hidden },
        [MODEL_Q] = { q, g->hidden },                [MODEL_K] = { kv, g->hidden },
        [MODEL_V] = { kv, g->hidden },               [MODEL_O] = { g->hidden, q },
        [MODEL_MLP_NORM] = { 1, g->hidden },         [MODEL_GATE] = { g->intermediate, g->hidden },
        [MODEL_UP] = { g->intermediate, g->hidden }, [MODEL_DOWN] = { g->hidden, g->intermediate },
        [MODEL_Q_BIAS] = { 1, q },                   [MODEL_K_BIAS] = { 1, kv },
        [MODEL_V_BIAS] = { 1, kv },                  [MODEL_O_BIAS] = { 1, g->hidden },
    };
    *rows = shapes[part][0];
    *cols = shapes[part][1];
}

static const char *part_label(enum model_part part)
{
    static const char *const labels[MODEL_PARTS] = {
        [MODEL_EMBEDDING] = "embedding",    [MODEL_OUTPUT] = "output matrix",
        [MODEL_FINAL_NORM] = "final norm",  [MODEL_ATTENTION_NORM] = "attention norm",
        [MODEL_MLP_NORM] = "MLP norm",      [MODEL_Q_BIAS] = "q_proj bias",
        [MODEL_K_BIAS] = "k_proj bias",     [MODEL_V_BIAS] = "v_proj bias",
        [MODEL_O_BIAS] = "o_proj bias",
    };
    return labels[part] ? labels[part] : model_part_name(part);
}

static int part_optional(enum model_part part)
{
    return part == MODEL_OUTPUT || part >= MODEL_Q_BIAS;
}

/* The tensor of a part with its shape checked; data is null when an optional one is absent. */
static int segment_get(const struct model_source *source, enum model_part part, size_t layer,
                       struct kernels_segment *out, struct claas_error *err)
{
    *out = (struct kernels_segment){ 0 };
    int rc = source->tensor(source->ctx, part, layer, out, err);
    if (rc != 0) {
        return rc;
    }
    if (!out->data) {
        return part_optional(part) ? 0
                                   : err_set(err, CLAAS_ERR_CORRUPT, NULL, "the model lacks its %s of layer %zu",
                                             part_label(part), layer);
    }
    size_t rows = 0;
    size_t cols = 0;
    part_shape(&source->geometry, part, &rows, &cols);
    if (out->rows != rows || out->cols != cols || kernels_row_bytes(out->type, out->cols) == 0) {
        return err_set(err, CLAAS_ERR_CORRUPT, NULL,
                       "the %s of layer %zu is a tensor of %zu x %zu in type %d: expected %zu x %zu",
                       part_label(part), layer, out->rows, out->cols, (int)out->type, rows, cols);
    }
    return 0;
}

static int weight_make(struct model *m, const struct model_source *source, const enum model_part *parts, size_t n,
                       size_t layer, struct kernels_weight **out, struct claas_error *err)
{
    struct kernels_segment segments[2];
    for (size_t i = 0; i < n; i++) {
        int rc = segment_get(source, parts[i], layer, &segments[i], err);
        if (rc != 0) {
            return rc;
        }
    }
    return kernels_weight_create(m->kernels, segments, n, out, err);
}

static int floats_alloc(struct model *m, size_t n, float **out, struct claas_error *err)
{
    void *p = NULL;
    int rc = kernels_alloc(m->kernels, n * sizeof **out, &p, err);
    *out = p;
    return rc;
}

/* A vector in whatever type its file has, as floats at dst; *found tells whether it was there. */
static int vector_read(struct model *m, const struct model_source *source, enum model_part part, size_t layer,
                       float *dst, int *found, struct claas_error *err)
{
    struct kernels_segment segment;
    struct kernels_weight *w = NULL;
    int rc = segment_get(source, part, layer, &segment, err);
    *found = rc == 0 && segment.data;
    if (!*found) {
        return rc;
    }
    rc = kernels_weight_create(m->kernels, &segment, 1, &w, err);
    if (rc == 0) {
        const int32_t row = 0;
        rc = kernels_gather(m->kernels, w, 1, &row, dst, segment.cols, err);
        kernels_weight_free(m->kernels, w);
    }
    return rc;
}

static int vector_make(struct model *m, const struct model_source *source, enum model_part part, size_t layer,
                       float **out, struct claas_error *err)
{
    size_t rows = 0;
    size_t cols = 0;
    part_shape(&source->geometry, part, &rows, &cols);
    int found = 0;
    int rc = floats_alloc(m, cols, out, err);
    if (rc == 0) {
        rc = vector_read(m, source, part, layer, *out, &found, err);
    }
    if (rc == 0 && !found) {
        kernels_free(m->kernels, *out);
        *out = NULL;
    }
    return rc;
}

static int kv_bias_make(struct model *m, const struct model_source *source, size_t layer, float **out,
                        struct claas_error *err)
{
    int has_k = 0;
    int has_v = 0;
    int rc = floats_alloc(m, 2 * m->kv_width, out, err);
    if (rc == 0) {
        rc = vector_read(m, source, MODEL_K_BIAS, layer, *out, &has_k, err);
    }
    if (rc == 0) {
        rc = vector_read(m, source, MODEL_V_BIAS, layer, *out + m->kv_width, &has_v, err);
    }
    if (rc == 0 && !has_k && !has_v) {
        kernels_free(m->kernels, *out);
        *out = NULL;
    }
    return rc;
}

static int layer_make(struct model *m, const struct model_source *source, size_t i, struct claas_error *err)
{
    static const enum model_part kv[] = { MODEL_K, MODEL_V };
    static const enum model_part gate_up[] = { MODEL_GATE, MODEL_UP };
    struct model_layer *layer = &m->layers[i];
    int rc = vector_make(m, source, MODEL_ATTENTION_NORM, i, &layer->attention_norm, err);
    if (rc == 0) {
        rc = vector_make(m, source, MODEL_MLP_NORM, i, &layer->mlp_norm, err);
    }
    if (rc == 0) {
        rc = weight_make(m, source, (const enum model_part[]){ MODEL_Q }, 1, i, &layer->q, err);
    }
    if (rc == 0) {
        rc = weight_make(m, source, kv, 2, i, &layer->kv, err);
    }
    if (rc == 0) {
        rc = weight_make(m, source, (const enum model_part[]){ MODEL_O }, 1, i, &layer->o, err);
    }
    if (rc == 0) {
        rc = weight_make(m, source, gate_up, 2, i, &layer->gate_up, err);
    }
    if (rc == 0) {
        rc = weight_make(m, source, (const enum model_part[]){ MODEL_DOWN }, 1, i, &layer->down, err);
    }
    if (rc == 0) {
        rc = vector_make(m, source, MODEL_Q_BIAS, i, &layer->q_bias, err);
    }
    if (rc == 0) {
        rc = kv_bias_make(m, source, i, &layer->kv_bias, err);
    }
    if (rc == 0) {
        rc = vector_make(m, source, MODEL_O_BIAS, i, &layer->o_bias, err);
    }
    return rc;
}

static int ones_make(struct model *m, struct claas_error *err)
{
    int any = 0;
    for (size_t i = 0; i < m->geometry.layers; i++) {
        any |= m->layers[i].q_bias || m->layers[i].kv_bias || m->layers[i].o_bias;
    }
    if (!any) {
        return 0;
    }
    float *host = mem_array(m->geometry.context, sizeof *host);
    if (!host) {
        return err_oom(err, "building the model");
    }
    for (size_t i = 0; i < m->geometry.context; i++) {
        host[i] = 1;
    }
    int rc = floats_alloc(m, m->geometry.context, &m->ones, err);
    if (rc == 0) {
        rc = kernels_copy_in(m->kernels, m->ones, host, m->geometry.context * sizeof *host, err);
    }
    free(host);
    return rc;
}

static int rope_make(struct model *m, struct claas_error *err)
{
    size_t half = m->geometry.head_dim / 2;
    float *host = mem_array(half, sizeof *host);
    if (!host) {
        return err_oom(err, "building the model");
    }
    model_rope_frequencies(&m->geometry, host);
    float *inv_freq = NULL;
    int rc = floats_alloc(m, half, &inv_freq, err);
    if (rc == 0) {
        rc = kernels_copy_in(m->kernels, inv_freq, host, half * sizeof *host, err);
    }
    if (rc == 0) {
        rc = floats_alloc(m, m->geometry.context * half, &m->cos_table, err);
    }
    if (rc == 0) {
        rc = floats_alloc(m, m->geometry.context * half, &m->sin_table, err);
    }
    if (rc == 0) {
        rc = kernels_rope_table(m->kernels, 0, m->geometry.context, half, inv_freq, m->cos_table, m->sin_table, err);
    }
    kernels_free(m->kernels, inv_freq);
    free(host);
    return rc;
}

static int model_fill(struct model *m, const struct model_source *source, struct claas_error *err)
{
    struct kernels_segment output;
    int rc = weight_make(m, source, (const enum model_part[]){ MODEL_EMBEDDING }, 1, 0, &m->embedding, err);
    if (rc == 0) {
        rc = segment_get(source, MODEL_OUTPUT, 0, &output, err);
    }
    if (rc == 0 && !output.data) {
        m->output = m->embedding;
    } else if (rc == 0) {
        rc = kernels_weight_create(m->kernels, &output, 1, &m->output, err);
    }
    if (rc == 0) {
        rc = vector_make(m, source, MODEL_FINAL_NORM, 0, &m->final_norm, err);
    }
    for (size_t i = 0; i < m->geometry.layers && rc == 0; i++) {
        rc = layer_make(m, source, i, err);
    }
    if (rc == 0) {
        rc = ones_make(m, err);
    }
    return rc != 0 ? rc : rope_make(m, err);
}

int model_create(struct kernels *k, const struct model_source *source, struct model **out, struct claas_error *err)
{
    int rc = model_geometry_check(&source->geometry, err);
    if (rc != 0) {
        return rc;
    }
    struct model *m = calloc(1, sizeof *m);
    if (!m) {
        return err_oom(err, "building the model");
    }
    m->kernels = k;
    m->geometry = source->geometry;
    m->q_width = m->geometry.heads * m->geometry.head_dim;
    m->kv_width = m->geometry.kv_heads * m->geometry.head_dim;
    m->layers = mem_array(m->geometry.layers, sizeof *m->layers);
    rc = m->layers ? model_fill(m, source, err) : err_oom(err, "building the model");
    if (rc != 0) {
        model_free(m);
        return rc;
    }
    *out = m;
    return 0;
}

void model_free(struct model *m)
{
    if (!m) {
        return;
    }
    struct kernels *k = m->kernels;
    for (size_t i = 0; m->layers && i < m->geometry.layers; i++) {
        struct model_layer *layer = &m->layers[i];
        float *vectors[] = { layer->attention_norm, layer->mlp_norm, layer->q_bias, layer->kv_bias, layer->o_bias };
        struct kernels_weight *weights[] = { layer->q, layer->kv, layer->o, layer->gate_up, layer->down };
        for (size_t j = 0; j < sizeof vectors / sizeof vectors[0]; j++) {
            kernels_free(k, vectors[j]);
            kernels_weight_free(k, weights[j]);
        }
    }
    if (m->output != m->embedding) {
        kernels_weight_free(k, m->output);
    }
    kernels_weight_free(k, m->embedding);
    kernels_free(k, m->final_norm);
    kernels_free(k, m->cos_table);
    kernels_free(k, m->sin_table);
    kernels_free(k, m->ones);
    free(m->layers);
    free(m);
}

int model_add_bias(const struct model *m, const float *bias, size_t rows, size_t n, float *y, size_t y_pitch,
                   struct claas_error *err)
{
    return bias ? kernels_gemm(m->kernels, 0, 0, rows, n, 1, 1, m->ones, 1, bias, n, y, y_pitch, 1, err) : 0;
}
