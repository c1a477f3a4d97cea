/* SPDX-License-Identifier: MIT */
/* Opening and closing, in order. Modules and options first (a mistake there is found before anything is touched), then
 * the state's lock, then the socket; whatever may take long is opened by the keeper thread while requests are answered
 * with 503, and the keeper then sweeps the store from time to time. */
#include <config.h>

#include "server/daemon.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "host/call.h"
#include "host/host.h"
#include "server/app.h"
#include "server/notify.h"
#include "server/snapshot.h"
#include "server/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { PART_ENGINE, PART_STORAGE, PART_INFERENCE, PARTS };
enum { FIRST_SWEEP_MS = 5000, TIDY_MS = 3600000 };

struct part {
    const struct config_section *section;
    uint32_t needs, takes;       /* kinds: it must offer, and it is used for if it does */
    struct host_module *module;  /* null: not configured, or (inference) the engine's instance serves */
    struct option_values values; /* move into the instance */
    struct host_instance *instance;
};

struct daemon {
    const struct config *config;
    struct host *host;
    struct part parts[PARTS];
    int engine_serves;
    struct app app;
    char *port_file;
    struct snapshots snapshots;  /* the configuration that counts */
    int listener;                /* handed down to us, or -1 */

    struct option_table training_table;
    struct option_values training;
    pthread_t keeper;
    int keeper_runs;
    struct host_call call;       /* of the keeper's calls */
    int failed_fd;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    int stopping;                /* under lock */
    unsigned reloads;            /* under lock */
    int exit_status;             /* under lock, with failure: why opening failed */
    struct claas_error failure;
};

/* ---- modules and options --------------------------------------------------------------------------------------------- */

static int part_load(struct daemon *d, struct part *p, int *out_exit, struct claas_error *err)
{
    if (!p->section->plugin[0]) {
        return 0;
    }
    *out_exit = DAEMON_PLUGIN;
    int rc = host_module_load(d->host, p->section->plugin, &p->module, err);
    if (rc == 0 && (host_module_kinds(p->module) & p->needs) != p->needs) {
        rc = err_set(err, CLAAS_ERR_UNSUPPORTED, "plugin", "the plugin '%s' cannot be used as %s", p->section->plugin,
                     p->section->name);
    }
    if (rc) {
        return config_section_blame(d->config, p->section, "plugin", err);
    }
    *out_exit = DAEMON_CONFIG;
    rc = config_section_values(d->config, p->section, host_module_options(p->module), &p->values, err);
    if (rc) {
        return rc;
    }
    rc = host_module_check(p->module, &p->values, err);
    return rc ? config_section_blame(d->config, p->section, err->what, err) : 0;
}

/* `inference:` naming the engine's plugin is the engine's own instance: it has no options of its own. */
static int daemon_same_instance(struct daemon *d, int *out_exit, struct claas_error *err)
{
    static const struct option_table none = { 0 };
    struct option_values values = { 0 };
    *out_exit = DAEMON_CONFIG;
    int rc = config_section_values(d->config, &d->config->inference, &none, &values, err);
    option_values_clear(&values);
    return rc;
}

static int daemon_load(struct daemon *d, int *out_exit, struct claas_error *err)
{
    const struct config *c = d->config;
    *out_exit = DAEMON_FAILED;
    int rc = host_new(&d->host, c->plugin_path, err);
    if (rc) {
        return rc;
    }
    d->engine_serves = c->engine.plugin[0] &&
                       (!c->inference.plugin[0] || strcmp(c->inference.plugin, c->engine.plugin) == 0);
    d->parts[PART_ENGINE] = (struct part){ &c->engine, CLAAS_ENGINE, CLAAS_TEXT_KIND, NULL, { 0 }, NULL };
    d->parts[PART_STORAGE] = (struct part){ &c->storage, CLAAS_STORAGE, 0, NULL, { 0 }, NULL };
    d->parts[PART_INFERENCE] = (struct part){ &c->inference, CLAAS_INFERENCE, CLAAS_TEXT_KIND, NULL, { 0 }, NULL };
    if (d->engine_serves) {
        *(c->inference.plugin[0] ? &d->parts[PART_ENGINE].needs : &d->parts[PART_ENGINE].takes) |= CLAAS_INFERENCE;
    }
    for (int i = 0; i < PARTS && rc == 0; i++) {
        if (i == PART_INFERENCE && d->engine_serves) {
            rc = c->inference.plugin[0] ? daemon_same_instance(d, out_exit, err) : 0;
        } else {
            rc = part_load(d, &d->parts[i], out_exit, err);
        }
    }
    return rc;
}

