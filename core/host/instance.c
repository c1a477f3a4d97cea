/* SPDX-License-Identifier: MIT */
/* Instances: what the host lends to a plugin, open and close, and what every call has in common. */
#include "config.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "host/internal.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const struct claas_engine no_engine = { .size = sizeof no_engine };
static const struct claas_storage no_storage = { .size = sizeof no_storage };
static const struct claas_inference no_inference = { .size = sizeof no_inference };
static const struct claas_text no_text = { .size = sizeof no_text };

/* ---- what the host lends -------------------------------------------------------------------- */

static struct host_instance *instance_of(const struct claas_host *abi)
{
    return (struct host_instance *)(void *)(uintptr_t)abi;
}

static void lend_log(const struct claas_host *abi, int32_t level, const char *line)
{
    const struct host_instance *instance = instance_of(abi);
    level = level < LOG_ERROR ? LOG_ERROR : level > LOG_TRACE ? LOG_TRACE : level;
    log_line(level, instance->room, "%s", line ? line : "");
}

static int metric_name_ok(const char *name)
{
    size_t n = name ? strnlen(name, HOST_METRIC_NAME) : 0;
    return n > 0 && n < HOST_METRIC_NAME &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == n;
}

/* The place of a metric, made when there is room. Under instance->lock. */
static struct host_metric *metric_place(struct host_instance *instance, const char *name)
{
    for (size_t i = 0; i < instance->n_metrics; i++) {
        if (strcmp(instance->metrics[i].name, name) == 0) {
            return &instance->metrics[i];
        }
    }
    if (instance->n_metrics == HOST_METRICS) {
        return NULL;
    }
    struct host_metric *metric = &instance->metrics[instance->n_metrics++];
    (void)snprintf(metric->name, sizeof metric->name, "%s", name);
    return metric;
}

static void lend_metric(const struct claas_host *abi, int32_t kind, const char *name, double value)
{
    struct host_instance *instance = instance_of(abi);
    struct host_metric *metric = NULL;
    int good = metric_name_ok(name) && isfinite(value) &&
               (kind == CLAAS_METRIC_ADD || kind == CLAAS_METRIC_SET);
    pthread_mutex_lock(&instance->lock);
    if (good) {
        metric = metric_place(instance, name);
    }
    if (metric) {
        metric->kind = kind;
        metric->value = kind == CLAAS_METRIC_ADD ? metric->value + value : value;
    }
    int warn = !metric && !instance->metric_warned;
    instance->metric_warned |= warn;
    pthread_mutex_unlock(&instance->lock);
    if (warn) {
        log_line(LOG_WARNING, instance->room,
                 "a metric was dropped: its kind, name or value is not valid, or "
                 "there are more than %d",
                 HOST_METRICS);
    }
}

static int lend_secret(const struct claas_host *abi, uint32_t option, char *buf, size_t cap,
                       struct claas_error *err)
{
    struct host_instance *instance = instance_of(abi);
    pthread_mutex_lock(&instance->values_lock);
    int rc = option_secret_read(&instance->values, option, buf, cap, err);
    pthread_mutex_unlock(&instance->values_lock);
    return rc;
}

static const void *lend_extension(const struct claas_host *abi, const char *id)
{
    const struct host *host = instance_of(abi)->module->host;
    for (size_t i = 0; id && i < host->n_extensions; i++) {
        if (strcmp(host->extensions[i].id, id) == 0) {
            return host->extensions[i].table;
        }
    }
    return NULL;
}

/* ---- the serial turn ------------------------------------------------------------------------ */

/* Until when to sleep: the token is looked at four times a second, since cancelling does not wake
 * us. */
static struct timespec turn_until(void)
{
    int64_t ns = clock_mono_ns() + 250000000;
    return (struct timespec){ .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };
}

int host_turn_take(struct host_module *module, const struct claas_call *call,
                   struct claas_error *err)
{
    int rc = host_call_check_abi(call, err);
    if (rc != 0 || (module->plugin.flags & CLAAS_PARALLEL)) {
        return rc;
    }
    pthread_mutex_lock(&module->lock);
    while (module->busy) {
        struct timespec until = turn_until();
        pthread_cond_timedwait(&module->turn, &module->lock, &until);
        if (module->busy && host_call_check_abi(call, NULL) != 0) {
            pthread_mutex_unlock(&module->lock);
            rc = host_call_check_abi(call, err);
            err_prefix(err, "waiting for plugin '%s', which does one thing at a time",
                       module->name);
            return rc;
        }
    }
    module->busy = 1;
    pthread_mutex_unlock(&module->lock);
    return 0;
}

