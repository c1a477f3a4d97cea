/* SPDX-License-Identifier: MIT */
/* A LoRA adapter: y = W x + (alpha / rank) B (A x) on a subset of the seven linear layers of every block. The float32
 * master copy is one flat array on the device, so that the optimiser, the norm and copies see one vector; a table says
 * where each tensor lies. Readers and writers of adapter files go through the table. */
#ifndef LOCAL_LORA_H
#define LOCAL_LORA_H

#include "plugins/local/geometry.h"

enum lora_module { LORA_Q, LORA_K, LORA_V, LORA_O, LORA_GATE, LORA_UP, LORA_DOWN, LORA_MODULES };
enum { LORA_ALL = (1 << LORA_MODULES) - 1, LORA_MAX_RANK = 256, LORA_NAME_CAP = 96 };

struct lora_spec {
    uint32_t modules; /* bit 1 << enum lora_module; at least one */
    size_t rank;      /* 1 to LORA_MAX_RANK */
    double alpha;     /* > 0 */
    int rank_stable;  /* scaling is alpha / sqrt(rank) (use_rslora) instead of alpha / rank */
};

struct lora_tensor {
    char name[LORA_NAME_CAP]; /* PEFT: "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" */
    size_t rows;              /* A: rank, B: out */
    size_t cols;              /* A: in, B: rank */
    size_t offset;            /* of the first element in the flat array; no gaps inside a tensor, row-major */
};

/* Order of the flat array: layer by layer; in each the groups {q}, {k, v}, {o}, {gate, up}, {down}; in each group the
 * A of its targeted modules one below the other, then their B. */
struct lora {
    struct kernels *kernels;
    struct model_geometry geometry;
    struct lora_spec spec;
    float scaling;
    size_t n_tensors;
    struct lora_tensor *tensors; /* in the order of the flat array */
    size_t n;                    /* elements of the flat array */
    float *flat;                 /* device */
    size_t *place;               /* [layers][LORA_MODULES][2]: offsets of A and B, SIZE_MAX when not targeted */
};

/* "q_proj" ... "down_proj". */
const char *lora_module_name(enum lora_module module);
/* Sets of modules from PEFT's names; refuses unknown names (what = "target_modules"), duplicates are harmless. */
int lora_modules_parse(const char *const *names, size_t n, uint32_t *out, struct claas_error *err);

/* All zeros. Refused: rank or alpha out of range, no module. */
int lora_create(struct kernels *k, const struct model_geometry *g, const struct lora_spec *spec, struct lora **out,
                struct claas_error *err);
/* A uniform in +-1/sqrt(in) (Kaiming uniform with a = sqrt 5), B zero; the same seed gives the same bytes. */
int lora_init(struct lora *lora, uint64_t seed, struct claas_error *err);
int lora_clone(const struct lora *lora, struct lora **out, struct claas_error *err);
void lora_free(struct lora *lora); /* null is fine */

/* One tensor from or to host memory, rows * cols floats. lora_write refuses values that are not finite. */
int lora_read(const struct lora *lora, size_t tensor, float *host, struct claas_error *err);
int lora_write(struct lora *lora, size_t tensor, const float *host, struct claas_error *err);
/* Index of the tensor with this PEFT name, or SIZE_MAX. */
size_t lora_find(const struct lora *lora, const char *name);

/* Device pointers to A [rank][in] and B [out][rank] of one module, in a flat array laid out as lora->flat (which may be
 * a gradient); null when the module is not targeted. */
float *lora_a(const struct lora *lora, float *flat, size_t layer, enum lora_module module);
float *lora_b(const struct lora *lora, float *flat, size_t layer, enum lora_module module);
int lora_has(const struct lora *lora, enum lora_module module);

#endif
