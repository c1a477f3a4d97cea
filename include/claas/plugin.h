/* SPDX-License-Identifier: MIT */
/* The module: the one door of a plugin and its table. */
#ifndef CLAAS_PLUGIN_H
#define CLAAS_PLUGIN_H

#include <claas/engine.h>
#include <claas/inference.h>
#include <claas/option.h>
#include <claas/storage.h>
#include <claas/text.h>
#include <claas/version.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { CLAAS_PARALLEL = 1 };
enum { CLAAS_ENGINE = 1, CLAAS_STORAGE = 2, CLAAS_INFERENCE = 4, CLAAS_TEXT_KIND = 8 };
enum { CLAAS_STARTING, CLAAS_READY, CLAAS_DEGRADED, CLAAS_DOWN };
struct claas_status { uint32_t size; int32_t state; char text[248]; };
struct claas_plugin {              /* constant; copied clamped to `size` by the host */
    uint32_t size, abi;            /* abi = major << 16 | minor */
    const char *name, *version, *summary, *licence;
    uint32_t flags, option_size;
    const struct claas_option *options;
    int  (*check)(const struct claas_value *, struct claas_error *);  /* optional, pure: for claasd -t */
    int  (*open)(const struct claas_host *, uint32_t kinds, const struct claas_value *, const struct claas_call *,
                 void **out_self, struct claas_error *);              /* [alone] once per instance, for all kinds wanted */
    void (*close)(void *self);                                        /* [alone] joins its threads; null is fine */
    int  (*reload)(void *self, const struct claas_value *, struct claas_error *);   /* optional, [call] */
    int  (*status)(void *self, struct claas_status *);                              /* [quick] */
    int  (*model)(void *self, struct claas_model *, struct claas_error *);          /* [quick]; pointers until close */
    const struct claas_engine    *engine;                             /* null: kind not offered */
    const struct claas_storage   *storage;
    const struct claas_inference *inference;
    const struct claas_text      *text;
    const void *(*extension)(const char *id);  /* "claas.http-route/1", "claas.import/1", … */
};
#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
const struct claas_plugin *claas_plugin_entry(uint32_t host_abi);

#ifdef __cplusplus
}
#endif

#endif
