/* SPDX-License-Identifier: MIT */
/* Small Llama models, adapters and training jobs with what PyTorch, transformers and PEFT made of them
 * (tests/data/golden, written by tests/peers/torch/golden.py): log-probabilities of whole rows, metrics of three steps,
 * gradients of the first, the adapter after the first and the third. On every instruction set. */
#include "config.h"

#include "plugins/local/decode.h"
#include "plugins/local/modelfile.h"
#include "plugins/local/peft.h"
#include "plugins/local/safetensors.h"
#include "plugins/local/train.h"
#include "unit/kernels_testing.h"

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

#include <stddef.h>

#define BOUND 1e-4 /* of the Frobenius norm of a tensor */
#define NOISE 1e-5 /* of the greatest element of a gradient */

static const char *const cases[] = { "gqa_all_modules", "reverse_kl_some_modules", "llama3_rope_masked" };
#define CASES 3

enum { SAMPLES = 3, SETTINGS = 32, STEPS = 3 };

struct golden {
    const char *name;
    cJSON *job;
    cJSON *expected;
    struct safetensors *tensors;
    struct modelfile *file;
    struct model *model;
    struct lora *lora;
    struct claas_value settings[SETTINGS];
    struct claas_sample samples[SAMPLES];
    const struct claas_sample *list[SAMPLES];
    uint32_t n;
};

/* ---- reading a case ---- */

static char *path_of(const char *name, const char *part)
{
    char relative[256];
    const char *top = getenv("abs_top_srcdir");
    ck_assert_msg(top != NULL, "abs_top_srcdir must name the source tree");
    (void)snprintf(relative, sizeof relative, "tests/data/golden/%s/%s", name, part);
    char *path = path_join(top, relative);
    ck_assert_ptr_nonnull(path);
    return path;
}

static cJSON *json_of(const char *name, const char *part)
{
    struct buf text = BUF_INIT;
    cJSON *json = NULL;
    char *path = path_of(name, part);
    ck_ok(file_read(path, 1 << 20, &text, &err), err);
    ck_ok(json_parse(buf_str(&text), text.len, part, &json, &err), err);
    buf_clear(&text);
    free(path);
    return json;
}

/* A list of whole numbers; null when there is none. */
static int32_t *ids_of(const cJSON *sample, const char *name, uint32_t *out_n)
{
    const cJSON *list = json_get(sample, name);
    *out_n = (uint32_t)cJSON_GetArraySize(list);
    int32_t *ids = list ? mem_array(*out_n, sizeof *ids) : NULL;
    for (uint32_t i = 0; i < *out_n; i++) {
        ids[i] = cJSON_GetArrayItem(list, (int)i)->valueint;
    }
    return ids;
}

static void sample_read(const cJSON *from, struct claas_sample *s)
{
    uint32_t n_mask;
    *s = (struct claas_sample){ .size = sizeof *s, .objective = "sdpo", .weight = 1 };
    s->prompt = ids_of(from, "prompt", &s->n_prompt);
    s->response = ids_of(from, "response", &s->n_response);
    s->teacher = ids_of(from, "teacher", &s->n_teacher);
    int32_t *mask = ids_of(from, "mask", &n_mask);
    uint8_t *bytes = mask ? mem_array(s->n_response, 1) : NULL;
    float *logprobs = mem_array(s->n_response, sizeof *logprobs);
    ck_assert(n_mask == 0 || n_mask == s->n_response);
    for (uint32_t i = 0; i < s->n_response; i++) {
        logprobs[i] = (float)cJSON_GetArrayItem(json_get(from, "logprobs"), (int)i)->valuedouble;
        if (bytes) {
            bytes[i] = (uint8_t)mask[i];
        }
    }
    s->logprobs = logprobs;
    s->mask = bytes;
    free(mask);
}

/* The job's settings, or the defaults, in the order of the table. */
static void settings_read(const cJSON *settings, struct claas_value *values)
{
    int n_known = 0;
    for (size_t i = 0; train_options[i].name; i++) {
        const cJSON *given = json_get(settings, train_options[i].name);
        ck_assert_uint_lt(i, SETTINGS);
        values[i].d = given ? given->valuedouble : strtod(train_options[i].def, NULL);
        values[i].i = (int64_t)values[i].d;
        n_known += given != NULL;
    }
    ck_assert_int_eq(n_known, cJSON_GetArraySize(settings));
}

static void golden_open(struct golden *g, int i)
{
    device_open(i % ISAS, 2);
    *g = (struct golden){ .name = cases[i / ISAS] };
    g->job = json_of(g->name, "job.json");
    g->expected = json_of(g->name, "expected.json");
    char *tensors = path_of(g->name, "expected.safetensors");
    char *model = path_of(g->name, "model");
    char *weights = path_of(g->name, "adapter/" PEFT_WEIGHTS);
    char *config = path_of(g->name, "adapter/" PEFT_CONFIG);
    ck_ok(safetensors_open(tensors, &g->tensors, &err), err);
    ck_ok(modelfile_open(model, NULL, &g->file, &err), err);
    ck_ok(model_create(k, &g->file->source, &g->model, &err), err);
    ck_ok(peft_read(k, &g->model->geometry, weights, config, &g->lora, &err), err);
    settings_read(json_get(g->job, "settings"), g->settings);
    const cJSON *sample;
    cJSON_ArrayForEach(sample, json_get(g->job, "samples"))
    {
        ck_assert_uint_lt(g->n, SAMPLES);
        sample_read(sample, &g->samples[g->n]);
        g->list[g->n] = &g->samples[g->n];
        g->n++;
    }
    free(tensors);
    free(model);
    free(weights);
    free(config);
}

