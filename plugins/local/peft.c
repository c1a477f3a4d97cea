/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "plugins/local/peft.h"

#include "plugins/local/lorafile.h"
#include "plugins/local/names.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONFIG_MAX = 4 << 20, TARGETS_MAX = 10000, NAMES_SHOWN = 3 };

/* ---- writing ---- */

static int weights_get(const void *ctx, size_t tensor, float *host, struct claas_error *err)
{
    return lora_read(ctx, tensor, host, err);
}

int peft_write_weights(const struct lora *lora, struct claas_out *out, struct claas_error *err)
{
    const struct lorafile_run run = { "", lora, weights_get };
    const struct safetensors_pair metadata = { (char *)"format", (char *)"pt" };
    return lorafile_write(lora, &run, 1, &metadata, 1, PEFT_WEIGHTS, CLAAS_SERVE, out, err);
}

/* Members in alphabetical order, as PEFT writes them: the names it knows and our values. */
static void config_fill(cJSON *root, const struct lora *lora, const char *base_name, int *failed)
{
    cJSON *targets;
    *failed |= !cJSON_AddObjectToObject(root, "alpha_pattern");
    *failed |= !cJSON_AddNullToObject(root, "auto_mapping");
    *failed |= !cJSON_AddStringToObject(root, "base_model_name_or_path", base_name);
    *failed |= !cJSON_AddStringToObject(root, "bias", "none");
    *failed |= !cJSON_AddFalseToObject(root, "fan_in_fan_out");
    *failed |= !cJSON_AddTrueToObject(root, "inference_mode");
    *failed |= !cJSON_AddTrueToObject(root, "init_lora_weights");
    *failed |= !cJSON_AddNullToObject(root, "layer_replication");
    *failed |= !cJSON_AddNullToObject(root, "layers_pattern");
    *failed |= !cJSON_AddNullToObject(root, "layers_to_transform");
    *failed |= !cJSON_AddNumberToObject(root, "lora_alpha", lora->spec.alpha);
    *failed |= !cJSON_AddNumberToObject(root, "lora_dropout", 0);
    *failed |= !cJSON_AddNullToObject(root, "modules_to_save");
    *failed |= !cJSON_AddStringToObject(root, "peft_type", "LORA");
    *failed |= !cJSON_AddNumberToObject(root, "r", (double)lora->spec.rank);
    *failed |= !cJSON_AddObjectToObject(root, "rank_pattern");
    *failed |= !cJSON_AddNullToObject(root, "revision");
    targets = cJSON_AddArrayToObject(root, "target_modules");
    for (int m = 0; targets && m < LORA_MODULES; m++) {
        if (lora_has(lora, (enum lora_module)m)) {
            cJSON *name = cJSON_CreateString(lora_module_name((enum lora_module)m));
            *failed |= !name || !cJSON_AddItemToArray(targets, name);
        }
    }
    *failed |= !targets;
    *failed |= !cJSON_AddStringToObject(root, "task_type", "CAUSAL_LM");
    *failed |= !cJSON_AddFalseToObject(root, "use_dora");
    *failed |= !cJSON_AddBoolToObject(root, "use_rslora", lora->spec.rank_stable != 0);
}

int peft_write_config(const struct lora *lora, const char *base_name, struct claas_out *out, struct claas_error *err)
{
    int failed = 0;
    cJSON *root = cJSON_CreateObject();
    if (root) {
        config_fill(root, lora, base_name, &failed);
    }
    char *text = root && !failed ? cJSON_Print(root) : NULL;
    cJSON_Delete(root);
    if (!text) {
        return err_oom(err, "writing an adapter's configuration");
    }
    int rc = out->write(out, PEFT_CONFIG, CLAAS_SERVE, text, strlen(text), err);
    cJSON_free(text);
    return rc;
}

int peft_write(const struct lora *lora, const char *base_name, struct claas_out *out, struct claas_error *err)
{
    int rc = peft_write_weights(lora, out, err);
    return rc ? rc : peft_write_config(lora, base_name, out, err);
}

/* ---- configuration ---- */

static int refuse(const char *key, const char *why, struct claas_error *err)
{
    return err_set(err, CLAAS_ERR_UNSUPPORTED, key, "cannot use " PEFT_CONFIG ": '%.60s' %s", key, why);
}

static int is_unset(const cJSON *v)
{
    return cJSON_IsNull(v) || cJSON_IsFalse(v) || ((cJSON_IsArray(v) || cJSON_IsObject(v)) && !v->child) ||
           (cJSON_IsString(v) && !*v->valuestring) || (cJSON_IsNumber(v) && v->valuedouble == 0);
}

/* Keys that say nothing about the computation, and those that are looked at elsewhere; what is in neither list must be
 * unset, since newer versions of PEFT add switches that change what an adapter does. */
