/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "plugins/local/modelfile_parts.h"

#include "plugins/local/rows.h"

#include "base/err.h"
#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { IDENTITY_BYTES = 64 << 10, NAMES_SHOWN = 3 };

/* Spellings that end an answer whatever a configuration says. */
static const char *const end_spellings[] = {
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
};

int modelfile_progress(struct modelfile *m, uint64_t done, uint64_t total, const char *what, struct claas_error *err)
{
    const struct claas_call *call = m->owned->call;
    if (!call) {
        return 0;
    }
    if (call->left_ms && call->left_ms(call) == 0) {
        return err_set(err, CLAAS_ERR_CANCELLED, NULL, "loading the model was cancelled");
    }
    if (call->progress) {
        call->progress(call, done, total, what);
    }
    return 0;
}

/* ---- tensors ---- */

static int source_tensor(void *ctx, enum model_part part, size_t layer, struct kernels_segment *out,
                         struct claas_error *err)
{
    const struct modelfile *m = ctx;
    (void)err;
    const struct kernels_segment *s = modelfile_tensor(m, part, layer);
    *out = s ? *s : (struct kernels_segment){ 0 };
    return 0;
}

int modelfile_set_geometry(struct modelfile *m, const struct model_geometry *geometry, int tied,
                           struct claas_error *err)
{
    m->source = (struct model_source){ .geometry = *geometry, .ctx = m, .tensor = source_tensor };
    m->owned->tied = tied;
    m->owned->n_slots = model_slot_count(geometry, tied);
    m->owned->segments = mem_array(m->owned->n_slots, sizeof *m->owned->segments);
    return m->owned->segments ? 0 : err_oom(err, "opening a model");
}

const struct kernels_segment *modelfile_tensor(const struct modelfile *m, enum model_part part, size_t layer)
{
    size_t i = model_slot_find(&m->source.geometry, part, layer);
    return i < m->owned->n_slots ? &m->owned->segments[i] : NULL;
}

void name_report_add(struct buf *list, size_t *n, const char *name, size_t bytes)
{
    if (*n < NAMES_SHOWN) {
        buf_adds(list, *n ? ", " : "");
        buf_add(list, name, bytes > 60 ? 60 : bytes);
    }
    (*n)++;
}

int name_report_end(struct name_report *r, const char *path, struct claas_error *err)
{
    int rc = 0;
    if (r->n_missing || r->n_unexpected) {
        rc = err_set(err, CLAAS_ERR_CORRUPT, NULL,
                     "cannot use model '%.100s': %zu tensors are missing%s%s, %zu are unexpected%s%s", path,
                     r->n_missing, r->n_missing ? ": " : "", buf_str(&r->missing), r->n_unexpected,
                     r->n_unexpected ? ": " : "", buf_str(&r->unexpected));
    }
    buf_clear(&r->missing);
    buf_clear(&r->unexpected);
    return rc;
}

/* ---- ends ---- */

static int compare_ids(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a;
    int32_t y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

int modelfile_set_ends(struct modelfile *m, const int32_t *ids, size_t n, struct claas_error *err)
{
    size_t n_spellings = sizeof end_spellings / sizeof end_spellings[0];
    int32_t *all = mem_array(n + n_spellings, sizeof *all);
    size_t count = 0;
    if (!all) {
        return err_oom(err, "opening a model");
    }
    for (size_t i = 0; i < n; i++) {
        if (tokenizer_type(m->tokenizer, ids[i]) != 0) {
            all[count++] = ids[i];
        }
    }
    for (size_t i = 0; i < n_spellings; i++) {
        int32_t id = tokenizer_find(m->tokenizer, end_spellings[i], strlen(end_spellings[i]));
        if (id >= 0 && tokenizer_type(m->tokenizer, id) == TOKEN_CONTROL) {
            all[count++] = id;
        }
    }
    qsort(all, count, sizeof *all, compare_ids);
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || all[i] != all[i - 1]) {
            all[m->n_stop++] = all[i];
        }
    }
    m->stop_ids = m->owned->stop_ids = all;
    return 0;
}

/* ---- identity ---- */

void modelfile_identify(struct modelfile *m, const void *data, size_t n)
{
    uint64_t length = n;
    sha256_add(m->owned->identity, &length, sizeof length);
    sha256_add(m->owned->identity, data, n);
}

