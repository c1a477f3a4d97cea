/* SPDX-License-Identifier: MIT */
/* The module: the one door of a plugin, and its table. All of it is since 0.1.
 *
 * Life: claas_plugin_entry, the host copies the tables, check (claasd -t), open once for each
 * configured instance and all kinds it is used as, info and model, calls, close when no call and no
 * unfinished generate is left. A module is never unloaded. It writes nothing to standard output,
 * calls no exit(), installs no signal handler and starts no program; all symbols but the door are
 * hidden. */
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

/* Flags of a plugin. */
enum {
    CLAAS_PARALLEL =
        1 /* any number of [call] functions at once; without it, one at a time in the whole
           * module. Needed to train and serve, and to be storage beside another kind */
};

/* Kinds. */
enum { CLAAS_ENGINE = 1, CLAAS_STORAGE = 2, CLAAS_INFERENCE = 4, CLAAS_TEXT_KIND = 8 };

/* States of an instance. */
enum {
    CLAAS_STARTING, /* not ready to answer yet */
    CLAAS_READY,
    CLAAS_DEGRADED, /* works, but not as it should: text says why */
    CLAAS_DOWN      /* does not work */
};

/* How an instance is. The host sets size. */
struct claas_status {
    uint32_t size;
    int32_t state;  /* CLAAS_STARTING ... */
    char text[248]; /* one line for people, ended by a zero; may be "" */
};

/* A plugin: constant; lives as long as the module. The host copies at most `size` bytes. */
struct claas_plugin {
    uint32_t size;
    uint32_t abi;                       /* CLAAS_ABI it was built with */
    const char *name;                   /* [a-z][a-z0-9-]*: that of its file, without .so */
    const char *version;                /* its own */
    const char *summary;                /* one line */
    const char *licence;                /* SPDX expression */
    uint32_t flags;                     /* CLAAS_PARALLEL */
    uint32_t option_size;               /* sizeof(struct claas_option): distance of the rows */
    const struct claas_option *options; /* of an instance; null: none */
    /* [call] Optional, pure: do these values fit together? Opens nothing; for claasd -t. */
    int (*check)(const struct claas_value *values, struct claas_error *err);
    /* [alone] Once for each instance, for all `kinds` wanted. May take minutes, looking at call.
     * The values are borrowed, the host stays until close. Threads it starts have their signals
     * blocked. A failed open needs no close. */
    int (*open)(const struct claas_host *host, uint32_t kinds, const struct claas_value *values,
                const struct claas_call *call, void **out_self, struct claas_error *err);
    /* [alone] Joins its threads; null is fine. */
    void (*close)(void *self);
    /* [call] Optional: new values, of which only RELOADABLE ones differ. */
    int (*reload)(void *self, const struct claas_value *values, struct claas_error *err);
    /* [quick] Optional; without it the instance counts as READY. */
    int (*status)(void *self, struct claas_status *out);
    /* [quick] Optional: for those who own a model. */
    int (*model)(void *self, struct claas_model *out, struct claas_error *err);
    const struct claas_engine *engine; /* these four: null where the kind is not offered */
    const struct claas_storage *storage;
    const struct claas_inference *inference;
    const struct claas_text *text;
    /* [quick] Optional: what the plugin offers under an id, or null: "claas.http-route/1",
     * "claas.import/1"; third parties use a reverse domain name. */
    const void *(*extension)(const char *id);
};

/* [quick] The door, the one exported symbol. Opens no device, starts no thread, reads no file.
 * Null: this module cannot live with a host of that number. */
#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
const struct claas_plugin *
claas_plugin_entry(uint32_t host_abi);

#ifdef __cplusplus
}
#endif

#endif
