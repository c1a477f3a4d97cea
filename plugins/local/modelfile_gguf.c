/* SPDX-License-Identifier: MIT */
/* A GGUF file as a model: keys to geometry, tensors by their GGUF names, the tokenizer in the metadata. */
#include "config.h"

#include "plugins/local/modelfile_parts.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Architectures, and whether q and k rows lie in the order of adjacent pairs. */
static const struct {
    const char *name;
    int turned;
} arch_rows[] = {
    { "llama", 1 },
};

struct reading {
    struct modelfile *m;
    const struct gguf *g;
    const char *arch;
    int turned;
    struct claas_error *err;
};

static int refuse(const struct reading *r, const char *key, const char *why)
{
    return err_set(r->err, CLAAS_ERR_UNSUPPORTED, key, "cannot use model file '%s': key '%s': %s", r->g->path, key, why);
}

/* ---- geometry ---- */

/* The key of an architecture: "llama.block_count". */
static const char *arch_key(const struct reading *r, const char *rest, char out[128])
{
    (void)snprintf(out, 128, "%s.%s", r->arch, rest);
    return out;
}

/* A size between 1 and max; `missing` when absent, which is an error when it is 0. */
static int key_size(const struct reading *r, const char *rest, uint64_t max, size_t missing, size_t *out)
{
    char key[128];
    uint64_t value = missing;
    int rc = gguf_uint(r->g, arch_key(r, rest, key), 1, max, &value, r->err);
    if (!rc && value == 0) {
        rc = err_set(r->err, CLAAS_ERR_CORRUPT, key, "cannot use model file '%s': key '%s' is missing", r->g->path, key);
    }
    *out = (size_t)value;
    return rc;
}

static int key_real(const struct reading *r, const char *rest, double *out)
{
    char key[128];
    return gguf_real(r->g, arch_key(r, rest, key), out, r->err);
}

static int read_arch(struct reading *r)
{
    struct token_text arch = { 0 };
    int rc = gguf_text(r->g, "general.architecture", &arch, r->err);
    if (rc) {
        return rc;
    }
    for (size_t i = 0; i < sizeof arch_rows / sizeof arch_rows[0]; i++) {
        if (arch.n == strlen(arch_rows[i].name) && memcmp(arch.s, arch_rows[i].name, arch.n) == 0) {
            r->arch = arch_rows[i].name;
            r->turned = arch_rows[i].turned;
        }
    }
    uint64_t parts = 1;
    if (!r->arch) {
        return err_set(r->err, CLAAS_ERR_UNSUPPORTED, "general.architecture",
                       "cannot use model file '%s': architecture '%.*s' is not supported; known is llama", r->g->path,
                       arch.n > 60 ? 60 : (int)arch.n, arch.s ? arch.s : "");
    }
    rc = gguf_uint(r->g, "split.count", 0, UINT64_MAX, &parts, r->err);
    return rc || parts <= 1 ? rc : refuse(r, "split.count", "files split into parts are not supported: join them");
}

static int read_rope(const struct reading *r, struct model_geometry *geo)
{
    char key[128];
    struct token_text type = { 0 };
    geo->rope = (struct model_rope){ .kind = ROPE_PLAIN, .theta = 10000.0 };
    int rc = key_real(r, "rope.freq_base", &geo->rope.theta);
    rc = rc ? rc : gguf_text(r->g, arch_key(r, "rope.scaling.type", key), &type, r->err);
    if (rc || !type.s || (type.n == 4 && memcmp(type.s, "none", 4) == 0)) {
        return rc;
    }
    if (type.n != 6 || memcmp(type.s, "linear", 6) != 0) {
        return refuse(r, key, "known types are none and linear");
    }
    geo->rope.kind = ROPE_LINEAR;
    geo->rope.factor = 1.0;
    return key_real(r, "rope.scaling.factor", &geo->rope.factor);
}

/* Keys that would change the computation in ways we do not have. */
static int check_extras(const struct reading *r, const struct model_geometry *geo, size_t value_dim, size_t rotated)
{
    char key[128];
    uint64_t experts = 0;
    uint64_t window = 0;
    int rc = gguf_uint(r->g, arch_key(r, "expert_count", key), 0, UINT64_MAX, &experts, r->err);
    if (rc || experts) {
        return rc ? rc : refuse(r, key, "mixtures of experts are not supported");
    }
    if (value_dim != geo->head_dim) {
        return refuse(r, arch_key(r, "attention.value_length", key), "it differs from key_length");
    }
    if (rotated != geo->head_dim) {
        return refuse(r, arch_key(r, "rope.dimension_count", key), "it differs from the head size");
    }
    rc = gguf_uint(r->g, arch_key(r, "attention.sliding_window", key), 0, UINT64_MAX, &window, r->err);
    if (!rc && window && window < geo->context) {
        rc = refuse(r, key, "a window smaller than the context is not supported");
    }
    return rc;
}

