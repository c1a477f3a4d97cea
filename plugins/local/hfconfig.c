/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "plugins/local/hfconfig.h"

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    CONFIG_MAX = 16 << 20,
    LAYERS_MAX = 1024,
    WIDTH_MAX = 65536,
    HEADS_MAX = 1024,
    HEAD_DIM_MAX = 1024,
    INTER_MAX = 1 << 20,
    VOCAB_MAX = 1 << 20,
    CONTEXT_MAX = 1 << 24
};

/* What an architecture leaves unsaid in its config.json. */
static const struct {
    const char *architecture;
    const char *model_type;
    double eps;
    int64_t context;
} arch_rows[] = {
    { "LlamaForCausalLM", "llama", 1e-6, 2048 },
};

/* One config.json being read: every look-up goes through these, so that errors name file and key. */
struct config {
    const char *path;
    const cJSON *root;
    struct claas_error *err;
    int rc; /* the first error; later look-ups do nothing */
};

static void config_fail(struct config *c, const char *key, int code, const char *why)
{
    if (!c->rc) {
        c->rc = err_set(c->err, code, key, "cannot use '%s': %s: %s", c->path, key, why);
    }
}

/* A look-up that failed names the key already; here it gets the file and the code of a broken file. */
static void config_wrap(struct config *c, int rc)
{
    if (rc && !c->rc) {
        struct claas_error why = c->err ? *c->err : ERR_INIT;
        c->rc = err_set(c->err, CLAAS_ERR_CORRUPT, why.what, "cannot use '%s': %.220s", c->path, why.message);
    }
}

static int64_t config_int(struct config *c, const cJSON *from, const char *key, int64_t max, int64_t missing)
{
    int64_t value = missing;
    if (!c->rc) {
        config_wrap(c, json_get_int(from, key, 1, max, &value, c->err));
    }
    if (!c->rc && value <= 0) {
        config_fail(c, key, CLAAS_ERR_CORRUPT, "it is missing");
    }
    return value;
}

static double config_real(struct config *c, const cJSON *from, const char *key, double min, double max,
                          double missing)
{
    double value = missing;
    if (!c->rc) {
        config_wrap(c, json_get_real(from, key, min, max, &value, c->err));
    }
    return value;
}

static int config_bool(struct config *c, const char *key, int missing)
{
    int value = missing;
    if (!c->rc) {
        config_wrap(c, json_get_bool(c->root, key, &value, c->err));
    }
    return value;
}

static const char *config_text(struct config *c, const cJSON *from, const char *key, const char *missing)
{
    const char *value = missing;
    if (!c->rc) {
        config_wrap(c, json_get_text(from, key, &value, c->err));
    }
    return value;
}

/* ---- files ---- */

static int read_json(const char *dir, const char *name, int required, struct buf *text, cJSON **out,
                     struct claas_error *err)
{
    char *path = path_join(dir, name);
    *out = NULL;
    if (!path) {
        return err_oom(err, "reading a model's configuration");
    }
    int rc = 0;
    if (required || access(path, F_OK) == 0) {
        rc = file_read(path, CONFIG_MAX, text, err);
        rc = rc ? rc : json_parse(buf_str(text), text->len, path, out, err);
        if (rc == CLAAS_ERR_INVALID && err) {
            err->code = rc = CLAAS_ERR_CORRUPT;
        }
        if (!rc && !cJSON_IsObject(*out)) {
            cJSON_Delete(*out);
            *out = NULL;
            rc = err_set(err, CLAAS_ERR_CORRUPT, name, "cannot use '%s': it is not a JSON object", path);
        }
    }
    free(path);
    return rc;
}

/* ---- geometry ---- */