int daemon_new(const struct config *config, struct daemon **out, int *out_exit, struct claas_error *err)
{
    struct daemon *d = calloc(1, sizeof *d);
    *out_exit = DAEMON_FAILED;
    if (!d) {
        return err_oom(err, "the daemon");
    }
    d->config = config;
    d->failed_fd = -1;
    d->listener = -1;
    snapshots_init(&d->snapshots);
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&d->lock, NULL);
    (void)pthread_cond_init(&d->wake, &attr);
    (void)pthread_condattr_destroy(&attr);
    host_call_init(&d->call, 0, NULL, NULL);
    int rc = daemon_load(d, out_exit, err);
    if (rc) {
        daemon_free(d);
        return rc;
    }
    *out = d;
    return 0;
}

int daemon_print(const struct daemon *d, struct buf *out, struct claas_error *err)
{
    struct config_print_section sections[PARTS + 1];
    size_t n = 0;
    for (int i = 0; i < PARTS; i++) {
        const struct part *p = &d->parts[i];
        if (p->section->node) {
            sections[n++] = (struct config_print_section){ p->section, p->module ? &p->values : NULL };
        }
    }
    if (d->config->training.node) {
        sections[n++] = (struct config_print_section){ &d->config->training, NULL };
    }
    return config_print(d->config, sections, n, out, err);
}

/* ---- opening the rooms, in the keeper ---------------------------------------------------------------------------------- */

static int part_open(struct daemon *d, struct part *p, struct claas_error *err)
{
    char scratch[512];
    if (!p->module) {
        return 0;
    }
    int n = snprintf(scratch, sizeof scratch, "%s/scratch/%s", d->config->state_dir, p->section->name);
    if (n < 0 || (size_t)n >= sizeof scratch) {
        return err_set(err, CLAAS_ERR_INVALID, "state_dir", "cannot use the state directory '%.200s': its name is too long",
                       d->config->state_dir);
    }
    uint32_t kinds = host_module_kinds(p->module) & (p->needs | p->takes);
    int64_t begun = clock_mono_ns();
    int rc = dir_make(scratch, 0700, err);
    if (rc == 0) {
        rc = host_instance_open(p->module, p->section->name, kinds, &p->values, scratch, &d->call.abi, &p->instance, err);
    }
    if (rc == CLAAS_ERR_INVALID) {
        return config_section_blame(d->config, p->section, err->what, err);
    }
    if (rc == 0) {
        log_line(LOG_INFO, "server", "%s '%s' is open after %lld ms", p->section->name, p->section->plugin,
                 (long long)((clock_mono_ns() - begun) / 1000000));
    }
    return rc;
}

static int daemon_open_adapters(struct daemon *d, struct claas_error *err)
{
    const struct config *c = d->config;
    struct adapters *a = NULL;
    int rc = part_open(d, &d->parts[PART_STORAGE], err);
    if (rc || !d->parts[PART_STORAGE].instance) {
        return rc;
    }
    atomic_store(&d->app.instances[PART_STORAGE], d->parts[PART_STORAGE].instance);
    char *cache = path_join(c->state_dir, "cache");
    const struct adapters_options options = {
        .cache_dir = cache,
        .keep_serve = (uint32_t)c->retention.keep_serve,
        .keep_train = (uint32_t)c->retention.keep_train,
        .keep_days = (uint32_t)c->retention.keep_daily,
        .grace_ns = c->retention.grace_ms * 1000000,
    };
    rc = cache ? adapters_open(d->parts[PART_STORAGE].instance, &options, &d->call.abi, &a, err)
               : err_oom(err, "the adapters' cache");
    free(cache);
    atomic_store(&d->app.adapters, a);
    return rc;
}

