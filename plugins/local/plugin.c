/* SPDX-License-Identifier: MIT */
/* The local engine as a plugin: options, open and close, and what an instance is. One model is loaded once and trains,
 * answers and knows its text. Which device it is depends on the kernels linked in; this is the processor. */
#include "config.h"

#include "plugins/local/instance.h"

#include "plugins/local/queue.h"

#include "base/err.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPTION_MODEL, OPTION_NAME, OPTION_THREADS, OPTION_CONTEXT, OPTION_SHARE, OPTION_MEMORY, OPTION_ADAPTERS, OPTION_SCRATCH,
    OPTION_BATCH, OPTION_WAITING, OPTION_TEMPLATE
};

static const struct claas_option options[] = {
    { "model", NULL, NULL, "a .gguf file, or a directory with config.json, safetensors and tokenizer.json", 1, 0, CLAAS_PATH,
      CLAAS_REQUIRED },
    { "model_name", "", NULL, "what the model is called in requests and in adapter_config.json; empty: the last part of its "
      "path", 1, 0, CLAAS_TEXT, 0 },
    { "threads", "0", NULL, "threads to compute with; 0: as many as there are cores for this process", 0, 1024, CLAAS_INT,
      0 },
    { "context", "0", NULL, "the most tokens a prompt and its answer may have together; 0: as many as the model knows", 0,
      1 << 24, CLAAS_INT, 0 },
    { "train_share", "0.5", NULL, "share of the device's time that a step may take while requests are answered", 0, 1,
      CLAAS_REAL, CLAAS_RELOADABLE },
    { "adapters_memory", "256MiB", NULL, "memory for adapters that no request uses at the moment, with what training needs "
      "to go on from them; what is dropped is read from its files again", 0, 0x1p50, CLAAS_BYTES, CLAAS_RELOADABLE },
    { "adapters_kept", "64", NULL, "the most adapters kept in memory while no request uses them", 0, 1e6, CLAAS_INT,
      CLAAS_RELOADABLE },
    { "scratch_memory", "640MiB", NULL, "memory of past computations that is kept for the next ones; what is more is given back "
      "to the system", 0, 0x1p50, CLAAS_BYTES, CLAAS_RELOADABLE },
    { "max_batch", "8", NULL, "requests answered at the same time; each has a key-value cache of its own", 1, 256, CLAAS_INT,
      0 },
    { "max_waiting", "256", NULL, "requests that may wait for their turn; more are refused", 0, 65536, CLAAS_INT, 0 },
    { "chat_template", "", "|chatml|smollm2", "the chat template; empty: the one the model brings", 1, 0, CLAAS_TEXT, 0 },
    { .name = NULL },
};

/* ---- check ---- */

static int plugin_check(const struct claas_value *values, struct claas_error *err)
{
    const struct chat_template *chat = NULL;
    const char *name = values[OPTION_TEMPLATE].s;
    if (!values[OPTION_MODEL].s || !values[OPTION_MODEL].s[0]) {
        return err_set(err, CLAAS_ERR_INVALID, "model", "the engine needs a model: a .gguf file or a directory");
    }
    return name && name[0] ? chat_template_choose(name, NULL, &chat, err) : 0;
}

/* ---- open and close ---- */

static void plugin_close(void *ctx)
{
    struct instance *self = ctx;
    if (!self) {
        return;
    }
    queue_free(self->queue);
    warm_free(self->warm);
    model_free(self->model);
    modelfile_close(self->file);
    kernels_close(self->kernels);
    instance_reading_clear(self);
    pthread_mutex_destroy(&self->training);
    free(self->allowed);
    free(self->name);
    free(self);
}

/* "SmolLM2-135M-Instruct" of "/models/SmolLM2-135M-Instruct.gguf/". */
static char *name_of_path(const char *path)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') {
        end--;
    }
    size_t from = end;
    while (from > 0 && path[from - 1] != '/') {
        from--;
    }
    if (end - from > 5 && memcmp(path + end - 5, ".gguf", 5) == 0) {
        end -= 5;
    }
    return mem_dup(path + from, end - from);
}

static int open_context(const struct claas_value *value, struct model_geometry *g, struct claas_error *err)
{
    if (value->i == 0) {
        return 0;
    }
    if ((uint64_t)value->i > g->context) {
        return err_set(err, CLAAS_ERR_INVALID, "context", "'context' is %" PRId64 ", but the model knows %zu positions",
                       value->i, g->context);
    }
    g->context = (size_t)value->i;
    return 0;
}

/* Rows of the embedding may outnumber the tokens: an id without a token is never sampled. */
static int open_allowed(struct instance *self, struct claas_error *err)
{
    size_t vocab = self->model->geometry.vocab;
    self->allowed = mem_array(vocab, 1);
    if (!self->allowed) {
        return err_oom(err, "opening a model");
    }
    for (size_t i = 0; i < vocab; i++) {
        int type = tokenizer_type(self->file->tokenizer, (int32_t)i);
        self->allowed[i] = type != 0 && type != TOKEN_UNUSED;
    }
    return 0;
}

