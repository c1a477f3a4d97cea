/* SPDX-License-Identifier: MIT */
/* A model on disk, as one thing: a .gguf file or a Hugging Face directory gives geometry, tensors, tokenizer, chat
 * template, ends and identity. Tensors stay in the memory map, which lives until modelfile_close; after open nothing
 * changes, so that any number of threads may read. A file that is made shorter while it is mapped ends the process
 * (SIGBUS), as for every user of maps: models are replaced by renaming. */
#ifndef LOCAL_MODELFILE_H
#define LOCAL_MODELFILE_H

#include "plugins/local/geometry.h"

#include "text/tokenizer.h"

#include <claas/error.h>
#include <claas/host.h>

#include <stddef.h>
#include <stdint.h>

enum { MODELFILE_ID = 72 }; /* "sha256:", 64 digits, a zero */

struct modelfile {
    struct model_source source;   /* geometry and tensors, for model_create; data live until modelfile_close */
    struct tokenizer *tokenizer;
    const char *chat_template;    /* Jinja source; null when the model brings none */
    const int32_t *stop_ids;      /* all ids that end an answer, ascending, no doubles */
    size_t n_stop;
    char base[MODELFILE_ID];      /* identity: configuration, tokenizer, tensor table, 64 KiB of each tensor */
    char tokens[MODELFILE_ID];    /* tokenizer_identity, spelled in the same way */
    struct modelfile_owned *owned;
};

/* Opens `path`. `call` may be null; else it is polled (CANCELLED) and told of progress. Errors name the file, the
 * tensor or key at fault and what is wrong with it: NOT_FOUND (the model or one of its files, the tokenizer too),
 * CORRUPT (the file breaks its format), UNSUPPORTED (well-formed, but not something we can run), INVALID (not a model). */
int modelfile_open(const char *path, const struct claas_call *call, struct modelfile **out, struct claas_error *err);
void modelfile_close(struct modelfile *m); /* null is fine */

/* The tensor of this part, or null when the model has none (as source.tensor, without a way to fail). */
const struct kernels_segment *modelfile_tensor(const struct modelfile *m, enum model_part part, size_t layer);

#endif
