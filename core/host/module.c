/* SPDX-License-Identifier: MIT */
/* The host and its modules: what a plugin's tables must be, and our clamped copies of them. */
#include "config.h"

#include "base/err.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "host/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The smallest tables we accept: those of the ABI's first number. Growth goes behind. */
#define SIZE_TO(type, member) (offsetof(type, member) + sizeof(((type *)0)->member))
enum {
    PLUGIN_LEAST = SIZE_TO(struct claas_plugin, extension),
    ENGINE_LEAST = SIZE_TO(struct claas_engine, release),
    STORAGE_LEAST = SIZE_TO(struct claas_storage, spool),
    INFERENCE_LEAST = SIZE_TO(struct claas_inference, resume),
    TEXT_LEAST = SIZE_TO(struct claas_text, decode),
    TABLE_MOST = 65536
};

int host_new(struct host **out, const char *plugin_path, struct claas_error *err)
{
    const char *search = secure_getenv("CLAAS_PLUGIN_PATH");
    if (!search || search[strspn(search, ":")] == '\0') {
        search = plugin_path && plugin_path[0] != '\0' ? plugin_path : CLAAS_PLUGINDIR;
    }
    struct host *host = calloc(1, sizeof *host);
    if (host) {
        host->search = mem_dup(search, strlen(search));
    }
    if (!host || !host->search) {
        free(host);
        return err_oom(err, "starting the plugin host");
    }
    pthread_mutex_init(&host->lock, NULL);
    host->extensions[host->n_extensions++] = (struct host_extension){ CLAAS_TRACE_ID, &host_call_trace };
    *out = host;
    return 0;
}

static void module_free(struct host_module *module)
{
    if (module) {
        option_table_clear(&module->options);
        free(module->name);
        free(module->file);
        pthread_cond_destroy(&module->turn);
        pthread_mutex_destroy(&module->lock);
        free(module);
    }
}

void host_free(struct host *host)
{
    if (!host) {
        return;
    }
    while (host->modules) {
        struct host_module *module = host->modules;
        host->modules = module->next;
        module_free(module);
    }
    pthread_mutex_destroy(&host->lock);
    free(host->search);
    free(host);
}

int host_extension_add(struct host *host, const char *id, const void *table,
                       struct claas_error *err)
{
    if (host->n_extensions == HOST_EXTENSIONS) {
        return err_set(err, CLAAS_ERR_EXHAUSTED, "",
                       "cannot lend extension '%s': there are %d already", id, HOST_EXTENSIONS);
    }
    host->extensions[host->n_extensions++] = (struct host_extension){ id, table };
    return 0;
}

int host_name_ok(const char *name)
{
    size_t n = strnlen(name, 65);
    return n > 0 && n <= 64 && name[0] >= 'a' && name[0] <= 'z' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == n;
}

void host_clamp(void *out, size_t own, const void *in, uint32_t size)
{
    memset(out, 0, own);
    memcpy(out, in, size < own ? size : own);
}

/* ---- what a table must be ------------------------------------------------------------------- */

static int refuse(const char *name, const char *why, struct claas_error *err)
{
    return err_set(err, CLAAS_ERR_INVALID, "plugin", "cannot use plugin '%s': %s", name, why);
}

static int size_check(const char *name, const char *table, uint32_t size, size_t least,
                      struct claas_error *err)
{
    if (size < least || size > TABLE_MOST || size % 8 != 0) {
        return err_set(
            err, CLAAS_ERR_UNSUPPORTED, "plugin",
            "cannot use plugin '%s': its %s table says it is %u bytes long, expected at least %zu",
            name, table, size, least);
    }
    return 0;
}

static int word_ok(const char *s)
{
    size_t n = s ? strnlen(s, 1025) : 0;
    return n > 0 && n <= 1024 && utf8_valid(s, n);
}

