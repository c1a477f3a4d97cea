/* SPDX-License-Identifier: MIT */
/* Calls through the host, over registered tables: who may run beside whom, what comes back, what is refused. */
#include "config.h"

#include "testing.h"

#include "base/clock.h"
#include "base/log.h"
#include "host/host.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct host *host;
static struct host_module *module;
static struct host_instance *instance;
static struct claas_error err;

static void pause_ms(int ms)
{
    (void)usleep((useconds_t)ms * 1000);
}

/* ---- the plugin under test: every function does what `act` says ------------------------------------------------- */

enum act { FINE, SILENT, LOUD, STRANGE, ODD };
static enum act act;
static int slow_ms;
static atomic_int inside;
static atomic_int most_inside;
static atomic_int closes;
static const struct claas_host *lent;

static int serve(struct claas_error *e)
{
    int now = atomic_fetch_add(&inside, 1) + 1;
    int most = atomic_load(&most_inside);
    while (now > most && !atomic_compare_exchange_weak(&most_inside, &most, now)) {
    }
    if (slow_ms) {
        pause_ms(slow_ms);
    }
    atomic_fetch_sub(&inside, 1);
    switch (act) {
    case SILENT:
        return CLAAS_ERR_CONFLICT;
    case LOUD:
        (void)snprintf(e->message, sizeof e->message, "the peer\nsaid no");
        (void)snprintf(e->what, sizeof e->what, "url");
        e->flags = CLAAS_MAYBE | 0x80;
        e->retry_after_ms = 1500;
        return CLAAS_ERR_UNAVAILABLE;
    case STRANGE:
        memset(e->message, 0xff, sizeof e->message);
        return -5;
    default:
        return 0;
    }
}

static int t_open(const struct claas_host *h, uint32_t kinds, const struct claas_value *values,
                  const struct claas_call *call, void **out_self, struct claas_error *e)
{
    sigset_t mask;
    (void)kinds;
    (void)values;
    (void)call;
    ck_assert_int_eq(pthread_sigmask(SIG_BLOCK, NULL, &mask), 0);
    ck_assert_int_eq(sigismember(&mask, SIGTERM), 1);
    lent = h;
    *out_self = &act;
    return serve(e);
}

static void t_close(void *self)
{
    ck_assert_ptr_eq(self, &act);
    ck_assert_int_eq(atomic_load(&inside), 0);
    atomic_fetch_add(&closes, 1);
}

static int t_status(void *self, struct claas_status *out)
{
    (void)self;
    out->state = act == ODD ? 99 : CLAAS_READY;
    memset(out->text, 'x', sizeof out->text);
    return 0;
}

static int t_model(void *self, struct claas_model *out, struct claas_error *e)
{
    (void)self;
    (void)e;
    out->vocab = 7;
    out->n_stop = 3;
    return 0;
}

static int t_reload(void *self, const struct claas_value *values, struct claas_error *e)
{
    (void)self;
    (void)values;
    return serve(e);
}

static int t_probe(void *self, uint32_t *out_caps, const struct claas_call *call, struct claas_error *e)
{
    (void)self;
    (void)call;
    *out_caps = 1;
    return serve(e);
}

static int t_put(void *self, const char *key, const struct claas_put *put, const struct claas_call *call,
                 struct claas_error *e)
{
    (void)self;
    (void)key;
    (void)put;
    (void)call;
    return serve(e);
}

static int t_get(void *self, const char *key, uint64_t from, uint64_t bytes, int32_t fd, struct claas_object *out,
                 const struct claas_call *call, struct claas_error *e)
{
    (void)self;
    (void)key;
    (void)from;
    (void)bytes;
    (void)fd;
    (void)call;
    out->bytes = 5;
    return serve(e);
}

static int t_head(void *self, const char *key, struct claas_object *out, const struct claas_call *call,
                  struct claas_error *e)
{
    (void)self;
    (void)key;
    (void)call;
    out->bytes = 9;
    return serve(e);
}

static const char *const *listed;

static int t_list(void *self, const char *prefix, const char *after, uint32_t limit,
                  int (*each)(void *ctx, const char *key, const struct claas_object *object), void *ctx,
                  const struct claas_call *call, struct claas_error *e)
{
    struct claas_object object = { .size = sizeof object, .bytes = 1 };
    (void)self;
    (void)prefix;
    (void)after;
    (void)limit;
    (void)call;
    /* Does not listen to each(): the host must cope. */
    for (const char *const *key = listed; *key; key++) {
        (void)each(ctx, *key, &object);
    }
    return serve(e);
}

static int t_remove(void *self, const char *const *keys, uint32_t n, const struct claas_call *call,
                    struct claas_error *e)
{
    (void)self;
    (void)keys;
    (void)n;
    (void)call;
    return serve(e);
}

static int t_path(void *self, const char *key, char *buf, size_t cap, struct claas_error *e)
{
    (void)self;
    (void)e;
    if (act == ODD) {
        memset(buf, 'x', cap);
        return 0;
    }
    (void)snprintf(buf, cap, "/store/%s", key);
    return 0;
}

static int t_engine_info(void *self, struct claas_engine_info *out, struct claas_error *e)
{
    static const struct claas_option settings[] = {
        { "rate", "1", NULL, "rate", 0, 1, CLAAS_REAL, 0 },
        { NULL, NULL, NULL, NULL, 0, 0, 0, 0 },
    };
    static const struct claas_option odd[] = {
        { "RATE", "1", NULL, "rate", 0, 1, CLAAS_REAL, 0 },
        { NULL, NULL, NULL, NULL, 0, 0, 0, 0 },
    };
    (void)self;
    out->settings = act == ODD ? odd : settings;
    out->option_size = sizeof settings[0];
    return act == ODD ? 0 : serve(e);
}

static int t_create(void *self, const struct claas_create *create, struct claas_out *out,
                    const struct claas_call *call, struct claas_error *e)
{
    (void)self;
    (void)create;
    (void)out;
    (void)call;
    return serve(e);
}

