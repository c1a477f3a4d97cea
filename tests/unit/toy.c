/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "toy.h"

#include "repo.h"

#include "base/clock.h"
#include "base/json.h"

#include <math.h>
#include <string.h>

struct toy toy = { .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static struct repo repo;
static struct claas_digest loaded[64];
static size_t n_loaded;

#define WEIGHTS "weights.txt"
#define FORMAT "toy/1"
#define BASE "toy-base-1"
#define MODEL "toy/model"

void toy_reset(void)
{
    toy = (struct toy){ .mutex = PTHREAD_MUTEX_INITIALIZER,
                        .changed = PTHREAD_COND_INITIALIZER,
                        .context = 512 };
    n_loaded = 0;
}

void toy_wait_at(const int *counter, int n)
{
    int64_t until = clock_real_ns() + INT64_C(10000000000);
    struct timespec t = { .tv_sec = until / 1000000000, .tv_nsec = until % 1000000000 };
    int late = 0;
    (void)pthread_mutex_lock(&toy.mutex);
    while (*counter < n && !late) {
        late = pthread_cond_timedwait(&toy.changed, &toy.mutex, &t) != 0;
    }
    int seen = *counter;
    (void)pthread_mutex_unlock(&toy.mutex);
    ck_assert_int_ge(seen, n);
}

void toy_open_gate(void)
{
    (void)pthread_mutex_lock(&toy.mutex);
    toy.train_gate = 0;
    toy.gate_answers = 0;
    (void)pthread_cond_broadcast(&toy.changed);
    (void)pthread_mutex_unlock(&toy.mutex);
}

static void count(int *counter)
{
    (void)pthread_mutex_lock(&toy.mutex);
    ++*counter;
    (void)pthread_cond_broadcast(&toy.changed);
    (void)pthread_mutex_unlock(&toy.mutex);
}

/* 1 if this call is one of those that are to fail. */
static int is_to_fail(int *orders)
{
    (void)pthread_mutex_lock(&toy.mutex);
    int fails = *orders != 0;
    *orders -= *orders > 0;
    (void)pthread_mutex_unlock(&toy.mutex);
    return fails;
}

/* ---- text ---- */

static int put_ids(struct claas_sink *ids, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int32_t id = (unsigned char)text[i];
        if (ids->put(ids->ctx, &id, sizeof id)) {
            return CLAAS_ERR_INTERNAL;
        }
    }
    return 0;
}

static int put_sign(struct claas_sink *ids, int32_t sign)
{
    return ids->put(ids->ctx, &sign, sizeof sign) ? CLAAS_ERR_INTERNAL : 0;
}

static int toy_render(void *self, const char *chat_json, uint32_t flags, struct claas_sink *ids,
                      struct claas_error *err)
{
    cJSON *chat = NULL;
    const cJSON *message;
    (void)self;
    int rc = json_parse(chat_json, strlen(chat_json), "a chat", &chat, err);
    const cJSON *messages = rc ? NULL : json_get(chat, "messages");
    cJSON_ArrayForEach(message, messages) {
        const char *role = json_get(message, "role")->valuestring;
        const char *content = json_get(message, "content")->valuestring;
        rc = rc ? rc : put_sign(ids, TOY_OPEN);
        rc = rc ? rc : put_ids(ids, role, strlen(role));
        rc = rc ? rc : put_ids(ids, "\n", 1);
        rc = rc ? rc : put_ids(ids, content, strlen(content));
        rc = rc ? rc : put_sign(ids, TOY_END);
    }
    if (rc == 0 && (flags & CLAAS_GENERATION_PROMPT)) {
        rc = put_sign(ids, TOY_OPEN);
        rc = rc ? rc : put_ids(ids, "assistant\n", 10);
    }
    cJSON_Delete(chat);
    return rc;
}

static int toy_encode(void *self, const char *text, size_t n, uint32_t flags,
                      struct claas_sink *ids, struct claas_error *err)
{
    (void)self;
    (void)flags;
    (void)err;
    return put_ids(ids, text, n);
}

static void spell(const int32_t *ids, size_t n, int signs, struct buf *out)
{
    for (size_t i = 0; i < n; i++) {
        char byte = (char)ids[i];
        if (ids[i] < TOY_OPEN) {
            buf_add(out, &byte, 1);
        } else if (signs) {
            buf_adds(out, ids[i] == TOY_OPEN ? "<open>" : "<end>");
        }
    }
}