static size_t config_architecture(struct config *c)
{
    const cJSON *list = json_get(c->root, "architectures");
    const cJSON *first = cJSON_IsArray(list) ? list->child : NULL;
    const char *type = config_text(c, c->root, "model_type", NULL);
    for (size_t i = 0; i < sizeof arch_rows / sizeof arch_rows[0]; i++) {
        int named = !first || (cJSON_IsString(first) && strcmp(first->valuestring, arch_rows[i].architecture) == 0);
        int typed = type ? strcmp(type, arch_rows[i].model_type) == 0 : first != NULL;
        if (named && typed) {
            return i;
        }
    }
    if (!c->rc) {
        c->rc = err_set(c->err, CLAAS_ERR_UNSUPPORTED, "model_type",
                        "cannot use '%s': architecture %.60s (model_type %.60s) is not supported; known is %s", c->path,
                        first && cJSON_IsString(first) ? first->valuestring : "unknown", type ? type : "missing",
                        arch_rows[0].architecture);
    }
    return 0;
}

/* Settings that change the computation in ways we do not have. */
static void config_refuse(struct config *c)
{
    const char *act = config_text(c, c->root, "hidden_act", "silu");
    if (!c->rc && strcmp(act, "silu") != 0) {
        config_fail(c, "hidden_act", CLAAS_ERR_UNSUPPORTED, "only silu is supported");
    }
    if (json_get(c->root, "quantization_config")) {
        config_fail(c, "quantization_config", CLAAS_ERR_UNSUPPORTED, "quantised checkpoints are not supported");
    }
    if (config_bool(c, "attention_bias", 0)) {
        config_fail(c, "attention_bias", CLAAS_ERR_UNSUPPORTED, "biases are not supported");
    }
    if (config_bool(c, "mlp_bias", 0)) {
        config_fail(c, "mlp_bias", CLAAS_ERR_UNSUPPORTED, "biases are not supported");
    }
    if (config_real(c, c->root, "partial_rotary_factor", -1e9, 1e9, 1.0) != 1.0) {
        config_fail(c, "partial_rotary_factor", CLAAS_ERR_UNSUPPORTED, "only 1 is supported");
    }
    if (config_real(c, c->root, "pretraining_tp", -1e9, 1e9, 1.0) != 1.0) {
        config_fail(c, "pretraining_tp", CLAAS_ERR_UNSUPPORTED, "only 1 is supported");
    }
}

static void config_rope(struct config *c, struct model_geometry *g)
{
    const cJSON *scaling = json_get(c->root, "rope_scaling");
    const cJSON *both = json_get(c->root, "rope_parameters");
    const cJSON *from = both ? both : scaling;
    g->rope.theta = config_real(c, c->root, "rope_theta", 1e-3, 1e12, 10000.0);
    if (!from) {
        return;
    }
    if (!cJSON_IsObject(from)) {
        config_fail(c, both ? "rope_parameters" : "rope_scaling", CLAAS_ERR_CORRUPT, "it is not an object");
        return;
    }
    g->rope.theta = config_real(c, from, "rope_theta", 1e-3, 1e12, g->rope.theta);
    const char *type = config_text(c, from, "rope_type", config_text(c, from, "type", "default"));
    if (c->rc || strcmp(type, "default") == 0 || strcmp(type, "none") == 0) {
        return;
    }
    if (strcmp(type, "linear") == 0) {
        g->rope.kind = ROPE_LINEAR;
    } else if (strcmp(type, "llama3") == 0) {
        g->rope.kind = ROPE_LLAMA3;
    } else {
        config_fail(c, "rope_scaling", CLAAS_ERR_UNSUPPORTED, "known types are default, linear, llama3");
        return;
    }
    g->rope.factor = config_real(c, from, "factor", 1e-6, 1e6, 0.0);
    if (g->rope.kind == ROPE_LLAMA3) {
        g->rope.low = config_real(c, from, "low_freq_factor", 1e-6, 1e6, 0.0);
        g->rope.high = config_real(c, from, "high_freq_factor", 1e-6, 1e6, 0.0);
        g->rope.original = config_real(c, from, "original_max_position_embeddings", 1, CONTEXT_MAX, 0.0);
        if (!c->rc && (g->rope.low <= 0 || g->rope.high <= g->rope.low || g->rope.original <= 0)) {
            config_fail(c, "rope_scaling", CLAAS_ERR_CORRUPT,
                        "llama3 needs low_freq_factor below high_freq_factor and original_max_position_embeddings");
        }
    }
    if (!c->rc && g->rope.factor <= 0) {
        config_fail(c, "rope_scaling", CLAAS_ERR_CORRUPT, "factor is missing");
    }
}

