/* SPDX-License-Identifier: MIT */
/* Which tensors a model of a given geometry has, and under which name in which kind of file. */
#ifndef LOCAL_NAMES_H
#define LOCAL_NAMES_H

#include "plugins/local/geometry.h"

struct model_slot {
    enum model_part part;
    size_t layer;        /* 0 for what belongs to no layer */
    char hf[96];         /* Hugging Face's name */
    char gguf[64];
    size_t rows;         /* 1 for a vector */
    size_t cols;
    int vector;          /* rank 1 in the file */
    size_t turned_heads; /* heads whose rows GGUF's architecture "llama" stores in adjacent pairs; 0: rows in order */
};

/* All slots: nine for each layer, layer by layer, then embedding and final norm, and the output matrix unless tied. */
size_t model_slot_count(const struct model_geometry *g, int tied);
void model_slot(const struct model_geometry *g, size_t i, struct model_slot *out);
/* Number of the slot of a part, the inverse of model_slot; SIZE_MAX for a part that is no slot (biases). */
size_t model_slot_find(const struct model_geometry *g, enum model_part part, size_t layer);

#endif