static _Thread_local int in_piece;

static int tell(const struct claas_stream *out, const struct claas_piece *piece)
{
    in_piece = 1;
    int stop = out->piece(out->ctx, piece);
    in_piece = 0;
    return stop;
}

static int toy_decode(void *self, const int32_t *ids, size_t n, uint32_t flags,
                      struct claas_sink *text, struct claas_error *err)
{
    struct buf out = BUF_INIT;
    (void)self;
    (void)err;
    if (in_piece) {
        count(&toy.decodes_in_pieces);
    }
    spell(ids, n, (flags & CLAAS_SPECIAL) != 0, &out);
    int rc = out.failed || text->put(text->ctx, buf_str(&out), out.len) ? CLAAS_ERR_INTERNAL : 0;
    buf_clear(&out);
    return rc;
}

static int toy_model(void *self, struct claas_model *out, struct claas_error *err)
{
    static const int32_t stop[] = { TOY_END };
    (void)self;
    (void)err;
    *out = (struct claas_model){ .size = out->size,
                                 .vocab = TOY_VOCAB,
                                 .context = toy.context,
                                 .n_stop = 1,
                                 .stop_ids = stop,
                                 .name = MODEL,
                                 .base = BASE,
                                 .tokenizer = "bytes" };
    return 0;
}

/* ---- the engine ---- */

static const struct claas_option settings[] = {
    { .name = "learning_rate", .def = "0.5", .type = CLAAS_REAL, .max = 1, .help = "how fast" },
    { .name = "burn", .def = "3", .type = CLAAS_INT, .max = 10, .help = "how hot" },
    { .name = NULL },
};
static const struct claas_option creation[] = {
    { .name = "lora_r", .def = "4", .type = CLAAS_INT, .min = 1, .max = 64, .help = "rank" },
    { .name = "lora_alpha", .def = "8", .type = CLAAS_INT, .min = 1, .max = 64, .help = "scale" },
    { .name = NULL },
};
static const char *const formats[] = { FORMAT, NULL };

static int toy_engine_info(void *self, struct claas_engine_info *out, struct claas_error *err)
{
    static const char *const objectives[] = { "sdpo", NULL };
    (void)self;
    (void)err;
    *out = (struct claas_engine_info){ .size = out->size,
                                       .parallel = 1,
                                       .objectives = objectives,
                                       .formats = formats,
                                       .settings = settings,
                                       .creation = creation,
                                       .option_size = sizeof settings[0] };
    return 0;
}

static int write_version(struct claas_out *out, const char *lines, size_t n,
                         struct claas_error *err)
{
    struct claas_digest state;
    struct claas_digest serve;
    int rc = out->write(out, WEIGHTS, CLAAS_SERVE, lines, n, err);
    rc = rc ? rc : out->write(out, "moments.txt", CLAAS_TRAIN, lines, n, err);
    return rc ? rc : out->seal(out, FORMAT, &state, &serve, err);
}

static int toy_create(void *self, const struct claas_create *create, struct claas_out *out,
                      const struct claas_call *call, struct claas_error *err)
{
    (void)self;
    (void)call;
    toy.last_setting = create->spec[0].i;
    count(&toy.creates);
    return write_version(out, "", 0, err);
}

static int read_lines(const struct claas_version *version, struct buf *out, struct claas_error *err)
{
    const char *path = NULL;
    int rc = version->path(version, WEIGHTS, &path, err);
    return rc ? rc : file_read(path, 1 << 20, out, err);
}

static void look_at(const struct claas_train *t)
{
    const struct claas_step *step = t->steps[t->n_steps - 1];
    const struct claas_sample *s = step->samples[step->n_samples - 1];
    struct buf teacher = BUF_INIT;
    spell(s->teacher, s->n_teacher, 1, &teacher);
    (void)pthread_mutex_lock(&toy.mutex);
    toy.keys[toy.trains % TOY_TRAINS] = t->key;
    toy.seeds[toy.trains % TOY_TRAINS] = t->seed;
    toy.trains++;
    toy.last_setting = step->settings[1].i;
    toy.last_steps = t->n_steps;
    toy.last_n_response = s->n_response;
    toy.last_logprob = s->logprobs[s->n_response - 1];
    toy.last_age = s->age;
    (void)snprintf(toy.last_teacher, sizeof toy.last_teacher, "%s", buf_str(&teacher));
    (void)pthread_mutex_unlock(&toy.mutex);
    buf_clear(&teacher);
}