void host_turn_give(struct host_module *module)
{
    if (module->plugin.flags & CLAAS_PARALLEL) {
        return;
    }
    pthread_mutex_lock(&module->lock);
    module->busy = 0;
    pthread_cond_signal(&module->turn);
    pthread_mutex_unlock(&module->lock);
}

/* ---- a call --------------------------------------------------------------------------------- */

int host_use_begin(struct host_use *use, struct host_instance *instance, const char *kind,
                   const char *function, int there, enum host_tag tag,
                   const struct claas_call *call, struct claas_error *err)
{
    if (!there) {
        return err_set(err, CLAAS_ERR_UNSUPPORTED, "", "plugin '%s' has no function %s.%s",
                       instance->module->name, kind, function);
    }
    pthread_mutex_lock(&instance->lock);
    int closing = instance->closing;
    instance->calls += !closing;
    pthread_mutex_unlock(&instance->lock);
    if (closing) {
        return err_set(err, CLAAS_ERR_UNAVAILABLE, "", "plugin '%s' is being closed",
                       instance->module->name);
    }
    *use = (struct host_use){
        .instance = instance, .kind = kind, .function = function, .call = call, .err = ERR_INIT
    };
    if (tag == HOST_QUICK) {
        return 0;
    }
    int rc = host_turn_take(instance->module, call, err);
    if (rc != 0) {
        host_use_leave(use);
        return rc;
    }
    use->serial = 1;
    return 0;
}

void host_use_leave(struct host_use *use)
{
    struct host_instance *instance = use->instance;
    if (use->serial) {
        host_turn_give(instance->module);
    }
    pthread_mutex_lock(&instance->lock);
    if (--instance->calls == 0) {
        pthread_cond_broadcast(&instance->idle);
    }
    pthread_mutex_unlock(&instance->lock);
}

int host_error_settle(const char *plugin, const char *function, int rc,
                      const struct claas_error *from, struct claas_error *err)
{
    if (rc < 0 || rc > CLAAS_ERR_INTERNAL) {
        log_line(LOG_ERROR, "host", "plugin '%s' returned %d from %s, which is no code of the ABI",
                 plugin, rc, function);
        rc = CLAAS_ERR_INTERNAL;
    }
    struct claas_error fit = *from;
    fit.size = sizeof fit;
    fit.code = rc;
    fit.flags &= CLAAS_RETRY | CLAAS_MAYBE;
    fit.what[sizeof fit.what - 1] = '\0';
    fit.message[sizeof fit.message - 1] = '\0';
    if (!utf8_valid(fit.what, strlen(fit.what))) {
        fit.what[0] = '\0';
    }
    if (fit.message[0] == '\0' || !utf8_valid(fit.message, strlen(fit.message))) {
        char what[sizeof fit.what];
        uint32_t flags = fit.flags;
        uint32_t retry = fit.retry_after_ms;
        memcpy(what, fit.what, sizeof what);
        (void)err_set(&fit, rc, what, "plugin '%s' failed in %s (%s) without saying why", plugin,
                      function, err_name(rc));
        fit.flags = flags;
        fit.retry_after_ms = retry;
    }
    for (char *c = fit.message; *c; c++) {
        *c = (unsigned char)*c < 0x20 || *c == 0x7f ? ' ' : *c;
    }
    if (err) {
        *err = fit;
    }
    return rc;
}

int host_use_late(const struct host_use *use, int rc, struct claas_error *err)
{
    if (rc != CLAAS_ERR_CANCELLED || host_call_check_abi(use->call, NULL) != CLAAS_ERR_TIMEOUT) {
        return rc;
    }
    return err_set(err, CLAAS_ERR_TIMEOUT, "", "plugin '%s' was out of time in %s.%s",
                   use->instance->module->name, use->kind, use->function);
}

int host_use_result(const struct host_use *use, int rc, struct claas_error *err)
{
    if (rc == 0) {
        return 0;
    }
    char function[64];
    (void)snprintf(function, sizeof function, "%s.%s", use->kind, use->function);
    rc = host_error_settle(use->instance->module->name, function, rc, &use->err, err);
    return host_use_late(use, rc, err);
}

int host_use_end(struct host_use *use, int rc, struct claas_error *err)
{
    rc = host_use_result(use, rc, err);
    host_use_leave(use);
    return rc;
}

/* ---- open and close ------------------------------------------------------------------------- */

/* Tells which rule a serial module would break if it were also opened for `kinds`; null when none.
 * Under module->lock. */