/* What requests ask of an answer is bounded by the configuration; what it leaves open the plugin says. */
static int daemon_open_serving(struct daemon *d, struct claas_error *err)
{
    const struct config *c = d->config;
    struct part *engine = &d->parts[PART_ENGINE];
    struct part *own = &d->parts[PART_INFERENCE];
    struct serving *s = NULL;
    int rc = part_open(d, engine, err);
    if (rc == 0) {
        rc = part_open(d, own, err);
    }
    if (rc) {
        return rc;
    }
    struct host_instance *inference = own->instance;
    if (!inference && engine->instance && (host_instance_kinds(engine->instance) & CLAAS_INFERENCE)) {
        inference = engine->instance;
    }
    struct host_instance *text = inference;
    if (text && !(host_instance_kinds(text) & CLAAS_TEXT_KIND)) {
        text = engine->instance;
    }
    atomic_store(&d->app.instances[PART_ENGINE], engine->instance);
    atomic_store(&d->app.instances[PART_INFERENCE], inference);
    const struct serving_options options = {
        .inference = inference,
        .text = text,
        .adapters = atomic_load(&d->app.adapters),
        .state = d->app.state,
        .default_model = c->default_model,
        .max_tokens = (uint32_t)c->limits.response_tokens,
        .default_tokens = (uint32_t)c->limits.default_tokens,
        .prompt_tokens = (uint32_t)c->limits.prompt_tokens,
    };
    rc = serving_open(&options, &s, err);
    atomic_store(&d->app.serving, s);
    return rc;
}

/* Steps that inference gives way to come one at a time. */
static int daemon_open_jobs(struct daemon *d, int pauses, struct claas_error *err)
{
    const struct config *c = d->config;
    struct jobs *j = NULL;
    const struct jobs_options options = {
        .feedback = atomic_load(&d->app.feedback),
        .adapters = atomic_load(&d->app.adapters),
        .state = d->app.state,
        .serving = atomic_load(&d->app.serving),
        .workers = pauses ? 1 : (uint32_t)c->jobs.workers,
        .queue = (uint32_t)c->jobs.queue,
        .queue_key = (uint32_t)c->jobs.queue_key,
        .key_age_ms = c->jobs.idempotency_ms,
        .step_ms = c->limits.train_timeout_ms,
        .lock_ms = (uint32_t)c->limits.lock_timeout_ms,
        .ended = job_ended,
        .ctx = &d->app,
    };
    int rc = jobs_open(&options, &j, err);
    atomic_store(&d->app.jobs, j);
    return rc;
}

static int daemon_open_feedback(struct daemon *d, struct claas_error *err)
{
    const struct config *c = d->config;
    struct feedback *f = NULL;
    struct part *engine = &d->parts[PART_ENGINE];
    if (!engine->instance || !atomic_load(&d->app.adapters)) {
        return 0;
    }
    int rc = feedback_table(engine->instance, &d->training_table, err);
    if (rc == 0) {
        rc = config_section_values(c, &c->training, &d->training_table, &d->training, err);
    }
    if (rc) {
        return rc;
    }
    int pauses = d->parts[PART_INFERENCE].instance && c->shares_device != CONFIG_SHARES_NONE;
    const struct feedback_options options = {
        .engine = engine->instance,
        .text = host_instance_kinds(engine->instance) & CLAAS_TEXT_KIND ? NULL : d->parts[PART_INFERENCE].instance,
        .adapters = atomic_load(&d->app.adapters),
        .state = d->app.state,
        .serving = atomic_load(&d->app.serving),
        .engine_name = c->engine.plugin,
        .allowed_bases = c->allowed_init_base_models,
        .training = &d->training,
        .pause = pauses ? d->parts[PART_INFERENCE].instance : NULL,
        .lock_timeout_ms = (uint32_t)c->limits.lock_timeout_ms,
    };
    rc = feedback_open(&options, &f, err);
    atomic_store(&d->app.feedback, f);
    return rc ? rc : daemon_open_jobs(d, pauses, err);
}

