/* SPDX-License-Identifier: MIT */
/* A Hugging Face directory as a model: config.json, safetensors in one file or in shards, tokenizer.json. */
#include "config.h"

#include "plugins/local/modelfile_parts.h"

#include "plugins/local/hfconfig.h"

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { INDEX_MAX = 64 << 20, SHARDS_MAX = 1000, TOKENIZER_MAX = 256 << 20 };

/* ---- which files ---- */

static int plain_name(const char *name)
{
    size_t n = strlen(name);
    const char *suffix = ".safetensors";
    size_t k = strlen(suffix);
    return n > k && n < 256 && name[0] != '.' && !strpbrk(name, "/\\") && !strstr(name, "..") &&
           strcmp(name + n - k, suffix) == 0;
}

/* A link may not lead out of the directory. The hub's cache is the one exception: its snapshots/ID/ hold nothing but
 * links into blobs/ beside snapshots/. */
static int stays_inside(const char *dir, const char *file)
{
    char real_dir[PATH_MAX];
    char real_file[PATH_MAX];
    if (!realpath(dir, real_dir) || !realpath(file, real_file)) {
        return errno == ENOENT; /* opening it says so in better words */
    }
    size_t n = strlen(real_dir);
    if (strncmp(real_file, real_dir, n) == 0 && real_file[n] == '/') {
        return 1;
    }
    char *slash = strrchr(real_dir, '/');
    size_t k = strlen("/snapshots");
    if (!slash || (size_t)(slash - real_dir) < k || memcmp(slash - k, "/snapshots", k) != 0) {
        return 0;
    }
    n = (size_t)(slash - k - real_dir);
    return strncmp(real_file, real_dir, n) == 0 && strncmp(real_file + n, "/blobs/", 7) == 0;
}

static int open_shard(const char *dir, const char *name, struct modelfile *m, size_t *out_shard,
                      struct claas_error *err)
{
    struct modelfile_owned *o = m->owned;
    size_t cap = o->n_shards;
    char *path = path_join(dir, name);
    if (!path || mem_grow((void **)&o->shards, &cap, o->n_shards + 1, sizeof(struct safetensors *))) {
        free(path);
        return err_oom(err, "opening a model");
    }
    int rc = stays_inside(dir, path)
                 ? safetensors_open(path, &o->shards[o->n_shards], err)
                 : err_set(err, CLAAS_ERR_FORBIDDEN, name, "cannot open '%s': it is a link out of its directory", path);
    free(path);
    if (!rc) {
        *out_shard = o->n_shards++;
    }
    return rc;
}

/* No safetensors: a pickle beside is what the user has, so say why it is not taken. */
static int no_weights(const char *dir, struct claas_error *err)
{
    char pickle[256] = "";
    DIR *d = opendir(dir);
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
        size_t n = strlen(e->d_name);
        if ((n > 4 && strcmp(e->d_name + n - 4, ".bin") == 0) || (n > 3 && strcmp(e->d_name + n - 3, ".pt") == 0) ||
            (n > 4 && strcmp(e->d_name + n - 4, ".pth") == 0)) {
            (void)snprintf(pickle, sizeof pickle, "%s", e->d_name);
        }
    }
    if (d) {
        closedir(d);
    }
    if (pickle[0]) {
        return err_set(err, CLAAS_ERR_UNSUPPORTED, pickle,
                       "cannot open model '%.160s': '%.80s' is a pickle file, which executes code when loaded; convert it "
                       "to safetensors", dir, pickle);
    }
    return err_set(err, CLAAS_ERR_NOT_FOUND, "model.safetensors",
                   "cannot open model '%.160s': neither model.safetensors nor model.safetensors.index.json is there", dir);
}

/* ---- tensors ---- */

static int take_entry(const struct model_slot *slot, const struct safetensors *s, const struct safetensors_entry *e,
                      struct modelfile *m, struct kernels_segment *out, struct claas_error *err)
{
    unsigned rank = slot->vector ? 1 : 2;
    uint64_t rows = e->rank == 2 ? e->shape[0] : 1;
    uint64_t cols = e->rank ? e->shape[e->rank - 1] : 0;
    if (e->rank != rank || rows != slot->rows || cols != slot->cols) {
        return err_set(err, CLAAS_ERR_CORRUPT, slot->hf,
                       "cannot use '%s': tensor '%s' has %u dimensions, the last %llu x %llu; expected %zu x %zu", s->path,
                       slot->hf, e->rank, (unsigned long long)rows, (unsigned long long)cols, slot->rows, slot->cols);
    }
    *out = (struct kernels_segment){ .type = KERNELS_F32, .rows = slot->rows, .cols = slot->cols, .data = e->data };
    if (strcmp(e->dtype, "F16") == 0) {
        out->type = KERNELS_F16;
    } else if (strcmp(e->dtype, "BF16") == 0) {
        out->type = KERNELS_BF16;
    } else if (strcmp(e->dtype, "F32") != 0) {
        struct modelfile_owned *o = m->owned;
        float *copy = mem_array(slot->rows, slot->cols * sizeof *copy);
        int rc = copy ? safetensors_floats(s, e, copy, err) : err_oom(err, "converting a tensor");
        if (rc) {
            free(copy);
            return rc;
        }
        o->converted[o->n_converted++] = copy;
        out->data = copy;
    }
    return 0;
}

