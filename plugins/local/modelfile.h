/* SPDX-License-Identifier: MIT */
/* A model on disk, as one thing: a .gguf file or a Hugging Face directory gives geometry, tensors by Hugging Face name,
 * tokenizer, chat template, ends and identity. Tensors stay in the memory map, which lives until modelfile_close; after
 * open nothing changes, so that any number of threads may read. */
#ifndef LOCAL_MODELFILE_H
#define LOCAL_MODELFILE_H

#include "tensor.h"

#include "text/tokenizer.h"

#include <claas/error.h>
#include <claas/host.h>

#include <stddef.h>
#include <stdint.h>

#define MODELFILE_BASE 72 /* "sha256:", 64 digits, a zero */

struct modelfile {
    struct model_geometry geometry;
    const struct model_tensor *tensors; /* every tensor the architecture has, once, with its expected shape */
    size_t n_tensors;
    struct tokenizer *tokenizer;
    const char *chat_template; /* Jinja source; null when the model brings none */
    const int32_t *stop_ids;   /* all ids that end an answer, ascending, no doubles */
    size_t n_stop;
    char base[MODELFILE_BASE];      /* identity: configuration, tokenizer, tensor table, 64 KiB of each tensor */
    char tokenizer_id[MODELFILE_BASE]; /* tokenizer_identity, spelled in the same way */
    struct modelfile_owned *owned;  /* maps and memory behind the pointers above */
};

/* Opens `path`. `call` may be null; else it is polled (CANCELLED) and told of progress. Errors name the file, the
 * tensor or key at fault and what is wrong with it: NOT_FOUND (the model or one of its files, the tokenizer too),
 * CORRUPT (the file breaks its format), UNSUPPORTED (well-formed, but not something we can run), INVALID (not a model). */
int modelfile_open(const char *path, const struct claas_call *call, struct modelfile **out, struct claas_error *err);
void modelfile_close(struct modelfile *m); /* null is fine */

/* The tensor with this Hugging Face name, or null. */
const struct model_tensor *modelfile_tensor(const struct modelfile *m, const char *name);
/* The same for "model.layers.<layer>.<rest>". */
const struct model_tensor *modelfile_layer_tensor(const struct modelfile *m, size_t layer, const char *rest);

#endif