/* How many reloads there were: to be asked before what they change is looked at, or one in between is slept through. */
static unsigned keeper_reloads(struct daemon *d)
{
    (void)pthread_mutex_lock(&d->lock);
    unsigned reloads = d->reloads;
    (void)pthread_mutex_unlock(&d->lock);
    return reloads;
}

/* Waits for so long (0: for ever): 1 when the daemon stops before, 2 when there are other reloads than these. */
static int keeper_sleep(struct daemon *d, int64_t ms, unsigned reloads)
{
    int64_t until = clock_mono_ns() + ms * 1000000;
    struct timespec at = { .tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000) };
    int late = 0;
    (void)pthread_mutex_lock(&d->lock);
    while (!d->stopping && !late && d->reloads == reloads) {
        late = ms > 0 ? pthread_cond_timedwait(&d->wake, &d->lock, &at) != 0 : pthread_cond_wait(&d->wake, &d->lock) != 0;
    }
    int why = d->stopping ? 1 : d->reloads != reloads ? 2 : 0;
    (void)pthread_mutex_unlock(&d->lock);
    return why;
}

static void keeper_sweep(struct daemon *d)
{
    struct claas_error err = ERR_INIT;
    struct adapter_sweep sweep = { 0 };
    struct adapters *a = atomic_load(&d->app.adapters);
    if (!a) {
        return;
    }
    int rc = adapter_sweep(a, 0, &d->call.abi, &sweep, &err);
    if (rc == CLAAS_ERR_CANCELLED) {
        return; /* the daemon stops */
    }
    struct metrics *m = &d->app.metrics;
    (void)atomic_fetch_add(rc ? &m->sweeps_failed : &m->sweeps_ok, 1);
    if (rc == 0) {
        (void)atomic_fetch_add(&m->swept_contents, sweep.n_removed);
        (void)atomic_fetch_add(&m->swept_bytes, sweep.bytes_removed);
    }
    if (rc) {
        log_line(LOG_WARNING, "server", "cannot sweep the store: %s", err.message);
    } else if (sweep.n_removed > 0) {
        log_line(LOG_INFO, "server", "swept %llu contents, %llu bytes, from the store",
                 (unsigned long long)sweep.n_removed, (unsigned long long)sweep.bytes_removed);
    }
    adapter_names_clear(&sweep.keys);
}

static int64_t keeper_every(struct daemon *d)
{
    struct snapshot *s = snapshot_take(&d->snapshots);
    int64_t every = s ? snapshot_config(s)->retention.sweep_every_ms : d->config->retention.sweep_every_ms;
    snapshot_drop(s);
    return every;
}

/* Bounds of age count also where nothing is added. */
static void keeper_tidy(struct daemon *d)
{
    struct claas_error err = ERR_INIT;
    if (state_tidy(d->app.state, &err)) {
        log_line(LOG_WARNING, "server", "cannot tidy the state: %s", err.message);
    }
}

/* The first sweep comes soon, for daemons that never run for long, but not in the way of the first requests. */
static void keeper_keep(struct daemon *d)
{
    unsigned reloads = keeper_reloads(d);
    int64_t every = keeper_every(d);
    int64_t wait = every > 0 && every < FIRST_SWEEP_MS ? every : FIRST_SWEEP_MS;
    for (int why; (why = keeper_sleep(d, wait, reloads)) != 1;) {
        if (why == 0) {
            keeper_tidy(d);
        }
        if (why == 0 && every > 0) {
            keeper_sweep(d);
        }
        reloads = keeper_reloads(d);
        every = keeper_every(d);
        wait = every > 0 ? every : TIDY_MS; /* whoever never sweeps the store still has bounds for records */
    }
}

