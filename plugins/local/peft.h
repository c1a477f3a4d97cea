/* SPDX-License-Identifier: MIT */
/* LoRA adapters as PEFT's files: adapter_model.safetensors and adapter_config.json, written and read with every check.
 * The format's name in manifests is PEFT_FORMAT. */
#ifndef LOCAL_PEFT_H
#define LOCAL_PEFT_H

#include "plugins/local/lora.h"

#include <claas/adapter.h>
#include <claas/error.h>

#include <stddef.h>
#include <stdint.h>

#define PEFT_FORMAT "peft/1"
#define PEFT_WEIGHTS "adapter_model.safetensors"
#define PEFT_CONFIG "adapter_config.json"

/* Writes both files to out with role SERVE, the weights in pieces: F32, metadata format "pt", tensors in the order of the
 * reference writer. base_name is what base_model_name_or_path says. The same adapter gives the same bytes. */
int peft_write(const struct lora *lora, const char *base_name, struct claas_out *out, struct claas_error *err);

/* Only the weights or only the configuration, so that two threads can write. */
int peft_write_weights(const struct lora *lora, struct claas_out *out, struct claas_error *err);
int peft_write_config(const struct lora *lora, const char *base_name, struct claas_out *out, struct claas_error *err);

/* Reads both files into a new adapter. Refused, naming file and tensor or key: settings that we cannot honour
 * (UNSUPPORTED); a rank, shape or module that does not fit the configuration or the model, half a pair, NaN or infinity
 * (INVALID); a file that breaks its format (CORRUPT). */
int peft_read(struct kernels *k, const struct model_geometry *g, const char *weights_path, const char *config_path,
              struct lora **out, struct claas_error *err);

/* The configuration alone, for this model. */
int peft_read_config(const struct model_geometry *g, const char *config_path, struct lora_spec *out,
                     struct claas_error *err);

#endif
