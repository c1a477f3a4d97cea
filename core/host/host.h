/* SPDX-License-Identifier: MIT */
/* The host: finds, checks and opens plugins, and calls them by their contract. The core never calls
 * through a plugin's table itself; each function of the ABI has a typed wrapper here, which
 *   - holds the module's serial lock while it calls a module that is not PARALLEL ([quick] functions
 *     excepted), waiting no longer than the call token allows (TIMEOUT or CANCELLED),
 *   - refuses a function the plugin lacks with UNSUPPORTED, naming plugin and function,
 *   - counts calls, so that close waits for them, and refuses new ones (UNAVAILABLE) once closing,
 *   - turns codes outside the closed list into INTERNAL and sees to it that an error has a message,
 *   - turns CANCELLED into TIMEOUT where it was the time of the call that ran out,
 *   - gives the plugin private outputs, so that yours are untouched on failure.
 * `call` may be null everywhere: no deadline. With struct host_call (host/call.h) hand in &call.abi.
 * Wrappers are safe from any thread. No lock but the serial one is held while a plugin runs. */
#ifndef HOST_HOST_H
#define HOST_HOST_H

#include "base/buf.h"
#include "host/call.h"
#include "host/option.h"

#include <claas/plugin.h>

#include <stddef.h>
#include <stdint.h>

struct host;          /* all modules of the process */
struct host_module;   /* one plugin file, loaded once and never unloaded */
struct host_instance; /* one open of a module, for all kinds it is used as */

/* ---- the host ------------------------------------------------------------------------------- */

/* plugin_path: the configured directory, or null. Searched: the directories of the environment's
 * CLAAS_PLUGIN_PATH (colons between; not when running with raised privileges), else plugin_path,
 * else the built-in directory. */
int host_new(struct host **out, const char *plugin_path, struct claas_error *err);
/* Null is fine. All instances must have been closed. Modules stay mapped. */
void host_free(struct host *host);

/* An extension for plugins to ask for by id ("claas.NAME/1"); before any open. id and table outlive
 * the host. */
int host_extension_add(struct host *host, const char *id, const void *table,
                       struct claas_error *err);

/* Calls each(ctx, name) for every file NAME.so in the search path, sorted, without opening any. */
int host_module_list(const struct host *host, void (*each)(void *ctx, const char *name), void *ctx,
                     struct claas_error *err);

/* ---- modules -------------------------------------------------------------------------------- */

/* The module NAME ([a-z][a-z0-9-]*), loaded from NAME.so of the search path unless it already is.
 * NOT_FOUND: no such file; FORBIDDEN: owner or mode of file or directory; UNSUPPORTED: another ABI,
 * no entry, sizes; INVALID: its tables. */
int host_module_load(struct host *host, const char *name, struct host_module **out,
                     struct claas_error *err);

/* A module from a static table (tests, fuzzers); the same checks but for those of the file. */
int host_module_register(struct host *host, const struct claas_plugin *plugin,
                         struct host_module **out, struct claas_error *err);

const char *host_module_name(const struct host_module *module);
/* The file it came from, null for a registered one. */
const char *host_module_file(const struct host_module *module);
/* Our clamped copy of its table (for name, version, summary, licence, flags). */
const struct claas_plugin *host_module_plugin(const struct host_module *module);
/* Its options; lives as long as the host. */
const struct option_table *host_module_options(const struct host_module *module);
/* CLAAS_ENGINE | … : the kinds it offers. */
uint32_t host_module_kinds(const struct host_module *module);

/* The plugin's own pure check of values (claasd -t); 0 when it has none. */
int host_module_check(struct host_module *module, const struct option_values *values,
                      struct claas_error *err);

/* ---- instances ------------------------------------------------------------------------------ */

/* Opens the module for `kinds` (all non-zero kinds it must offer, else UNSUPPORTED). `name` for
 * messages ("engine"). scratch: its private directory, made when missing (mode 0700), or null.
 * Values are of host_module_options(module); they move into the instance when 0 is returned (yours
 * are empty then) and stay yours otherwise. Refused (UNSUPPORTED): a module that is not PARALLEL
 * for training and serving, or for storage beside another kind, counting its other instances. May
 * take minutes; call may be null. */
int host_instance_open(struct host_module *module, const char *name, uint32_t kinds,
                       struct option_values *values, const char *scratch,
                       const struct claas_call *call, struct host_instance **out,
                       struct claas_error *err);

/* Refuses new calls, waits for those in progress and for unfinished generates (cancel them first),
 * closes, frees. Null is fine. */
void host_instance_close(struct host_instance *instance);

const char *host_instance_name(const struct host_instance *instance);
struct host_module *host_instance_module(const struct host_instance *instance);
uint32_t host_instance_kinds(const struct host_instance *instance);
const struct option_values *host_instance_values(const struct host_instance *instance);
/* 1 if the instance has this function, so that a caller can choose another way:
 * host_has(i, engine, convert). The tables are all null when it was not opened as that kind. */
#define host_has(instance, kind, function) (host_##kind##_table(instance)->function != NULL)
const struct claas_engine *host_engine_table(const struct host_instance *instance);
const struct claas_storage *host_storage_table(const struct host_instance *instance);
const struct claas_inference *host_inference_table(const struct host_instance *instance);
const struct claas_text *host_text_table(const struct host_instance *instance);

/* A plugin's extension, or null. */
const void *host_instance_extension(struct host_instance *instance, const char *id);