static void *keeper_main(void *ctx)
{
    struct daemon *d = ctx;
    struct claas_error err = ERR_INIT;
    int64_t begun = clock_mono_ns();
    (void)pthread_setname_np(pthread_self(), "keeper"); /* only for those who look on */
    int rc = daemon_open_adapters(d, &err);
    if (rc == 0) {
        rc = daemon_open_serving(d, &err);
    }
    if (rc == 0) {
        rc = daemon_open_feedback(d, &err);
    }
    if (rc) {
        (void)pthread_mutex_lock(&d->lock);
        d->exit_status = rc == CLAAS_ERR_INVALID ? DAEMON_CONFIG : DAEMON_FAILED;
        d->failure = err;
        (void)pthread_mutex_unlock(&d->lock);
        uint64_t one = 1;
        (void)!write(d->failed_fd, &one, sizeof one); /* an eventfd that nobody has written yet takes it */
        return NULL;
    }
    atomic_store(&d->app.ready, 1);
    log_line(LOG_INFO, "server", "ready after %lld ms", (long long)((clock_mono_ns() - begun) / 1000000));
    notify_ready("ready");
    keeper_keep(d);
    return NULL;
}

/* ---- start and stop -------------------------------------------------------------------------------------------------------- */

static void daemon_answered(void *ctx, size_t route, int status, int64_t took_ns)
{
    struct app *app = ctx;
    metrics_answered(&app->metrics, route, status, took_ns);
}

static void *daemon_begin(void *ctx)
{
    const struct app *app = ctx;
    return snapshot_take(app->snapshots);
}

static void daemon_end(void *ctx, void *taken)
{
    (void)ctx;
    snapshot_drop(taken);
}

void daemon_inherit(struct daemon *d, int listener)
{
    d->listener = listener;
}

static int daemon_open_state(struct daemon *d, struct claas_error *err)
{
    const struct config *c = d->config;
    const struct state_options options = {
        .rollouts_max = c->rollouts.max_count > 0 ? (uint64_t)c->rollouts.max_count : UINT64_MAX / 2,
        .rollouts_age_ns = c->rollouts.max_age_ms > 0 ? c->rollouts.max_age_ms * 1000000 : INT64_MAX,
        .feedback_max = c->feedback.max_count > 0 ? (uint64_t)c->feedback.max_count : UINT64_MAX / 2,
        .feedback_age_ns = c->feedback.max_age_ms * 1000000,
        .jobs_age_ns = (c->jobs.keep_ms > c->jobs.idempotency_ms ? c->jobs.keep_ms : c->jobs.idempotency_ms) * 1000000,
        .audit_age_ns = c->jobs.audit_ms * 1000000,
    };
    int rc = state_open(c->state_dir, &options, &d->app.state, err);
    if (rc == 0) {
        rc = access_open(c->state_dir, d->app.state, (enum access_mode)c->access.keys, &d->app.access, err);
    }
    if (rc == 0 && !(d->port_file = path_join(c->state_dir, "claasd.port"))) {
        rc = err_oom(err, "the daemon");
    }
    if (rc == 0 && unlink(d->port_file) && errno != ENOENT) {
        rc = err_errno(err, errno, "state_dir", "cannot remove '%s'", d->port_file);
    }
    return rc;
}

/* Appears whole, for those who wait for it. */
static int daemon_write_port(struct daemon *d, struct claas_error *err)
{
    char text[16];
    char path[600];
    int n = snprintf(text, sizeof text, "%u\n", http_port(d->app.http));
    (void)snprintf(path, sizeof path, "%s.tmp", d->port_file);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0) {
        return err_errno(err, errno, "state_dir", "cannot write '%s'", path);
    }
    int rc = fd_write_all(fd, text, (size_t)n, path, err);
    if (close(fd) && rc == 0) {
        rc = err_errno(err, errno, "state_dir", "cannot write '%s'", path);
    }
    if (rc == 0 && rename(path, d->port_file)) {
        rc = err_errno(err, errno, "state_dir", "cannot rename '%s'", path);
    }
    return rc;
}

