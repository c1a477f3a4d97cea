/* SPDX-License-Identifier: MIT */
/* GGUF files, version 3 and 2: header, metadata and tensor table, checked completely before anything is handed out. The
 * file is mapped; strings and tensors point into the map. Knows the container, nothing of models. */
#ifndef LOCAL_GGUF_H
#define LOCAL_GGUF_H

#include "base/file.h"
#include "text/tokenizer.h"

#include <claas/error.h>

#include <stddef.h>
#include <stdint.h>

enum gguf_type {
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY,
    GGUF_U64, GGUF_I64, GGUF_F64, GGUF_TYPES
};

/* A value of the metadata: for arrays `type` is GGUF_ARRAY and the elements follow one another at `data`. */
struct gguf_value {
    struct token_text key;
    enum gguf_type type;
    enum gguf_type element; /* of an array, else equal to type */
    uint64_t count;         /* elements; 1 unless an array */
    const uint8_t *data;
    size_t bytes;
};

struct gguf_tensor {
    struct token_text name;
    uint32_t type;     /* ggml's number: 0 F32, 1 F16, 2 Q4_0, 3 Q4_1, 8 Q8_0, 30 BF16 … */
    uint32_t rank;
    uint64_t dims[4];  /* innermost first; 1 beyond the rank */
    const uint8_t *data;
    uint64_t bytes;
};

struct gguf {
    char *path; /* for messages: the end of a long one */
    struct file_map map;
    size_t header_bytes; /* magic, metadata and tensor table: what an identity hashes */
    struct gguf_value *values; /* by key */
    size_t n_values;
    struct gguf_tensor *tensors; /* in the order of the file */
    size_t n_tensors;
    const struct gguf_tensor **by_name;
};

/* CORRUPT with file, key or tensor and reason when any rule of the format is broken; UNSUPPORTED for another version. */
int gguf_open(const char *path, struct gguf **out, struct claas_error *err);
void gguf_close(struct gguf *g); /* null is fine */

const struct gguf_value *gguf_find(const struct gguf *g, const char *key);
const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name);

/* Typed look-ups. 0 and *out untouched when absent; CORRUPT with the key when of another type or out of range. */
int gguf_uint(const struct gguf *g, const char *key, uint64_t min, uint64_t max, uint64_t *out,
              struct claas_error *err);
int gguf_real(const struct gguf *g, const char *key, double *out, struct claas_error *err);
int gguf_bool(const struct gguf *g, const char *key, int *out, struct claas_error *err);
int gguf_text(const struct gguf *g, const char *key, struct token_text *out, struct claas_error *err);
/* Array of strings, as a heap array of *n entries (free with free()); *out null when absent. */
int gguf_texts(const struct gguf *g, const char *key, struct token_text **out, size_t *n, struct claas_error *err);

/* "Q4_K" for ggml's number 12; "type 99" is spelled by the caller: null for unknown ones. */
const char *gguf_type_name(uint32_t type);

#endif