static const char *kinds_conflict(const struct host_module *module, uint32_t kinds)
{
    for (unsigned k = 0; k < 4; k++) {
        kinds |= module->users[k] ? 1u << k : 0;
    }
    if (module->plugin.flags & CLAAS_PARALLEL) {
        return NULL;
    }
    if ((kinds & CLAAS_ENGINE) && (kinds & CLAAS_INFERENCE)) {
        return "train and serve";
    }
    if ((kinds & CLAAS_STORAGE) && (kinds & ~(uint32_t)CLAAS_STORAGE)) {
        return "be storage and something else";
    }
    return NULL;
}

static void kinds_count(struct host_module *module, uint32_t kinds, int more)
{
    for (unsigned k = 0; k < 4; k++) {
        if (kinds & 1u << k) {
            module->users[k] += more ? 1u : -1u;
        }
    }
}

static int kinds_take(struct host_module *module, uint32_t kinds, struct claas_error *err)
{
    uint32_t missing = kinds & ~module->offered;
    if (kinds == 0 || missing) {
        const char *what = missing & CLAAS_ENGINE      ? "engine"
                           : missing & CLAAS_STORAGE   ? "storage"
                           : missing & CLAAS_INFERENCE ? "inference"
                                                       : "text";
        return err_set(err, CLAAS_ERR_UNSUPPORTED, "plugin", "plugin '%s' cannot be used as %s",
                       module->name, kinds == 0 ? "nothing" : what);
    }
    pthread_mutex_lock(&module->lock);
    const char *conflict = kinds_conflict(module, kinds);
    if (!conflict) {
        kinds_count(module, kinds, 1);
    }
    pthread_mutex_unlock(&module->lock);
    if (conflict) {
        return err_set(err, CLAAS_ERR_UNSUPPORTED, "plugin",
                       "plugin '%s' cannot %s at once: it is not marked CLAAS_PARALLEL",
                       module->name, conflict);
    }
    return 0;
}

static void instance_free(struct host_instance *instance)
{
    if (instance) {
        option_values_clear(&instance->values);
        option_table_clear(&instance->settings);
        option_table_clear(&instance->creation);
        pthread_cond_destroy(&instance->idle);
        pthread_mutex_destroy(&instance->lock);
        pthread_mutex_destroy(&instance->values_lock);
        free(instance->name);
        free(instance->scratch);
        free(instance->room);
        free(instance);
    }
}

static char *room_name(const char *name)
{
    size_t n = strlen(name) + sizeof "plugin ";
    char *room = mem_array(n, 1);
    if (room) {
        (void)snprintf(room, n, "plugin %s", name);
    }
    return room;
}

static struct host_instance *instance_new(struct host_module *module, const char *name,
                                          uint32_t kinds, const char *scratch)
{
    struct host_instance *instance = calloc(1, sizeof *instance);
    if (!instance) {
        return NULL;
    }
    pthread_mutex_init(&instance->lock, NULL);
    pthread_mutex_init(&instance->values_lock, NULL);
    pthread_cond_init(&instance->idle, NULL);
    instance->module = module;
    instance->name = mem_dup(name, strlen(name));
    instance->scratch = scratch ? mem_dup(scratch, strlen(scratch)) : NULL;
    instance->room = room_name(module->name);
    if (!instance->name || !instance->room || (scratch && !instance->scratch)) {
        instance_free(instance);
        return NULL;
    }
    int text = (kinds & CLAAS_TEXT_KIND) != 0;
    instance->kinds = kinds;
    instance->engine = kinds & CLAAS_ENGINE ? &module->engine : &no_engine;
    instance->storage = kinds & CLAAS_STORAGE ? &module->storage : &no_storage;
    instance->inference = kinds & CLAAS_INFERENCE ? &module->inference : &no_inference;
    instance->text = text ? &module->text : &no_text;
    instance->abi = (struct claas_host){ .size = sizeof instance->abi,
                                         .abi = CLAAS_ABI,
                                         .instance = instance->name,
                                         .scratch = instance->scratch ? instance->scratch : "",
                                         .log = lend_log,
                                         .metric = lend_metric,
                                         .secret = lend_secret,
                                         .extension = lend_extension };
    return instance;
}

/* Threads that a plugin starts inherit its mask: signals are the daemon's own matter. */
static int open_masked(struct host_instance *instance, const struct claas_call *call,
                       struct claas_error *why)
{
    sigset_t all;
    sigset_t before;
    void *self = NULL;
    sigfillset(&all);
    /* Those that tell of an error in this very thread stay as they are: blocking them kills without
     * a word. */
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    sigdelset(&all, SIGABRT);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int rc = instance->module->plugin.open(&instance->abi, instance->kinds, instance->values.values,
                                           call, &self, why);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc == 0) {
        instance->self = self;
    }
    return rc;
}