static void spell(const struct claas_digest *d, char out[MODELFILE_ID])
{
    memcpy(out, "sha256:", 7);
    sha256_hex(d, out + 7);
}

/* Name, type, shape and the first 64 KiB of each tensor: enough to tell two models apart, cheap enough for every
 * start. */
static void identify_tensors(struct modelfile *m)
{
    struct model_slot slot;
    for (size_t i = 0; i < m->owned->n_slots; i++) {
        const struct kernels_segment *s = &m->owned->segments[i];
        uint64_t numbers[3] = { (uint64_t)s->type, s->rows, s->cols };
        size_t bytes = s->rows * row_bytes(s->type, s->cols);
        model_slot(&m->source.geometry, i, &slot);
        modelfile_identify(m, slot.hf, strlen(slot.hf));
        modelfile_identify(m, numbers, sizeof numbers);
        modelfile_identify(m, s->data, bytes < IDENTITY_BYTES ? bytes : IDENTITY_BYTES);
    }
}

static int identify(struct modelfile *m, struct claas_error *err)
{
    struct claas_digest digest;
    identify_tensors(m);
    int rc = sha256_end(m->owned->identity, &digest, err);
    m->owned->identity = NULL;
    if (!rc) {
        spell(&digest, m->base);
        rc = tokenizer_identity(m->tokenizer, &digest, err);
    }
    if (!rc) {
        spell(&digest, m->tokens);
    }
    return rc;
}

/* ---- open and close ---- */

static int has_suffix(const char *s, const char *suffix)
{
    size_t n = strlen(s);
    size_t k = strlen(suffix);
    return n >= k && strcasecmp(s + n - k, suffix) == 0;
}

static int open_any(const char *path, struct modelfile *m, struct claas_error *err)
{
    static const char *const pickles[] = { ".bin", ".pt", ".pth", ".pkl", ".ckpt" };
    struct stat st;
    if (stat(path, &st) != 0) {
        return err_errno(err, errno, path, "cannot open model '%s'", path);
    }
    if (S_ISDIR(st.st_mode)) {
        return modelfile_open_directory(path, m, err);
    }
    for (size_t i = 0; i < sizeof pickles / sizeof pickles[0]; i++) {
        if (has_suffix(path, pickles[i])) {
            return err_set(err, CLAAS_ERR_UNSUPPORTED, path,
                           "cannot open model '%s': pickle files execute code when loaded; convert it to safetensors",
                           path);
        }
    }
    if (has_suffix(path, ".safetensors") || has_suffix(path, ".json")) {
        return err_set(err, CLAAS_ERR_INVALID, path,
                       "cannot open model '%s': name the directory that holds it, with config.json and tokenizer.json",
                       path);
    }
    return modelfile_open_gguf(path, m, err);
}

int modelfile_open(const char *path, const struct claas_call *call, struct modelfile **out, struct claas_error *err)
{
    struct modelfile *m = calloc(1, sizeof *m);
    if (m) {
        m->owned = calloc(1, sizeof *m->owned);
    }
    if (!m || !m->owned) {
        free(m);
        return err_oom(err, "opening a model");
    }
    m->owned->call = call;
    m->owned->identity = sha256_new();
    int rc = m->owned->identity ? open_any(path, m, err) : err_oom(err, "opening a model");
    rc = rc ? rc : modelfile_progress(m, 3, 4, "model identity", err);
    rc = rc ? rc : identify(m, err);
    rc = rc ? rc : modelfile_progress(m, 4, 4, "model file", err);
    m->owned->call = NULL;
    m->chat_template = m->owned->chat_template;
    if (rc) {
        modelfile_close(m);
        return rc;
    }
    *out = m;
    return 0;
}

void modelfile_close(struct modelfile *m)
{
    if (!m) {
        return;
    }
    struct modelfile_owned *o = m->owned;
    for (size_t i = 0; i < o->n_shards; i++) {
        safetensors_close(o->shards[i]);
    }
    for (size_t i = 0; i < o->n_converted; i++) {
        free(o->converted[i]);
    }
    gguf_close(o->gguf);
    sha256_free(o->identity);
    free(o->shards);
    free(o->converted);
    free(o->segments);
    free(o->q_order);
    free(o->k_order);
    free(o->chat_template);
    free(o->stop_ids);
    free(o);
    tokenizer_free(m->tokenizer);
    free(m);
}
