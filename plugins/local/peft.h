/* SPDX-License-Identifier: MIT */
/* LoRA adapters as PEFT's files: adapter_model.safetensors and adapter_config.json, written and read with every check.
 * Knows nothing of training: tensors are flat float arrays handed in and out. */
#ifndef LOCAL_PEFT_H
#define LOCAL_PEFT_H

#include "tensor.h"

#include <claas/adapter.h>
#include <claas/error.h>

#include <stddef.h>
#include <stdint.h>

#define PEFT_WEIGHTS "adapter_model.safetensors"
#define PEFT_CONFIG "adapter_config.json"
enum { PEFT_RANK_MAX = 256 };

/* What adapter_config.json says, as far as it matters here. */
struct peft_spec {
    size_t rank;
    double alpha;
    int rslora;       /* scaling alpha / sqrt(rank) instead of alpha / rank */
    unsigned modules; /* bit 1 << MODULE_x for each kind of module with an adapter */
};
double peft_scaling(const struct peft_spec *spec);

/* One adapted module of one layer: A [rank][in], B [out][rank]. Null pointers where the spec has no such module. */
struct peft_pair {
    float *a;
    float *b;
};

/* Pairs in the order layer * MODULE_COUNT + module, for all layers of the geometry. */
struct peft_adapter {
    struct peft_spec spec;
    size_t layers;
    struct peft_pair *pairs; /* [layers * MODULE_COUNT] */
    float *memory;           /* all numbers, one block */
    size_t n_floats;
};

/* Memory for an adapter of this form, zeroed. INVALID when the spec is out of range. */
int peft_adapter_new(const struct model_geometry *g, const struct peft_spec *spec, struct peft_adapter **out,
                     struct claas_error *err);
void peft_adapter_free(struct peft_adapter *a); /* null is fine */

/* Calls out->write for both files with role SERVE: the weights in pieces (F32, metadata format "pt"), tensors in the
 * order of the reference writer. The same adapter gives the same bytes. */
int peft_write(const struct peft_adapter *a, const struct model_geometry *g, const char *base_name,
               struct claas_out *out, struct claas_error *err);

/* Reads both files. Refused, naming file and tensor or key: what 7.2-like keys ask for and we cannot do (UNSUPPORTED);
 * a rank, shape or module that does not fit the config or the model, half a pair, NaN or infinity (INVALID); a file
 * that breaks its format (CORRUPT). */
int peft_read(const char *weights_path, const char *config_path, const struct model_geometry *g,
              struct peft_adapter **out, struct claas_error *err);

#endif
