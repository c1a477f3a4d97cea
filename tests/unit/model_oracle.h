/* SPDX-License-Identifier: MIT */
/* A transformer of the Llama family, as plain loops in double: what plugins/local is measured against. It makes small
 * random weights, hands them out as a model file would (any type, rows in any order), and computes with exactly the
 * values that these stand for. It shares no arithmetic with the tested code. */
#ifndef UNIT_MODEL_ORACLE_H
#define UNIT_MODEL_ORACLE_H

#include "plugins/local/geometry.h"
#include "plugins/local/lora.h"

#include <stddef.h>
#include <stdint.h>

struct oracle_spec {
    struct model_geometry geometry;
    uint64_t seed;
    uint32_t absent;                      /* bit 1 << enum model_part: the output matrix (then tied), biases */
    int permuted;                         /* q and k lie in another row order, which the segments undo */
    enum kernels_type types[MODEL_PARTS]; /* as given by default: F32 */
};

/* All four biases and the output matrix: the plain Llama has none of the former. */
#define ORACLE_BIASES (1U << MODEL_Q_BIAS | 1U << MODEL_K_BIAS | 1U << MODEL_V_BIAS | 1U << MODEL_O_BIAS)
#define ORACLE_TIED (1U << MODEL_OUTPUT)

struct oracle_tensor {
    struct kernels_segment segment;
    void *data;
    uint32_t *order;
    double *values; /* [rows][cols] */
};

struct oracle {
    struct oracle_spec spec;
    struct model_source source; /* for model_create; its data live until oracle_free */
    struct oracle_tensor *tensors; /* [layers][MODEL_PARTS]; what belongs to no layer is in layer 0 */
};

struct oracle *oracle_make(const struct oracle_spec *spec);
void oracle_free(struct oracle *o); /* null is fine */

/* Random values, B too, to the device; the same in double, laid out as lora->flat, on the heap. */
double *oracle_adapter(struct lora *lora, uint64_t seed);

/* Hidden states after the final norm of a whole sequence, to out[n][hidden]. flat: the adapter's values, laid out as
 * lora->flat; lora null: base. */
void oracle_hidden(const struct oracle *o, const struct lora *lora, const double *flat, const int32_t *ids, size_t n,
                   double *out);
/* Log-probabilities [vocab] behind one hidden row; *lse, unless null: what was taken off the logits. */
void oracle_logprobs(const struct oracle *o, const double *hidden, double *out, double *lse);

#endif