/* A model without a template we know can still complete text: the reason is kept for those who ask for a chat. */
static void open_template(struct instance *self, const char *name)
{
    self->chat_error = ERR_INIT;
    if (chat_template_choose(name, self->file->chat_template, &self->chat, &self->chat_error)) {
        self->chat = NULL;
        if (self->host->log) {
            self->host->log(self->host, CLAAS_LOG_WARNING, self->chat_error.message);
        }
    }
}

static void set_reloadable(struct instance *self, const struct claas_value *values)
{
    kernels_set_train_share(self->kernels, values[OPTION_SHARE].d);
    kernels_set_kept(self->kernels, (size_t)values[OPTION_SCRATCH].i);
    warm_set_bounds(self->warm, (uint64_t)values[OPTION_MEMORY].i, (size_t)values[OPTION_ADAPTERS].i);
}

static int open_parts(struct instance *self, const struct claas_value *values, const struct claas_call *call,
                      struct claas_error *err)
{
    const char *path = values[OPTION_MODEL].s;
    const char *name = values[OPTION_NAME].s;
    self->name = name && name[0] ? mem_dup(name, strlen(name)) : name_of_path(path);
    int rc = self->name ? 0 : err_oom(err, "opening a model");
    rc = rc ? rc : modelfile_open(path, call, &self->file, err);
    rc = rc ? rc : open_context(&values[OPTION_CONTEXT], &self->file->source.geometry, err);
    rc = rc ? rc : kernels_open((size_t)values[OPTION_THREADS].i, &self->kernels, err);
    rc = rc ? rc : model_create(self->kernels, &self->file->source, &self->model, err);
    rc = rc ? rc : open_allowed(self, err);
    rc = rc ? rc : warm_new(&self->warm, err);
    if (rc) {
        return rc;
    }
    set_reloadable(self, values);
    open_template(self, values[OPTION_TEMPLATE].s);
    return queue_new((size_t)values[OPTION_BATCH].i, (size_t)values[OPTION_WAITING].i, &self->queue, err);
}

static int plugin_open(const struct claas_host *host, uint32_t kinds, const struct claas_value *values,
                       const struct claas_call *call, void **out_self, struct claas_error *err)
{
    struct instance *self = calloc(1, sizeof *self);
    (void)kinds; /* all kinds need all of it */
    if (!self) {
        return err_oom(err, "opening a model");
    }
    self->host = host;
    instance_reading_init(self);
    pthread_mutex_init(&self->training, NULL); /* cannot fail with default attributes on Linux */
    int rc = plugin_check(values, err);
    rc = rc ? rc : open_parts(self, values, call, err);
    if (rc) {
        plugin_close(self);
        return rc;
    }
    *out_self = self;
    return 0;
}

static int plugin_reload(void *ctx, const struct claas_value *values, struct claas_error *err)
{
    (void)err;
    set_reloadable(ctx, values);
    return 0;
}

/* ---- what is told ---- */

static int plugin_status(void *ctx, struct claas_status *out)
{
    struct instance *self = ctx;
    *out = (struct claas_status){ .size = sizeof *out, .state = CLAAS_READY };
    (void)snprintf(out->text, sizeof out->text,
                   "%.80s on %zu threads (%s); %zu answers in progress, %zu waiting; %zu adapters in %" PRIu64 " MiB",
                   self->name, kernels_threads(self->kernels), kernels_isa(self->kernels), queue_running(self->queue),
                   queue_waiting(self->queue), warm_count(self->warm), warm_bytes(self->warm) >> 20);
    return 0;
}

static int plugin_model(void *ctx, struct claas_model *out, struct claas_error *err)
{
    struct instance *self = ctx;
    (void)err;
    *out = (struct claas_model){ .size = sizeof *out, .vocab = (uint32_t)self->model->geometry.vocab,
                                 .context = (uint32_t)self->model->geometry.context,
                                 .n_stop = (uint32_t)self->file->n_stop, .stop_ids = self->file->stop_ids,
                                 .name = self->name, .base = self->file->base, .tokenizer = self->file->tokens };
    return 0;
}

static const struct claas_plugin plugin = {
    .size = sizeof plugin,
    .abi = CLAAS_ABI,
    .name = "cpu",
    .version = PACKAGE_VERSION,
    .summary = "training and inference on this machine's processors",
    .licence = "MIT",
    .flags = CLAAS_PARALLEL,
    .option_size = sizeof(struct claas_option),
    .options = options,
    .check = plugin_check,
    .open = plugin_open,
    .close = plugin_close,
    .reload = plugin_reload,
    .status = plugin_status,
    .model = plugin_model,
    .engine = &instance_engine,
    .inference = &instance_inference,
    .text = &instance_text,
};

__attribute__((visibility("default"))) const struct claas_plugin *claas_plugin_entry(uint32_t host_abi)
{
    (void)host_abi; /* the host compares */
    return &plugin;
}