static int instance_open(struct host_instance *instance, struct option_values *values,
                         const struct claas_call *call, struct claas_error *err)
{
    struct claas_error why = ERR_INIT;
    int rc = instance->scratch ? dir_make(instance->scratch, 0700, err) : 0;
    if (rc == 0) {
        rc = host_turn_take(instance->module, call, err);
    }
    if (rc != 0) {
        return rc;
    }
    /* Moved for the time of open: secrets are asked for there already. */
    instance->values = *values;
    rc = open_masked(instance, call, &why);
    host_turn_give(instance->module);
    if (rc != 0) {
        instance->values = (struct option_values){ 0 };
        return host_error_settle(instance->module->name, "open", rc, &why, err);
    }
    *values = (struct option_values){ 0 };
    return 0;
}

int host_instance_open(struct host_module *module, const char *name, uint32_t kinds,
                       struct option_values *values, const char *scratch,
                       const struct claas_call *call, struct host_instance **out,
                       struct claas_error *err)
{
    if (values->table != &module->options) {
        return err_set(err, CLAAS_ERR_INTERNAL, "",
                       "values of another table were handed to plugin '%s'", module->name);
    }
    if (kinds & (CLAAS_ENGINE | CLAAS_INFERENCE)) {
        kinds |= module->offered & CLAAS_TEXT_KIND;
    }
    int rc = kinds_take(module, kinds, err);
    if (rc != 0) {
        return rc;
    }
    struct host_instance *instance = instance_new(module, name, kinds, scratch);
    rc = instance ? instance_open(instance, values, call, err) : err_oom(err, "opening a plugin");
    if (rc != 0) {
        pthread_mutex_lock(&module->lock);
        kinds_count(module, kinds, 0);
        pthread_mutex_unlock(&module->lock);
        instance_free(instance);
        return rc;
    }
    *out = instance;
    return 0;
}

void host_instance_close(struct host_instance *instance)
{
    if (!instance) {
        return;
    }
    struct host_module *module = instance->module;
    pthread_mutex_lock(&instance->lock);
    instance->closing = 1;
    while (instance->calls > 0) {
        pthread_cond_wait(&instance->idle, &instance->lock);
    }
    pthread_mutex_unlock(&instance->lock);
    (void)host_turn_take(module, NULL, NULL); /* without a token it cannot fail */
    module->plugin.close(instance->self);
    host_turn_give(module);
    pthread_mutex_lock(&module->lock);
    kinds_count(module, instance->kinds, 0);
    pthread_mutex_unlock(&module->lock);
    instance_free(instance);
}

/* ---- about an instance ---------------------------------------------------------------------- */

const char *host_instance_name(const struct host_instance *instance)
{
    return instance->name;
}

struct host_module *host_instance_module(const struct host_instance *instance)
{
    return instance->module;
}

uint32_t host_instance_kinds(const struct host_instance *instance)
{
    return instance->kinds;
}

const struct option_values *host_instance_values(const struct host_instance *instance)
{
    return &instance->values;
}

const struct claas_engine *host_engine_table(const struct host_instance *instance)
{
    return instance->engine;
}

const struct claas_storage *host_storage_table(const struct host_instance *instance)
{
    return instance->storage;
}

const struct claas_inference *host_inference_table(const struct host_instance *instance)
{
    return instance->inference;
}

const struct claas_text *host_text_table(const struct host_instance *instance)
{
    return instance->text;
}

const void *host_instance_extension(struct host_instance *instance, const char *id)
{
    const struct claas_plugin *plugin = &instance->module->plugin;
    return plugin->extension ? plugin->extension(id) : NULL;
}

void host_metrics(struct host_instance *instance,
                  void (*each)(void *ctx, int32_t kind, const char *name, double value), void *ctx)
{
    /* Copied one by one: each() is not ours and must not run under the lock. Places are never given
     * back. */
    for (size_t i = 0;; i++) {
        struct host_metric metric;
        pthread_mutex_lock(&instance->lock);
        int there = i < instance->n_metrics;
        if (there) {
            metric = instance->metrics[i];
        }
        pthread_mutex_unlock(&instance->lock);
        if (!there) {
            return;
        }
        each(ctx, metric.kind, metric.name, metric.value);
    }
}