static int t_train(void *self, const struct claas_train *train, struct claas_out *out, const struct claas_call *call,
                   struct claas_error *e)
{
    (void)self;
    (void)train;
    (void)out;
    /* A well-behaved long call: looks at its token. */
    for (int i = 0; call && i < 1000; i++) {
        call->progress(call, (uint64_t)i, 1000, "rows");
        if (call->left_ms(call) == 0) {
            return CLAAS_ERR_CANCELLED;
        }
        pause_ms(5);
    }
    return serve(e);
}

static int t_inference_info(void *self, struct claas_inference_info *out, struct claas_error *e)
{
    (void)self;
    out->max_top = 20;
    return serve(e);
}

static int t_load(void *self, const struct claas_version *version, const struct claas_call *call,
                  struct claas_error *e)
{
    (void)self;
    (void)version;
    (void)call;
    return serve(e);
}

static int t_unload(void *self, const struct claas_digest *digest, const struct claas_call *call,
                    struct claas_error *e)
{
    (void)self;
    (void)digest;
    (void)call;
    return serve(e);
}

static int t_score(void *self, const struct claas_score *score, const struct claas_call *call, struct claas_error *e)
{
    (void)self;
    (void)call;
    for (uint32_t i = 0; i < score->n_response; i++) {
        score->out_logprobs[i] = act == ODD ? NAN : -1.0f;
    }
    return serve(e);
}

/* How generate behaves. */
enum manner { DONE_BEFORE, DONE_LATER, REFUSE, REFUSE_AFTER_DONE, DONE_ERROR, DONE_STOPPED, PIECE_NAN, PIECE_HUGE, PIECE_OLD };
static enum manner manner;
static pthread_t later;

static void one_piece(const struct claas_stream *stream)
{
    int32_t ids[2] = { 1, 2 };
    float logprobs[2] = { -0.5f, manner == PIECE_NAN ? NAN : -1.0f };
    struct claas_piece piece = { .size = sizeof piece, .ids = ids, .logprobs = logprobs, .n = 2, .text = "hi",
                                 .text_bytes = 2, .end_tokens = 1 };
    if (manner == PIECE_HUGE) {
        piece.n = UINT32_MAX;
    }
    if (manner == PIECE_OLD) {
        /* A table of before `text` was there: nobody may look behind it. */
        piece.size = offsetof(struct claas_piece, text);
    }
    int rc = stream->piece(stream->ctx, &piece);
    if (manner == PIECE_NAN || manner == PIECE_HUGE) {
        ck_assert_int_ne(rc, 0);
    }
}

static void *t_later(void *arg)
{
    const struct claas_stream *stream = arg;
    pause_ms(100);
    one_piece(stream);
    atomic_fetch_sub(&inside, 1);
    stream->done(stream->ctx, NULL);
    return NULL;
}

static int t_generate(void *self, const struct claas_generate *generate, const struct claas_stream *stream,
                      const struct claas_call *call, struct claas_error *e)
{
    struct claas_error why = { .size = sizeof why, .code = CLAAS_ERR_EXHAUSTED, .message = "no memory" };
    (void)self;
    (void)generate;
    switch (manner) {
    case DONE_LATER:
        atomic_fetch_add(&inside, 1);
        return pthread_create(&later, NULL, t_later, (void *)(uintptr_t)stream) == 0 ? 0 : CLAAS_ERR_INTERNAL;
    case REFUSE:
        (void)snprintf(e->message, sizeof e->message, "no such model");
        return CLAAS_ERR_NOT_FOUND;
    case REFUSE_AFTER_DONE:
        stream->done(stream->ctx, NULL);
        return CLAAS_ERR_NOT_FOUND;
    case DONE_ERROR:
        stream->done(stream->ctx, &why);
        return 0;
    case DONE_STOPPED:
        while (call->left_ms(call) > 0) {
            pause_ms(1);
        }
        why.code = CLAAS_ERR_CANCELLED;
        stream->done(stream->ctx, &why);
        return 0;
    default:
        one_piece(stream);
        stream->done(stream->ctx, NULL);
        return 0;
    }
}

/* Gives an id in two halves: a sink takes pieces of any size. */
static int t_encode(void *self, const char *text, size_t n, uint32_t flags, struct claas_sink *ids,
                    struct claas_error *e)
{
    (void)self;
    (void)flags;
    for (size_t i = 0; i < n; i++) {
        int32_t id = act == ODD ? -1 : text[i];
        char bytes[sizeof id];
        memcpy(bytes, &id, sizeof id);
        if (ids->put(ids->ctx, bytes, 1) != 0 || ids->put(ids->ctx, bytes + 1, sizeof id - 1) != 0) {
            return CLAAS_ERR_INTERNAL;
        }
    }
    return serve(e);
}

static int t_decode(void *self, const int32_t *ids, size_t n, uint32_t flags, struct claas_sink *text,
                    struct claas_error *e)
{
    (void)self;
    (void)flags;
    for (size_t i = 0; i < n; i++) {
        char c = (char)ids[i];
        if (text->put(text->ctx, &c, 1) != 0) {
            return CLAAS_ERR_INTERNAL;
        }
    }
    return serve(e);
}

static const struct claas_option options[] = {
    { "root", "/tmp", NULL, "root", 1, 0, CLAAS_PATH, 0 },
    { "key", NULL, NULL, "key", 1, 0, CLAAS_TEXT, CLAAS_SECRET },
    { NULL, NULL, NULL, NULL, 0, 0, 0, 0 },
};
static struct claas_storage storage;
static struct claas_engine engine;
static struct claas_inference inference;
static struct claas_text text;
static struct claas_plugin plugin;