static int key_is_known(const char *key)
{
    static const char *const known[] = {
        "auto_mapping", "base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode", "init_lora_weights",
        "lora_alpha", "lora_dropout", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "revision",
        "runtime_config", "target_modules", "task_type", "use_rslora",
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(known[i], key) == 0) {
            return 1;
        }
    }
    return 0;
}

static int check_text(const cJSON *root, const char *key, const char *wanted, int required, struct claas_error *err)
{
    const cJSON *v = json_get(root, key);
    if ((!v && !required) || (cJSON_IsString(v) && strcmp(v->valuestring, wanted) == 0)) {
        return 0;
    }
    return err_set(err, CLAAS_ERR_UNSUPPORTED, key, "cannot use " PEFT_CONFIG ": '%s' is not \"%s\"", key, wanted);
}

/* Initialisations that also change the base model's weights leave an adapter that fits no other base. */
static int check_init(const cJSON *root, struct claas_error *err)
{
    const cJSON *v = json_get(root, "init_lora_weights");
    if (cJSON_IsString(v) && strcmp(v->valuestring, "gaussian") != 0 && strcmp(v->valuestring, "orthogonal") != 0 &&
        strcmp(v->valuestring, "eva") != 0) {
        return refuse("init_lora_weights", "names an initialisation that changes the base model", err);
    }
    return 0;
}

static int check_keys(const cJSON *root, struct claas_error *err)
{
    int fan = 0;
    double dropout = 0;
    for (const cJSON *v = root->child; v; v = v->next) {
        if (!key_is_known(v->string) && !is_unset(v)) {
            return refuse(v->string, "is set, which is not supported", err);
        }
    }
    int rc = check_text(root, "peft_type", "LORA", 1, err);
    rc = rc ? rc : check_text(root, "task_type", "CAUSAL_LM", 1, err);
    rc = rc ? rc : check_text(root, "bias", "none", 0, err);
    rc = rc ? rc : check_init(root, err);
    rc = rc ? rc : json_get_bool(root, "fan_in_fan_out", &fan, err);
    rc = rc ? rc : json_get_real(root, "lora_dropout", 0, 1, &dropout, err);
    return rc || !fan ? rc : refuse("fan_in_fan_out", "is set, which is not supported", err);
}

/* ---- target modules ---- */

static const enum model_part module_parts[LORA_MODULES] = {
    [LORA_Q] = MODEL_Q,       [LORA_K] = MODEL_K,   [LORA_V] = MODEL_V,       [LORA_O] = MODEL_O,
    [LORA_GATE] = MODEL_GATE, [LORA_UP] = MODEL_UP, [LORA_DOWN] = MODEL_DOWN,
};

/* PEFT's rule: the module's full name equals the entry or ends with "." and the entry. */
static int entry_matches(const char *entry, const struct model_geometry *g, int module, size_t layer)
{
    struct model_slot slot;
    model_slot(g, model_slot_find(g, module_parts[module], layer), &slot);
    size_t n = strlen(slot.hf) - strlen(".weight");
    size_t k = strlen(entry);
    return k <= n && memcmp(slot.hf + n - k, entry, k) == 0 && (k == n || slot.hf[n - k - 1] == '.');
}

/* Adds what one entry names: *counts[module] layers. */
static int match_entry(const cJSON *entry, const struct model_geometry *g, unsigned char *hit, struct claas_error *err)
{
    int found = 0;
    if (!cJSON_IsString(entry)) {
        return err_set(err, CLAAS_ERR_INVALID, "target_modules",
                       "cannot use " PEFT_CONFIG ": 'target_modules' is not a list of names");
    }
    for (int m = 0; m < LORA_MODULES; m++) {
        for (size_t layer = 0; layer < g->layers; layer++) {
            if (entry_matches(entry->valuestring, g, m, layer)) {
                hit[(size_t)m * g->layers + layer] = 1;
                found = 1;
            }
        }
    }
    return found ? 0
                 : err_set(err, CLAAS_ERR_INVALID, "target_modules",
                           "cannot use " PEFT_CONFIG ": 'target_modules' has '%.80s', which is none of q_proj, k_proj, "
                           "v_proj, o_proj, gate_proj, up_proj, down_proj", entry->valuestring);
}

static int match_list(const cJSON *list, const struct model_geometry *g, uint32_t *out, struct claas_error *err)
{
    unsigned char *hit = mem_array(LORA_MODULES * g->layers, 1);
    int rc = hit ? 0 : err_oom(err, "reading an adapter's configuration");
    size_t n = 0;
    for (const cJSON *it = list->child; it && !rc; it = it->next) {
        rc = ++n > TARGETS_MAX ? refuse("target_modules", "has more than 10000 entries", err)
                               : match_entry(it, g, hit, err);
    }
    uint32_t modules = 0;
    for (size_t m = 0; !rc && m < LORA_MODULES; m++) {
        size_t layers = 0;
        for (size_t layer = 0; layer < g->layers; layer++) {
            layers += hit[m * g->layers + layer];
        }
        if (layers == g->layers) {
            modules |= 1u << m;
        } else if (layers) {
            rc = refuse("target_modules", "names a module in some layers only, which is not supported", err);
        }
    }
    free(hit);
    if (!rc && !modules) {
        rc = err_set(err, CLAAS_ERR_INVALID, "target_modules", "cannot use " PEFT_CONFIG ": 'target_modules' is empty");
    }
    *out = modules;
    return rc;
}

