/* SPDX-License-Identifier: MIT */
/* Runs the jobs of make_cases.py through an engine plugin, by its public contract only:
 *   drive PLUGIN MODEL ADAPTER_DIR JOB.json OUT_DIR
 * writes OUT_DIR/score.json (log-probabilities of every response row), OUT_DIR/step1, step2, … (what the engine wrote)
 * and OUT_DIR/metrics.json. Every step starts from the files of the one before, so that what is compared is what a
 * reader of those files gets. */
#include "config.h"

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "host/host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { DRIVE_FILES = 16, DRIVE_SAMPLES = 16 };

/* ---- a version that is a directory ---- */

struct drive_version {
    struct claas_version abi;
    const char *dir;
    char path[4096];
    struct claas_file files[DRIVE_FILES];
    const struct claas_file *list[DRIVE_FILES];
};

static int version_path(const struct claas_version *v, const char *name, const char **out, struct claas_error *err)
{
    struct drive_version *d = (struct drive_version *)(uintptr_t)v;
    for (uint32_t i = 0; i < v->n_files; i++) {
        if (strcmp(v->files[i]->name, name) == 0) {
            (void)snprintf(d->path, sizeof d->path, "%s/%s", d->dir, name);
            *out = d->path;
            return 0;
        }
    }
    return err_set(err, CLAAS_ERR_NOT_FOUND, name, "no file '%s' in '%s'", name, d->dir);
}

static int version_dir(const struct claas_version *v, uint32_t roles, const char **out, struct claas_error *err)
{
    (void)roles;
    (void)err;
    *out = ((const struct drive_version *)v)->dir;
    return 0;
}

static int version_open(struct drive_version *v, const char *dir, struct claas_error *err)
{
    static const struct { const char *name; uint32_t roles; } known[] = {
        { "adapter_config.json", CLAAS_SERVE },
        { "adapter_model.safetensors", CLAAS_SERVE },
        { "optimizer.safetensors", CLAAS_TRAIN },
    };
    *v = (struct drive_version){ .dir = dir };
    struct sha256 *all = sha256_new();
    for (size_t i = 0; all && i < sizeof known / sizeof known[0]; i++) {
        char *path = path_join(dir, known[i].name);
        struct buf data = BUF_INIT;
        struct claas_error ignored = ERR_INIT;
        if (path && file_read(path, 1u << 30, &data, &ignored) == 0) {
            struct claas_file *f = &v->files[v->abi.n_files];
            *f = (struct claas_file){ .size = sizeof *f, .roles = known[i].roles, .bytes = data.len,
                                      .name = known[i].name };
            sha256_of(data.data, data.len, &f->sha256);
            sha256_add(all, f->sha256.b, sizeof f->sha256.b);
            v->list[v->abi.n_files++] = f;
        }
        buf_clear(&data);
        free(path);
    }
    if (!all || v->abi.n_files < 2) {
        sha256_free(all);
        return err_set(err, CLAAS_ERR_NOT_FOUND, dir, "no adapter in '%s'", dir);
    }
    sha256_end(all, &v->abi.state);
    v->abi.serve = v->abi.state;
    v->abi.size = sizeof v->abi;
    v->abi.label = "peer/case@1";
    v->abi.format = "peft/1";
    v->abi.files = v->list;
    v->abi.path = version_path;
    v->abi.dir = version_dir;
    return 0;
}

/* ---- what an engine writes, into a directory ---- */

struct drive_out {
    struct claas_out abi;
    const char *dir;
    cJSON *metrics;
};

static int out_write(struct claas_out *o, const char *name, uint32_t roles, const void *data, size_t n,
                     struct claas_error *err)
{
    (void)roles;
    const struct drive_out *d = (const struct drive_out *)o;
    char *path = path_join(d->dir, name);
    FILE *to = path ? fopen(path, "ab") : NULL;
    int rc = to && fwrite(data, 1, n, to) == n ? 0 : err_set(err, CLAAS_ERR_INTERNAL, name, "cannot write '%s'", name);
    if (to && fclose(to) && rc == 0) {
        rc = err_set(err, CLAAS_ERR_INTERNAL, name, "cannot write '%s'", name);
    }
    free(path);
    return rc;
}

static int out_take(struct claas_out *o, const char *name, uint32_t roles, const char *path, struct claas_error *err)
{
    struct buf data = BUF_INIT;
    int rc = file_read(path, 1u << 30, &data, err);
    if (rc == 0) {
        rc = out_write(o, name, roles, buf_str(&data), data.len, err);
    }
    buf_clear(&data);
    return rc;
}

static int out_have(struct claas_out *o, const char *name, uint32_t roles, uint64_t bytes,
                    const struct claas_digest *sha256, struct claas_error *err)
{
    (void)o;
    (void)roles;
    (void)bytes;
    (void)sha256;
    return err_set(err, CLAAS_ERR_NOT_FOUND, name, "'%s' is not known here", name);
}

static int out_claim(struct claas_out *o, const char *uri, struct claas_error *err)
{
    (void)o;
    return err_set(err, CLAAS_ERR_UNSUPPORTED, "", "cannot claim '%s' here", uri);
}