static void tables_reset(void)
{
    storage = (struct claas_storage){ .size = sizeof storage, .probe = t_probe, .put = t_put, .get = t_get,
                                      .head = t_head, .list = t_list, .remove = t_remove, .path = t_path };
    engine = (struct claas_engine){ .size = sizeof engine, .info = t_engine_info, .create = t_create,
                                    .train = t_train };
    inference = (struct claas_inference){ .size = sizeof inference, .info = t_inference_info, .generate = t_generate,
                                          .score = t_score, .load = t_load, .unload = t_unload };
    text = (struct claas_text){ .size = sizeof text, .encode = t_encode, .decode = t_decode };
    plugin = (struct claas_plugin){ .size = sizeof plugin, .abi = CLAAS_ABI, .name = "test", .version = "1",
                                    .summary = "a test", .licence = "MIT", .flags = CLAAS_PARALLEL,
                                    .option_size = sizeof options[0], .options = options, .open = t_open,
                                    .close = t_close, .reload = t_reload, .status = t_status, .model = t_model,
                                    .engine = &engine, .storage = &storage, .inference = &inference, .text = &text };
}

static void setup(void)
{
    tables_reset();
    act = FINE;
    manner = DONE_BEFORE;
    slow_ms = 0;
    listed = NULL;
    atomic_store(&inside, 0);
    atomic_store(&most_inside, 0);
    atomic_store(&closes, 0);
    err_clear(&err);
    log_set_level(LOG_ERROR - 1);
    ck_ok(host_new(&host, "/nowhere", &err), err);
}

static void teardown(void)
{
    host_instance_close(instance);
    instance = NULL;
    host_free(host);
}

static int open_as(uint32_t kinds, struct host_instance **out)
{
    struct option_values values = { 0 };
    int rc = module ? 0 : host_module_register(host, &plugin, &module, &err);
    if (rc == 0) {
        rc = option_values_from_json(&values, host_module_options(module), NULL, NULL, NULL, NULL, &err);
    }
    if (rc == 0) {
        rc = host_instance_open(module, "one", kinds, &values, NULL, NULL, out, &err);
    }
    option_values_clear(&values);
    return rc;
}

static void open_fine(uint32_t flags, uint32_t kinds)
{
    plugin.flags = flags;
    ck_ok(open_as(kinds, &instance), err);
}

/* ---- tables --------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *what;
    int code;
    const char *message;
} broken[] = {
    { "abi", CLAAS_ERR_UNSUPPORTED, "it was built for ABI 1.0, this host has 0.1" },
    { "size", CLAAS_ERR_UNSUPPORTED, "its plugin table says it is 16 bytes long" },
    { "huge", CLAAS_ERR_UNSUPPORTED, "its plugin table says it is 1048576 bytes long" },
    { "name", CLAAS_ERR_INVALID, "calls itself" },
    { "licence", CLAAS_ERR_INVALID, "does not tell its version, summary and licence" },
    { "open", CLAAS_ERR_INVALID, "no function open" },
    { "kinds", CLAAS_ERR_INVALID, "offers neither" },
    { "put", CLAAS_ERR_INVALID, "a storage needs" },
    { "train", CLAAS_ERR_INVALID, "an engine needs" },
    { "load", CLAAS_ERR_INVALID, "an inference needs" },
    { "decode", CLAAS_ERR_INVALID, "text needs" },
    { "storage_size", CLAAS_ERR_UNSUPPORTED, "its storage table says it is 8 bytes long" },
    { "stride", CLAAS_ERR_INVALID, "rows of its option table are 3 bytes long" },
};

static void break_it(const char *what)
{
    plugin.abi = strcmp(what, "abi") == 0 ? 1u << 16 : plugin.abi;
    plugin.size = strcmp(what, "size") == 0 ? 16 : strcmp(what, "huge") == 0 ? 1 << 20 : plugin.size;
    plugin.name = strcmp(what, "name") == 0 ? "Te/st" : plugin.name;
    plugin.licence = strcmp(what, "licence") == 0 ? NULL : plugin.licence;
    plugin.open = strcmp(what, "open") == 0 ? NULL : plugin.open;
    storage.put = strcmp(what, "put") == 0 ? NULL : storage.put;
    engine.train = strcmp(what, "train") == 0 ? NULL : engine.train;
    inference.load = strcmp(what, "load") == 0 ? NULL : inference.load;
    text.decode = strcmp(what, "decode") == 0 ? NULL : text.decode;
    storage.size = strcmp(what, "storage_size") == 0 ? 8 : storage.size;
    plugin.option_size = strcmp(what, "stride") == 0 ? 3 : plugin.option_size;
    if (strcmp(what, "kinds") == 0) {
        plugin.engine = NULL;
        plugin.storage = NULL;
        plugin.inference = NULL;
        plugin.text = NULL;
    }
}

START_TEST(broken_tables_are_refused)
{
    break_it(broken[_i].what);
    ck_failed(host_module_register(host, &plugin, &module, &err), broken[_i].code, err);
    ck_assert_msg(strstr(err.message, broken[_i].message) != NULL, "'%s' not in: %s", broken[_i].message, err.message);
}
END_TEST

START_TEST(a_longer_table_is_taken)
{
    /* A newer plugin: more behind what we know, which nobody here reads. */
    struct {
        struct claas_storage known;
        void (*unknown)(void);
    } longer = { .known = storage };
    longer.known.size = sizeof longer;
    plugin.storage = &longer.known;
    open_fine(CLAAS_PARALLEL, CLAAS_STORAGE);
    uint32_t caps = 0;
    ck_ok(host_storage_probe(instance, &caps, NULL, &err), err);
    ck_assert_uint_eq(caps, 1);
}
END_TEST

START_TEST(tables_are_copied)
{
    ck_ok(host_module_register(host, &plugin, &module, &err), err);
    storage.probe = NULL;
    open_fine(CLAAS_PARALLEL, CLAAS_STORAGE);
    uint32_t caps = 0;
    ck_ok(host_storage_probe(instance, &caps, NULL, &err), err);
    struct host_module *twice = NULL;
    storage.probe = t_probe;
    ck_failed(host_module_register(host, &plugin, &twice, &err), CLAAS_ERR_CONFLICT, err);
}
END_TEST

/* ---- kinds and rules ------------------------------------------------------------------------------------------------ */