static int read_targets(const cJSON *root, const struct model_geometry *g, uint32_t *out, struct claas_error *err)
{
    const cJSON *v = json_get(root, "target_modules");
    if (cJSON_IsString(v)) {
        *out = LORA_ALL;
        return strcmp(v->valuestring, "all-linear") == 0
                   ? 0
                   : refuse("target_modules", "is a pattern; known are lists of names and \"all-linear\"", err);
    }
    if (!cJSON_IsArray(v)) {
        return err_set(err, CLAAS_ERR_INVALID, "target_modules",
                       "cannot use " PEFT_CONFIG ": 'target_modules' is not a list of names");
    }
    return match_list(v, g, out, err);
}

static int spec_read(const cJSON *root, const struct model_geometry *g, struct lora_spec *out, struct claas_error *err)
{
    int64_t rank = 0;
    double alpha = NAN;
    *out = (struct lora_spec){ 0 };
    int rc = check_keys(root, err);
    rc = rc ? rc : json_get_int(root, "r", 1, LORA_MAX_RANK, &rank, err);
    rc = rc ? rc : json_get_real(root, "lora_alpha", 1e-6, 1e6, &alpha, err);
    rc = rc ? rc : json_get_bool(root, "use_rslora", &out->rank_stable, err);
    if (!rc && (rank == 0 || isnan(alpha))) {
        rc = err_set(err, CLAAS_ERR_INVALID, rank ? "lora_alpha" : "r", "cannot use " PEFT_CONFIG ": '%s' is missing",
                     rank ? "lora_alpha" : "r");
    }
    rc = rc ? rc : read_targets(root, g, &out->modules, err);
    out->rank = (size_t)rank;
    out->alpha = alpha;
    return rc;
}

int peft_read_config(const struct model_geometry *g, const char *config_path, struct lora_spec *out,
                     struct claas_error *err)
{
    struct buf text = BUF_INIT;
    cJSON *root = NULL;
    int rc = file_read(config_path, CONFIG_MAX, &text, err);
    rc = rc ? rc : json_parse(buf_str(&text), text.len, PEFT_CONFIG, &root, err);
    if (rc == CLAAS_ERR_INVALID) {
        rc = CLAAS_ERR_CORRUPT;
        if (err) {
            err->code = rc;
        }
    }
    if (!rc && !cJSON_IsObject(root)) {
        rc = err_set(err, CLAAS_ERR_CORRUPT, PEFT_CONFIG, "cannot use " PEFT_CONFIG ": it is not a JSON object");
    }
    rc = rc ? rc : spec_read(root, g, out, err);
    cJSON_Delete(root);
    buf_clear(&text);
    return rc;
}

/* ---- weights ---- */

static int weights_put(void *ctx, size_t tensor, const float *host, struct claas_error *err)
{
    return lora_write(ctx, tensor, host, err);
}

/* Tensors that the configuration does not speak of: all of the adapter's are there, so the rest is too many. */
static int check_unexpected(const struct lora *lora, const struct safetensors *s, struct claas_error *err)
{
    struct buf names = BUF_INIT;
    size_t n = s->n_entries - lora->n_tensors;
    size_t shown = 0;
    for (size_t i = 0; shown < n && shown < NAMES_SHOWN && i < s->n_entries; i++) {
        if (lora_find(lora, s->entries[i].name) == SIZE_MAX) {
            buf_addf(&names, "%s%.120s", shown++ ? ", " : "", s->entries[i].name);
        }
    }
    int rc = n ? err_set(err, CLAAS_ERR_INVALID, PEFT_WEIGHTS,
                         "cannot use " PEFT_WEIGHTS ": %zu tensors do not belong to target_modules or to this model: %s",
                         n, buf_str(&names))
               : 0;
    buf_clear(&names);
    return rc;
}

int peft_read(struct kernels *k, const struct model_geometry *g, const char *weights_path, const char *config_path,
              struct lora **out, struct claas_error *err)
{
    struct lora_spec spec;
    struct lora *lora = NULL;
    struct safetensors *s = NULL;
    int rc = peft_read_config(g, config_path, &spec, err);
    rc = rc ? rc : safetensors_open(weights_path, &s, err);
    rc = rc ? rc : lora_create(k, g, &spec, &lora, err);
    rc = rc ? rc : lorafile_read(lora, s, "", lora, weights_put, err);
    rc = rc ? rc : check_unexpected(lora, s, err);
    safetensors_close(s);
    if (rc) {
        lora_free(lora);
        return rc;
    }
    *out = lora;
    return 0;
}