int daemon_start(struct daemon *d, int *out_exit, struct claas_error *err)
{
    const struct config *c = d->config;
    *out_exit = DAEMON_FAILED;
    d->app.config = c;
    d->app.snapshots = &d->snapshots;
    metrics_init(&d->app.metrics);
    d->failed_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (d->failed_fd < 0) {
        return err_errno(err, errno, "", "cannot start");
    }
    int rc = daemon_open_state(d, err);
    if (rc) {
        *out_exit = rc == CLAAS_ERR_CONFLICT ? DAEMON_TAKEN : DAEMON_FAILED; /* only the lock is in conflict */
        return rc;
    }
    if (c->tls.certificate) {
        rc = tls_load(c->tls.certificate, c->tls.key, err);
        if (rc) {
            return rc;
        }
    }
    const struct http_options options = {
        .path = c->listen_path,
        .path_mode = c->access.socket_mode,
        .tls = c->tls.certificate != NULL,
        .connections_per_address = (uint32_t)c->limits.connections_per_address,
        .host = c->listen_host,
        .port = c->listen_port,
        .listener = d->listener >= 0 ? &d->listener : NULL,
        .connections = (uint32_t)c->limits.connections,
        .waiters = (uint32_t)c->jobs.waiters,
        .idle_ms = (uint32_t)c->limits.idle_timeout_ms,
        .body_bytes = (size_t)c->limits.body_bytes,
        .routes = app_routes,
        .n_routes = app_n_routes,
        .app = &d->app,
        .begin = daemon_begin,
        .end = daemon_end,
        .answered = daemon_answered,
        .admit = app_admit,
        .moved = app_moved,
    };
    rc = http_start(&options, &d->app.http, err);
    if (rc == 0) {
        rc = daemon_write_port(d, err);
    }
    if (rc) {
        return rc;
    }
    if (d->listener >= 0) {
        log_line(LOG_INFO, "server", "listening on the socket handed down, port %u", http_port(d->app.http));
    } else if (c->listen_path) {
        log_line(LOG_INFO, "server", "listening on unix:%s", c->listen_path);
    } else {
        int six = strchr(c->listen_host, ':') != NULL;
        log_line(LOG_INFO, "server", "listening on http%s://%s%s%s:%u", c->tls.certificate ? "s" : "", six ? "[" : "",
                 c->listen_host, six ? "]" : "", http_port(d->app.http));
    }
    if (pthread_create(&d->keeper, NULL, keeper_main, d)) {
        return err_set(err, CLAAS_ERR_EXHAUSTED, "", "cannot start a thread");
    }
    d->keeper_runs = 1;
    return 0;
}

int daemon_failed_fd(const struct daemon *d)
{
    return d->failed_fd;
}

int daemon_failure(struct daemon *d, struct claas_error *err)
{
    (void)pthread_mutex_lock(&d->lock);
    int status = d->exit_status;
    *err = d->failure;
    (void)pthread_mutex_unlock(&d->lock);
    return status;
}

/* The keeper may be in the middle of opening an engine: its call is cancelled, and it is waited for. */
static void daemon_stop_keeper(struct daemon *d)
{
    if (!d->keeper_runs) {
        return;
    }
    host_call_cancel(&d->call);
    (void)pthread_mutex_lock(&d->lock);
    d->stopping = 1;
    (void)pthread_cond_broadcast(&d->wake);
    (void)pthread_mutex_unlock(&d->lock);
    (void)pthread_join(d->keeper, NULL);
}

/* ---- reload ---------------------------------------------------------------------------------------------------------------- */

