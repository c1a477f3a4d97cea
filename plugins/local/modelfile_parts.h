/* SPDX-License-Identifier: MIT */
/* What modelfile.c and its two readers (modelfile_gguf.c, modelfile_hf.c) share; nobody else includes it. */
#ifndef LOCAL_MODELFILE_PARTS_H
#define LOCAL_MODELFILE_PARTS_H

#include "plugins/local/gguf.h"
#include "plugins/local/modelfile.h"
#include "plugins/local/names.h"
#include "plugins/local/safetensors.h"

#include "base/buf.h"
#include "base/sha256.h"

struct modelfile_owned {
    int tied;
    struct kernels_segment *segments; /* by slot */
    size_t n_slots;
    uint32_t *q_order; /* the same for every layer */
    uint32_t *k_order;
    struct gguf *gguf;
    struct safetensors **shards;
    size_t n_shards;
    float **converted; /* copies of tensors whose type the kernels do not know */
    size_t n_converted;
    char *chat_template;
    int32_t *stop_ids;
    struct sha256 *identity; /* in the making, until open returns */
    const struct claas_call *call;
};

/* Polls and tells of progress: CANCELLED when the caller gave up. */
int modelfile_progress(struct modelfile *m, uint64_t done, uint64_t total, const char *what, struct claas_error *err);

/* Takes `geometry` and allocates the slots' segments. */
int modelfile_set_geometry(struct modelfile *m, const struct model_geometry *geometry, int tied,
                           struct claas_error *err);

/* Adds n bytes to the identity, their length first, so that parts cannot run into each other. */
void modelfile_identify(struct modelfile *m, const void *data, size_t n);

/* Collects the ids that end an answer: those given (out of range or doubled ones are left out) and tokens that are
 * spelled like a known end. Needs the tokenizer. */
int modelfile_set_ends(struct modelfile *m, const int32_t *ids, size_t n, struct claas_error *err);

/* Tensor names for one message: the first few of those missing and of those unexpected. */
struct name_report {
    struct buf missing;
    struct buf unexpected;
    size_t n_missing;
    size_t n_unexpected;
};
void name_report_add(struct buf *list, size_t *n, const char *name, size_t bytes);
/* 0 when there is nothing to report; frees the lists. */
int name_report_end(struct name_report *r, const char *path, struct claas_error *err);

int modelfile_open_gguf(const char *path, struct modelfile *m, struct claas_error *err);
int modelfile_open_directory(const char *path, struct modelfile *m, struct claas_error *err);

#endif