static const struct {
    uint32_t first;
    uint32_t second; /* of another instance of the same module, 0 = none */
    const char *message;
} serial_rules[] = {
    { CLAAS_ENGINE | CLAAS_INFERENCE, 0, "cannot train and serve at once" },
    { CLAAS_ENGINE, CLAAS_INFERENCE, "cannot train and serve at once" },
    { CLAAS_INFERENCE, CLAAS_ENGINE, "cannot train and serve at once" },
    { CLAAS_STORAGE | CLAAS_ENGINE, 0, "cannot be storage and something else at once" },
    { CLAAS_STORAGE, CLAAS_ENGINE, "cannot be storage and something else at once" },
    { CLAAS_STORAGE, CLAAS_STORAGE, NULL },
    { CLAAS_ENGINE, CLAAS_ENGINE, NULL },
};

START_TEST(serial_modules_are_not_combined)
{
    struct host_instance *other = NULL;
    plugin.flags = 0;
    int rc = open_as(serial_rules[_i].first, &instance);
    if (rc == 0 && serial_rules[_i].second) {
        rc = open_as(serial_rules[_i].second, &other);
    }
    if (!serial_rules[_i].message) {
        ck_ok(rc, err);
        host_instance_close(other);
        return;
    }
    ck_failed(rc, CLAAS_ERR_UNSUPPORTED, err);
    ck_assert_ptr_nonnull(strstr(err.message, serial_rules[_i].message));
    ck_assert_ptr_nonnull(strstr(err.message, "CLAAS_PARALLEL"));
}
END_TEST

START_TEST(closing_lifts_the_rule)
{
    plugin.flags = 0;
    ck_ok(open_as(CLAAS_ENGINE, &instance), err);
    host_instance_close(instance);
    instance = NULL;
    ck_assert_int_eq(atomic_load(&closes), 1);
    ck_ok(open_as(CLAAS_STORAGE, &instance), err);
}
END_TEST

START_TEST(parallel_modules_do_everything)
{
    open_fine(CLAAS_PARALLEL, CLAAS_ENGINE | CLAAS_INFERENCE | CLAAS_STORAGE);
    ck_assert_uint_eq(host_instance_kinds(instance),
                      CLAAS_ENGINE | CLAAS_INFERENCE | CLAAS_STORAGE | CLAAS_TEXT_KIND);
    ck_assert(host_has(instance, inference, score));
    ck_assert(!host_has(instance, inference, pause));
}
END_TEST

START_TEST(kinds_not_offered_are_refused)
{
    plugin.engine = NULL;
    ck_failed(open_as(CLAAS_ENGINE | CLAAS_INFERENCE, &instance), CLAAS_ERR_UNSUPPORTED, err);
    ck_assert_str_eq(err.message, "plugin 'test' cannot be used as engine");
    ck_failed(open_as(0, &instance), CLAAS_ERR_UNSUPPORTED, err);
}
END_TEST

START_TEST(kinds_not_opened_cannot_be_called)
{
    struct claas_object object = { .size = 77 };
    open_fine(CLAAS_PARALLEL, CLAAS_ENGINE);
    ck_failed(host_storage_head(instance, "a", &object, NULL, &err), CLAAS_ERR_UNSUPPORTED, err);
    ck_assert_str_eq(err.message, "plugin 'test' has no function storage.head");
    ck_assert_uint_eq(object.size, 77);
}
END_TEST

START_TEST(missing_functions_are_named)
{
    struct host_ids ids = { 0 };
    char buf[64];
    open_fine(CLAAS_PARALLEL, CLAAS_ENGINE | CLAAS_INFERENCE | CLAAS_STORAGE);
    ck_failed(host_inference_pause(instance, NULL, &err), CLAAS_ERR_UNSUPPORTED, err);
    ck_assert_str_eq(err.message, "plugin 'test' has no function inference.pause");
    ck_failed(host_inference_resume(instance, NULL, &err), CLAAS_ERR_UNSUPPORTED, err);
    ck_failed(host_engine_check(instance, NULL, NULL, &err), CLAAS_ERR_UNSUPPORTED, err);
    ck_failed(host_engine_convert(instance, NULL, "x", NULL, NULL, &err), CLAAS_ERR_UNSUPPORTED, err);
    ck_failed(host_engine_release(instance, NULL, 0, NULL, &err), CLAAS_ERR_UNSUPPORTED, err);
    ck_failed(host_storage_spool(instance, buf, sizeof buf, &err), CLAAS_ERR_UNSUPPORTED, err);
    ck_failed(host_text_render(instance, "{}", 0, &ids, &err), CLAAS_ERR_UNSUPPORTED, err);
    ck_assert_ptr_null(host_instance_extension(instance, "claas.import/1"));
}
END_TEST

START_TEST(a_failed_open_leaves_the_values)
{
    struct option_values values = { 0 };
    ck_ok(host_module_register(host, &plugin, &module, &err), err);
    ck_ok(option_values_from_json(&values, host_module_options(module), NULL, NULL, NULL, NULL, &err), err);
    act = LOUD;
    ck_failed(host_instance_open(module, "one", CLAAS_STORAGE, &values, NULL, NULL, &instance, &err),
              CLAAS_ERR_UNAVAILABLE, err);
    ck_assert_ptr_nonnull(values.values);
    ck_assert_int_eq(atomic_load(&closes), 0);
    act = FINE;
    ck_ok(host_instance_open(module, "one", CLAAS_STORAGE, &values, NULL, NULL, &instance, &err), err);
}
END_TEST

/* ---- errors and outputs --------------------------------------------------------------------------------------------- */

START_TEST(errors_are_settled)
{
    struct claas_object object = { .size = 77 };
    uint32_t caps = 9;
    open_fine(CLAAS_PARALLEL, CLAAS_STORAGE);
    act = SILENT;
    ck_failed(host_storage_probe(instance, &caps, NULL, &err), CLAAS_ERR_CONFLICT, err);
    ck_assert_str_eq(err.message, "plugin 'test' failed in storage.probe (conflict) without saying why");
    act = LOUD;
    ck_failed(host_storage_head(instance, "a", &object, NULL, &err), CLAAS_ERR_UNAVAILABLE, err);
    ck_assert_str_eq(err.message, "the peer said no");
    ck_assert_str_eq(err.what, "url");
    ck_assert_uint_eq(err.flags, CLAAS_MAYBE);
    ck_assert_uint_eq(err.retry_after_ms, 1500);
    act = STRANGE;
    ck_failed(host_storage_get(instance, "a", 0, 1, 0, &object, NULL, &err), CLAAS_ERR_INTERNAL, err);
    ck_assert_ptr_nonnull(strstr(err.message, "without saying why"));
    ck_assert_int_eq(host_storage_probe(instance, &caps, NULL, NULL), CLAAS_ERR_INTERNAL);
    ck_assert_uint_eq(object.size, 77);
    ck_assert_uint_eq(caps, 9);
}
END_TEST