static void out_metric(struct claas_out *o, uint32_t step, const char *name, double value)
{
    (void)step;
    cJSON_AddNumberToObject(((struct drive_out *)o)->metrics, name, value);
}

static void out_note(struct claas_out *o, uint32_t step, const char *name, const char *text)
{
    (void)o;
    (void)step;
    (void)name;
    (void)text;
}

static int out_seal(struct claas_out *o, const char *format, struct claas_digest *state, struct claas_digest *serve,
                    struct claas_error *err)
{
    (void)err;
    const struct drive_out *d = (const struct drive_out *)o;
    sha256_of(d->dir, strlen(d->dir), state);
    sha256_of(format, strlen(format), serve);
    return 0;
}

/* ---- the job ---- */

struct drive_job {
    cJSON *json;
    uint32_t n;
    struct claas_sample samples[DRIVE_SAMPLES];
    const struct claas_sample *list[DRIVE_SAMPLES];
};

static void *job_array(const cJSON *sample, const char *name, size_t size, uint32_t *out_n)
{
    const cJSON *list = json_get(sample, name);
    size_t n = list ? (size_t)cJSON_GetArraySize(list) : 0;
    char *at = list ? mem_array(n, size) : NULL;
    size_t i = 0;
    const cJSON *it;
    cJSON_ArrayForEach(it, list)
    {
        if (size == 1) {
            at[i++] = (char)it->valueint;
        } else if (cJSON_IsNumber(it) && strcmp(name, "logprobs") == 0) {
            ((float *)(void *)at)[i++] = (float)it->valuedouble;
        } else {
            ((int32_t *)(void *)at)[i++] = it->valueint;
        }
    }
    *out_n = (uint32_t)n;
    return at;
}

static int job_read(struct drive_job *job, const char *path, struct claas_error *err)
{
    struct buf text = BUF_INIT;
    int rc = file_read(path, 1u << 26, &text, err);
    if (rc == 0) {
        rc = json_parse(text.data, text.len, "job", &job->json, err);
    }
    buf_clear(&text);
    const cJSON *samples = job->json ? json_get(job->json, "samples") : NULL;
    const cJSON *it;
    cJSON_ArrayForEach(it, samples)
    {
        uint32_t n;
        struct claas_sample *s = &job->samples[job->n];
        *s = (struct claas_sample){ .size = sizeof *s, .objective = "sdpo", .weight = 1 };
        s->prompt = job_array(it, "prompt", 4, &s->n_prompt);
        s->response = job_array(it, "response", 4, &s->n_response);
        s->teacher = job_array(it, "teacher", 4, &s->n_teacher);
        s->logprobs = job_array(it, "logprobs", 4, &n);
        s->mask = job_array(it, "mask", 1, &n);
        job->list[job->n++] = s;
    }
    return rc;
}

static void job_clear(struct drive_job *job)
{
    for (uint32_t i = 0; i < job->n; i++) {
        free((void *)(uintptr_t)job->samples[i].prompt);
        free((void *)(uintptr_t)job->samples[i].response);
        free((void *)(uintptr_t)job->samples[i].teacher);
        free((void *)(uintptr_t)job->samples[i].logprobs);
        free((void *)(uintptr_t)job->samples[i].mask);
    }
    cJSON_Delete(job->json);
}

static int write_json(const char *dir, const char *name, const cJSON *value, struct claas_error *err)
{
    char *path = path_join(dir, name);
    char *text = json_print(value);
    int rc = path && text ? file_write_durable(path, text, strlen(text), 0644, err) : err_oom(err, "writing results");
    free(path);
    free(text);
    return rc;
}

/* Every sample's rows: ids and log-probabilities of the whole vocabulary. */
static int drive_score(struct host_instance *engine, struct drive_job *job, const struct claas_version *version,
                       uint32_t vocab, const char *dir, struct claas_error *err)
{
    cJSON *all = cJSON_CreateArray();
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < job->n; i++) {
        const struct claas_sample *s = job->list[i];
        size_t rows = (size_t)s->n_response * vocab;
        int32_t *tokens = mem_array((size_t)s->n_prompt + s->n_response, 4);
        float *chosen = mem_array(s->n_response, 4);
        int32_t *ids = mem_array(rows, 4);
        float *values = mem_array(rows, 4);
        memcpy(tokens, s->prompt, 4 * (size_t)s->n_prompt);
        memcpy(tokens + s->n_prompt, s->response, 4 * (size_t)s->n_response);
        struct claas_score score = { .size = sizeof score, .n_prompt = s->n_prompt, .n_response = s->n_response,
                                     .n_top = vocab, .tokens = tokens, .version = version,
                                     .out_logprobs = chosen, .out_top_ids = ids, .out_top_logprobs = values };
        rc = host_inference_score(engine, &score, NULL, err);
        cJSON *one = cJSON_CreateObject();
        cJSON_AddItemToObject(one, "logprobs", cJSON_CreateFloatArray(chosen, (int)s->n_response));
        cJSON_AddItemToObject(one, "ids", cJSON_CreateIntArray(ids, (int)rows));
        cJSON_AddItemToObject(one, "values", cJSON_CreateFloatArray(values, (int)rows));
        cJSON_AddItemToArray(all, one);
        free(tokens);
        free(chosen);
        free(ids);
        free(values);
    }
    if (rc == 0) {
        rc = write_json(dir, "score.json", all, err);
    }
    cJSON_Delete(all);
    return rc;
}