/* The shard that holds a tensor; more than one is an error, as is one the index does not name. */
static const struct safetensors_entry *find_entry(const struct modelfile_owned *o, const char *name, size_t *out_shard)
{
    const struct safetensors_entry *found = NULL;
    for (size_t i = 0; i < o->n_shards; i++) {
        const struct safetensors_entry *e = safetensors_find(o->shards[i], name);
        if (e && !found) {
            found = e;
            *out_shard = i;
        }
    }
    return found;
}

/* Names that old or tied checkpoints hold without need. */
static int is_redundant(const struct modelfile_owned *o, const char *name)
{
    size_t n = strlen(name);
    const char *inv = "rotary_emb.inv_freq";
    size_t k = strlen(inv);
    return (n >= k && strcmp(name + n - k, inv) == 0) || (o->tied && strcmp(name, "lm_head.weight") == 0);
}

struct seen {
    const char *name;
    size_t shard;
};

static int compare_seen(const void *a, const void *b)
{
    return strcmp(((const struct seen *)a)->name, ((const struct seen *)b)->name);
}

static int compare_slot_names(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* Every tensor in the shards is expected, and stands in one shard only. */
static int check_names(const struct modelfile *m, struct name_report *report, struct claas_error *err)
{
    const struct modelfile_owned *o = m->owned;
    size_t total = 0;
    for (size_t i = 0; i < o->n_shards; i++) {
        total += o->shards[i]->n_entries;
    }
    char(*names)[96] = mem_array(o->n_slots, sizeof *names);
    struct seen *seen = mem_array(total, sizeof *seen);
    int rc = names && seen ? 0 : err_oom(err, "opening a model");
    for (size_t i = 0; !rc && i < o->n_slots; i++) {
        struct model_slot slot;
        model_slot(&m->source.geometry, i, &slot);
        memcpy(names[i], slot.hf, sizeof names[i]);
    }
    size_t n = 0;
    if (!rc) {
        qsort(names, o->n_slots, sizeof *names, compare_slot_names);
    }
    for (size_t i = 0; !rc && i < o->n_shards; i++) {
        for (size_t j = 0; j < o->shards[i]->n_entries; j++) {
            const char *name = o->shards[i]->entries[j].name;
            seen[n++] = (struct seen){ name, i };
            if (!is_redundant(o, name) && !bsearch(name, names, o->n_slots, sizeof *names, compare_slot_names)) {
                name_report_add(&report->unexpected, &report->n_unexpected, name, strlen(name));
            }
        }
    }
    if (!rc) {
        qsort(seen, total, sizeof *seen, compare_seen);
    }
    for (size_t i = 1; !rc && i < total; i++) {
        if (compare_seen(&seen[i - 1], &seen[i]) == 0) {
            rc = err_set(err, CLAAS_ERR_CORRUPT, seen[i].name, "cannot use '%s': tensor '%.100s' also stands in '%.100s'",
                         o->shards[seen[i].shard]->path, seen[i].name, o->shards[seen[i - 1].shard]->path);
        }
    }
    free(names);
    free(seen);
    return rc;
}

static int read_tensors(const char *dir, struct modelfile *m, struct claas_error *err)
{
    struct modelfile_owned *o = m->owned;
    struct name_report report = { 0 };
    struct model_slot slot;
    size_t shard = 0;
    o->converted = mem_array(o->n_slots, sizeof(float *));
    int rc = o->converted ? 0 : err_oom(err, "opening a model");
    for (size_t i = 0; !rc && i < o->n_slots; i++) {
        model_slot(&m->source.geometry, i, &slot);
        const struct safetensors_entry *e = find_entry(o, slot.hf, &shard);
        if (e) {
            rc = take_entry(&slot, o->shards[shard], e, m, &o->segments[i], err);
        } else {
            name_report_add(&report.missing, &report.n_missing, slot.hf, strlen(slot.hf));
        }
    }
    rc = rc ? rc : check_names(m, &report, err);
    int reported = name_report_end(&report, dir, rc ? NULL : err);
    return rc ? rc : reported;
}

/* ---- shards ---- */

static int index_entry(const char *dir, const cJSON *v, char **files, size_t *n_files, struct modelfile *m,
                       struct claas_error *err)
{
    size_t at = 0;
    int rc = 0;
    if (!cJSON_IsString(v) || !plain_name(v->valuestring)) {
        return err_set(err, CLAAS_ERR_CORRUPT, "weight_map",
                       "cannot open model '%.160s': tensor '%.80s' is said to be in a file that is not a plain "
                       "safetensors name", dir, v->string);
    }
    while (at < *n_files && strcmp(files[at], v->valuestring) != 0) {
        at++;
    }
    if (at == *n_files) {
        if (at == SHARDS_MAX) {
            return err_set(err, CLAAS_ERR_CORRUPT, "weight_map", "cannot open model '%.160s': more than 1000 shards", dir);
        }
        rc = open_shard(dir, v->valuestring, m, &at, err);
        if (rc) {
            return rc;
        }
        files[(*n_files)++] = v->valuestring;
    }
    if (!safetensors_find(m->owned->shards[at], v->string)) {
        rc = err_set(err, CLAAS_ERR_CORRUPT, v->string,
                     "cannot use '%s': tensor '%.100s' is not in it, though the index says so", m->owned->shards[at]->path,
                     v->string);
    }
    return rc;
}

static int open_sharded(const char *dir, const char *index, struct modelfile *m, struct claas_error *err)
{
    struct buf text = BUF_INIT;
    cJSON *root = NULL;
    char *files[SHARDS_MAX];
    size_t n_files = 0;
    int rc = file_read(index, INDEX_MAX, &text, err);
    rc = rc ? rc : json_parse(buf_str(&text), text.len, index, &root, err);
    if (rc == CLAAS_ERR_INVALID && err) {
        err->code = rc = CLAAS_ERR_CORRUPT;
    }
    const cJSON *map = rc ? NULL : json_get(root, "weight_map");
    if (!rc && (!cJSON_IsObject(map) || !map->child)) {
        rc = err_set(err, CLAAS_ERR_CORRUPT, "weight_map", "cannot use '%s': it has no weight_map", index);
    }
    for (const cJSON *v = rc ? NULL : map->child; v && !rc; v = v->next) {
        rc = index_entry(dir, v, files, &n_files, m, err);
    }
    cJSON_Delete(root);
    buf_clear(&text);
    return rc;
}

static int open_weights(const char *dir, struct modelfile *m, struct claas_error *err)
{
    size_t shard;
    char *single = path_join(dir, "model.safetensors");
    char *index = path_join(dir, "model.safetensors.index.json");
    int rc;
    if (!single || !index) {
        rc = err_oom(err, "opening a model");
    } else if (access(single, F_OK) == 0) {
        rc = open_shard(dir, "model.safetensors", m, &shard, err);
    } else if (access(index, F_OK) == 0) {
        rc = open_sharded(dir, index, m, err);
    } else {
        rc = no_weights(dir, err);
    }
    free(single);
    free(index);
    return rc;
}

/* ---- tokenizer ---- */

static int32_t id_of(const struct tokenizer *t, const char *text, int32_t otherwise)
{
    int32_t id = text ? tokenizer_find(t, text, strlen(text)) : -1;
    if (id < 0 && tokenizer_type(t, otherwise) != 0) {
        id = otherwise;
    }
    return id;
}

static int read_tokenizer(const char *dir, const struct hfconfig *config, struct modelfile *m, struct claas_error *err)
{
    struct buf text = BUF_INIT;
    char *path = path_join(dir, "tokenizer.json");
    int rc = path ? 0 : err_oom(err, "opening a model");
    if (!rc && access(path, F_OK) != 0) {
        rc = err_set(err, CLAAS_ERR_NOT_FOUND, "tokenizer.json", "cannot open model '%.160s': its tokenizer.json is missing",
                     dir);
    }
    rc = rc ? rc : file_read(path, TOKENIZER_MAX, &text, err);
    rc = rc ? rc : tokenizer_load_json(path, &m->tokenizer, err);
    if (!rc && tokenizer_vocab(m->tokenizer) > m->source.geometry.vocab) {
        rc = err_set(err, CLAAS_ERR_CORRUPT, "tokenizer.json", "cannot use '%s': %zu tokens, but the embedding has %zu rows",
                     path, tokenizer_vocab(m->tokenizer), m->source.geometry.vocab);
    }
    if (!rc) {
        modelfile_identify(m, text.data, text.len);
        rc = tokenizer_set_ends(m->tokenizer, id_of(m->tokenizer, config->bos_text, config->bos),
                                id_of(m->tokenizer, config->eos_text, config->n_eos ? config->eos[0] : -1), err);
    }
    buf_clear(&text);
    free(path);
    return rc;
}

int modelfile_open_directory(const char *path, struct modelfile *m, struct claas_error *err)
{
    struct hfconfig config;
    int rc = hfconfig_read(path, &config, err);
    if (rc) {
        return rc;
    }
    modelfile_identify(m, config.config_text.data, config.config_text.len);
    rc = modelfile_set_geometry(m, &config.geometry, config.tied, err);
    rc = rc ? rc : open_weights(path, m, err);
    rc = rc ? rc : read_tensors(path, m, err);
    rc = rc ? rc : modelfile_progress(m, 1, 4, "tokenizer", err);
    rc = rc ? rc : read_tokenizer(path, &config, m, err);
    rc = rc ? rc : modelfile_set_ends(m, config.eos, config.n_eos, err);
    if (!rc) {
        m->owned->chat_template = config.chat_template;
        config.chat_template = NULL;
    }
    hfconfig_clear(&config);
    return rc;
}