static void config_geometry(struct config *c, struct hfconfig *out)
{
    struct model_geometry *g = &out->geometry;
    size_t arch = config_architecture(c);
    config_refuse(c);
    g->hidden = (size_t)config_int(c, c->root, "hidden_size", WIDTH_MAX, 0);
    g->layers = (size_t)config_int(c, c->root, "num_hidden_layers", LAYERS_MAX, 0);
    g->heads = (size_t)config_int(c, c->root, "num_attention_heads", HEADS_MAX, 0);
    g->vocab = (size_t)config_int(c, c->root, "vocab_size", VOCAB_MAX, 0);
    g->intermediate = (size_t)config_int(c, c->root, "intermediate_size", INTER_MAX, 0);
    g->context = (size_t)config_int(c, c->root, "max_position_embeddings", CONTEXT_MAX, arch_rows[arch].context);
    if (c->rc) {
        return;
    }
    g->kv_heads = (size_t)config_int(c, c->root, "num_key_value_heads", HEADS_MAX, (int64_t)g->heads);
    g->head_dim = (size_t)config_int(c, c->root, "head_dim", HEAD_DIM_MAX, (int64_t)(g->hidden / g->heads));
    g->eps = config_real(c, c->root, "rms_norm_eps", 1e-12, 1, arch_rows[arch].eps);
    config_rope(c, g);
    out->tied = config_bool(c, "tie_word_embeddings", 0);
    int64_t window = CONTEXT_MAX;
    if (!c->rc) {
        config_wrap(c, json_get_int(c->root, "sliding_window", 0, INT32_MAX, &window, c->err));
    }
    if (!c->rc && window < (int64_t)g->context) {
        config_fail(c, "sliding_window", CLAAS_ERR_UNSUPPORTED, "a window smaller than the context is not supported");
    }
    if (!c->rc) {
        config_wrap(c, model_geometry_check(g, c->err));
    }
}

/* ---- ends ---- */

static void config_end(struct config *c, struct hfconfig *out, const cJSON *v)
{
    if (!cJSON_IsNumber(v) || v->valuedouble < 0 || v->valuedouble >= VOCAB_MAX ||
        v->valuedouble != (double)(int32_t)v->valuedouble) {
        config_fail(c, "eos_token_id", CLAAS_ERR_CORRUPT, "it is no token id and no list of them");
        return;
    }
    if (out->n_eos == HFCONFIG_ENDS_MAX) {
        config_fail(c, "eos_token_id", CLAAS_ERR_CORRUPT, "more than 32 ids");
        return;
    }
    out->eos[out->n_eos++] = (int32_t)v->valuedouble;
}

static void config_ends(struct config *c, struct hfconfig *out)
{
    const cJSON *eos = json_get(c->root, "eos_token_id");
    if (cJSON_IsArray(eos)) {
        for (const cJSON *v = eos->child; v && !c->rc; v = v->next) {
            config_end(c, out, v);
        }
    } else if (eos) {
        config_end(c, out, eos);
    }
}

/* ---- tokenizer_config.json ---- */

/* A token is spelled as text or as an object with `content`. */
static int token_text_copy(const cJSON *root, const char *key, char **out)
{
    const cJSON *v = json_get(root, key);
    v = cJSON_IsObject(v) ? json_get(v, "content") : v;
    if (cJSON_IsString(v)) {
        *out = mem_dup(v->valuestring, strlen(v->valuestring));
        return *out ? 0 : -1;
    }
    return 0;
}