/* Rows of the embedding: the number of tokens unless a key says otherwise. */
static int read_vocab(const struct reading *r, size_t *out)
{
    const struct gguf_value *tokens = gguf_find(r->g, "tokenizer.ggml.tokens");
    size_t count = tokens && tokens->type == GGUF_ARRAY ? (size_t)tokens->count : 0;
    if (count == 0) {
        return err_set(r->err, CLAAS_ERR_NOT_FOUND, "tokenizer.ggml.tokens",
                       "cannot use model file '%s': it has no tokenizer: key 'tokenizer.ggml.tokens' is missing",
                       r->g->path);
    }
    return key_size(r, "vocab_size", 1 << 20, count, out);
}

static int read_geometry(struct reading *r, struct model_geometry *geo)
{
    size_t value_dim = 0;
    size_t rotated = 0;
    double eps = 0;
    int rc = read_arch(r);
    rc = rc ? rc : key_size(r, "embedding_length", 65536, 0, &geo->hidden);
    rc = rc ? rc : key_size(r, "block_count", 1024, 0, &geo->layers);
    rc = rc ? rc : key_size(r, "feed_forward_length", 1 << 20, 0, &geo->intermediate);
    rc = rc ? rc : key_size(r, "attention.head_count", 1024, 0, &geo->heads);
    rc = rc ? rc : key_size(r, "attention.head_count_kv", 1024, geo->heads, &geo->kv_heads);
    rc = rc ? rc : key_size(r, "context_length", 1 << 24, 0, &geo->context);
    rc = rc ? rc : key_size(r, "attention.key_length", 1024, geo->hidden / geo->heads, &geo->head_dim);
    rc = rc ? rc : key_size(r, "attention.value_length", 1024, geo->head_dim, &value_dim);
    rc = rc ? rc : key_size(r, "rope.dimension_count", 1024, geo->head_dim, &rotated);
    rc = rc ? rc : read_vocab(r, &geo->vocab);
    rc = rc ? rc : key_real(r, "attention.layer_norm_rms_epsilon", &eps);
    rc = rc ? rc : read_rope(r, geo);
    rc = rc ? rc : check_extras(r, geo, value_dim, rotated);
    geo->eps = eps;
    if (!rc && model_geometry_check(geo, r->err)) {
        struct claas_error why = r->err ? *r->err : ERR_INIT;
        rc = err_set(r->err, CLAAS_ERR_CORRUPT, why.what, "cannot use model file '%s': %.200s", r->g->path, why.message);
    }
    return rc;
}

/* ---- tensors ---- */

static int kernel_type(uint32_t type, enum kernels_type *out)
{
    static const struct {
        uint32_t id;
        enum kernels_type type;
    } rows[] = {
        { 0, KERNELS_F32 },  { 1, KERNELS_F16 },  { 30, KERNELS_BF16 },
        { 8, KERNELS_Q8_0 }, { 2, KERNELS_Q4_0 }, { 3, KERNELS_Q4_1 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].id == type) {
            *out = rows[i].type;
            return 0;
        }
    }
    return -1;
}

/* Original row h * d + p * d/2 + j lies at h * d + 2 j + p of the file. */
static uint32_t *turn_order(size_t heads, size_t head_dim)
{
    uint32_t *order = mem_array(heads * head_dim, sizeof *order);
    for (size_t h = 0; order && h < heads; h++) {
        for (size_t i = 0; i < head_dim; i++) {
            size_t p = i / (head_dim / 2);
            size_t j = i % (head_dim / 2);
            order[h * head_dim + i] = (uint32_t)(h * head_dim + 2 * j + p);
        }
    }
    return order;
}