/* Waits at the gate as a long step computes: looking now and then whether it is still wanted. */
static int pass_gate(const int *closed, int *at_gate, const struct claas_call *call, struct claas_error *err)
{
    int wanted = 1;
    (void)pthread_mutex_lock(&toy.mutex);
    (*at_gate)++;
    (void)pthread_cond_broadcast(&toy.changed);
    while (*closed && wanted) {
        int64_t until = clock_real_ns() + 5000000;
        struct timespec t = { .tv_sec = until / 1000000000, .tv_nsec = until % 1000000000 };
        (void)pthread_cond_timedwait(&toy.changed, &toy.mutex, &t); /* late is fine too */
        wanted = !call || call->left_ms(call) > 0;
    }
    (void)pthread_mutex_unlock(&toy.mutex);
    return wanted ? 0 : err_set(err, CLAAS_ERR_CANCELLED, NULL, "this was called off");
}

static int toy_train(void *self, const struct claas_train *t, struct claas_out *out,
                     const struct claas_call *call, struct claas_error *err)
{
    struct buf lines = BUF_INIT;
    (void)self;
    look_at(t);
    int rc = pass_gate(&toy.train_gate, &toy.at_train_gate, call, err);
    if (rc == 0 && is_to_fail(&toy.fail_trains)) {
        rc = err_set(err, CLAAS_ERR_INTERNAL, NULL, "step refused: the loss is not a number");
    }
    rc = rc ? rc : read_lines(t->from, &lines, err);
    if (rc == 0 && toy.in_train) {
        toy.in_train();
    }
    for (uint32_t i = 0; rc == 0 && i < t->n_steps; i++) {
        buf_addf(&lines, "step %u\n", i);
        out->metric(out, i, "total_loss", 0.5 / (i + 1));
        out->metric(out, i, "grad_norm", 1);
    }
    if (rc == 0 && toy.spoil) {
        out->metric(out, t->n_steps - 1, toy.spoil, toy.spoilt);
    }
    rc = rc ? rc : write_version(out, buf_str(&lines), lines.len, err);
    buf_clear(&lines);
    return rc;
}

/* ---- inference ---- */

static int toy_inference_info(void *self, struct claas_inference_info *out, struct claas_error *err)
{
    (void)self;
    (void)err;
    *out = (struct claas_inference_info){ .size = out->size, .flags = CLAAS_CAN_TOP, .max_top = TOY_TOP, .formats = formats };
    return 0;
}

/* Where in the list of what is loaded, n_loaded if it is not. Under the mutex. */
static size_t loaded_at(const struct claas_digest *serve)
{
    size_t i = 0;
    while (i < n_loaded && !sha256_equal(&loaded[i], serve)) {
        i++;
    }
    return i;
}

static int toy_load(void *self, const struct claas_version *version, const struct claas_call *call,
                    struct claas_error *err)
{
    (void)self;
    (void)call;
    if (is_to_fail(&toy.fail_loads)) {
        return err_set(err, CLAAS_ERR_EXHAUSTED, NULL, "there is no memory for '%s'",
                       version->label);
    }
    (void)pthread_mutex_lock(&toy.mutex);
    size_t at = loaded_at(&version->serve);
    if (at >= sizeof loaded / sizeof loaded[0]) {
        abort(); /* an assertion of check allocates, and a test may just let that fail */
    }
    loaded[at] = version->serve;
    n_loaded += at == n_loaded;
    toy.loads++;
    (void)pthread_mutex_unlock(&toy.mutex);
    return 0;
}

static int toy_unload(void *self, const struct claas_digest *serve, const struct claas_call *call,
                      struct claas_error *err)
{
    (void)self;
    (void)call;
    (void)err;
    (void)pthread_mutex_lock(&toy.mutex);
    size_t at = loaded_at(serve);
    if (at < n_loaded) {
        loaded[at] = loaded[--n_loaded];
    }
    (void)pthread_mutex_unlock(&toy.mutex);
    return 0;
}