/* The options of plugins, as far as the same plugins are loaded; others are named by config_rebase. */
static int reload_check(struct daemon *d, const struct config *config, struct claas_error *err)
{
    const struct config_section *const sections[PARTS] = { &config->engine, &config->storage, &config->inference };
    int rc = 0;
    for (int i = 0; i < PARTS && rc == 0; i++) {
        const struct part *p = &d->parts[i];
        struct option_values values = { 0 };
        if (p->module && strcmp(p->section->plugin, sections[i]->plugin) == 0) {
            rc = config_section_values(config, sections[i], host_module_options(p->module), &values, err);
            rc = rc ? rc : host_module_check(p->module, &values, err);
            rc = rc && values.table ? config_section_blame(config, sections[i], err->what, err) : rc;
        }
        option_values_clear(&values);
    }
    struct option_values training = { 0 };
    if (rc == 0 && atomic_load(&d->app.feedback)) {
        rc = config_section_values(config, &config->training, &d->training_table, &training, err);
    }
    option_values_clear(&training);
    return rc;
}

static void reload_fixed(void *ctx, const char *key)
{
    (void)ctx;
    log_line(LOG_WARNING, "config", "'%s' differs, but cannot change while running: restart to use the new value", key);
}

int daemon_reload(struct daemon *d, struct config *config, struct claas_error *err)
{
    int rc = reload_check(d, config, err);
    if (rc) {
        return rc;
    }
    if (d->config->tls.certificate) { /* the files may hold others by now */
        rc = tls_load(d->config->tls.certificate, d->config->tls.key, err);
        if (rc) {
            return rc;
        }
    }
    config_rebase(config, d->config, reload_fixed, NULL);
    rc = snapshots_swap(&d->snapshots, config, err);
    if (rc) {
        return rc;
    }
    log_configure(&config->log);
    (void)pthread_mutex_lock(&d->lock);
    d->reloads++;
    (void)pthread_cond_broadcast(&d->wake);
    (void)pthread_mutex_unlock(&d->lock);
    return 0;
}

/* ---- the end --------------------------------------------------------------------------------------------------------------- */

void daemon_count_reload(struct daemon *d, int failed)
{
    metrics_reloaded(&d->app.metrics, failed);
}

int daemon_ready(const struct daemon *d)
{
    return atomic_load(&d->app.ready);
}

int daemon_alive(struct daemon *d, uint32_t ms)
{
    return http_alive(d->app.http, ms);
}

void daemon_drain(struct daemon *d, int hurry)
{
    struct snapshot *s = snapshot_take(&d->snapshots);
    const struct config *c = s ? snapshot_config(s) : d->config;
    int64_t until = clock_mono_ns() + c->limits.stop_timeout_ms * 1000000;
    struct pollfd p = { .fd = hurry, .events = POLLIN };
    snapshot_drop(s);
    notify_send("STOPPING=1\nSTATUS=finishing what is in progress");
    http_quiesce(d->app.http);
    while (!http_idle(d->app.http, 50)) {
        int hurried = poll(&p, 1, 0) == 1;
        if (hurried || clock_mono_ns() > until) {
            log_line(LOG_WARNING, "server", "%s: what is in progress is cancelled",
                     hurried ? "told to hurry" : "out of time");
            return;
        }
    }
}

void daemon_free(struct daemon *d)
{
    if (!d) {
        return;
    }
    if (d->app.http && d->port_file) {
        (void)unlink(d->port_file); /* whoever reads it finds nobody anyway */
    }
    daemon_stop_keeper(d);
    jobs_stop(atomic_load(&d->app.jobs), 0);
    http_stop(d->app.http, 0);
    jobs_close(atomic_load(&d->app.jobs));
    feedback_close(atomic_load(&d->app.feedback));
    serving_close(atomic_load(&d->app.serving));
    adapters_close(atomic_load(&d->app.adapters));
    for (int i = PARTS; i-- > 0;) {
        host_instance_close(d->parts[i].instance);
        option_values_clear(&d->parts[i].values);
    }
    option_values_clear(&d->training);
    option_table_clear(&d->training_table);
    tls_close();
    access_close(d->app.access);
    state_close(d->app.state);
    host_free(d->host);
    if (d->failed_fd >= 0) {
        (void)close(d->failed_fd); /* nothing can be lost */
    }
    (void)pthread_cond_destroy(&d->wake);
    (void)pthread_mutex_destroy(&d->lock);
    snapshots_close(&d->snapshots);
    free(d->port_file);
    free(d);
}