static int take_tensor(const struct reading *r, const struct model_slot *slot, const struct gguf_tensor *t,
                       struct kernels_segment *out)
{
    enum kernels_type type;
    if (t->dims[0] != slot->cols || t->dims[1] != slot->rows || t->dims[2] != 1 || t->dims[3] != 1) {
        return err_set(r->err, CLAAS_ERR_CORRUPT, slot->gguf,
                       "cannot use model file '%s': tensor '%s' is %llu x %llu, expected %zu x %zu", r->g->path,
                       slot->gguf, (unsigned long long)t->dims[1], (unsigned long long)t->dims[0], slot->rows,
                       slot->cols);
    }
    if (kernel_type(t->type, &type)) {
        return err_set(r->err, CLAAS_ERR_UNSUPPORTED, slot->gguf,
                       "cannot use model file '%s': tensor '%s' has the type %s; known are F32, F16, BF16, Q8_0, Q4_0, "
                       "Q4_1", r->g->path, slot->gguf, gguf_type_name(t->type));
    }
    *out = (struct kernels_segment){ .type = type, .rows = slot->rows, .cols = slot->cols, .data = t->data };
    if (r->turned && slot->turned_heads) {
        out->order = slot->part == MODEL_Q ? r->m->owned->q_order : r->m->owned->k_order;
    }
    return 0;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* Tensors of the file that no slot asks for. */
static int report_unexpected(const struct reading *r, struct name_report *report)
{
    const struct modelfile_owned *o = r->m->owned;
    char(*names)[64] = mem_array(o->n_slots, sizeof *names);
    struct model_slot slot;
    if (!names) {
        return err_oom(r->err, "opening a model");
    }
    for (size_t i = 0; i < o->n_slots; i++) {
        model_slot(&r->m->source.geometry, i, &slot);
        memcpy(names[i], slot.gguf, sizeof names[i]);
    }
    qsort(names, o->n_slots, sizeof *names, compare_names);
    for (size_t i = 0; i < r->g->n_tensors; i++) {
        char name[64] = { 0 };
        memcpy(name, r->g->tensors[i].name.s, r->g->tensors[i].name.n);
        if (!bsearch(name, names, o->n_slots, sizeof *names, compare_names)) {
            name_report_add(&report->unexpected, &report->n_unexpected, name, strlen(name));
        }
    }
    free(names);
    return 0;
}

static int read_tensors(const struct reading *r)
{
    struct modelfile_owned *o = r->m->owned;
    const struct model_geometry *geo = &r->m->source.geometry;
    struct name_report report = { 0 };
    struct model_slot slot;
    o->q_order = turn_order(geo->heads, geo->head_dim);
    o->k_order = turn_order(geo->kv_heads, geo->head_dim);
    int rc = o->q_order && o->k_order ? 0 : err_oom(r->err, "opening a model");
    for (size_t i = 0; !rc && i < o->n_slots; i++) {
        model_slot(geo, i, &slot);
        const struct gguf_tensor *t = gguf_tensor(r->g, slot.gguf);
        if (t) {
            rc = take_tensor(r, &slot, t, &o->segments[i]);
        } else {
            name_report_add(&report.missing, &report.n_missing, slot.gguf, strlen(slot.gguf));
        }
    }
    rc = rc ? rc : report_unexpected(r, &report);
    int reported = name_report_end(&report, r->g->path, rc ? NULL : r->err);
    return rc ? rc : reported;
}

/* ---- tokenizer ---- */

/* A token id, or -1 when the key is absent. */
static int key_id(const struct reading *r, const char *key, int32_t *out)
{
    uint64_t id = UINT64_MAX;
    int rc = gguf_uint(r->g, key, 0, (1 << 20) - 1, &id, r->err);
    *out = id == UINT64_MAX ? -1 : (int32_t)id;
    return rc;
}

static int read_types(const struct reading *r, size_t n, int32_t **out)
{
    const struct gguf_value *v = gguf_find(r->g, "tokenizer.ggml.token_type");
    *out = NULL;
    if (!v) {
        return 0;
    }
    if (v->type != GGUF_ARRAY || (v->element != GGUF_I32 && v->element != GGUF_U32) || v->count != n) {
        return err_set(r->err, CLAAS_ERR_CORRUPT, "tokenizer.ggml.token_type",
                       "cannot use model file '%s': key 'tokenizer.ggml.token_type' is not an array of one i32 for each "
                       "token", r->g->path);
    }
    *out = mem_array(n, sizeof **out);
    if (!*out) {
        return err_oom(r->err, "reading a model's vocabulary");
    }
    memcpy(*out, v->data, v->bytes);
    return 0;
}

/* Only byte-level BPE, and only with a pre-tokenizer that is named. */
static int check_tokenizer_model(const struct reading *r, char pre[64])
{
    struct token_text model = { 0 };
    struct token_text name = { 0 };
    int rc = gguf_text(r->g, "tokenizer.ggml.model", &model, r->err);
    rc = rc ? rc : gguf_text(r->g, "tokenizer.ggml.pre", &name, r->err);
    if (rc) {
        return rc;
    }
    if (!model.s) {
        return err_set(r->err, CLAAS_ERR_NOT_FOUND, "tokenizer.ggml.model",
                       "cannot use model file '%s': it has no tokenizer: key 'tokenizer.ggml.model' is missing",
                       r->g->path);
    }
    if (model.n != 4 || memcmp(model.s, "gpt2", 4) != 0) {
        return err_set(r->err, CLAAS_ERR_UNSUPPORTED, "tokenizer.ggml.model",
                       "cannot use model file '%s': tokenizer '%.*s' is not supported; known is gpt2 (byte-level BPE)",
                       r->g->path, model.n > 60 ? 60 : (int)model.n, model.s);
    }
    if (!name.s || name.n >= 64) {
        return refuse(r, "tokenizer.ggml.pre", "the name of the pre-tokenizer is missing or longer than 63 bytes");
    }
    memcpy(pre, name.s, name.n);
    pre[name.n] = '\0';
    return 0;
}

static int read_tokenizer(const struct reading *r)
{
    char pre[64];
    struct token_text *tokens = NULL;
    struct token_text *merges = NULL;
    int32_t *types = NULL;
    /* No unk: tokenizer.ggml.unknown_token_id is a name of the tokenizer's, not a rule of its merging, which leaves
     * bytes that the vocabulary lacks out. */
    struct tokenizer_spec spec = { .pre = pre, .ignore_merges = -1, .add_bos = -1, .nfc = -1, .unk = -1 };
    int rc = check_tokenizer_model(r, pre);
    rc = rc ? rc : gguf_texts(r->g, "tokenizer.ggml.tokens", &tokens, &spec.n_tokens, r->err);
    rc = rc ? rc : gguf_texts(r->g, "tokenizer.ggml.merges", &merges, &spec.n_merges, r->err);
    rc = rc ? rc : read_types(r, spec.n_tokens, &types);
    rc = rc ? rc : key_id(r, "tokenizer.ggml.bos_token_id", &spec.bos);
    rc = rc ? rc : key_id(r, "tokenizer.ggml.eos_token_id", &spec.eos);
    rc = rc ? rc : gguf_bool(r->g, "tokenizer.ggml.add_bos_token", &spec.add_bos, r->err);
    if (!rc && spec.n_tokens > r->m->source.geometry.vocab) {
        rc = err_set(r->err, CLAAS_ERR_CORRUPT, "tokenizer.ggml.tokens",
                     "cannot use model file '%s': %zu tokens, but the embedding has %zu rows", r->g->path,
                     spec.n_tokens, r->m->source.geometry.vocab);
    }
    spec.tokens = tokens;
    spec.merges = merges;
    spec.types = types;
    if (!rc && (rc = tokenizer_new(&spec, &r->m->tokenizer, r->err)) != 0) {
        err_prefix(r->err, "cannot use model file '%s'", r->g->path);
    }
    free(tokens);
    free(merges);
    free(types);
    return rc;
}

static int read_ends(const struct reading *r)
{
    int32_t ids[3];
    int32_t known[3];
    size_t n = 0;
    int rc = key_id(r, "tokenizer.ggml.eos_token_id", &ids[0]);
    rc = rc ? rc : key_id(r, "tokenizer.ggml.eot_token_id", &ids[1]);
    rc = rc ? rc : key_id(r, "tokenizer.ggml.eom_token_id", &ids[2]);
    for (size_t i = 0; !rc && i < 3; i++) {
        if (ids[i] >= 0) {
            known[n++] = ids[i];
        }
    }
    return rc ? rc : modelfile_set_ends(r->m, known, n, r->err);
}

static int read_template(const struct reading *r)
{
    struct token_text source = { 0 };
    int rc = gguf_text(r->g, "tokenizer.chat_template", &source, r->err);
    if (!rc && source.s) {
        r->m->owned->chat_template = mem_dup(source.s, source.n);
        rc = r->m->owned->chat_template ? 0 : err_oom(r->err, "opening a model");
    }
    return rc;
}

int modelfile_open_gguf(const char *path, struct modelfile *m, struct claas_error *err)
{
    struct model_geometry geo = { 0 };
    int rc = gguf_open(path, &m->owned->gguf, err);
    if (rc) {
        return rc;
    }
    struct reading r = { .m = m, .g = m->owned->gguf, .err = err };
    rc = read_geometry(&r, &geo);
    rc = rc ? rc : modelfile_set_geometry(m, &geo, gguf_tensor(r.g, "output.weight") == NULL, err);
    rc = rc ? rc : read_tensors(&r);
    rc = rc ? rc : modelfile_progress(m, 1, 4, "tokenizer", err);
    rc = rc ? rc : read_tokenizer(&r);
    rc = rc ? rc : read_ends(&r);
    rc = rc ? rc : read_template(&r);
    if (!rc) {
        modelfile_identify(m, r.g->map.data, r.g->header_bytes);
    }
    return rc;
}
