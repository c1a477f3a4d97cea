/* SPDX-License-Identifier: MIT */
/* Runs the jobs of the scripts beside it through an engine plugin, by its public contract only:
 *   drive PLUGIN MODEL ADAPTER_DIR JOB.json OUT_DIR
 * writes OUT_DIR/score.json (log-probabilities of every response row), greedy.json (answers to the prompts of at most as
 * many tokens as the job's "generate" says), step1, step2, … (what the engine wrote), metrics.json, after.json
 * (score.json again with what the last step wrote) and status.txt (what the engine says of itself). Every step starts
 * from the files of the one before, so that what is compared is what a reader of those files gets. ADAPTER_DIR may be
 * "-", the base model, for a job of no steps. */
#include "config.h"

#include "tests/peers/torch/drive_dirs.h"

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "host/host.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { DRIVE_SAMPLES = 16 };

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
        if (job->n == DRIVE_SAMPLES) {
            return err_set(err, CLAAS_ERR_INVALID, "samples", "more than %d samples in '%s'", DRIVE_SAMPLES, path);
        }
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

/* ---- scores ---- */

/* The rows of one sample, with the best n_top ids of each. */
static int score_sample(struct host_instance *engine, const struct claas_sample *s, const struct claas_version *version,
                        uint32_t n_top, cJSON *all, struct claas_error *err)
{
    size_t rows = (size_t)s->n_response * n_top;
    int32_t *tokens = mem_array((size_t)s->n_prompt + s->n_response, 4);
    float *chosen = mem_array(s->n_response, 4);
    int32_t *ids = mem_array(rows, 4);
    float *values = mem_array(rows, 4);
    memcpy(tokens, s->prompt, 4 * (size_t)s->n_prompt);
    memcpy(tokens + s->n_prompt, s->response, 4 * (size_t)s->n_response);
    struct claas_score score = { .size = sizeof score, .n_prompt = s->n_prompt, .n_response = s->n_response,
                                 .n_top = n_top, .tokens = tokens, .version = version, .out_logprobs = chosen,
                                 .out_top_ids = ids, .out_top_logprobs = values };
    int rc = host_inference_score(engine, &score, NULL, err);
    cJSON *one = cJSON_CreateObject();
    cJSON_AddItemToObject(one, "logprobs", cJSON_CreateFloatArray(chosen, (int)s->n_response));
    cJSON_AddItemToObject(one, "ids", cJSON_CreateIntArray(ids, (int)rows));
    cJSON_AddItemToObject(one, "values", cJSON_CreateFloatArray(values, (int)rows));
    cJSON_AddItemToArray(all, one);
    free(tokens);
    free(chosen);
    free(ids);
    free(values);
    return rc;
}

/* Every sample's rows: as much of the vocabulary as the engine tells. */
static int drive_score(struct host_instance *engine, struct drive_job *job, const struct claas_version *version,
                       const char *dir, const char *name, struct claas_error *err)
{
    cJSON *all = cJSON_CreateArray();
    struct claas_model about = { .size = sizeof about };
    struct claas_inference_info info = { .size = sizeof info };
    int rc = host_model(engine, &about, err);
    rc = rc ? rc : host_inference_info(engine, &info, err);
    uint32_t n_top = about.vocab < info.max_top ? about.vocab : info.max_top;
    for (uint32_t i = 0; rc == 0 && i < job->n; i++) {
        rc = score_sample(engine, job->list[i], version, n_top, all, err);
    }
    rc = rc ? rc : write_json(dir, name, all, err);
    cJSON_Delete(all);
    return rc;
}

/* ---- greedy answers ---- */

struct drive_answer {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    int is_done;
    cJSON *ids;
    struct claas_error error;
};

static int answer_piece(void *ctx, const struct claas_piece *piece)
{
    struct drive_answer *a = ctx;
    for (uint32_t i = 0; i < piece->n && !(piece->flags & CLAAS_PIECE_PROMPT); i++) {
        cJSON_AddItemToArray(a->ids, cJSON_CreateNumber(piece->ids[i]));
    }
    return 0;
}

static void answer_done(void *ctx, const struct claas_error *or_null)
{
    struct drive_answer *a = ctx;
    pthread_mutex_lock(&a->lock);
    a->error = or_null ? *or_null : a->error;
    a->is_done = 1;
    pthread_cond_signal(&a->ended);
    pthread_mutex_unlock(&a->lock);
}