/* [quick] READY when the plugin does not say. */
int host_status(struct host_instance *instance, struct claas_status *out, struct claas_error *err);
/* [quick] Texts are never null; pointers live until close. UNSUPPORTED when it has no model. */
int host_model(struct host_instance *instance, struct claas_model *out, struct claas_error *err);
/* New values of the same table; they move into the instance when 0 is returned. */
int host_reload(struct host_instance *instance, struct option_values *values,
                struct claas_error *err);

/* Calls each() for every metric the instance has reported: kind CLAAS_METRIC_ADD carries the sum,
 * CLAAS_METRIC_SET the last value. At most 256 names are kept; names outside [a-z0-9_]* are dropped
 * with one warning. */
void host_metrics(struct host_instance *instance,
                  void (*each)(void *ctx, int32_t kind, const char *name, double value), void *ctx);

/* ---- storage -------------------------------------------------------------------------------- */

int host_storage_probe(struct host_instance *i, uint32_t *out_caps, const struct claas_call *call,
                       struct claas_error *err);
int host_storage_put(struct host_instance *i, const char *key, const struct claas_put *put,
                     const struct claas_call *call, struct claas_error *err);
/* out may be null. */
int host_storage_get(struct host_instance *i, const char *key, uint64_t from, uint64_t bytes,
                     int fd, struct claas_object *out, const struct claas_call *call,
                     struct claas_error *err);
int host_storage_head(struct host_instance *i, const char *key, struct claas_object *out,
                      const struct claas_call *call, struct claas_error *err);
/* prefix and after may be "" or null; limit 0 = all. */
int host_storage_list(struct host_instance *i, const char *prefix, const char *after,
                      uint32_t limit,
                      int (*each)(void *ctx, const char *key, const struct claas_object *object),
                      void *ctx, const struct claas_call *call, struct claas_error *err);
int host_storage_remove(struct host_instance *i, const char *const *keys, uint32_t n,
                        const struct claas_call *call, struct claas_error *err);
/* [quick] Optional in a plugin: UNSUPPORTED tells the caller to use get and put. */
int host_storage_path(struct host_instance *i, const char *key, char *buf, size_t cap,
                      struct claas_error *err);
int host_storage_spool(struct host_instance *i, char *buf, size_t cap, struct claas_error *err);

/* ---- engine --------------------------------------------------------------------------------- */

struct host_engine_info {
    uint32_t parallel;             /* at least 1 */
    const char *const *objectives; /* these three: null-terminated, never null */
    const char *const *formats;
    const char *const *exports;
    const struct option_table *settings; /* checked copies, until close */
    const struct option_table *creation;
};

/* [quick] Asked of the plugin until it first succeeds, then kept. *out points into the instance,
 * until close. */
int host_engine_info(struct host_instance *i, const struct host_engine_info **out,
                     struct claas_error *err);
int host_engine_create(struct host_instance *i, const struct claas_create *create,
                       struct claas_out *out, const struct claas_call *call,
                       struct claas_error *err);
int host_engine_train(struct host_instance *i, const struct claas_train *train,
                      struct claas_out *out, const struct claas_call *call,
                      struct claas_error *err);
int host_engine_check(struct host_instance *i, const struct claas_version *version,
                      const struct claas_call *call, struct claas_error *err);
int host_engine_convert(struct host_instance *i, const struct claas_version *version,
                        const char *format, struct claas_out *out, const struct claas_call *call,
                        struct claas_error *err);
int host_engine_release(struct host_instance *i, const char *const *uris, uint32_t n,
                        const struct claas_call *call, struct claas_error *err);

/* ---- inference ------------------------------------------------------------------------------ */

/* [quick] formats is never null. */
int host_inference_info(struct host_instance *i, struct claas_inference_info *out,
                        struct claas_error *err);
/* As in the ABI: an error here means done() never comes; 0 that it came or will come exactly once,
 * possibly from another thread, also before this returns. Pieces reach your stream clamped to our
 * size; log-probabilities that are not finite end the answer with INTERNAL. The error given to
 * done() has a listed code and a message. generate, stream's ctx and call live until done()
 * returned. A module that is not PARALLEL has called done() when this returns. */
int host_inference_generate(struct host_instance *i, const struct claas_generate *generate,
                            const struct claas_stream *stream, const struct claas_call *call,
                            struct claas_error *err);
int host_inference_score(struct host_instance *i, const struct claas_score *score,
                         const struct claas_call *call, struct claas_error *err);
int host_inference_load(struct host_instance *i, const struct claas_version *version,
                        const struct claas_call *call, struct claas_error *err);
int host_inference_unload(struct host_instance *i, const struct claas_digest *serve,
                          const struct claas_call *call, struct claas_error *err);
int host_inference_pause(struct host_instance *i, const struct claas_call *call,
                         struct claas_error *err);
int host_inference_resume(struct host_instance *i, const struct claas_call *call,
                          struct claas_error *err);

/* ---- text ----------------------------------------------------------------------------------- */

/* Token ids on the heap. All zero is empty. */
struct host_ids {
    int32_t *ids;
    size_t n;
    size_t cap;
};
void host_ids_clear(struct host_ids *ids);

/* These append to *out, which is as before on failure. Ids are never negative. Text is what the ids
 * spell: bytes that may begin or end within a character, or be no UTF-8 at all, since a model may
 * say so. At most 16 Mi ids, 64 MiB of text. */
int host_text_render(struct host_instance *i, const char *chat_json, uint32_t flags,
                     struct host_ids *out, struct claas_error *err);
int host_text_encode(struct host_instance *i, const char *text, size_t n, uint32_t flags,
                     struct host_ids *out, struct claas_error *err);
int host_text_decode(struct host_instance *i, const int32_t *ids, size_t n, uint32_t flags,
                     struct buf *out, struct claas_error *err);

#endif