START_TEST(answers_about_itself_are_settled)
{
    struct claas_status status;
    struct claas_model model;
    open_fine(CLAAS_PARALLEL, CLAAS_ENGINE);
    ck_ok(host_status(instance, &status, &err), err);
    ck_assert_uint_eq(strlen(status.text), sizeof status.text - 1);
    act = ODD;
    ck_ok(host_status(instance, &status, &err), err);
    ck_assert_int_eq(status.state, CLAAS_DEGRADED);
    ck_ok(host_model(instance, &model, &err), err);
    ck_assert_str_eq(model.base, "");
    ck_assert_uint_eq(model.n_stop, 0);
    ck_assert_uint_eq(model.vocab, 7);
}
END_TEST

START_TEST(engine_info_is_kept)
{
    const struct host_engine_info *info = NULL;
    const struct host_engine_info *again = NULL;
    open_fine(CLAAS_PARALLEL, CLAAS_ENGINE);
    act = ODD;
    ck_failed(host_engine_info(instance, &info, &err), CLAAS_ERR_INVALID, err);
    act = FINE;
    ck_ok(host_engine_info(instance, &info, &err), err);
    ck_assert_uint_eq(info->parallel, 1);
    ck_assert_ptr_null(info->exports[0]);
    ck_assert_uint_eq(info->settings->n, 1);
    ck_assert_uint_eq(info->creation->n, 0);
    act = LOUD;
    ck_ok(host_engine_info(instance, &again, &err), err);
    ck_assert_ptr_eq(info, again);
}
END_TEST

static const char *const bad_keys[] = { "", "/a", "a/", "a//b", "..", "a/../b", "./a", "a b", "a\\b", "\xC3\xA9", "a\n" };

START_TEST(keys_are_checked)
{
    struct claas_put put = { .size = sizeof put };
    const char *keys[] = { "good", bad_keys[_i] };
    open_fine(CLAAS_PARALLEL, CLAAS_STORAGE);
    ck_failed(host_storage_put(instance, bad_keys[_i], &put, NULL, &err), CLAAS_ERR_INVALID, err);
    ck_failed(host_storage_remove(instance, keys, 2, NULL, &err), CLAAS_ERR_INVALID, err);
    ck_assert_int_eq(atomic_load(&most_inside), 1); /* open alone came to the plugin */
    ck_ok(host_storage_put(instance, "log/ada~tutor/00000008._-", &put, NULL, &err), err);
}
END_TEST

START_TEST(long_keys_are_checked)
{
    char key[1000];
    struct claas_put put = { .size = sizeof put };
    open_fine(CLAAS_PARALLEL, CLAAS_STORAGE);
    memset(key, 'a', sizeof key);
    key[241] = '\0';
    ck_failed(host_storage_put(instance, key, &put, NULL, &err), CLAAS_ERR_INVALID, err);
    key[240] = '\0';
    ck_ok(host_storage_put(instance, key, &put, NULL, &err), err);
    for (int i = 0; i < 900; i++) {
        key[i] = i % 200 == 199 ? '/' : 'a';
    }
    key[900] = '\0';
    ck_ok(host_storage_put(instance, key, &put, NULL, &err), err);
    key[900] = 'a';
    key[901] = '\0';
    ck_failed(host_storage_put(instance, key, &put, NULL, &err), CLAAS_ERR_INVALID, err);
}
END_TEST

static int count_each(void *ctx, const char *key, const struct claas_object *object)
{
    int *n = ctx;
    ck_assert_uint_eq(object->bytes, 1);
    ck_assert_int_eq(key[0], 'b');
    (*n)++;
    return *n == 3;
}

START_TEST(lists_are_held_to_their_order)
{
    static const char *const good[] = { "b/1", "b/2", "b/3", "b/4", NULL };
    static const char *const disorder[] = { "b/2", "b/1", NULL };
    static const char *const twice[] = { "b/2", "b/2", NULL };
    static const char *const foreign[] = { "b/2", "c/1", NULL };
    static const char *const trick[] = { "b/../x", NULL };
    static const char *const *const bad_lists[] = { disorder, twice, foreign, trick };
    int n = 0;
    open_fine(CLAAS_PARALLEL, CLAAS_STORAGE);
    listed = good;
    ck_ok(host_storage_list(instance, "b/", NULL, 0, count_each, &n, NULL, &err), err);
    ck_assert_int_eq(n, 3);
    n = 0;
    ck_ok(host_storage_list(instance, "b/", NULL, 2, count_each, &n, NULL, &err), err);
    ck_assert_int_eq(n, 2);
    n = 0;
    ck_failed(host_storage_list(instance, "b/", "b/1", 0, count_each, &n, NULL, &err), CLAAS_ERR_INTERNAL, err);
    for (size_t i = 0; i < 4; i++) {
        n = 0;
        listed = bad_lists[i];
        ck_failed(host_storage_list(instance, "b/", "", 0, count_each, &n, NULL, &err), CLAAS_ERR_INTERNAL, err);
    }
    ck_failed(host_storage_list(instance, "../", "", 0, count_each, &n, NULL, &err), CLAAS_ERR_INVALID, err);
}
END_TEST

START_TEST(paths_are_checked)
{
    char buf[32] = "";
    open_fine(CLAAS_PARALLEL, CLAAS_STORAGE);
    ck_ok(host_storage_path(instance, "a/b", buf, sizeof buf, &err), err);
    ck_assert_str_eq(buf, "/store/a/b");
    act = ODD;
    ck_failed(host_storage_path(instance, "a", buf, sizeof buf, &err), CLAAS_ERR_INTERNAL, err);
}
END_TEST