static int plugin_check(const char *name, const struct claas_plugin *plugin,
                        struct claas_error *err)
{
    /* The number comes first: a plugin of another ABI may mean something else by its size. */
    if (plugin->abi != CLAAS_ABI) {
        return err_set(err, CLAAS_ERR_UNSUPPORTED, "plugin",
                       "cannot use plugin '%s': it was built for ABI %u.%u, this host has %u.%u",
                       name, plugin->abi >> 16, plugin->abi & 0xffff, CLAAS_ABI_MAJOR,
                       CLAAS_ABI_MINOR);
    }
    int rc = size_check(name, "plugin", plugin->size, PLUGIN_LEAST, err);
    if (rc != 0) {
        return rc;
    }
    if (!word_ok(plugin->name) || strcmp(plugin->name, name) != 0) {
        return err_set(
            err, CLAAS_ERR_INVALID, "plugin",
            "cannot use plugin '%s': it calls itself '%.64s', expected the name of its file", name,
            word_ok(plugin->name) ? plugin->name : "");
    }
    if (!word_ok(plugin->version) || !word_ok(plugin->summary) || !word_ok(plugin->licence)) {
        return refuse(name, "it does not tell its version, summary and licence", err);
    }
    if (!plugin->open || !plugin->close) {
        return refuse(name, "it has no function open or none to close", err);
    }
    return 0;
}

static int engine_copy(struct host_module *m, const struct claas_engine *t, struct claas_error *err)
{
    int rc = size_check(m->name, "engine", t->size, ENGINE_LEAST, err);
    if (rc != 0) {
        return rc;
    }
    host_clamp(&m->engine, sizeof m->engine, t, t->size);
    m->offered |= CLAAS_ENGINE;
    return m->engine.info && m->engine.create && m->engine.train
               ? 0
               : refuse(m->name, "an engine needs info, create and train", err);
}

static int storage_copy(struct host_module *m, const struct claas_storage *t,
                        struct claas_error *err)
{
    int rc = size_check(m->name, "storage", t->size, STORAGE_LEAST, err);
    if (rc != 0) {
        return rc;
    }
    host_clamp(&m->storage, sizeof m->storage, t, t->size);
    m->offered |= CLAAS_STORAGE;
    const struct claas_storage *s = &m->storage;
    return s->probe && s->put && s->get && s->head && s->list && s->remove
               ? 0
               : refuse(m->name, "a storage needs probe, put, get, head, list and remove", err);
}

static int inference_copy(struct host_module *m, const struct claas_inference *t,
                          struct claas_error *err)
{
    int rc = size_check(m->name, "inference", t->size, INFERENCE_LEAST, err);
    if (rc != 0) {
        return rc;
    }
    host_clamp(&m->inference, sizeof m->inference, t, t->size);
    m->offered |= CLAAS_INFERENCE;
    const struct claas_inference *s = &m->inference;
    return s->info && s->generate && s->load && s->unload
               ? 0
               : refuse(m->name, "an inference needs info, generate, load and unload", err);
}

static int text_copy(struct host_module *m, const struct claas_text *t, struct claas_error *err)
{
    int rc = size_check(m->name, "text", t->size, TEXT_LEAST, err);
    if (rc != 0) {
        return rc;
    }
    host_clamp(&m->text, sizeof m->text, t, t->size);
    m->offered |= CLAAS_TEXT_KIND;
    return m->text.encode && m->text.decode ? 0
                                            : refuse(m->name, "text needs encode and decode", err);
}

static int tables_copy(struct host_module *m, const struct claas_plugin *plugin,
                       struct claas_error *err)
{
    host_clamp(&m->plugin, sizeof m->plugin, plugin, plugin->size);
    m->plugin.name = m->name;
    int rc = 0;
    if (plugin->engine) {
        rc = engine_copy(m, plugin->engine, err);
        m->plugin.engine = &m->engine;
    }
    if (rc == 0 && plugin->storage) {
        rc = storage_copy(m, plugin->storage, err);
        m->plugin.storage = &m->storage;
    }
    if (rc == 0 && plugin->inference) {
        rc = inference_copy(m, plugin->inference, err);
        m->plugin.inference = &m->inference;
    }
    if (rc == 0 && plugin->text) {
        rc = text_copy(m, plugin->text, err);
        m->plugin.text = &m->text;
    }
    if (rc == 0 && m->offered == 0) {
        rc = refuse(m->name, "it offers neither engine, storage, inference nor text", err);
    }
    if (rc == 0) {
        rc = option_table_copy(plugin->options, plugin->option_size, m->name, &m->options, err);
        m->plugin.options = m->options.rows;
        m->plugin.option_size = sizeof *m->options.rows;
    }
    return rc;
}