static int what_to_say(const struct claas_version *version, struct buf *out,
                       struct claas_error *err)
{
    struct buf lines = BUF_INIT;
    int n = 0;
    int rc = version ? read_lines(version, &lines, err) : 0;
    for (size_t i = 0; i < lines.len; i++) {
        n += lines.data[i] == '\n';
    }
    if (toy.say) {
        buf_adds(out, toy.say);
    } else if (version) {
        buf_addf(out, "v%d", n);
    } else {
        buf_adds(out, "base");
    }
    buf_clear(&lines);
    return rc;
}

/* Token by token; each piece has the text of the token before, the last one all that is left. */
static int say_slowly(const struct claas_stream *out, const struct claas_piece *all, const struct claas_call *call,
                      struct claas_error *err)
{
    int rc = 0;
    int stop = 0;
    for (uint32_t i = 0; i < all->n && !rc && !stop; i++) {
        struct claas_piece one = *all;
        int last = i + 1 == all->n;
        uint32_t from = i == 0 ? 0 : i - 1;
        one.ids += i;
        one.logprobs += i;
        one.top_ids += (size_t)i * all->n_top;
        one.top_logprobs += (size_t)i * all->n_top;
        one.n = 1;
        one.text += from;
        one.text_bytes = last ? all->text_bytes - from : i - from;
        one.flags = last ? CLAAS_PIECE_LAST : 0;
        one.finish = last ? all->finish : NULL;
        one.end_tokens = last ? all->end_tokens : 0;
        stop = tell(out, &one);
        if (i == 0 && !stop) {
            rc = pass_gate(&toy.gate_answers, &toy.at_answer_gate, call, err);
        }
    }
    return rc;
}

static int toy_generate(void *self, const struct claas_generate *g, const struct claas_stream *out,
                        const struct claas_call *call, struct claas_error *err)
{
    struct buf text = BUF_INIT;
    int32_t ids[128];
    int32_t top_ids[128 * TOY_TOP];
    float logprobs[128];
    float top_logprobs[128 * TOY_TOP];
    uint32_t n = 0;
    (void)self;
    (void)pthread_mutex_lock(&toy.mutex);
    toy.last_scope = g->scope;
    toy.not_loaded += g->version && loaded_at(&g->version->serve) == n_loaded;
    (void)pthread_mutex_unlock(&toy.mutex);
    int rc = what_to_say(g->version, &text, err);
    if (rc) {
        buf_clear(&text);
        return rc;
    }
    ck_assert_uint_lt(text.len, 127);
    for (; n < text.len && n < g->max_tokens; n++) {
        ids[n] = (unsigned char)text.data[n];
    }
    int ends = n < g->max_tokens;
    struct claas_piece last = { .size = sizeof last,
                                .flags = CLAAS_PIECE_LAST,
                                .ids = ids,
                                .logprobs = logprobs,
                                .top_ids = top_ids,
                                .top_logprobs = top_logprobs,
                                .text = buf_str(&text),
                                .finish = ends ? "stop" : "length",
                                .n_top = g->n_top,
                                .text_bytes = n,
                                .end_tokens = (uint32_t)ends };
    if (ends) {
        ids[n++] = TOY_END;
    }
    for (uint32_t i = 0; i < n; i++) {
        logprobs[i] = -0.125f * (float)(ids[i] % 4 + 1);
        for (uint32_t k = 0; k < g->n_top; k++) { /* "y", "z" might have been said as well */
            top_ids[i * g->n_top + k] = k == 0 && toy.top_id ? toy.top_id : 'y' + (int32_t)k;
            top_logprobs[i * g->n_top + k] = -2.0f - (float)k;
        }
    }
    last.n = n;
    const struct claas_piece first = {
        .size = sizeof first, .flags = CLAAS_PIECE_PROMPT, .ids = g->prompt, .n = g->n_prompt
    };
    struct claas_error cut = ERR_INIT;
    if (toy.cut_answers) {
        last.n = 1;
        last.text_bytes = 1;
        last.flags = 0;
        last.end_tokens = 0;
        (void)err_set(&cut, toy.cut_answers, NULL, "the answer was called off");
    }
    if (tell(out, &first) == 0) {
        if (toy.drip) {
            (void)say_slowly(out, &last, call, &cut);
        } else {
            (void)tell(out, &last); /* it was the last one anyway */
        }
    }
    buf_clear(&text);
    out->done(out->ctx, cut.code ? &cut : NULL);
    return 0;
}