static int answer_sample(struct host_instance *engine, const struct claas_sample *s,
                         const struct claas_version *version, uint32_t max_tokens, cJSON *all, struct claas_error *err)
{
    struct drive_answer a = { .lock = PTHREAD_MUTEX_INITIALIZER, .ended = PTHREAD_COND_INITIALIZER,
                              .ids = cJSON_CreateArray(), .error = ERR_INIT };
    cJSON_AddItemToArray(all, a.ids);
    const struct claas_stream stream = { .size = sizeof stream, .ctx = &a, .piece = answer_piece, .done = answer_done };
    const struct claas_generate generate = { .size = sizeof generate, .n_prompt = s->n_prompt, .version = version,
                                             .prompt = s->prompt, .max_tokens = max_tokens, .top_p = 1,
                                             .repetition = 1 };
    int rc = host_inference_generate(engine, &generate, &stream, NULL, err);
    if (rc) {
        return rc;
    }
    pthread_mutex_lock(&a.lock);
    while (!a.is_done) {
        pthread_cond_wait(&a.ended, &a.lock);
    }
    pthread_mutex_unlock(&a.lock);
    *err = a.error.code ? a.error : *err;
    return a.error.code;
}

static int drive_answers(struct host_instance *engine, struct drive_job *job, const struct claas_version *version,
                         const char *dir, struct claas_error *err)
{
    cJSON *all = cJSON_CreateArray();
    int64_t max_tokens = 0;
    int rc = json_get_int(job->json, "generate", 1, 4096, &max_tokens, err);
    for (uint32_t i = 0; rc == 0 && max_tokens > 0 && i < job->n; i++) {
        rc = answer_sample(engine, job->list[i], version, (uint32_t)max_tokens, all, err);
    }
    rc = rc ? rc : write_json(dir, "greedy.json", all, err);
    cJSON_Delete(all);
    return rc;
}

/* ---- steps ---- */

static int drive_step(struct host_instance *engine, struct drive_job *job, const char *from_dir, const char *to_dir,
                      cJSON *metrics, struct claas_error *err)
{
    const struct host_engine_info *info;
    struct option_values settings = { 0 };
    struct drive_version from;
    int rc = drive_version_open(&from, from_dir, err);
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
        struct drive_out out;
        drive_out_open(&out, to_dir, metrics);
        struct claas_step step = { .size = sizeof step, .n_samples = job->n, .samples = job->list,
                                   .settings = settings.values };
        const struct claas_step *steps[] = { &step };
        struct claas_train train = { .size = sizeof train, .n_steps = 1, .steps = steps, .from = &from.abi, .seed = 1 };
        rc = sha256_of(to_dir, strlen(to_dir), &train.key, err);
        rc = rc ? rc : host_engine_train(engine, &train, &out.abi, NULL, err);
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
    int rc = json_get_int(job->json, "steps", 0, 100, &steps, err);
    (void)snprintf(from, sizeof from, "%s", adapter);
    for (int i = 1; rc == 0 && i <= steps; i++) {
        cJSON *metrics = cJSON_CreateObject();
        cJSON_AddItemToArray(all, metrics);
        (void)snprintf(to, sizeof to, "%s/step%d", dir, i);
        rc = drive_step(engine, job, from, to, metrics, err);
        memcpy(from, to, sizeof from);
    }
    struct drive_version last;
    if (rc == 0 && steps > 0) {
        rc = drive_version_open(&last, from, err);
        rc = rc ? rc : drive_score(engine, job, &last.abi, dir, "after.json", err);
    }
    rc = rc ? rc : write_json(dir, "metrics.json", all, err);
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

static int write_status(struct host_instance *engine, const char *dir, struct claas_error *err)
{
    struct claas_status status = { .size = sizeof status };
    int rc = host_status(engine, &status, err);
    char *path = path_join(dir, "status.txt");
    rc = rc ? rc : file_write_durable(path, status.text, strlen(status.text), 0644, err);
    free(path);
    return rc;
}

static int drive(struct host_instance *engine, struct drive_job *job, const char *adapter, const char *dir,
                 struct claas_error *err)
{
    struct drive_version start;
    const int is_base = strcmp(adapter, "-") == 0;
    int rc = is_base ? 0 : drive_version_open(&start, adapter, err);
    const struct claas_version *version = is_base ? NULL : &start.abi;
    rc = rc ? rc : write_status(engine, dir, err);
    rc = rc ? rc : drive_score(engine, job, version, dir, "score.json", err);
    rc = rc ? rc : drive_answers(engine, job, version, dir, err);
    return rc ? rc : drive_steps(engine, job, adapter, dir, err);
}

int main(int argc, char **argv)
{
    struct claas_error err = ERR_INIT;
    struct host *host = NULL;
    struct host_instance *engine = NULL;
    struct drive_job job = { 0 };
    if (argc != 6) {
        (void)fprintf(stderr, "usage: drive PLUGIN MODEL ADAPTER_DIR JOB.json OUT_DIR\n");
        return 2;
    }
    int rc = host_new(&host, NULL, &err);
    rc = rc ? rc : drive_open(host, argv[1], argv[2], &engine, &err);
    rc = rc ? rc : job_read(&job, argv[4], &err);
    rc = rc ? rc : drive(engine, &job, argv[3], argv[5], &err);
    if (rc) {
        (void)fprintf(stderr, "drive: %s\n", err.message);
    }
    job_clear(&job);
    host_instance_close(engine);
    host_free(host);
    return rc ? 1 : 0;
}