START_TEST(text_goes_both_ways)
{
    struct host_ids ids = { 0 };
    struct buf out = BUF_INIT;
    open_fine(CLAAS_PARALLEL, CLAAS_INFERENCE);
    ck_ok(host_text_encode(instance, "hey", 3, 0, &ids, &err), err);
    ck_assert_uint_eq(ids.n, 3);
    ck_assert_int_eq(ids.ids[2], 'y');
    ck_ok(host_text_decode(instance, ids.ids, ids.n, 0, &out, &err), err);
    ck_assert_str_eq(buf_str(&out), "hey");
    act = ODD;
    ck_failed(host_text_encode(instance, "x", 1, 0, &ids, &err), CLAAS_ERR_INTERNAL, err);
    ck_assert_ptr_nonnull(strstr(err.message, "a negative token id"));
    act = LOUD;
    ck_failed(host_text_encode(instance, "x", 1, 0, &ids, &err), CLAAS_ERR_UNAVAILABLE, err);
    ck_failed(host_text_decode(instance, ids.ids, 1, 0, &out, &err), CLAAS_ERR_UNAVAILABLE, err);
    ck_assert_uint_eq(ids.n, 3);
    ck_assert_str_eq(buf_str(&out), "hey");
    ck_failed(host_text_encode(instance, "\xFF", 1, 0, &ids, &err), CLAAS_ERR_INVALID, err);
    host_ids_clear(&ids);
    buf_clear(&out);
}
END_TEST

START_TEST(scores_are_numbers)
{
    float out[2] = { 0, 0 };
    struct claas_score score = { .size = sizeof score, .n_response = 2, .out_logprobs = out };
    open_fine(CLAAS_PARALLEL, CLAAS_INFERENCE);
    ck_ok(host_inference_score(instance, &score, NULL, &err), err);
    ck_assert(out[1] == -1.0f);
    act = ODD;
    ck_failed(host_inference_score(instance, &score, NULL, &err), CLAAS_ERR_INTERNAL, err);
}
END_TEST

/* ---- threads -------------------------------------------------------------------------------------------------------- */

static void *put_some(void *arg)
{
    struct claas_put put = { .size = sizeof put };
    struct claas_error e = ERR_INIT;
    (void)arg;
    for (int i = 0; i < 5; i++) {
        ck_ok(host_storage_put(instance, "a", &put, NULL, &e), e);
    }
    return NULL;
}

static void put_from_threads(void)
{
    pthread_t threads[4];
    slow_ms = 5;
    for (size_t i = 0; i < 4; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, put_some, NULL), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    }
    slow_ms = 0;
}

START_TEST(serial_modules_run_alone)
{
    open_fine(0, CLAAS_STORAGE);
    put_from_threads();
    ck_assert_int_eq(atomic_load(&most_inside), 1);
}
END_TEST

START_TEST(parallel_modules_run_together)
{
    open_fine(CLAAS_PARALLEL, CLAAS_STORAGE);
    put_from_threads();
    ck_assert_int_gt(atomic_load(&most_inside), 1);
}
END_TEST

static void *put_slowly(void *arg)
{
    struct claas_put put = { .size = sizeof put };
    struct claas_error e = ERR_INIT;
    (void)arg;
    ck_ok(host_storage_put(instance, "a", &put, NULL, &e), e);
    return NULL;
}

START_TEST(waiting_ends_with_the_token)
{
    pthread_t thread;
    struct host_call call;
    struct claas_put put = { .size = sizeof put };
    struct claas_status status;
    open_fine(0, CLAAS_STORAGE);
    slow_ms = 1500;
    ck_assert_int_eq(pthread_create(&thread, NULL, put_slowly, NULL), 0);
    while (atomic_load(&inside) == 0) {
        pause_ms(1);
    }
    int64_t start = clock_mono_ns();
    host_call_init(&call, 100, NULL, NULL);
    ck_failed(host_storage_put(instance, "b", &put, &call.abi, &err), CLAAS_ERR_TIMEOUT, err);
    ck_assert_ptr_nonnull(strstr(err.message, "does one thing at a time"));
    host_call_init(&call, 0, NULL, NULL);
    host_call_cancel(&call);
    ck_failed(host_storage_put(instance, "b", &put, &call.abi, &err), CLAAS_ERR_CANCELLED, err);
    /* What is quick does not wait. */
    ck_ok(host_status(instance, &status, &err), err);
    ck_assert_int_lt(clock_mono_ns() - start, 1200000000);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
}
END_TEST

START_TEST(late_calls_do_not_begin)
{
    struct host_call call;
    struct claas_put put = { .size = sizeof put };
    open_fine(CLAAS_PARALLEL, CLAAS_STORAGE);
    host_call_init(&call, 1, NULL, NULL);
    pause_ms(5);
    ck_failed(host_storage_put(instance, "b", &put, &call.abi, &err), CLAAS_ERR_TIMEOUT, err);
}
END_TEST

static void *cancel_soon(void *arg)
{
    pause_ms(50);
    host_call_cancel(arg);
    return NULL;
}

static void count_progress(void *ctx, uint64_t done, uint64_t total, const char *what)
{
    (void)done;
    ck_assert_uint_eq(total, 1000);
    ck_assert_str_eq(what, "rows");
    (*(int *)ctx)++;
}

START_TEST(long_calls_are_cancelled)
{
    pthread_t thread;
    struct host_call call;
    int reports = 0;
    open_fine(CLAAS_PARALLEL, CLAAS_ENGINE);
    host_call_init(&call, 0, count_progress, &reports);
    ck_assert_int_eq(pthread_create(&thread, NULL, cancel_soon, &call), 0);
    ck_failed(host_engine_train(instance, NULL, NULL, &call.abi, &err), CLAAS_ERR_CANCELLED, err);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_int_gt(reports, 1);
    /* The plugin says CANCELLED again: it cannot know why it was told to stop. */
    host_call_init(&call, 50, NULL, NULL);
    ck_failed(host_engine_train(instance, NULL, NULL, &call.abi, &err), CLAAS_ERR_TIMEOUT, err);
}
END_TEST