static void golden_close(struct golden *g)
{
    for (uint32_t i = 0; i < g->n; i++) {
        free((void *)(uintptr_t)g->samples[i].prompt);
        free((void *)(uintptr_t)g->samples[i].response);
        free((void *)(uintptr_t)g->samples[i].teacher);
        free((void *)(uintptr_t)g->samples[i].logprobs);
        free((void *)(uintptr_t)g->samples[i].mask);
    }
    lora_free(g->lora);
    model_free(g->model);
    modelfile_close(g->file);
    safetensors_close(g->tensors);
    cJSON_Delete(g->job);
    cJSON_Delete(g->expected);
    device_close();
}

/* A tensor of n numbers that PyTorch gave, on the heap. */
static float *wanted(const struct golden *g, const char *kind, const char *name, size_t n)
{
    char key[LORA_NAME_CAP + 16];
    (void)snprintf(key, sizeof key, "%s.%s", kind, name);
    const struct safetensors_entry *e = safetensors_find(g->tensors, key);
    ck_assert_msg(e != NULL && e->bytes == n * sizeof(float), "%s: no '%s' of %zu numbers", g->name, key, n);
    float *values = mem_array(n, sizeof *values);
    ck_assert_ptr_nonnull(values);
    ck_ok(safetensors_floats(g->tensors, e, values, &err), err);
    return values;
}

/* ---- comparing ---- */

static void check_tensor(const struct golden *g, const float *x, const float *want, size_t n, const char *kind,
                         const char *name)
{
    double off = 0;
    double size = 0;
    for (size_t i = 0; i < n; i++) {
        off += ((double)x[i] - (double)want[i]) * ((double)x[i] - (double)want[i]);
        size += (double)want[i] * (double)want[i];
    }
    ck_assert_msg(sqrt(off) <= BOUND * sqrt(size), "%s (%s): %s of %s has error %g of %g", g->name, kernels_isa(k),
                  kind, name, sqrt(off), sqrt(size));
}

static void check_metrics(const struct golden *g, size_t step, const struct train_metrics *m)
{
    static const struct {
        const char *name;
        size_t at;
    } known[] = { { "total_loss", offsetof(struct train_metrics, total_loss) },
                  { "distill_loss", offsetof(struct train_metrics, distill_loss) },
                  { "kl_reg", offsetof(struct train_metrics, kl_reg) },
                  { "mean_is_ratio", offsetof(struct train_metrics, mean_is_ratio) },
                  { "clip_fraction", offsetof(struct train_metrics, clip_fraction) },
                  { "grad_norm", offsetof(struct train_metrics, grad_norm) } };
    const cJSON *all = cJSON_GetArrayItem(json_get(g->expected, "metrics"), (int)step);
    int n_known = 0;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        double got = *(const double *)(const void *)((const char *)m + known[i].at);
        const cJSON *value = json_get(all, known[i].name);
        if (value) {
            double size = fmax(fabs(value->valuedouble), 1e-3);
            ck_assert_msg(fabs(got - value->valuedouble) <= BOUND * size,
                          "%s (%s): %s of step %zu is %.9g, expected %.9g", g->name, kernels_isa(k), known[i].name,
                          step + 1, got, value->valuedouble);
            n_known++;
        }
    }
    ck_assert_int_ge(n_known, 5);
    ck_assert_int_eq(n_known, cJSON_GetArraySize(all));
}

/* In the first step Adam divides each gradient by its own size: where there is next to none, noise decides. */
static void leave_out_noise(const float *gradient, size_t n, float *x, float *want)
{
    float greatest = 0;
    for (size_t i = 0; i < n; i++) {
        greatest = fmaxf(greatest, fabsf(gradient[i]));
    }
    for (size_t i = 0; i < n; i++) {
        if (fabsf(gradient[i]) <= (float)NOISE * greatest) {
            x[i] = want[i] = 0;
        }
    }
}

/* Every tensor of an adapter, under the names of PEFT's files. */
static void check_adapter(const struct golden *g, const struct lora *lora, const char *kind)
{
    size_t n_wanted = 0;
    for (size_t i = 0; i < g->tensors->n_entries; i++) {
        n_wanted += strncmp(g->tensors->entries[i].name, kind, strlen(kind)) == 0;
    }
    ck_assert_uint_eq(n_wanted, lora->n_tensors);
    for (size_t i = 0; i < lora->n_tensors; i++) {
        const struct lora_tensor *t = &lora->tensors[i];
        size_t n = t->rows * t->cols;
        float *want = wanted(g, kind, t->name, n);
        float *gradient = wanted(g, "grad", t->name, n);
        float *x = mem_array(n, sizeof *x);
        ck_ok(lora_read(lora, i, x, &err), err);
        leave_out_noise(gradient, n, x, want);
        check_tensor(g, x, want, n, kind, t->name);
        free(want);
        free(gradient);
        free(x);
    }
}

