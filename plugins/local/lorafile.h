/* SPDX-License-Identifier: MIT */
/* What the files of adapters and of moments have in common: a safetensors file with one F32 tensor for each tensor of an
 * adapter's table, in the order of names. */
#ifndef LOCAL_LORAFILE_H
#define LOCAL_LORAFILE_H

#include "plugins/local/lora.h"
#include "plugins/local/safetensors.h"

#include <claas/adapter.h>

/* Appends tensor `tensor` of the adapter's table, in memory of the host, or takes it from there. */
typedef int (*lorafile_get)(const void *ctx, size_t tensor, float *host, struct claas_error *err);
typedef int (*lorafile_put)(void *ctx, size_t tensor, const float *host, struct claas_error *err);

/* One run of the table under a prefix ("exp_avg."); prefixes stand in ascending order. */
struct lorafile_run {
    const char *prefix;
    const void *ctx; /* given to get */
    lorafile_get get;
};

int lorafile_write(const struct lora *lora, const struct lorafile_run *runs, size_t n_runs,
                   const struct safetensors_pair *metadata, size_t n_metadata, const char *name, uint32_t roles,
                   struct claas_out *out, struct claas_error *err);

/* Hands each tensor under the prefix to put, checked: present, of the table's shape, finite. */
int lorafile_read(const struct lora *lora, const struct safetensors *s, const char *prefix, void *ctx,
                  lorafile_put put, struct claas_error *err);

#endif
