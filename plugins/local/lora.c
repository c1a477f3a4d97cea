/* SPDX-License-Identifier: MIT */
/* The table of an adapter's tensors, its initial values, and moving tensors in and out. */
#include "config.h"

#include "plugins/local/lora.h"

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const module_names[LORA_MODULES] = {
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
};

/* Modules that share an input: their A lie one below the other, so that one product serves them all. */
static const struct {
    enum lora_module first;
    enum lora_module last;
} groups[] = {
    { LORA_Q, LORA_Q }, { LORA_K, LORA_V }, { LORA_O, LORA_O }, { LORA_GATE, LORA_UP }, { LORA_DOWN, LORA_DOWN },
};

const char *lora_module_name(enum lora_module module)
{
    return module < LORA_MODULES ? module_names[module] : NULL;
}

int lora_modules_parse(const char *const *names, size_t n, uint32_t *out, struct claas_error *err)
{
    uint32_t modules = 0;
    for (size_t i = 0; i < n; i++) {
        size_t m = 0;
        while (m < LORA_MODULES && strcmp(names[i], module_names[m]) != 0) {
            m++;
        }
        if (m == LORA_MODULES) {
            return err_set(err, CLAAS_ERR_INVALID, "target_modules",
                           "cannot adapt '%.60s': not one of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, "
                           "down_proj",
                           names[i]);
        }
        modules |= 1U << m;
    }
    if (modules == 0) {
        return err_set(err, CLAAS_ERR_INVALID, "target_modules", "an adapter needs at least one target module");
    }
    *out = modules;
    return 0;
}

static void module_shape(const struct model_geometry *g, enum lora_module module, size_t *in, size_t *out)
{
    size_t q = g->heads * g->head_dim;
    size_t kv = g->kv_heads * g->head_dim;
    *in = module == LORA_O ? q : module == LORA_DOWN ? g->intermediate : g->hidden;
    *out = module == LORA_Q                          ? q
           : module == LORA_K || module == LORA_V    ? kv
           : module == LORA_GATE || module == LORA_UP ? g->intermediate
                                                     : g->hidden;
}

static size_t place_at(size_t layer, enum lora_module module, int b)
{
    return (layer * LORA_MODULES + module) * 2 + (size_t)b;
}

static void table_add(struct lora *lora, size_t layer, enum lora_module module, int b)
{
    size_t in = 0;
    size_t out = 0;
    module_shape(&lora->geometry, module, &in, &out);
    struct lora_tensor *t = &lora->tensors[lora->n_tensors++];
    (void)snprintf(t->name, sizeof t->name, "base_model.model.model.layers.%zu.%s.%s.lora_%c.weight", layer,
                   module <= LORA_O ? "self_attn" : "mlp", module_names[module], b ? 'B' : 'A');
    t->rows = b ? out : lora->spec.rank;
    t->cols = b ? lora->spec.rank : in;
    t->offset = lora->n;
    lora->place[place_at(layer, module, b)] = lora->n;
    lora->n += t->rows * t->cols;
}

/* The limits of geometry and rank keep every product far below SIZE_MAX. */
static void table_fill(struct lora *lora)
{
    for (size_t i = 0; i < lora->geometry.layers * LORA_MODULES * 2; i++) {
        lora->place[i] = SIZE_MAX;
    }
    for (size_t layer = 0; layer < lora->geometry.layers; layer++) {
        for (size_t g = 0; g < sizeof groups / sizeof groups[0]; g++) {
            for (int b = 0; b < 2; b++) {
                for (enum lora_module m = groups[g].first; m <= groups[g].last; m++) {
                    if (lora_has(lora, m)) {
                        table_add(lora, layer, m, b);
                    }
                }
            }
        }
    }
}

static int spec_check(const struct lora_spec *spec, struct claas_error *err)
{
    if (spec->rank < 1 || spec->rank > LORA_MAX_RANK) {
        return err_set(err, CLAAS_ERR_INVALID, "lora_r", "the rank of an adapter is 1 to %d, not %zu", LORA_MAX_RANK,
                       spec->rank);
    }
    if (!(spec->alpha > 0) || !isfinite(spec->alpha)) {
        return err_set(err, CLAAS_ERR_INVALID, "lora_alpha", "lora_alpha is above 0 and finite, not %g", spec->alpha);
    }
    if ((spec->modules & LORA_ALL) == 0 || (spec->modules & ~(uint32_t)LORA_ALL) != 0) {
        return err_set(err, CLAAS_ERR_INVALID, "target_modules", "an adapter needs at least one target module");
    }
    return 0;
}

