/* SPDX-License-Identifier: MIT */
/* AdamW's moments beside an adapter: optimizer.safetensors, F32, "exp_avg.NAME" and "exp_avg_sq.NAME" for each tensor
 * NAME of the adapter, the format and the number of updates in the metadata. */
#ifndef LOCAL_MOMENTS_H
#define LOCAL_MOMENTS_H

#include "plugins/local/lora.h"
#include "plugins/local/optim.h"

#include <claas/adapter.h>
#include <claas/error.h>

#define MOMENTS_FILE "optimizer.safetensors"
#define MOMENTS_FORMAT "claas-adamw/1"

/* Writes the file to out with role TRAIN, in pieces. */
int moments_write(const struct lora *lora, const struct optim *o, struct claas_out *out, struct claas_error *err);

/* Reads the moments of this adapter. Refused: another format (UNSUPPORTED), tensors that do not fit the adapter, NaN,
 * infinity, a negative second moment (INVALID), a broken file (CORRUPT). */
int moments_read(const struct lora *lora, const char *path, struct optim **out, struct claas_error *err);

#endif