/* ---- generate ------------------------------------------------------------------------------------------------------- */

static atomic_int pieces;
static atomic_int dones;
static int done_code;
static char done_text[448];

static int on_piece(void *ctx, const struct claas_piece *piece)
{
    (void)ctx;
    ck_assert_uint_eq(piece->size, sizeof *piece);
    if (manner == PIECE_OLD) {
        ck_assert_ptr_null(piece->text);
        ck_assert_uint_eq(piece->text_bytes, 0);
        ck_assert_uint_eq(piece->n, 0);
    } else {
        ck_assert_uint_eq(piece->n, 2);
    }
    atomic_fetch_add(&pieces, 1);
    return 0;
}

static void on_done(void *ctx, const struct claas_error *or_null)
{
    (void)ctx;
    done_code = or_null ? or_null->code : 0;
    (void)snprintf(done_text, sizeof done_text, "%s", or_null ? or_null->message : "");
    atomic_fetch_add(&dones, 1);
}

static const struct claas_stream stream = { .size = sizeof stream, .piece = on_piece, .done = on_done };

static int generate(void)
{
    static const struct claas_generate request = { .size = sizeof request };
    atomic_store(&pieces, 0);
    atomic_store(&dones, 0);
    return host_inference_generate(instance, &request, &stream, NULL, &err);
}

static const struct {
    enum manner manner;
    int rc;
    int pieces;
    int dones;
    int code;
    const char *message;
} manners[] = {
    { DONE_BEFORE, 0, 1, 1, 0, "" },
    { REFUSE, CLAAS_ERR_NOT_FOUND, 0, 0, 0, "" },
    { REFUSE_AFTER_DONE, 0, 0, 1, 0, "" },
    { DONE_ERROR, 0, 0, 1, CLAAS_ERR_EXHAUSTED, "no memory" },
    { PIECE_NAN, 0, 0, 1, CLAAS_ERR_INTERNAL, "log-probabilities that are no numbers" },
    { PIECE_HUGE, 0, 0, 1, CLAAS_ERR_INTERNAL, "impossible size" },
    { PIECE_OLD, 0, 1, 1, 0, "" },
};

START_TEST(generate_ends_once)
{
    open_fine(_i % 2 ? CLAAS_PARALLEL : 0, CLAAS_INFERENCE);
    size_t row = (size_t)_i / 2;
    manner = manners[row].manner;
    ck_assert_int_eq(generate(), manners[row].rc);
    ck_assert_int_eq(atomic_load(&pieces), manners[row].pieces);
    ck_assert_int_eq(atomic_load(&dones), manners[row].dones);
    if (manners[row].dones) {
        ck_assert_int_eq(done_code, manners[row].code);
        ck_assert_ptr_nonnull(strstr(done_text, manners[row].message));
    }
    manner = DONE_BEFORE;
    ck_ok(generate(), err); /* nothing is held */
}
END_TEST

START_TEST(answers_out_of_time_are_told_from_those_called_off)
{
    static const struct claas_generate request = { .size = sizeof request };
    struct host_call call;
    open_fine(_i ? CLAAS_PARALLEL : 0, CLAAS_INFERENCE);
    manner = DONE_STOPPED;
    host_call_init(&call, 30, NULL, NULL);
    ck_ok(host_inference_generate(instance, &request, &stream, &call.abi, &err), err);
    ck_assert_int_eq(done_code, CLAAS_ERR_TIMEOUT);
    pthread_t thread;
    host_call_init(&call, 0, NULL, NULL);
    ck_assert_int_eq(pthread_create(&thread, NULL, cancel_soon, &call), 0);
    ck_ok(host_inference_generate(instance, &request, &stream, &call.abi, &err), err);
    ck_assert_int_eq(done_code, CLAAS_ERR_CANCELLED);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
}
END_TEST

START_TEST(close_waits_for_the_last_answer)
{
    open_fine(CLAAS_PARALLEL, CLAAS_INFERENCE);
    manner = DONE_LATER;
    ck_ok(generate(), err);
    ck_assert_int_eq(atomic_load(&dones), 0);
    host_instance_close(instance);
    instance = NULL;
    ck_assert_int_eq(atomic_load(&dones), 1);
    ck_assert_int_eq(atomic_load(&closes), 1);
    ck_assert_int_eq(pthread_join(later, NULL), 0);
}
END_TEST

START_TEST(serial_modules_finish_first)
{
    open_fine(0, CLAAS_INFERENCE);
    manner = DONE_LATER;
    ck_ok(generate(), err);
    ck_assert_int_eq(atomic_load(&dones), 1);
    ck_assert_int_eq(pthread_join(later, NULL), 0);
    ck_ok(host_inference_load(instance, NULL, NULL, &err), err);
}
END_TEST

/* ---- what the host lends -------------------------------------------------------------------------------------------- */

static void see_metric(void *ctx, int32_t kind, const char *name, double value)
{
    buf_addf(ctx, "%s:%d:%g ", name, (int)kind, value);
}

START_TEST(metrics_are_kept)
{
    struct buf out = BUF_INIT;
    open_fine(CLAAS_PARALLEL, CLAAS_STORAGE);
    lent->metric(lent, CLAAS_METRIC_ADD, "bytes_read", 2);
    lent->metric(lent, CLAAS_METRIC_ADD, "bytes_read", 3);
    lent->metric(lent, CLAAS_METRIC_SET, "queue", 3);
    lent->metric(lent, CLAAS_METRIC_SET, "queue", 1);
    lent->metric(lent, CLAAS_METRIC_SET, "no name", 1);
    lent->metric(lent, CLAAS_METRIC_SET, "nan", NAN);
    lent->metric(lent, 9, "kind", 1);
    lent->metric(lent, CLAAS_METRIC_SET, NULL, 1);
    host_metrics(instance, see_metric, &out);
    ck_assert_str_eq(buf_str(&out), "bytes_read:0:5 queue:1:1 ");
    for (int i = 0; i < 400; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "m%d", i);
        lent->metric(lent, CLAAS_METRIC_SET, name, 1);
    }
    buf_cut(&out, 0);
    host_metrics(instance, see_metric, &out);
    ck_assert_ptr_nonnull(strstr(buf_str(&out), "m253:"));
    ck_assert_ptr_null(strstr(buf_str(&out), "m254:"));
    buf_clear(&out);
}
END_TEST

