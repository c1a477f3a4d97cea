/* SPDX-License-Identifier: MIT */
/* AdamW's moments beside an adapter: optimizer.safetensors, F32, one pair of tensors for each tensor of the adapter,
 * "exp_avg.<name>" and "exp_avg_sq.<name>", and the number of updates in the metadata. */
#ifndef LOCAL_MOMENTS_H
#define LOCAL_MOMENTS_H

#include "peft.h"

#include <claas/adapter.h>
#include <claas/error.h>

#define MOMENTS_FILE "optimizer.safetensors"

/* Two adapters' worth of numbers, laid out as peft_adapter's pairs, and how many updates made them. */
struct moments {
    struct peft_adapter *mean;
    struct peft_adapter *var;
    uint64_t updates;
};

/* Calls out->write with role TRAIN, in pieces. */
int moments_write(const struct moments *m, const struct model_geometry *g, struct claas_out *out,
                  struct claas_error *err);
/* Reads what belongs to an adapter of this form. Refused: another form, NaN, infinity, a negative second moment. */
int moments_read(const char *path, const struct model_geometry *g, const struct peft_spec *spec, struct moments *out,
                 struct claas_error *err);
void moments_clear(struct moments *m);

#endif
