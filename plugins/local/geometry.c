/* SPDX-License-Identifier: MIT */
/* Checks of sizes: what a model file may claim before anything is allocated for it. */
#include "config.h"

#include "plugins/local/geometry.h"

#include "base/err.h"

#include <math.h>

const char *model_part_name(enum model_part part)
{
    switch (part) {
    case MODEL_Q:
        return "q_proj";
    case MODEL_K:
        return "k_proj";
    case MODEL_V:
        return "v_proj";
    case MODEL_O:
        return "o_proj";
    case MODEL_GATE:
        return "gate_proj";
    case MODEL_UP:
        return "up_proj";
    case MODEL_DOWN:
        return "down_proj";
    default:
        return NULL;
    }
}

static int rope_check(const struct model_rope *rope, struct claas_error *err)
{
    if (!isfinite(rope->theta) || rope->theta <= 0) {
        return err_set(err, CLAAS_ERR_INVALID, "rope_theta", "rope_theta is %g: not above 0", rope->theta);
    }
    if (rope->kind == ROPE_PLAIN) {
        return 0;
    }
    if (!isfinite(rope->factor) || rope->factor <= 0) {
        return err_set(err, CLAAS_ERR_INVALID, "rope_scaling", "the factor of rope_scaling is %g: not above 0",
                       rope->factor);
    }
    if (rope->kind == ROPE_LINEAR) {
        return 0;
    }
    if (rope->kind != ROPE_LLAMA3) {
        return err_set(err, CLAAS_ERR_UNSUPPORTED, "rope_scaling", "unknown kind of rope_scaling");
    }
    if (!(rope->low > 0) || !(rope->high > rope->low) || !isfinite(rope->high) || !(rope->original > 0) ||
        !isfinite(rope->original)) {
        return err_set(err, CLAAS_ERR_INVALID, "rope_scaling",
                       "rope_scaling llama3 needs 0 < low_freq_factor < high_freq_factor and a context above 0");
    }
    return 0;
}

int model_geometry_check(const struct model_geometry *g, struct claas_error *err)
{
    const struct {
        const char *name;
        size_t value;
        size_t most;
    } rows[] = {
        { "hidden size", g->hidden, 65536 },
        { "number of layers", g->layers, 1024 },
        { "number of heads", g->heads, 1024 },
        { "number of key-value heads", g->kv_heads, 1024 },
        { "head size", g->head_dim, 1024 },
        { "intermediate size", g->intermediate, 1 << 20 },
        { "vocabulary size", g->vocab, 1 << 20 },
        { "context length", g->context, 1 << 24 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].value < 1 || rows[i].value > rows[i].most) {
            return err_set(err, CLAAS_ERR_INVALID, NULL, "the %s of the model is %zu: expected 1 to %zu",
                           rows[i].name, rows[i].value, rows[i].most);
        }
    }
    if (g->heads % g->kv_heads != 0) {
        return err_set(err, CLAAS_ERR_INVALID, NULL, "%zu heads cannot share %zu key-value heads evenly", g->heads,
                       g->kv_heads);
    }
    if (g->head_dim % 2 != 0) {
        return err_set(err, CLAAS_ERR_INVALID, NULL, "the head size %zu of the model is odd", g->head_dim);
    }
    if (!(g->eps > 0) || !(g->eps < 1)) {
        return err_set(err, CLAAS_ERR_INVALID, NULL, "the epsilon %g of the norms is not between 0 and 1", g->eps);
    }
    return rope_check(&g->rope, err);
}