START_TEST(the_host_lends_what_was_added)
{
    static const int shim = 7;
    char text_out[16];
    ck_ok(host_extension_add(host, "claas.shim/1", &shim, &err), err);
    open_fine(CLAAS_PARALLEL, CLAAS_STORAGE);
    ck_assert_uint_eq(lent->abi, CLAAS_ABI);
    ck_assert_str_eq(lent->instance, "one");
    ck_assert_str_eq(lent->scratch, "");
    ck_assert_ptr_eq(lent->extension(lent, "claas.shim/1"), &shim);
    ck_assert_ptr_null(lent->extension(lent, "claas.shim/2"));
    ck_assert_ptr_null(lent->extension(lent, NULL));
    ck_failed(lent->secret(lent, 1, text_out, sizeof text_out, &err), CLAAS_ERR_NOT_FOUND, err);
    ck_failed(lent->secret(lent, 0, text_out, sizeof text_out, &err), CLAAS_ERR_INVALID, err);
    ck_failed(lent->secret(lent, 99, text_out, sizeof text_out, &err), CLAAS_ERR_INVALID, err);
}
END_TEST

START_TEST(plugins_are_told_whose_call_it_is)
{
    struct host_call call;
    struct claas_call other = { .size = sizeof other };
    open_fine(CLAAS_PARALLEL, CLAAS_STORAGE);
    const struct claas_trace *trace = lent->extension(lent, CLAAS_TRACE_ID);
    ck_assert_ptr_nonnull(trace);
    host_call_init(&call, 0, NULL, NULL);
    ck_assert_str_eq(trace->request_id(&call.abi), "");
    ck_assert_str_eq(trace->traceparent(&call.abi), "");
    call.request_id = "r-1";
    call.traceparent = "00-x";
    ck_assert_str_eq(trace->request_id(&call.abi), "r-1");
    ck_assert_str_eq(trace->traceparent(&call.abi), "00-x");
    ck_assert_str_eq(trace->request_id(NULL), "");
    ck_assert_str_eq(trace->traceparent(&other), ""); /* a token that is not the host's */
}
END_TEST

START_TEST(reload_moves_the_values)
{
    struct option_values values = { 0 };
    char secret[16];
    open_fine(CLAAS_PARALLEL, CLAAS_STORAGE);
    ck_ok(option_begin(&values, host_module_options(module), &err), err);
    ck_ok(option_put_secret(&values, 1, NULL, "CLAAS_TEST_SECRET", &err), err);
    ck_ok(option_end(&values, NULL, &err), err);
    act = LOUD;
    ck_failed(host_reload(instance, &values, &err), CLAAS_ERR_UNAVAILABLE, err);
    ck_assert_ptr_nonnull(values.values);
    act = FINE;
    ck_ok(host_reload(instance, &values, &err), err);
    ck_assert_ptr_null(values.values);
    ck_assert_int_eq(setenv("CLAAS_TEST_SECRET", "new", 1), 0);
    ck_ok(lent->secret(lent, 1, secret, sizeof secret, &err), err);
    ck_assert_str_eq(secret, "new");
}
END_TEST

static void add_tables(Suite *s)
{
    TCase *t = tcase_create("tables");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, broken_tables_are_refused, 0, sizeof broken / sizeof broken[0]);
    tcase_add_test(t, a_longer_table_is_taken);
    tcase_add_test(t, tables_are_copied);
    tcase_add_loop_test(t, serial_modules_are_not_combined, 0, sizeof serial_rules / sizeof serial_rules[0]);
    tcase_add_test(t, closing_lifts_the_rule);
    tcase_add_test(t, parallel_modules_do_everything);
    tcase_add_test(t, kinds_not_offered_are_refused);
    tcase_add_test(t, kinds_not_opened_cannot_be_called);
    tcase_add_test(t, missing_functions_are_named);
    tcase_add_test(t, a_failed_open_leaves_the_values);
    suite_add_tcase(s, t);
}

static Suite *suite(void)
{
    Suite *s = suite_create("host_call");
    add_tables(s);
    TCase *t = tcase_create("calls");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, errors_are_settled);
    tcase_add_test(t, answers_about_itself_are_settled);
    tcase_add_test(t, engine_info_is_kept);
    tcase_add_loop_test(t, keys_are_checked, 0, sizeof bad_keys / sizeof bad_keys[0]);
    tcase_add_test(t, long_keys_are_checked);
    tcase_add_test(t, lists_are_held_to_their_order);
    tcase_add_test(t, paths_are_checked);
    tcase_add_test(t, text_goes_both_ways);
    tcase_add_test(t, scores_are_numbers);
    tcase_add_test(t, serial_modules_run_alone);
    tcase_add_test(t, parallel_modules_run_together);
    tcase_add_test(t, waiting_ends_with_the_token);
    tcase_add_test(t, late_calls_do_not_begin);
    tcase_add_test(t, long_calls_are_cancelled);
    tcase_add_loop_test(t, generate_ends_once, 0, 2 * sizeof manners / sizeof manners[0]);
    tcase_add_loop_test(t, answers_out_of_time_are_told_from_those_called_off, 0, 2);
    tcase_add_test(t, close_waits_for_the_last_answer);
    tcase_add_test(t, serial_modules_finish_first);
    tcase_add_test(t, metrics_are_kept);
    tcase_add_test(t, the_host_lends_what_was_added);
    tcase_add_test(t, plugins_are_told_whose_call_it_is);
    tcase_add_test(t, reload_moves_the_values);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return test_main(suite());
}
