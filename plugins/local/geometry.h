/* SPDX-License-Identifier: MIT */
/* What the transformer is built from: its sizes, and a way to ask for each tensor. Readers of model files (GGUF,
 * Hugging Face folders) fill in both; nothing behind this border knows file formats. */
#ifndef LOCAL_GEOMETRY_H
#define LOCAL_GEOMETRY_H

#include "kernels/kernels.h"

#include <claas/error.h>

#include <stddef.h>
#include <stdint.h>

enum rope_kind { ROPE_PLAIN, ROPE_LINEAR, ROPE_LLAMA3 };

struct model_rope {
    enum rope_kind kind;
    double theta;    /* base of the frequencies, > 0 */
    double factor;   /* linear, llama3: > 0 */
    double low;      /* llama3: low_freq_factor */
    double high;     /* llama3: high_freq_factor, > low */
    double original; /* llama3: original_max_position_embeddings */
};

struct model_geometry {
    size_t hidden;       /* width of the residual stream */
    size_t layers;
    size_t heads;
    size_t kv_heads;     /* divides heads */
    size_t head_dim;     /* even; a size of its own, not always hidden / heads */
    size_t intermediate; /* inner width of the MLP */
    size_t vocab;        /* rows of the embedding and of the output matrix */
    size_t context;      /* most positions a sequence may have */
    double eps;          /* of every RMSNorm, > 0 */
    struct model_rope rope;
};

/* The tensors, with their shapes [rows][cols]. Vectors are one row. Matrices are [out][in] in the row order of Hugging
 * Face checkpoints: where a file has permuted q and k (GGUF, architecture llama), kernels_segment.order says so. */
enum model_part {
    MODEL_EMBEDDING,      /* [vocab][hidden] */
    MODEL_OUTPUT,         /* [vocab][hidden]; absent: tied to the embedding */
    MODEL_FINAL_NORM,     /* [1][hidden] */
    MODEL_ATTENTION_NORM, /* [1][hidden], and so on for each layer: */
    MODEL_Q,              /* [heads * head_dim][hidden] */
    MODEL_K,              /* [kv_heads * head_dim][hidden] */
    MODEL_V,              /* [kv_heads * head_dim][hidden] */
    MODEL_O,              /* [hidden][heads * head_dim] */
    MODEL_MLP_NORM,       /* [1][hidden] */
    MODEL_GATE,           /* [intermediate][hidden] */
    MODEL_UP,             /* [intermediate][hidden] */
    MODEL_DOWN,           /* [hidden][intermediate] */
    MODEL_Q_BIAS,         /* [1][heads * head_dim]; the biases may be absent, each by itself (order: not used) */
    MODEL_K_BIAS,         /* [1][kv_heads * head_dim] */
    MODEL_V_BIAS,         /* [1][kv_heads * head_dim] */
    MODEL_O_BIAS,         /* [1][hidden] */
    MODEL_PARTS
};

struct model_source {
    struct model_geometry geometry;
    void *ctx;
    /* Fills *out with the tensor of this part (layer is 0 for the first three). Data and order stay valid until the
     * model is freed. An absent optional tensor: returns 0 with out->data null. A missing required one: an error
     * that names it as the file would. Shapes are checked by model_create. Biases come in Hugging Face order. */
    int (*tensor)(void *ctx, enum model_part part, size_t layer, struct kernels_segment *out,
                  struct claas_error *err);
};

/* "q_proj" and friends for MODEL_Q to MODEL_DOWN, null for others. */
const char *model_part_name(enum model_part part);

/* Refuses sizes that cannot be, or are absurd (models.md's limits). */
int model_geometry_check(const struct model_geometry *g, struct claas_error *err);

#endif