/* The field is the source itself or a list of {name, template}. */
static const char *template_source(const cJSON *root)
{
    const cJSON *v = json_get(root, "chat_template");
    if (cJSON_IsString(v)) {
        return v->valuestring;
    }
    for (const cJSON *it = cJSON_IsArray(v) ? v->child : NULL; it; it = it->next) {
        const cJSON *name = json_get(it, "name");
        const cJSON *source = json_get(it, "template");
        if (cJSON_IsString(name) && cJSON_IsString(source) && strcmp(name->valuestring, "default") == 0) {
            return source->valuestring;
        }
    }
    return NULL;
}

static int read_tokenizer_config(const char *dir, struct hfconfig *out, struct claas_error *err)
{
    struct buf text = BUF_INIT;
    cJSON *root = NULL;
    int rc = read_json(dir, "tokenizer_config.json", 0, &text, &root, err);
    if (!rc && root) {
        const char *source = template_source(root);
        out->chat_template = source ? mem_dup(source, strlen(source)) : NULL;
        if ((source && !out->chat_template) || token_text_copy(root, "bos_token", &out->bos_text) ||
            token_text_copy(root, "eos_token", &out->eos_text)) {
            rc = err_oom(err, "reading a model's configuration");
        }
    }
    cJSON_Delete(root);
    buf_clear(&text);
    return rc;
}

/* Newer exports keep the template in a file of its own, which then counts. */
static int read_template_file(const char *dir, struct hfconfig *out, struct claas_error *err)
{
    char *path = path_join(dir, "chat_template.jinja");
    struct buf text = BUF_INIT;
    int rc = path ? 0 : err_oom(err, "reading a model's configuration");
    if (!rc && access(path, F_OK) == 0) {
        rc = file_read(path, CONFIG_MAX, &text, err);
        if (!rc) {
            free(out->chat_template);
            out->chat_template = buf_take(&text);
            rc = out->chat_template ? 0 : err_oom(err, "reading a model's configuration");
        }
    }
    buf_clear(&text);
    free(path);
    return rc;
}

/* ---- all of it ---- */

static int read_config(const char *dir, struct hfconfig *out, struct claas_error *err)
{
    cJSON *root = NULL;
    int rc = read_json(dir, "config.json", 1, &out->config_text, &root, err);
    char *path = rc ? NULL : path_join(dir, "config.json");
    if (!rc) {
        struct config c = { .path = path ? path : "config.json", .root = root, .err = err };
        config_geometry(&c, out);
        config_ends(&c, out);
        int64_t bos = -1;
        if (!c.rc) {
            config_wrap(&c, json_get_int(root, "bos_token_id", 0, VOCAB_MAX - 1, &bos, err));
        }
        out->bos = (int32_t)bos;
        rc = c.rc;
    }
    free(path);
    cJSON_Delete(root);
    return rc;
}

static int read_generation_config(const char *dir, struct hfconfig *out, struct claas_error *err)
{
    struct buf text = BUF_INIT;
    cJSON *root = NULL;
    int rc = read_json(dir, "generation_config.json", 0, &text, &root, err);
    if (!rc && root) {
        struct config c = { .path = "generation_config.json", .root = root, .err = err };
        config_ends(&c, out);
        rc = c.rc;
    }
    cJSON_Delete(root);
    buf_clear(&text);
    return rc;
}

int hfconfig_read(const char *dir, struct hfconfig *out, struct claas_error *err)
{
    *out = (struct hfconfig){ .bos = -1 };
    int rc = read_config(dir, out, err);
    rc = rc ? rc : read_generation_config(dir, out, err);
    rc = rc ? rc : read_tokenizer_config(dir, out, err);
    rc = rc ? rc : read_template_file(dir, out, err);
    if (rc) {
        hfconfig_clear(out);
    }
    return rc;
}

void hfconfig_clear(struct hfconfig *c)
{
    free(c->bos_text);
    free(c->eos_text);
    free(c->chat_template);
    buf_clear(&c->config_text);
    *c = (struct hfconfig){ .bos = -1 };
}