/* After one update the first moment is (1 - beta1) times the clipped gradient. */
static void check_gradients(const struct golden *g, const struct optim *moments, double norm)
{
    double limit = json_get(json_get(g->job, "settings"), "max_grad_norm")->valuedouble;
    double factor = 0.1 * fmin(1, limit / (norm + 1e-6));
    for (size_t i = 0; i < g->lora->n_tensors; i++) {
        const struct lora_tensor *t = &g->lora->tensors[i];
        size_t n = t->rows * t->cols;
        float *want = wanted(g, "grad", t->name, n);
        float *x = mem_array(n, sizeof *x);
        ck_ok(optim_read(moments, OPTIM_MEAN, t->offset, n, x, &err), err);
        for (size_t j = 0; j < n; j++) {
            x[j] = (float)((double)x[j] / factor);
        }
        check_tensor(g, x, want, n, "gradient", t->name);
        free(want);
        free(x);
    }
}

/* ---- tests ---- */

START_TEST(test_logprobs)
{
    struct golden g;
    golden_open(&g, _i);
    size_t vocab = g.model->geometry.vocab;
    for (uint32_t i = 0; i < g.n; i++) {
        const struct claas_sample *s = &g.samples[i];
        size_t n = s->n_response * vocab;
        char name[16];
        (void)snprintf(name, sizeof name, "%u", i);
        float *want = wanted(&g, "logprobs", name, n);
        float *rows = mem_array(n, sizeof *rows);
        struct decode_score score = { .prompt = s->prompt, .n_prompt = s->n_prompt, .response = s->response,
                                      .n_response = s->n_response, .n_top = vocab,
                                      .logprobs = mem_array(s->n_response, sizeof(float)),
                                      .top_ids = mem_array(n, sizeof(int32_t)),
                                      .top_logprobs = mem_array(n, sizeof(float)) };
        ck_ok(decode_score(g.model, g.lora, &score, NULL, &err), err);
        for (size_t j = 0; j < n; j++) {
            rows[j / vocab * vocab + (size_t)score.top_ids[j]] = score.top_logprobs[j];
        }
        check_tensor(&g, rows, want, n, "log-probabilities", name);
        for (size_t j = 0; j < s->n_response; j++) {
            ck_assert_float_eq_tol(score.logprobs[j], want[j * vocab + (size_t)s->response[j]], 2e-4F);
        }
        free(score.logprobs);
        free(score.top_ids);
        free(score.top_logprobs);
        free(rows);
        free(want);
    }
    golden_close(&g);
}
END_TEST

static void train_steps(struct golden *g, uint32_t n_steps, struct lora **out_lora, struct optim **out_moments,
                        struct train_metrics *metrics)
{
    const struct claas_step step = { .size = sizeof step, .n_samples = g->n, .samples = g->list,
                                     .settings = g->settings };
    const struct claas_step *steps[STEPS] = { &step, &step, &step };
    const struct claas_train train = { .size = sizeof train, .n_steps = n_steps, .steps = steps };
    ck_ok(train_run(g->model, g->lora, NULL, &train, NULL, out_lora, out_moments, metrics, &err), err);
}

START_TEST(test_first_step)
{
    struct golden g;
    struct lora *lora = NULL;
    struct optim *moments = NULL;
    struct train_metrics metrics;
    golden_open(&g, _i);
    train_steps(&g, 1, &lora, &moments, &metrics);
    check_metrics(&g, 0, &metrics);
    check_gradients(&g, moments, metrics.grad_norm);
    check_adapter(&g, lora, "first");
    optim_free(moments);
    lora_free(lora);
    golden_close(&g);
}
END_TEST

START_TEST(test_three_steps)
{
    struct golden g;
    struct lora *lora = NULL;
    struct optim *moments = NULL;
    struct train_metrics metrics[STEPS];
    golden_open(&g, _i);
    ck_assert_int_eq(cJSON_GetArraySize(json_get(g.expected, "metrics")), STEPS);
    train_steps(&g, STEPS, &lora, &moments, metrics);
    for (size_t i = 0; i < STEPS; i++) {
        check_metrics(&g, i, &metrics[i]);
    }
    check_adapter(&g, lora, "after");
    optim_free(moments);
    lora_free(lora);
    golden_close(&g);
}
END_TEST

static Suite *golden_suite(void)
{
    Suite *s = suite_create("local golden");
    TCase *tc = tcase_create("PyTorch");
    tcase_add_loop_test(tc, test_logprobs, 0, ISAS * CASES);
    tcase_add_loop_test(tc, test_first_step, 0, ISAS * CASES);
    tcase_add_loop_test(tc, test_three_steps, 0, ISAS * CASES);
    suite_add_tcase(s, tc);
    return s;
}

int main(void)
{
    return test_main(golden_suite());
}
