/* SPDX-License-Identifier: MIT */
/* What a model consists of, whatever file it came from: its numbers, and its matrices by Hugging Face name with rows
 * in Hugging Face order. modelfile.c fills these, the transformer reads them. */
#ifndef LOCAL_TENSOR_H
#define LOCAL_TENSOR_H

#include "kernels/kernels.h"

#include <claas/error.h>

#include <stddef.h>
#include <stdint.h>

/* Limits that every reader enforces before it multiplies anything. */
enum {
    MODEL_LAYERS_MAX = 1024,
    MODEL_HIDDEN_MAX = 65536,
    MODEL_HEADS_MAX = 1024,
    MODEL_HEAD_DIM_MAX = 1024,
    MODEL_VOCAB_MAX = 1 << 20,
    MODEL_INTER_MAX = 1 << 20,
    MODEL_CONTEXT_MAX = 1 << 24
};

/* The numbers of a decoder-only transformer of the Llama family. Checked: none is 0, all within the limits, heads a
 * multiple of kv_heads, head_dim even, rms_eps and rope frequencies finite and positive. */
struct model_geometry {
    const char *architecture; /* "llama": of which family; a constant string */
    size_t layers;
    size_t hidden;   /* width of the residual stream */
    size_t inter;    /* width inside the MLP */
    size_t heads;    /* query heads */
    size_t kv_heads; /* key and value heads */
    size_t head_dim;
    size_t vocab;    /* rows of the embedding; may exceed the tokenizer's ids */
    size_t context;  /* positions the model knows */
    float rms_eps;
    double rope_theta;
    int tied;               /* the embedding is the output matrix: there is no lm_head.weight */
    const float *inv_freq;  /* head_dim / 2 rotation frequencies, scaling already applied; the model file's */
};

/* A matrix [rows][cols] or, with rows = 1, a vector. Bytes as they lie in the file, little-endian, any alignment. */
struct model_tensor {
    const char *name; /* "model.layers.0.self_attn.q_proj.weight" */
    enum kernels_type type;
    size_t rows;
    size_t cols;
    const void *data;      /* rows * kernels_row_bytes(type, cols) bytes; the model file's */
    const uint32_t *order; /* row i is row order[i] of data; null: row i (as in kernels_segment) */
};

/* Writes row `row` as cols floats, dequantised exactly; for vectors (norms) and tests. */
void model_tensor_row(const struct model_tensor *t, size_t row, float *out);

/* Bytes of one row of cols elements; 0 when that is not a whole number of blocks. Equals kernels_row_bytes, without
 * needing a device. */
size_t model_type_row_bytes(enum kernels_type type, size_t cols);
const char *model_type_name(enum kernels_type type); /* "Q4_1" */

/* The linear maps of a block that an adapter may sit on, in the order of a block's evaluation. */
enum model_module {
    MODULE_Q, MODULE_K, MODULE_V, MODULE_O, MODULE_GATE, MODULE_UP, MODULE_DOWN, MODULE_COUNT
};
/* "q_proj"; and "self_attn.q_proj", its path inside a layer. */
const char *model_module_name(enum model_module m);
const char *model_module_path(enum model_module m);
/* MODULE_COUNT when no module has this name. */
enum model_module model_module_find(const char *name);
/* Its matrix is [out][in]. */
size_t model_module_out(const struct model_geometry *g, enum model_module m);
size_t model_module_in(const struct model_geometry *g, enum model_module m);

#endif
