/* SPDX-License-Identifier: MIT */
/* Model files made by hand for tests: GGUF and safetensors containers written independently of our readers, and a tiny
 * complete Llama model with a byte-level tokenizer and SmolLM2's chat template, as a .gguf file and as a directory. */
#ifndef UNIT_FILE_MAKER_H
#define UNIT_FILE_MAKER_H

#include "base/buf.h"
#include "plugins/local/geometry.h"

#include <stddef.h>
#include <stdint.h>

/* A fresh directory below TMPDIR or /tmp, on the heap; a check failure when it cannot be made. */
char *file_temp_dir(void);
/* "dir/name" on the heap. */
char *file_path(const char *dir, const char *name);
void file_save(const char *path, const void *data, size_t n);

/* ---- GGUF ---- */

struct file_gguf {
    struct buf values;
    struct buf infos;
    struct buf data;
    uint64_t n_values;
    uint64_t n_tensors;
    uint64_t alignment; /* 32 when 0 */
};
void file_gguf_u32(struct file_gguf *f, const char *key, uint32_t v);
void file_gguf_f32(struct file_gguf *f, const char *key, float v);
void file_gguf_bool(struct file_gguf *f, const char *key, uint8_t v);
void file_gguf_text(struct file_gguf *f, const char *key, const char *v);
void file_gguf_texts(struct file_gguf *f, const char *key, const char *const *v, size_t n);
void file_gguf_i32s(struct file_gguf *f, const char *key, const int32_t *v, size_t n);
/* dims innermost first; the offset follows from what was added before. */
void file_gguf_tensor(struct file_gguf *f, const char *name, uint32_t type, uint32_t rank, const uint64_t *dims,
                      const void *data, size_t bytes);
/* The whole file, appended to out; f is emptied. */
void file_gguf_end(struct file_gguf *f, uint32_t version, struct buf *out);
/* Parts of a file, for making bad ones. */
void file_raw_u32(struct buf *b, uint32_t v);
void file_raw_u64(struct buf *b, uint64_t v);
void file_raw_text(struct buf *b, const char *s);

/* ---- safetensors ---- */

/* Length, the header as given, the data. */
void file_safetensors(const char *header, const void *data, size_t bytes, struct buf *out);

/* ---- a tiny model ---- */

enum { FILE_TINY_TOKENS = 262, FILE_TINY_VOCAB = 264 }; /* ids 0 to 2 are control tokens, 3 + b spells the byte b */

struct file_tiny {
    uint64_t seed;
    enum kernels_type type; /* of the matrices; directories: F32, F16, BF16 only */
    int untied;
    int no_tokenizer;
    int no_template;
};
void file_tiny_geometry(struct model_geometry *out);
void file_tiny_gguf(const struct file_tiny *tiny, struct buf *out);
/* Writes config.json, generation_config.json, model.safetensors, tokenizer.json, tokenizer_config.json. */
void file_tiny_directory(const struct file_tiny *tiny, const char *dir);

#endif
