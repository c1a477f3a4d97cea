/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "plugins/local/names.h"

#include <stdio.h>

static const struct {
    enum model_part part;
    const char *hf;
    const char *gguf;
} layer_rows[] = {
    { MODEL_ATTENTION_NORM, "input_layernorm.weight", "attn_norm.weight" },
    { MODEL_Q, "self_attn.q_proj.weight", "attn_q.weight" },
    { MODEL_K, "self_attn.k_proj.weight", "attn_k.weight" },
    { MODEL_V, "self_attn.v_proj.weight", "attn_v.weight" },
    { MODEL_O, "self_attn.o_proj.weight", "attn_output.weight" },
    { MODEL_MLP_NORM, "post_attention_layernorm.weight", "ffn_norm.weight" },
    { MODEL_GATE, "mlp.gate_proj.weight", "ffn_gate.weight" },
    { MODEL_UP, "mlp.up_proj.weight", "ffn_up.weight" },
    { MODEL_DOWN, "mlp.down_proj.weight", "ffn_down.weight" },
};

static const struct {
    enum model_part part;
    const char *hf;
    const char *gguf;
} global_rows[] = {
    { MODEL_EMBEDDING, "model.embed_tokens.weight", "token_embd.weight" },
    { MODEL_FINAL_NORM, "model.norm.weight", "output_norm.weight" },
    { MODEL_OUTPUT, "lm_head.weight", "output.weight" },
};

enum { PER_LAYER = sizeof layer_rows / sizeof layer_rows[0], GLOBAL = sizeof global_rows / sizeof global_rows[0] };

size_t model_slot_count(const struct model_geometry *g, int tied)
{
    return g->layers * PER_LAYER + (tied ? GLOBAL - 1 : GLOBAL);
}

size_t model_slot_find(const struct model_geometry *g, enum model_part part, size_t layer)
{
    for (size_t i = 0; i < PER_LAYER; i++) {
        if (layer_rows[i].part == part) {
            return layer < g->layers ? layer * PER_LAYER + i : SIZE_MAX;
        }
    }
    for (size_t i = 0; i < GLOBAL; i++) {
        if (global_rows[i].part == part) {
            return g->layers * PER_LAYER + i;
        }
    }
    return SIZE_MAX;
}

static void slot_shape(const struct model_geometry *g, struct model_slot *s)
{
    s->rows = 1;
    s->cols = g->hidden;
    switch (s->part) {
    case MODEL_EMBEDDING:
    case MODEL_OUTPUT:
        s->rows = g->vocab;
        break;
    case MODEL_Q:
        s->rows = g->heads * g->head_dim;
        s->turned_heads = g->heads;
        break;
    case MODEL_K:
        s->rows = g->kv_heads * g->head_dim;
        s->turned_heads = g->kv_heads;
        break;
    case MODEL_V:
        s->rows = g->kv_heads * g->head_dim;
        break;
    case MODEL_O:
        s->rows = g->hidden;
        s->cols = g->heads * g->head_dim;
        break;
    case MODEL_GATE:
    case MODEL_UP:
        s->rows = g->intermediate;
        break;
    case MODEL_DOWN:
        s->rows = g->hidden;
        s->cols = g->intermediate;
        break;
    default:
        s->vector = 1;
    }
}

void model_slot(const struct model_geometry *g, size_t i, struct model_slot *out)
{
    *out = (struct model_slot){ 0 };
    if (i < g->layers * PER_LAYER) {
        out->part = layer_rows[i % PER_LAYER].part;
        out->layer = i / PER_LAYER;
        (void)snprintf(out->hf, sizeof out->hf, "model.layers.%zu.%s", out->layer, layer_rows[i % PER_LAYER].hf);
        (void)snprintf(out->gguf, sizeof out->gguf, "blk.%zu.%s", out->layer, layer_rows[i % PER_LAYER].gguf);
    } else {
        i -= g->layers * PER_LAYER;
        out->part = global_rows[i].part;
        (void)snprintf(out->hf, sizeof out->hf, "%s", global_rows[i].hf);
        (void)snprintf(out->gguf, sizeof out->gguf, "%s", global_rows[i].gguf);
    }
    slot_shape(g, out);
}
