/* SPDX-License-Identifier: MIT */
/* One feedback step in this process, without server and store: bench_step MODEL PROMPT RESPONSE TEACHER ROUNDS [THREADS]
 * prints one JSON line for each round, wall seconds and processor seconds of all threads. Random tokens, rank 32 on all
 * linear layers, settings as the peer's in step_torch.py. Then the speed of decoding with that adapter. */
#include "config.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"
#include "plugins/local/decode.h"
#include "plugins/local/modelfile.h"
#include "plugins/local/train.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static struct claas_error err = { .size = sizeof err };

static void check(int rc)
{
    if (rc) {
        (void)fprintf(stderr, "bench_step: %s\n", err.message);
        exit(1);
    }
}

static int32_t *tokens(size_t n, size_t vocab, uint64_t seed)
{
    int32_t *ids = mem_array(n + 1, sizeof *ids);
    for (size_t i = 0; ids && i < n; i++) {
        ids[i] = (int32_t)(rng_uniform(seed, 1, i) * (double)vocab);
    }
    return ids;
}

/* The defaults of the option table, as the host would fill them in. */
static void defaults(struct claas_value *values)
{
    for (size_t i = 0; train_options[i].name; i++) {
        values[i].d = train_options[i].def ? strtod(train_options[i].def, NULL) : 0;
        values[i].i = (int64_t)values[i].d;
    }
}

static double processor_seconds(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void steps(const struct model *m, struct lora **lora, const struct claas_train *train, int rounds)
{
    struct optim *moments = NULL;
    for (int i = 0; i < rounds; i++) {
        struct train_metrics metrics;
        struct lora *next = NULL;
        struct optim *next_moments = NULL;
        struct rusage usage;
        int64_t began = clock_mono_ns();
        double busy = processor_seconds();
        check(train_run(m, *lora, moments, train, NULL, &next, &next_moments, &metrics, &err));
        (void)getrusage(RUSAGE_SELF, &usage);
        printf("{\"seconds\": %.3f, \"processor_seconds\": %.3f, \"loss\": %.6f, \"peak_mb\": %ld}\n",
               (double)(clock_mono_ns() - began) * 1e-9, processor_seconds() - busy, metrics.total_loss,
               usage.ru_maxrss / 1024);
        lora_free(*lora);
        optim_free(moments);
        *lora = next;
        moments = next_moments;
    }
    optim_free(moments);
}

static void decoding(const struct model *m, const struct lora *lora, const int32_t *prompt, size_t n)
{
    struct decode *d = NULL;
    enum { TOKENS = 128 };
    check(decode_open(m, lora, &d, &err));
    int64_t began = clock_mono_ns();
    check(decode_feed(d, prompt, n, NULL, &err));
    double prefill = (double)(clock_mono_ns() - began) * 1e-9;
    began = clock_mono_ns();
    double busy = processor_seconds();
    for (int i = 0; i < TOKENS; i++) {
        check(decode_feed(d, &prompt[(size_t)i % n], 1, NULL, &err));
    }
    printf("{\"prefill_tokens_per_second\": %.0f, \"decode_tokens_per_second\": %.1f, "
           "\"decode_processor_ms_per_token\": %.2f}\n",
           (double)n / prefill, TOKENS / ((double)(clock_mono_ns() - began) * 1e-9),
           (processor_seconds() - busy) * 1000 / TOKENS);
    decode_close(d);
}

int main(int argc, char **argv)
{
    struct kernels *k = NULL;
    struct modelfile *file = NULL;
    struct model *m = NULL;
    struct lora *lora = NULL;
    if (argc < 6) {
        (void)fprintf(stderr, "usage: bench_step MODEL PROMPT RESPONSE TEACHER ROUNDS [THREADS]\n");
        return 2;
    }
    check(kernels_open(argc > 6 ? strtoul(argv[6], NULL, 10) : 0, &k, &err));
    kernels_set_kept(k, (size_t)640 << 20); /* as the plugin does by default */
    check(modelfile_open(argv[1], NULL, &file, &err));
    check(model_create(k, &file->source, &m, &err));
    const struct lora_spec spec = { .modules = LORA_ALL, .rank = 32, .alpha = 64 };
    check(lora_create(k, &m->geometry, &spec, &lora, &err));
    check(lora_init(lora, 1, &err));
    size_t vocab = m->geometry.vocab;
    struct claas_sample sample = { .size = sizeof sample, .objective = "sdpo", .weight = 1 };
    sample.n_prompt = (uint32_t)strtoul(argv[2], NULL, 10);
    sample.n_response = (uint32_t)strtoul(argv[3], NULL, 10);
    sample.n_teacher = (uint32_t)strtoul(argv[4], NULL, 10);
    int32_t *prompt = tokens(sample.n_prompt, vocab, 1);
    int32_t *response = tokens(sample.n_response, vocab, 2);
    int32_t *teacher = tokens(sample.n_teacher, vocab, 3);
    float *logprobs = mem_array(sample.n_response, sizeof *logprobs);
    sample.prompt = prompt;
    sample.response = response;
    sample.teacher = teacher;
    if (!prompt || !response || !teacher || !logprobs) {
        check(err_oom(&err, "a sample"));
    }
    sample.logprobs = logprobs;
    const struct decode_score score = { .prompt = prompt, .n_prompt = sample.n_prompt, .response = response,
                                        .n_response = sample.n_response, .logprobs = logprobs };
    check(decode_score(m, lora, &score, NULL, &err));
    struct claas_value values[32] = { { 0 } };
    defaults(values);
    const struct claas_sample *samples[] = { &sample };
    const struct claas_step step = { .size = sizeof step, .n_samples = 1, .samples = samples, .settings = values };
    const struct claas_step *list[] = { &step };
    const struct claas_train train = { .size = sizeof train, .n_steps = 1, .steps = list };
    printf("{\"instructions\": \"%s\", \"threads\": %zu}\n", kernels_isa(k), kernels_threads(k));
    steps(m, &lora, &train, (int)strtol(argv[5], NULL, 10));
    decoding(m, lora, prompt, sample.n_prompt);
    lora_free(lora);
    model_free(m);
    modelfile_close(file);
    kernels_close(k);
    free(prompt);
    free(response);
    free(teacher);
    free(logprobs);
    return 0;
}
