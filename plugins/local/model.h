/* SPDX-License-Identifier: MIT */
/* The frozen transformer on a device: built once from a source of tensors, then only read, by any number of threads.
 * Block: x += O attention(rope(Q, K), V) of RMSNorm(x), x += Down(silu(Gate) * Up) of RMSNorm(x). */
#ifndef LOCAL_MODEL_H
#define LOCAL_MODEL_H

#include "plugins/local/geometry.h"

struct model_layer {
    float *attention_norm; /* device, [hidden] */
    float *mlp_norm;
    struct kernels_weight *q;
    struct kernels_weight *kv; /* K above V */
    struct kernels_weight *o;
    struct kernels_weight *gate_up;
    struct kernels_weight *down;
    float *q_bias; /* device; null: none. kv_bias: of K and V together, zeros where only one has it */
    float *kv_bias;
    float *o_bias;
};

struct model {
    struct kernels *kernels;
    struct model_geometry geometry;
    size_t q_width;  /* heads * head_dim */
    size_t kv_width; /* kv_heads * head_dim */
    struct kernels_weight *embedding;
    struct kernels_weight *output; /* the embedding when tied */
    float *final_norm;
    struct model_layer *layers;
    float *cos_table; /* device, [context][head_dim / 2] */
    float *sin_table;
    float *ones; /* device, [context]; null when no layer has a bias */
};

/* Takes nothing over: the source's data must outlive the model. Errors name the tensor whose shape or type is wrong. */
int model_create(struct kernels *k, const struct model_source *source, struct model **out, struct claas_error *err);
void model_free(struct model *m); /* null is fine */

/* y[rows][n] += bias for each row; nothing when bias is null. */
int model_add_bias(const struct model *m, const float *bias, size_t rows, size_t n, float *y, size_t y_pitch,
                   struct claas_error *err);

/* Frequencies [head_dim / 2] of the rotation, scaling applied. */
void model_rope_frequencies(const struct model_geometry *g, float *out);

#endif
