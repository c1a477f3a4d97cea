/* SPDX-License-Identifier: MIT */
/* safetensors files: the header and its tiling of the data, checked completely before anything is handed out; the file
 * is mapped. And the writer's half: a header for tensors that are written after it. Knows nothing of models. */
#ifndef LOCAL_SAFETENSORS_H
#define LOCAL_SAFETENSORS_H

#include "base/buf.h"
#include "base/file.h"

#include <claas/error.h>

#include <stddef.h>
#include <stdint.h>

enum { SAFETENSORS_RANK_MAX = 8, SAFETENSORS_NAME_MAX = 512, SAFETENSORS_COUNT_MAX = 100000 };

struct safetensors_entry {
    char *name;
    char dtype[16];  /* "F32": as the format spells it */
    unsigned bits;   /* of one element */
    unsigned rank;
    uint64_t shape[SAFETENSORS_RANK_MAX];
    const uint8_t *data;
    uint64_t bytes;
};

struct safetensors_pair {
    char *key;
    char *value;
};

struct safetensors {
    char *path; /* for messages: the end of a long one */
    struct file_map map;
    size_t header_bytes; /* length field included */
    struct safetensors_entry *entries; /* by name */
    size_t n_entries;
    struct safetensors_pair *metadata; /* __metadata__ */
    size_t n_metadata;
};

/* CORRUPT with file, tensor and reason when a rule of the format is broken; UNSUPPORTED for an unknown dtype. */
int safetensors_open(const char *path, struct safetensors **out, struct claas_error *err);
void safetensors_close(struct safetensors *s); /* null is fine */
const struct safetensors_entry *safetensors_find(const struct safetensors *s, const char *name);
const char *safetensors_metadata(const struct safetensors *s, const char *key); /* null when absent */

/* All numbers of an entry as floats (F32, F16, BF16, F64; others UNSUPPORTED), out has room for them. */
int safetensors_floats(const struct safetensors *s, const struct safetensors_entry *e, float *out,
                       struct claas_error *err);
/* INVALID, with file, tensor and position, when one of its numbers is NaN or infinite. */
int safetensors_finite(const struct safetensors *s, const struct safetensors_entry *e, const float *values,
                       struct claas_error *err);

/* A tensor about to be written: F32, rank 2. */
struct safetensors_plan {
    const char *name;
    uint64_t rows;
    uint64_t cols;
};

/* Appends length and header for these tensors, in this order (the reference writer sorts by name), padded to 8 bytes;
 * their bytes follow in the same order without gaps. Metadata: n pairs, printed in order. */
int safetensors_header(const struct safetensors_plan *plans, size_t n, const struct safetensors_pair *metadata,
                       size_t n_metadata, struct buf *out, struct claas_error *err);

#endif