int lora_create(struct kernels *k, const struct model_geometry *g, const struct lora_spec *spec, struct lora **out,
                struct claas_error *err)
{
    int rc = model_geometry_check(g, err);
    if (rc == 0) {
        rc = spec_check(spec, err);
    }
    if (rc != 0) {
        return rc;
    }
    struct lora *lora = calloc(1, sizeof *lora);
    if (!lora) {
        return err_oom(err, "making an adapter");
    }
    lora->kernels = k;
    lora->geometry = *g;
    lora->spec = *spec;
    double rank = (double)spec->rank;
    lora->scaling = (float)(spec->alpha / (spec->rank_stable ? sqrt(rank) : rank));
    lora->tensors = mem_array(g->layers * LORA_MODULES * 2, sizeof *lora->tensors);
    lora->place = mem_array(g->layers * LORA_MODULES * 2, sizeof *lora->place);
    if (!lora->tensors || !lora->place) {
        lora_free(lora);
        return err_oom(err, "making an adapter");
    }
    table_fill(lora);
    void *flat = NULL;
    rc = kernels_alloc(k, lora->n * sizeof *lora->flat, &flat, err);
    if (rc != 0) {
        lora_free(lora);
        return rc;
    }
    lora->flat = flat;
    *out = lora;
    return 0;
}

int lora_init(struct lora *lora, uint64_t seed, struct claas_error *err)
{
    for (size_t i = 0; i < lora->n_tensors; i++) {
        const struct lora_tensor *t = &lora->tensors[i];
        size_t n = t->rows * t->cols;
        float *host = mem_array(n, sizeof *host);
        if (!host) {
            return err_oom(err, "initialising an adapter");
        }
        int is_a = strstr(t->name, ".lora_A.") != NULL;
        double bound = 1 / sqrt((double)t->cols);
        for (size_t j = 0; is_a && j < n; j++) {
            host[j] = (float)((2 * rng_uniform(seed, i, j) - 1) * bound);
        }
        int rc = lora_write(lora, i, host, err);
        free(host);
        if (rc != 0) {
            return rc;
        }
    }
    return 0;
}

int lora_clone(const struct lora *lora, struct lora **out, struct claas_error *err)
{
    struct lora *copy = NULL;
    int rc = lora_create(lora->kernels, &lora->geometry, &lora->spec, &copy, err);
    if (rc == 0) {
        rc = kernels_copy_rows(lora->kernels, 1, lora->n, lora->flat, lora->n, copy->flat, lora->n, err);
    }
    if (rc != 0) {
        lora_free(copy);
        return rc;
    }
    *out = copy;
    return 0;
}

void lora_free(struct lora *lora)
{
    if (!lora) {
        return;
    }
    kernels_free(lora->kernels, lora->flat);
    free(lora->tensors);
    free(lora->place);
    free(lora);
}

int lora_read(const struct lora *lora, size_t tensor, float *host, struct claas_error *err)
{
    const struct lora_tensor *t = &lora->tensors[tensor];
    return kernels_copy_out(lora->kernels, host, lora->flat + t->offset, t->rows * t->cols * sizeof *host, err);
}

int lora_write(struct lora *lora, size_t tensor, const float *host, struct claas_error *err)
{
    const struct lora_tensor *t = &lora->tensors[tensor];
    size_t n = t->rows * t->cols;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(host[i])) {
            return err_set(err, CLAAS_ERR_INVALID, t->name, "adapter tensor '%s' has a value that is not finite",
                           t->name);
        }
    }
    return kernels_copy_in(lora->kernels, lora->flat + t->offset, host, n * sizeof *host, err);
}

size_t lora_find(const struct lora *lora, const char *name)
{
    for (size_t i = 0; i < lora->n_tensors; i++) {
        if (strcmp(lora->tensors[i].name, name) == 0) {
            return i;
        }
    }
    return SIZE_MAX;
}

static float *lora_at(const struct lora *lora, float *flat, size_t layer, enum lora_module module, int b)
{
    size_t place = lora->place[place_at(layer, module, b)];
    return place == SIZE_MAX ? NULL : flat + place;
}

float *lora_a(const struct lora *lora, float *flat, size_t layer, enum lora_module module)
{
    return lora_at(lora, flat, layer, module, 0);
}

float *lora_b(const struct lora *lora, float *flat, size_t layer, enum lora_module module)
{
    return lora_at(lora, flat, layer, module, 1);
}

int lora_has(const struct lora *lora, enum lora_module module)
{
    return (lora->spec.modules >> module & 1U) != 0;
}