static int toy_pause(void *self, const struct claas_call *call, struct claas_error *err)
{
    (void)self;
    (void)call;
    count(&toy.pauses);
    toy.paused = 1; /* also when it fails half-way */
    return is_to_fail(&toy.fail_pauses)
               ? err_set(err, CLAAS_ERR_UNAVAILABLE, NULL, "the device is still busy")
               : 0;
}

static int toy_resume(void *self, const struct claas_call *call, struct claas_error *err)
{
    (void)self;
    (void)call;
    (void)err;
    count(&toy.resumes);
    toy.paused = 0;
    return 0;
}

/* ---- the plugin ---- */

static int toy_open(const struct claas_host *host, uint32_t kinds, const struct claas_value *values,
                    const struct claas_call *call, void **out_self, struct claas_error *err)
{
    (void)host;
    (void)kinds;
    (void)values;
    (void)call;
    (void)err;
    *out_self = NULL;
    return 0;
}

static void toy_close(void *self)
{
    (void)self;
}

static const struct claas_engine engine = {
    .size = sizeof engine, .info = toy_engine_info, .create = toy_create, .train = toy_train
};
static const struct claas_inference inference = { .size = sizeof inference,
                                                  .info = toy_inference_info,
                                                  .generate = toy_generate,
                                                  .load = toy_load,
                                                  .unload = toy_unload,
                                                  .pause = toy_pause,
                                                  .resume = toy_resume };
static const struct claas_text text = {
    .size = sizeof text, .render = toy_render, .encode = toy_encode, .decode = toy_decode
};
static const struct claas_plugin plugin = { .size = sizeof plugin,
                                            .abi = CLAAS_ABI,
                                            .name = "toy",
                                            .version = "1",
                                            .summary = "a toy",
                                            .licence = "MIT",
                                            .flags = CLAAS_PARALLEL,
                                            .option_size = sizeof(struct claas_option),
                                            .open = toy_open,
                                            .close = toy_close,
                                            .model = toy_model,
                                            .engine = &engine,
                                            .inference = &inference,
                                            .text = &text };

static void house_open(struct toy_house *house)
{
    struct claas_error err = ERR_INIT;
    struct host_module *module = NULL;
    struct option_values none = { 0 };
    ck_ok(repo_open(&repo, toy.storage, NULL, &err), err);
    ck_ok(host_module_register(repo.host, &plugin, &module, &err), err);
    ck_ok(option_begin(&none, host_module_options(module), &err), err);
    *house = (struct toy_house){ .root = test_root, .adapters = repo.a };
    ck_ok(host_instance_open(module, "engine", CLAAS_ENGINE | CLAAS_INFERENCE | CLAAS_TEXT_KIND,
                             &none, NULL, NULL, &house->instance, &err),
          err);
}

static void house_close(struct toy_house *house)
{
    host_instance_close(house->instance);
    repo_close(&repo);
    *house = (struct toy_house){ 0 };
}

void toy_house_open(struct toy_house *house)
{
    test_root_make();
    house_open(house);
}

void toy_house_close(struct toy_house *house)
{
    house_close(house);
    test_root_remove();
}

void toy_house_reopen(struct toy_house *house)
{
    house_close(house);
    n_loaded = 0; /* what was loaded went with the instance */
    house_open(house);
}

int toy_commit(struct adapters *a, const char *id, uint64_t expected, const char *job,
               const char *lines)
{
    struct claas_error err = ERR_INIT;
    struct adapter_out *out = NULL;
    struct adapter_entry *entry = NULL;
    const struct adapter_out_params params = { .id = id, .base = BASE };
    const struct adapter_commit c = {
        .kind = ADAPTER_STEP, .job = job, .expected = expected, .engine = "toy", .base_name = MODEL
    };
    int rc = adapter_out_new(a, &params, &out, &err);
    rc = rc ? rc : write_version(adapter_out_abi(out), lines, strlen(lines), &err);
    rc = rc ? rc : adapter_commit(a, id, &c, out, NULL, &entry, &err);
    adapter_entry_unref(entry);
    adapter_out_free(out);
    return rc;
}