/* Checks and copies; takes `file` on success. Names of a registered plugin come from its own table.
 */
static int module_make(struct host *host, const char *name, const struct claas_plugin *plugin,
                       char *file, struct host_module **out, struct claas_error *err)
{
    int rc = plugin_check(name, plugin, err);
    if (rc != 0) {
        return rc;
    }
    struct host_module *module = calloc(1, sizeof *module);
    if (!module) {
        return err_oom(err, "loading a plugin");
    }
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&module->turn, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&module->lock, NULL);
    module->host = host;
    module->name = mem_dup(name, strlen(name));
    rc = module->name ? tables_copy(module, plugin, err) : err_oom(err, "loading a plugin");
    if (rc != 0) {
        module_free(module);
        return rc;
    }
    module->file = file;
    *out = module;
    return 0;
}

static struct host_module *module_find(struct host *host, const char *name)
{
    struct host_module *module = host->modules;
    while (module && strcmp(module->name, name) != 0) {
        module = module->next;
    }
    return module;
}

/* Under host->lock: loading is rare, and two threads asking for one name must get one module. The
 * plugin's door opens nothing and calls nobody, so that it cannot come back for this lock. */
static int module_load(struct host *host, const char *name, struct host_module **out,
                       struct claas_error *err)
{
    struct host_module *module = module_find(host, name);
    if (module) {
        *out = module;
        return 0;
    }
    const struct claas_plugin *plugin = NULL;
    char *file = NULL;
    int rc = host_file_load(host->search, name, &plugin, &file, err);
    if (rc != 0) {
        return rc;
    }
    rc = module_make(host, name, plugin, file, &module, err);
    if (rc != 0) {
        free(file);
        return rc;
    }
    module->next = host->modules;
    host->modules = module;
    *out = module;
    return 0;
}

int host_module_load(struct host *host, const char *name, struct host_module **out,
                     struct claas_error *err)
{
    if (!host_name_ok(name)) {
        return err_set(err, CLAAS_ERR_INVALID, "plugin",
                       "'%.64s' cannot be the name of a plugin: expected [a-z][a-z0-9-]*",
                       utf8_valid(name, strlen(name)) ? name : "?");
    }
    pthread_mutex_lock(&host->lock);
    int rc = module_load(host, name, out, err);
    pthread_mutex_unlock(&host->lock);
    return rc;
}

int host_module_register(struct host *host, const struct claas_plugin *plugin,
                         struct host_module **out, struct claas_error *err)
{
    struct host_module *module = NULL;
    int named = plugin->abi == CLAAS_ABI && plugin->name && host_name_ok(plugin->name);
    int rc = module_make(host, named ? plugin->name : "?", plugin, NULL, &module, err);
    if (rc != 0) {
        return rc;
    }
    pthread_mutex_lock(&host->lock);
    int there = module_find(host, module->name) != NULL;
    if (!there) {
        module->next = host->modules;
        host->modules = module;
    }
    pthread_mutex_unlock(&host->lock);
    if (there) {
        rc = err_set(err, CLAAS_ERR_CONFLICT, "plugin", "there is a plugin '%s' already",
                     module->name);
        module_free(module);
        return rc;
    }
    *out = module;
    return 0;
}

const char *host_module_name(const struct host_module *module)
{
    return module->name;
}

const char *host_module_file(const struct host_module *module)
{
    return module->file;
}

const struct claas_plugin *host_module_plugin(const struct host_module *module)
{
    return &module->plugin;
}

const struct option_table *host_module_options(const struct host_module *module)
{
    return &module->options;
}

uint32_t host_module_kinds(const struct host_module *module)
{
    return module->offered;
}

int host_module_check(struct host_module *module, const struct option_values *values,
                      struct claas_error *err)
{
    if (!module->plugin.check) {
        return 0;
    }
    struct claas_error why = ERR_INIT;
    int rc = host_turn_take(module, NULL, err);
    if (rc != 0) {
        return rc;
    }
    rc = module->plugin.check(values->values, &why);
    host_turn_give(module);
    return rc == 0 ? 0 : host_error_settle(module->name, "check", rc, &why, err);
}