static int drive_step(struct host_instance *engine, struct drive_job *job, const char *from_dir, const char *to_dir,
                      cJSON *metrics, struct claas_error *err)
{
    const struct host_engine_info *info;
    struct option_values settings = { 0 };
    struct drive_version from;
    int rc = version_open(&from, from_dir, err);
    if (rc == 0) {
        rc = host_engine_info(engine, &info, err);
    }
    if (rc == 0) {
        rc = option_values_from_json(&settings, info->settings, json_get(job->json, "settings"), NULL, NULL, NULL, err);
    }
    if (rc == 0 && mkdir(to_dir, 0755)) {
        rc = err_set(err, CLAAS_ERR_CONFLICT, to_dir, "'%s' is there already", to_dir);
    }
    if (rc == 0) {
        struct drive_out out = { .abi = { .size = sizeof out.abi, .label = "peer/case", .scratch = to_dir,
                                          .write = out_write, .take = out_take, .have = out_have, .claim = out_claim,
                                          .metric = out_metric, .note = out_note, .seal = out_seal },
                                 .dir = to_dir, .metrics = metrics };
        struct claas_step step = { .size = sizeof step, .n_samples = job->n, .samples = job->list,
                                   .settings = settings.values };
        const struct claas_step *steps[] = { &step };
        struct claas_train train = { .size = sizeof train, .n_steps = 1, .steps = steps, .from = &from.abi, .seed = 1 };
        sha256_of(to_dir, strlen(to_dir), &train.key);
        rc = host_engine_train(engine, &train, &out.abi, NULL, err);
    }
    option_values_clear(&settings);
    return rc;
}

static int drive_steps(struct host_instance *engine, struct drive_job *job, const char *adapter, const char *dir,
                       struct claas_error *err)
{
    cJSON *all = cJSON_CreateArray();
    int64_t steps = 1;
    char from[4096];
    char to[4096];
    int rc = json_get_int(job->json, "steps", 1, 100, &steps, err);
    (void)snprintf(from, sizeof from, "%s", adapter);
    for (int i = 1; rc == 0 && i <= steps; i++) {
        cJSON *metrics = cJSON_CreateObject();
        cJSON_AddItemToArray(all, metrics);
        (void)snprintf(to, sizeof to, "%s/step%d", dir, i);
        rc = drive_step(engine, job, from, to, metrics, err);
        memcpy(from, to, sizeof from);
    }
    if (rc == 0) {
        rc = write_json(dir, "metrics.json", all, err);
    }
    cJSON_Delete(all);
    return rc;
}

static int drive_open(struct host *host, const char *plugin, const char *model, struct host_instance **out,
                      struct claas_error *err)
{
    struct host_module *module;
    struct option_values values = { 0 };
    cJSON *options = cJSON_CreateObject();
    cJSON_AddStringToObject(options, "model", model);
    int rc = host_module_load(host, plugin, &module, err);
    if (rc == 0) {
        rc = option_values_from_json(&values, host_module_options(module), options, NULL, NULL, NULL, err);
    }
    if (rc == 0) {
        rc = host_instance_open(module, "engine", CLAAS_ENGINE | CLAAS_INFERENCE, &values, NULL, NULL, out, err);
    }
    option_values_clear(&values);
    cJSON_Delete(options);
    return rc;
}

int main(int argc, char **argv)
{
    struct claas_error err = ERR_INIT;
    struct host *host = NULL;
    struct host_instance *engine = NULL;
    struct drive_job job = { 0 };
    struct drive_version start;
    struct claas_model about = { .size = sizeof about };
    if (argc != 6) {
        (void)fprintf(stderr, "usage: drive PLUGIN MODEL ADAPTER_DIR JOB.json OUT_DIR\n");
        return 2;
    }
    int rc = host_new(&host, NULL, &err);
    if (rc == 0) {
        rc = drive_open(host, argv[1], argv[2], &engine, &err);
    }
    if (rc == 0) {
        rc = host_model(engine, &about, &err);
    }
    if (rc == 0) {
        rc = job_read(&job, argv[4], &err);
    }
    if (rc == 0) {
        rc = version_open(&start, argv[3], &err);
    }
    if (rc == 0) {
        rc = drive_score(engine, &job, &start.abi, about.vocab, argv[5], &err);
    }
    if (rc == 0) {
        rc = drive_steps(engine, &job, argv[3], argv[5], &err);
    }
    if (rc) {
        (void)fprintf(stderr, "drive: %s\n", err.message);
    }
    job_clear(&job);
    host_instance_close(engine);
    host_free(host);
    return rc ? 1 : 0;
}
